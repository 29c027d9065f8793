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

#[test]
fn links_lead_somewhere() {
    for page in ["README.md", "docs/format.md", "docs/method.md", "docs/benchmarks.md"] {
        let text = read(page);
        let folder = root().join(page).parent().unwrap().to_path_buf();
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.starts_with("http")) {
            let path = folder.join(link.split('#').next().unwrap());
            assert!(path.exists(), "{page} links to `{link}`, which is not there");
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
