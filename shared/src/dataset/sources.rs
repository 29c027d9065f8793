//! Which files a source names: a file, a folder, a pattern in the last part of a path, a range in braces, or a dataset of
//! a `dataset_info.json`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::DatasetError;
use super::llama_factory::{self, Mapping};
use crate::wildcard;

/// A data file and how its rows are to be taken.
pub(super) struct Source {
    pub(super) path: PathBuf,
    /// Where image paths start if the user does not say.
    pub(super) image_root: PathBuf,
    /// What columns are called, where a `dataset_info.json` says so.
    pub(super) mapping: Option<Arc<Mapping>>,
}

const EXTENSIONS: [&str; 4] = [".json", ".jsonl", ".parquet", ".tar"];

/// The files behind `sources`, in the order given; those of a folder or pattern by name.
pub(super) fn expand(sources: &[String]) -> Result<Vec<Source>, DatasetError> {
    let mut files = Vec::new();
    for given in sources {
        let names = if Path::new(given).exists() { vec![given.clone()] } else { braces(given) };
        for name in names {
            files.extend(one(&name)?);
        }
    }
    Ok(files)
}

fn one(given: &str) -> Result<Vec<Source>, DatasetError> {
    let path = Path::new(given);
    let listed = path.join(llama_factory::FILE_NAME);
    if let Some((info, name)) =
        given.rsplit_once('#').filter(|(info, _)| !path.exists() && Path::new(info).is_file())
    {
        return mapped(Path::new(info), Some(name));
    }
    if path.file_name() == listed.file_name() {
        return mapped(path, None);
    }
    if listed.is_file() {
        return mapped(&listed, None);
    }
    let beside = |path: PathBuf| {
        let image_root = path.parent().unwrap_or(Path::new("")).to_owned();
        Source { path, image_root, mapping: None }
    };
    Ok(files(path, given)?.into_iter().map(beside).collect())
}

/// The files of one dataset of a `dataset_info.json`, whose folder is also that of the images.
fn mapped(info: &Path, name: Option<&str>) -> Result<Vec<Source>, DatasetError> {
    let (path, mapping) = llama_factory::load(info, name)?;
    let (mapping, image_root) = (Arc::new(mapping), info.parent().unwrap_or(Path::new("")));
    let source = |path| Source { path, image_root: image_root.to_owned(), mapping: Some(mapping.clone()) };
    Ok(files(&path, &path.display().to_string())?.into_iter().map(source).collect())
}

fn files(path: &Path, given: &str) -> Result<Vec<PathBuf>, DatasetError> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if path.is_dir() {
        return matching(path, given, |name| EXTENSIONS.iter().any(|extension| name.ends_with(extension)));
    }
    if name.contains(['*', '?']) && !path.exists() {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        return matching(folder.unwrap_or(Path::new(".")), given, |file| wildcard::matches(name, file));
    }
    Ok(vec![path.to_owned()])
}

/// `a{00..02}b` as `a00b`, `a01b`, `a02b`; `{x,y}` as `x`, `y`; anything else as it is.
fn braces(given: &str) -> Vec<String> {
    let parts = given.split_once('{').and_then(|(before, rest)| {
        let (inside, after) = rest.split_once('}')?;
        Some((before, choices(inside)?, after))
    });
    let Some((before, choices, after)) = parts else { return vec![given.to_owned()] };
    let ends = braces(after);
    let whole = |choice: &String| ends.iter().map(|end| format!("{before}{choice}{end}")).collect::<Vec<_>>();
    choices.iter().flat_map(whole).collect()
}

fn choices(inside: &str) -> Option<Vec<String>> {
    let Some((first, last)) = inside.split_once("..") else {
        return inside.contains(',').then(|| inside.split(',').map(str::to_owned).collect());
    };
    let range = first.parse::<u64>().ok()?..=last.parse::<u64>().ok()?;
    Some(range.map(|number| format!("{number:0width$}", width = first.len())).collect())
}

fn matching(
    folder: &Path,
    given: &str,
    accepts: impl Fn(&str) -> bool,
) -> Result<Vec<PathBuf>, DatasetError> {
    let failed = |source| DatasetError::Read { path: folder.to_owned(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        // A name that is no text is a file all the same.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_file() && accepts(&name) {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(DatasetError::NoFiles { given: given.to_owned() });
    }
    files.sort();
    Ok(files)
}
