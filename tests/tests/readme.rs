//! What the README and the documents claim about files is true. Its commands are run by `make readme`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

#[test]
fn the_python_snippet_is_the_tested_one() {
    let snippet = read("tests/peers/read_cache.py");
    assert!(read("README.md").contains(snippet.trim_end()), "README.md and tests/peers/read_cache.py differ");
}

const PAGES: [&str; 8] = [
    "README.md",
    "docs/benchmarks.md",
    "docs/format.md",
    "docs/inputs.md",
    "docs/method.md",
    "docs/replica.md",
    "datasets/replica/README.md",
    "datasets/toy/README.md",
];

/// What a heading is linked by, as GitHub makes it: lower case, hyphens for spaces, no other punctuation.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase().replace(' ', "-");
    kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
}

#[test]
fn links_lead_somewhere() {
    for page in PAGES {
        let text = read(page);
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.starts_with("http")) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => root().join(page),
                file => root().join(page).parent().unwrap().join(file),
            };
            assert!(target.exists(), "{page} links to `{link}`, which is not there");
            if !heading.is_empty() {
                let text = std::fs::read_to_string(&target).unwrap();
                let headings = text.lines().filter(|line| line.starts_with('#'));
                let found =
                    headings.map(|line| anchor(line.trim_start_matches('#').trim())).any(|a| a == heading);
                assert!(found, "{page} links to `{link}`, a heading that is not there");
            }
        }
    }
}

#[test]
fn the_map_names_what_exists() {
    let readme = read("README.md");
    let rows = readme.lines().filter(|line| line.starts_with("| `"));
    let names: Vec<&str> = rows.flat_map(|row| row.split('|').nth(1).unwrap().split('`')).collect();
    let places: Vec<&str> = names.into_iter().filter(|name| name.contains('/')).collect();
    assert!(places.len() >= 6, "the map is gone: {places:?}");
    for place in places {
        assert!(root().join(place).exists(), "README.md names `{place}`, which is not there");
    }
}
