//! Which files a source names: a file, a folder, or a pattern in the last part of a path.

use std::path::{Path, PathBuf};

use super::DatasetError;

/// The files behind `sources`, in the order given; those of a folder or pattern by name.
pub(super) fn expand(sources: &[String]) -> Result<Vec<PathBuf>, DatasetError> {
    let mut files = Vec::new();
    for given in sources {
        let path = Path::new(given);
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() {
            files.extend(matching(path, given, |name| name.ends_with(".json") || name.ends_with(".jsonl"))?);
        } else if name.contains(['*', '?']) && !path.exists() {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            files.extend(matching(folder.unwrap_or(Path::new(".")), given, |file| wildcard(name, file))?);
        } else {
            files.push(path.to_owned());
        }
    }
    Ok(files)
}

fn matching(folder: &Path, given: &str, accepts: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, DatasetError> {
    let failed = |source| DatasetError::Read { path: folder.to_owned(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if path.is_file() && name.is_some_and(&accepts) {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(DatasetError::NoFiles { given: given.to_owned() });
    }
    files.sort();
    Ok(files)
}

/// Whether `name` matches `pattern`, in which `*` stands for any characters and `?` for one.
fn wildcard(pattern: &str, name: &str) -> bool {
    let Some(first) = pattern.chars().next() else {
        return name.is_empty();
    };
    let rest = &pattern[first.len_utf8()..];
    match first {
        '*' => (0..=name.len()).any(|at| name.is_char_boundary(at) && wildcard(rest, &name[at..])),
        _ => {
            let mut chars = name.chars();
            chars.next().is_some_and(|c| (first == '?' || first == c) && wildcard(rest, chars.as_str()))
        }
    }
}
