//! The walls of the house, proved by a tool: which crate and which module may see which.
//!
//! Manifests are read through `cargo metadata`, the feature split through `cargo tree`, and the
//! modules of `shared`, which Cargo cannot tell apart, by scanning their sources for `crate::` paths.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What each module of `shared` may use, itself aside. `cache` sees `ids` and a macro alone: the format outlives the models.
const MODULE_WALLS: [(&str, &[&str]); 15] = [
    ("explained", &[]),
    ("html", &[]),
    ("lock", &[]),
    ("agreement", &[]),
    ("memory", &[]),
    ("say", &[]),
    ("settings", &[]),
    ("ids", &[]),
    ("wildcard", &[]),
    ("vectorised", &[]),
    ("dataset", &["ids", "wildcard"]),
    ("image", &["ids", "dataset"]),
    ("text", &["ids", "dataset", "image"]),
    ("cache", &["ids", "lock", "vectorised"]),
    ("models", &["ids", "dataset", "image", "text", "vectorised"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// The packages of the workspace, as `cargo metadata` describes them.
fn cargo_metadata() -> Vec<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["metadata", "--no-deps", "--format-version", "1"];
    let output = Command::new(cargo).args(arguments).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

/// Each member of the workspace with the members it depends on outside its tests, transitively.
fn member_dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let packages = cargo_metadata();
    let name_of = |it: &Value| it["name"].as_str().unwrap().to_owned();
    let names: BTreeSet<String> = packages.iter().map(name_of).collect();
    let mut reach: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in &packages {
        let direct = package["dependencies"].as_array().unwrap().iter().filter(|it| it["kind"] != "dev");
        let inside = direct.map(name_of).filter(|name| names.contains(name)).collect();
        reach.insert(name_of(package), inside);
    }
    for _ in 0..names.len() {
        let before = reach.clone();
        for seen in reach.values_mut() {
            let further: Vec<String> = seen.iter().flat_map(|name| before[name].iter().cloned()).collect();
            seen.extend(further);
        }
    }
    reach
}

#[test]
fn the_two_programs_share_only_shared() {
    let reach = member_dependencies();
    for program in ["extract", "distill"] {
        let expected = BTreeSet::from(["shared".to_owned()]);
        assert_eq!(reach[program], expected, "`{program}` may depend on `shared` and on no other member");
    }
    assert_eq!(reach["shared"], BTreeSet::new(), "`shared` depends on no other member");
}

#[test]
fn shared_without_models_has_no_candle() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["tree", "-p", "shared", "--no-default-features", "-e", "normal", "--prefix", "none"];
    let output = Command::new(cargo).args(arguments).current_dir(root()).output().unwrap();
    let tree = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "cargo tree failed: {}", String::from_utf8_lossy(&output.stderr));
    assert!(tree.contains("parquet v"), "the tree lacks parquet, so it is not the tree of `shared`:\n{tree}");
    let heavy: Vec<&str> = tree.lines().filter(|line| line.starts_with("candle")).collect();
    assert!(heavy.is_empty(), "without the feature `models` these must go: {heavy:?}");
}

#[test]
fn modules_of_shared_see_only_what_they_may() {
    for (module, allowed) in MODULE_WALLS {
        let folder = root().join("shared/src").join(module);
        let mut files = rust_files(&folder);
        files.extend(Some(folder.with_extension("rs")).filter(|file| file.is_file()));
        assert!(!files.is_empty(), "`shared/src/{module}` has no sources: the table of walls is out of date");
        for file in files {
            let code = without_comments(&std::fs::read_to_string(&file).unwrap());
            for name in crate_paths(&code) {
                let known = MODULE_WALLS.iter().any(|(other, _)| *other == name);
                let seen = name == module || allowed.contains(&name) || !known;
                assert!(seen, "{}: `{module}` must not use `crate::{name}`", file.display());
            }
            let candle = module != "models" && code.contains("candle_");
            assert!(!candle, "{}: only `models` may use candle", file.display());
        }
    }
}

#[test]
fn every_module_of_shared_has_a_wall() {
    let walled: BTreeSet<String> = MODULE_WALLS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let entries = std::fs::read_dir(root().join("shared/src")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let found: BTreeSet<String> = names.map(|name| name.trim_end_matches(".rs").to_owned()).collect();
    let unknown: Vec<_> = found.iter().filter(|name| *name != "lib" && !walled.contains(*name)).collect();
    assert!(unknown.is_empty(), "give these modules a line in MODULE_WALLS: {unknown:?}");
}

#[test]
fn the_scan_itself_finds_a_breach() {
    let code = "use crate::models::Head;\n// use crate::dataset::Record;\nuse crate::{ids, text::Prompt};\n";
    let code = without_comments(code);
    assert_eq!(crate_paths(&code).collect::<Vec<_>>(), ["models", "ids", "text"]);
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

fn without_comments(source: &str) -> String {
    source.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

/// The first names after `crate::`, those of a brace list included.
fn crate_paths(code: &str) -> impl Iterator<Item = &str> {
    code.split("crate::").skip(1).flat_map(|rest| match rest.strip_prefix('{') {
        Some(list) => list.split('}').next().unwrap_or("").split(',').map(first_name).collect::<Vec<_>>(),
        None => vec![first_name(rest)],
    })
}

fn first_name(path: &str) -> &str {
    let path = path.trim_start();
    path.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("")
}
