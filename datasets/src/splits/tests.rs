//! The files: the same bytes for the same seed, and every answer in them true.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed unwrap is a failed test

mod replica;

use std::collections::BTreeSet;

use super::*;
use crate::oracle::{answer, read_picture, shows_held_out};

fn manifest() -> Manifest {
    Manifest::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("toy/toy.toml")).unwrap()
}

/// The manifest's splits, cut to a few rows each.
fn small(out: &Path) -> Manifest {
    let mut manifest = manifest();
    for split in manifest.split.values_mut() {
        split.conversations = 40;
    }
    write(&manifest, &["train".to_owned(), "test".to_owned()], out).unwrap();
    manifest
}

fn digest(out: &Path) -> String {
    let mut hasher = blake3::Hasher::new();
    for name in ["train", "test"] {
        hasher.update(&fs::read(out.join(format!("{name}.json"))).unwrap());
        for i in 0..40 {
            hasher.update(&fs::read(out.join(format!("{name}/{i:05}.png"))).unwrap());
        }
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

/// The digest was noted when the world was fixed, before the shipped teacher was trained on it: if
/// it changes, the teacher has not seen this world, and `make toy` must train another.
#[test]
fn the_same_seed_gives_the_same_bytes() {
    let out = tempfile::tempdir().unwrap();
    small(out.path());
    assert_eq!(digest(out.path()), "fab87a827d88c230");
}

#[test]
fn answers_in_the_files_are_true_and_only_test_shows_held_out_places() {
    let out = tempfile::tempdir().unwrap();
    small(out.path());
    for name in ["train", "test"] {
        let text = fs::read_to_string(out.path().join(format!("{name}.json"))).unwrap();
        let rows: Vec<Value> = serde_json::from_str(&text).unwrap();
        let pictures: BTreeSet<&str> = rows.iter().map(|row| row["image"].as_str().unwrap()).collect();
        assert_eq!(pictures.len(), 40);
        assert_eq!(rows.len() > 40, name == "train", "several questions a picture are rows of their own");
        for row in rows {
            let picture = image::open(out.path().join(row["image"].as_str().unwrap())).unwrap().to_rgb8();
            let seen = read_picture(&picture);
            assert_eq!(shows_held_out(&seen), name == "test");
            for turn in row["conversations"].as_array().unwrap().chunks(2) {
                let asked = turn[0]["value"].as_str().unwrap().trim_start_matches("<image>\n");
                let brief = asked.ends_with("Answer briefly.");
                let (short, sentence) = answer(&seen, asked.trim_end_matches(" Answer briefly."));
                assert_eq!(turn[1]["value"], if brief { short } else { sentence }, "{asked}");
            }
        }
    }
}

#[test]
fn a_split_asks_about_its_topics_alone() {
    let manifest = manifest();
    let split = &manifest.split["overview"];
    let asked: BTreeSet<_> = conversations(manifest.seed, "overview", split)
        .take(50)
        .flat_map(|conversation| conversation.turns)
        .map(|turn| turn.question.topic.name())
        .collect();
    assert_eq!(asked.into_iter().collect::<Vec<_>>(), ["describe", "list", "sort"]);
}

#[test]
fn pictures_are_small_files() {
    let out = tempfile::tempdir().unwrap();
    small(out.path());
    for i in 0..40 {
        assert!(fs::metadata(out.path().join(format!("train/{i:05}.png"))).unwrap().len() < 1024);
    }
}

#[test]
fn an_unknown_split_is_an_error_that_lists_the_known_ones() {
    let out = tempfile::tempdir().unwrap();
    let error = write(&manifest(), &["tset".to_owned()], out.path()).unwrap_err();
    let message = format!("{error:#}");
    assert!(message.contains("`tset`") && message.contains("hint:") && message.contains("test"), "{message}");
}
