//! Checkouts by name: `org/name` or `org/name@revision` becomes a folder in the Hugging Face cache (`HF_HOME`), fetched
//! from the hub (`HF_ENDPOINT`) unless it is there already, in which case no network is needed. A download that broke
//! off goes on where it stopped. All files are of one commit, even if the branch moves meanwhile.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use serde_json::Value;

use super::{ModelError, config_of};

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The folder of what a user names: itself if it is one, else the checkout of that name. What is no name either is
/// given back, for whoever reads it to complain.
///
/// # Errors
/// When the hub does not have the model, does not show it, or cannot be reached.
pub fn checkout(given: &Path) -> Result<PathBuf, ModelError> {
    let name = given.to_str().filter(|_| !given.exists()).and_then(Name::parse);
    let Some(name) = name else { return Ok(given.to_owned()) };
    let repo = Repo::with_revision(name.id.clone(), RepoType::Model, name.revision);
    let kept = Cache::from_env().repo(repo.clone());
    let cached = kept.get("config.json").and_then(|config| config.parent().map(Path::to_owned));
    if let Some(folder) = cached.filter(|folder| is_complete(folder)) {
        return Ok(folder);
    }
    let failed = |error: ApiError| explained(given, &error);
    let mut builder = ApiBuilder::from_env().with_progress(std::io::stderr().is_terminal());
    if let Ok(token) = std::env::var("HF_TOKEN") {
        builder = builder.with_token(Some(token));
    }
    let api = builder.build().map_err(failed)?;
    let info = api.repo(repo).info().map_err(failed)?;
    let commit = Repo::with_revision(name.id, RepoType::Model, info.sha.clone());
    let names: Vec<&str> = info.siblings.iter().map(|file| file.rfilename.as_str()).collect();
    let folder = fetch(&api.repo(commit), &names, given)?;
    let written = |source| ModelError::Io {
        action: "write",
        path: folder.clone(),
        source,
        hint: "`HF_HOME` names the folder that models are kept in".into(),
    };
    // Now that all is there, the revision is known under its name as well.
    kept.create_ref(&info.sha).map_err(written)?;
    Ok(folder)
}

/// What to call a checkout: the model and commit of a cached one, the folder's name of another.
pub fn checkout_name(folder: &Path) -> String {
    let part =
        |path: Option<&Path>| path.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let own = part(Some(folder)).unwrap_or_default();
    let snapshots = folder.parent().filter(|parent| parent.ends_with("snapshots"));
    let model = part(snapshots.and_then(Path::parent))
        .and_then(|name| Some(name.strip_prefix("models--")?.replace("--", "/")));
    model.map_or(own.clone(), |model| format!("{model}@{own}"))
}

struct Name {
    id: String,
    revision: String,
}

impl Name {
    /// `org/name`, perhaps with `@revision`.
    fn parse(text: &str) -> Option<Self> {
        let (id, revision) = text.split_once('@').unwrap_or((text, "main"));
        let (org, name) = id.split_once('/')?;
        let is_plain = |part: &str| {
            let known = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
            !part.is_empty() && part.chars().all(known) && !part.starts_with('.')
        };
        let is_revision = !revision.is_empty() && revision.split('/').all(is_plain);
        (is_plain(org) && is_plain(name) && is_revision)
            .then(|| Self { id: id.to_owned(), revision: revision.to_owned() })
    }
}

/// Whether all weights are there. They are fetched last, so the rest is as well.
fn is_complete(folder: &Path) -> bool {
    match std::fs::read(folder.join(INDEX)) {
        Ok(index) => {
            shards(&index).is_some_and(|shards| shards.iter().all(|shard| folder.join(shard).is_file()))
        }
        Err(_) => folder.join(WEIGHTS).is_file(),
    }
}

