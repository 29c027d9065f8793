//! The replica's files: pinned, true to their pictures, and balanced where they say so.

use std::collections::{BTreeMap, BTreeSet};

use super::super::*;
use crate::oracle::{Seen, answer, answer_about_two, read_picture, shows_held_out};

fn manifest() -> Manifest {
    Manifest::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("replica/world.toml")).unwrap()
}

/// The first `count` conversations of every split.
fn cut(count: usize, out: &Path) -> Manifest {
    let mut manifest = manifest();
    manifest.split.values_mut().for_each(|split| split.conversations = count);
    let names: Vec<String> = manifest.split.keys().cloned().collect();
    write(&manifest, &names, out).unwrap();
    manifest
}

fn rows(out: &Path, name: &str) -> Vec<Value> {
    serde_json::from_str(&fs::read_to_string(out.join(format!("{name}.json"))).unwrap()).unwrap()
}

/// The pictures of a row, one or two.
fn pictures(out: &Path, row: &Value) -> Vec<Vec<Seen>> {
    let files: Vec<&str> = match &row["image"] {
        Value::Array(files) => files.iter().map(|file| file.as_str().unwrap()).collect(),
        file => vec![file.as_str().unwrap()],
    };
    files.iter().map(|file| read_picture(&image::open(out.join(file)).unwrap().to_rgb8())).collect()
}

/// The digest was noted when the ladder's training began: if it changes, the models have not seen this world and
/// `docs/replica.md` tells of another.
#[test]
fn the_same_seed_gives_the_same_bytes() {
    let out = tempfile::tempdir().unwrap();
    cut(10, out.path());
    let mut hasher = blake3::Hasher::new();
    for name in ["base", "dialogue", "distil", "look", "pairs", "test", "train", "validation"] {
        hasher.update(&fs::read(out.path().join(format!("{name}.json"))).unwrap());
        let mut files: Vec<_> =
            fs::read_dir(out.path().join(name)).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        for file in files {
            hasher.update(&fs::read(file).unwrap());
        }
    }
    assert_eq!(hasher.finalize().to_hex()[..16], *"4cac5b8775ae7edb");
}

#[test]
fn answers_in_the_files_are_true_and_training_shows_nothing_held_out() {
    let out = tempfile::tempdir().unwrap();
    let manifest = cut(30, out.path());
    let mut about_two = 0;
    for (name, split) in manifest.split.iter().filter(|(_, split)| !split.choices && split.wrong_answers == 0)
    {
        for row in rows(out.path(), name) {
            let seen = pictures(out.path(), &row);
            assert_eq!(seen.iter().any(|it| shows_held_out(it)), split.held_out, "{name} {row}");
            let turns = row["conversations"].as_array().unwrap();
            assert_eq!(turns.len() == 2, split.separate || split.turns == 1, "{name} {row}");
            for turn in turns.chunks(2) {
                let asked = turn[0]["value"].as_str().unwrap();
                let question = asked.trim_start_matches("<image>\n").trim_end_matches(" Answer briefly.");
                let (short, sentence) = match &seen[..] {
                    [one] => answer(one, question),
                    [first, second] => answer_about_two([first, second], question),
                    _ => panic!("{row}"),
                };
                about_two += seen.len() - 1;
                let is_short = split.short_answers || asked.ends_with(" Answer briefly.");
                assert_eq!(turn[1]["value"], if is_short { short } else { sentence }, "{asked}");
            }
            let places = turns[0]["value"].as_str().unwrap().matches("<image>").count();
            assert_eq!(places, seen.len(), "a place for each picture");
        }
    }
    assert!(about_two > 40, "{about_two}");
}

#[test]
fn short_answers_are_those_to_the_same_questions_and_none_says_so() {
    let out = tempfile::tempdir().unwrap();
    cut(30, out.path());
    for name in ["distil", "test"] {
        let (long, short) = (rows(out.path(), name), rows(out.path(), &format!("{name}-short")));
        assert_eq!(long.len(), short.len());
        for (long, short) in long.iter().zip(&short) {
            let asked = |row: &Value| row["conversations"][0]["value"].as_str().unwrap().to_owned();
            assert_eq!(
                (&long["id"], asked(long).trim_end_matches(" Answer briefly.")),
                (&short["id"], &*asked(short))
            );
            assert_eq!(pictures(out.path(), long), pictures(out.path(), short));
        }
    }
}

