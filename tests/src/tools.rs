//! Commands of `extract` that a test runs to their end, and what they must say.

#![allow(clippy::unwrap_used, reason = "serves tests alone, where a failed unwrap is a failed test")]

use std::path::Path;

use serde_json::Value;
use shared::cache::verify;

use crate::programs::{Finished, run};

/// A path as an argument.
pub fn text(path: impl AsRef<Path>) -> String {
    path.as_ref().to_str().unwrap().to_owned()
}

/// The command succeeds; its JSON object.
pub fn object(args: &[String]) -> Value {
    let finished = run("extract", args.iter().chain([&"--json".to_owned()])).unwrap();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    serde_json::from_str(&finished.stdout).unwrap()
}

/// The command fails, says all of this and what to do, and does not panic.
pub fn fails(args: &[String], says: &[&str]) {
    let Finished { code, stderr, .. } = run("extract", args).unwrap();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(says.iter().chain(&["hint: "]).all(|part| stderr.contains(part)), "{says:?}: {stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
}

/// Arguments: some words, then some paths.
pub fn words(words: &[&str], paths: &[&Path]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).chain(paths.iter().map(text)).collect()
}

/// Whether nothing of a cache is damaged.
pub fn is_sound(cache: &Path) -> bool {
    verify(cache, |_, _| ()).unwrap().problems.is_empty()
}