/// The files that an index of shards names, each once.
fn shards(index: &[u8]) -> Option<Vec<String>> {
    let index: Value = serde_json::from_slice(index).ok()?;
    let files = index.get("weight_map")?.as_object()?.values();
    let mut files = files.map(|file| file.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()?;
    files.sort_unstable();
    files.dedup();
    files.iter().all(|file| is_here(file)).then_some(files)
}

/// Whether a file's name stays in its folder.
fn is_here(name: &str) -> bool {
    !name.contains(['/', '\\']) && !name.starts_with('.')
}

/// Fetches what is missing: configuration, tokenizer and template first, then the weights.
fn fetch(repo: &ApiRepo, names: &[&str], given: &Path) -> Result<PathBuf, ModelError> {
    let get = |name: &str| repo.get(name).map_err(|error| explained(given, &error));
    let is_small = |name: &str| is_here(name) && (name.ends_with(".json") || name.ends_with(".jinja"));
    for name in names.iter().filter(|name| is_small(name)) {
        get(name)?;
    }
    let invalid = |reason: &str| {
        let hint = "a checkout in safetensors is read, with `config.json` and `tokenizer.json`";
        ModelError::Invalid { path: given.to_owned(), reason: reason.into(), hint: hint.into() }
    };
    if let Some(missing) = ["config.json", "tokenizer.json"].iter().find(|name| !names.contains(name)) {
        return Err(invalid(&format!("has no `{missing}`")));
    }
    let config = get("config.json")?;
    let folder = config.parent().unwrap_or(Path::new("")).to_owned();
    // What cannot be read is not worth gigabytes.
    config_of(&folder)?;
    let files = if names.contains(&INDEX) {
        let index = std::fs::read(get(INDEX)?).map_err(|source| ModelError::Io {
            action: "read",
            path: INDEX.into(),
            source,
            hint: "the same command fetches it again".into(),
        })?;
        shards(&index).ok_or_else(|| invalid("has an index that names no shards"))?
    } else if names.contains(&WEIGHTS) {
        vec![WEIGHTS.to_owned()]
    } else {
        return Err(invalid("has no safetensors"));
    };
    for file in &files {
        get(file)?;
    }
    Ok(folder)
}

/// What the hub's answer means for a user who may have meant a folder.
fn explained(given: &Path, error: &ApiError) -> ModelError {
    let said = error.to_string();
    let (reason, hint) = if said.contains("http status: 404") {
        (
            "is no folder here, and the hub has no such model, revision or file".to_owned(),
            "give a folder, or `org/name` or `org/name@revision` as the hub has it",
        )
    } else if said.contains("http status: 401") || said.contains("http status: 403") {
        (
            format!("is no folder here, and the hub does not show a model of this name to everyone ({said})"),
            "check the name; for a gated model accept its conditions and give a token in `HF_TOKEN`",
        )
    } else {
        (
            format!("is no folder here, and cannot be fetched from the hub: {said}"),
            "the same command goes on where the download stopped; `HF_ENDPOINT` names another hub, and a model that \
             is complete in `HF_HOME` needs no network",
        )
    };
    ModelError::Invalid { path: given.to_owned(), reason, hint: hint.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_two_plain_words() {
        let parsed = |text: &str| Name::parse(text).map(|name| (name.id, name.revision));
        let name = |id: &str, revision: &str| Some((id.to_owned(), revision.to_owned()));
        assert_eq!(parsed("Qwen/Qwen2-VL-7B"), name("Qwen/Qwen2-VL-7B", "main"));
        assert_eq!(parsed("a/b@refs/pr/3"), name("a/b", "refs/pr/3"));
        for text in ["folder", "a/b/c", "/a/b", "./a", "../a", "a/", "a/b@", "a/b@../c", "a b/c"] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }

    #[test]
    fn a_cached_checkout_is_called_by_its_model() {
        assert_eq!(checkout_name(Path::new("hub/models--a--b/snapshots/0f3c")), "a/b@0f3c");
        assert_eq!(checkout_name(Path::new("teachers/qwen")), "qwen");
    }

    #[test]
    fn an_index_names_files_of_its_own_folder() {
        let shards = |map: &str| super::shards(format!(r#"{{"weight_map": {map}}}"#).as_bytes());
        assert_eq!(
            shards(r#"{"x": "2.st", "y": "1.st", "z": "2.st"}"#),
            Some(vec!["1.st".into(), "2.st".into()])
        );
        assert_eq!(shards(r#"{"x": "../1.st"}"#), None);
    }
}