#[test]
fn wrong_answers_are_as_many_as_said_and_other_answers_of_the_topic() {
    let out = tempfile::tempdir().unwrap();
    cut(200, out.path());
    let (right, wrong) = (rows(out.path(), "distil"), rows(out.path(), "distil-wrong"));
    let asked = |row: &Value| row["conversations"][0].clone();
    let said = |row: &Value| row["conversations"][1]["value"].as_str().unwrap().to_owned();
    let topic = |row: &Value| row["id"].as_str().unwrap().split('-').next().unwrap().to_owned();
    let true_ones: BTreeSet<_> = right.iter().map(|row| (topic(row), said(row))).collect();
    assert!(right.iter().zip(&wrong).all(|(right, wrong)| asked(right) == asked(wrong)));
    let differ: Vec<_> =
        right.iter().zip(&wrong).filter(|(right, wrong)| said(right) != said(wrong)).collect();
    assert!(differ.iter().all(|(_, wrong)| true_ones.contains(&(topic(wrong), said(wrong)))));
    // Fewer than 30 %: where the last answer was the same one, it stays.
    let share = differ.len() as f64 / right.len() as f64;
    assert!((0.2..0.32).contains(&share), "{share}");
}

#[test]
fn a_split_of_choices_answers_with_the_letter_of_what_is_true() {
    let out = tempfile::tempdir().unwrap();
    cut(60, out.path());
    let mut letters: BTreeMap<String, usize> = BTreeMap::new();
    for row in rows(out.path(), "choices") {
        let seen = pictures(out.path(), &row);
        let asked = row["conversations"][0]["value"].as_str().unwrap().trim_start_matches("<image>\n");
        let lines: Vec<&str> = asked.lines().collect();
        let [question, a, b, c, d, end] = lines[..] else { panic!("{asked}") };
        assert_eq!(end, "Answer with the letter of the right option.");
        let right = match &seen[..] {
            [one] => answer(one, question).0,
            [first, second] => answer_about_two([first, second], question).1,
            _ => panic!("{row}"),
        };
        let letter = row["conversations"][1]["value"].as_str().unwrap().to_owned();
        let said: Vec<_> = [a, b, c, d].into_iter().filter(|line| line[3..] == right).collect();
        assert_eq!(said, [format!("{letter}. {right}")]);
        *letters.entry(letter).or_default() += 1;
    }
    assert!(letters.len() == 4 && letters.values().all(|&count| count > 40), "{letters:?}");
}

#[test]
fn a_balanced_split_asks_about_each_topic_on_each_level_as_often() {
    let out = tempfile::tempdir().unwrap();
    let manifest = manifest();
    write(&manifest, &["test".to_owned()], out.path()).unwrap();
    let mut asked: BTreeMap<(String, String), usize> = BTreeMap::new();
    for row in rows(out.path(), "test") {
        let parts: Vec<&str> = row["id"].as_str().unwrap().split('-').collect();
        *asked.entry((parts[0].to_owned(), parts[1].to_owned())).or_default() += 1;
        let sizes = [2..=3, 4..=5, 6..=8];
        let level: usize = parts[1].parse().unwrap();
        let seen = pictures(out.path(), &row);
        assert!(seen.iter().all(|it| sizes[level - 1].contains(&it.len())), "{row}");
    }
    assert_eq!(asked.len(), 60);
    let each = manifest.split["test"].conversations / 60;
    assert!(asked.values().all(|&count| count == each), "{asked:?}");
}

#[test]
fn splits_show_different_pictures() {
    let manifest = manifest();
    let mut first: Vec<String> = manifest
        .split
        .iter()
        .filter(|(_, split)| split.stream.is_none())
        .flat_map(|(name, split)| conversations(manifest.seed, name, split).take(5))
        .map(|conversation| format!("{:?}", conversation.scene))
        .collect();
    first.sort();
    let shown = first.len();
    first.dedup();
    assert!(shown >= 40, "{shown}");
    assert_eq!(first.len(), shown);
}

/// What is wrong with a manifest whose split `test` has these keys.
fn refusal(keys: &str) -> String {
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("world.toml");
    let head = "name = \"w\"\nsource = \"s\"\nlicence = \"l\"\nseed = 1\nmodel = {}\n";
    fs::write(&file, format!("{head}[split.test]\nconversations = 1\nheld_out = false\n{keys}\n")).unwrap();
    format!("{:#}", Manifest::read(&file).unwrap_err())
}

#[test]
fn keys_that_do_not_go_together_are_refused_with_a_hint() {
    for (keys, word) in [
        ("turns = 1\nbalanced = true\ntopics = [\"hop\"]", "`balanced`"),
        ("turns = 2\nbalanced = true\nlevels = [1]\ntopics = [\"hop\"]", "`balanced`"),
        ("turns = 1\ntopics = [\"sum\"]", "`sum`"),
        ("turns = 2\nlevels = [1]\ntopics = [\"twice\"]", "two pictures"),
        ("turns = 1\nlevels = []", "empty list"),
    ] {
        let message = refusal(keys);
        assert!(message.contains(word) && message.contains("hint:"), "{keys}: {message}");
    }
    assert!(refusal("turns = 1\nlevels = [4]").contains("there is no level 4"));
}
