//! The replica's world: its files through `distill eval` as a user runs it, and its benchmarks through the readers of the
//! published formats. Models are untrained: what they answer does not matter here, what they are asked does.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use datasets::dice::Dice;
use datasets::world::question::{Asker, Question, Topic};
use datasets::world::{Level, Scene};
use e2e::programs::run;
use serde_json::Value;
use shared::agreement::Metric;

const MODELS: [&str; 7] = [
    "teacher-large",
    "teacher-medium",
    "teacher-small",
    "student-large",
    "student-medium",
    "student-small",
    "student-kin",
];

/// `toy` with the replica's manifest.
fn toy(args: &[&str]) {
    let manifest =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("datasets/replica/world.toml");
    let made = run("toy", [&["--manifest", manifest.to_str().unwrap()], args].concat()).unwrap();
    assert_eq!(made.code, Some(0), "{}", made.stderr);
}

/// A folder with the world's splits and a model.
struct World(tempfile::TempDir);

impl World {
    fn new(splits: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let world = Self(folder);
        if !splits.is_empty() {
            toy(&[&["world", "--out", &world.path("")], splits].concat());
        }
        world
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// Asks a model the first rows of a file; the summary and the predictions.
    fn asked(&self, model: &str, data: &str, limit: &str) -> (Value, Vec<Value>) {
        if !PathBuf::from(self.path(model)).exists() {
            toy(&["model", model, "--out", &self.path(model)]);
        }
        let (root, out) = (self.path(""), self.path("eval"));
        let (model, data) = (self.path(model), self.path(data));
        let args = ["eval", "--device", "cpu", "--json", "--max-new-tokens", "2", "--model", &model];
        let more = ["--data", &data, "--image-root", &root, "--limit", limit, "--out", &out];
        let finished = run("distill", [args.as_slice(), &more].concat()).unwrap();
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        let lines = std::fs::read_to_string(Path::new(&out).join("predictions.jsonl")).unwrap();
        let predictions = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (serde_json::from_str(&finished.stdout).unwrap(), predictions)
    }
}

#[test]
fn every_model_of_the_ladder_takes_two_pictures() {
    let world = World::new(&["pairs"]);
    for model in MODELS {
        let (summary, predictions) = world.asked(model, "pairs.json", "2");
        assert_eq!((&summary["questions"], &summary["quarantined"]), (&2.into(), &0.into()), "{model}");
        assert!(predictions.iter().all(|row| row["images"].as_array().unwrap().len() == 2), "{model}");
        let types: Vec<&str> = predictions.iter().map(|row| row["type"].as_str().unwrap()).collect();
        assert_eq!(types, ["twice-1", "twice-2"], "{model}");
    }
}

#[test]
fn conversations_are_asked_turn_by_turn_and_results_are_told_apart_by_topic_and_level() {
    let world = World::new(&["dialogue", "test"]);
    let (_, predictions) = world.asked("student-small", "dialogue.json", "4");
    assert!(predictions.len() > 12, "{}", predictions.len());
    assert!(predictions.iter().any(|row| row["turn"] == 4));

    let (summary, _) = world.asked("student-small", "test.json", "2000");
    let by_type = summary["by_type"].as_object().unwrap();
    assert_eq!((&summary["questions"], by_type.len()), (&1200.into(), 60), "twenty topics on three levels");
    assert!(by_type.values().all(|score| score["questions"] == 20), "{by_type:?}");
}

/// The lines of a question with options: the question, the options without their letters.
fn options(question: &str) -> (&str, Vec<&str>) {
    let mut lines: Vec<&str> = question.trim().lines().collect();
    assert_eq!(lines.pop(), Some("Answer with the letter of the right option."));
    let asked = lines.remove(0);
    let options = lines.iter().zip(["A. ", "B. ", "C. ", "D. "]);
    (asked, options.map(|(line, letter)| line.strip_prefix(letter).unwrap()).collect())
}

/// The text of the option that a row says is right.
fn right(row: &Value) -> String {
    let place = "ABCD".find(row["reference"].as_str().unwrap()).unwrap();
    options(row["question"].as_str().unwrap()).1[place].to_owned()
}

#[test]
fn the_benchmarks_are_read_back_as_the_split_they_were_made_of() {
    let world = World::new(&["test"]);
    for (format, file) in [("mmbench", "test.tsv"), ("mmmu", "test.parquet")] {
        toy(&["benchmark", "--split", "test", "--format", format, "--out", &world.path(file)]);
    }
    let text = std::fs::read_to_string(world.path("test.json")).unwrap();
    let rows: Vec<Value> = serde_json::from_str(&text).unwrap();
    let rows: BTreeMap<&str, &Value> = rows.iter().map(|row| (row["id"].as_str().unwrap(), row)).collect();

    // Fourteen topics with sixty questions each have four answers of a type.
    let (summary, mmmu) = world.asked("student-small", "test.parquet", "1000");
    assert_eq!((&summary["questions"], &summary["quarantined"]), (&840.into(), &0.into()));
    assert_eq!(summary["by_type"].as_object().unwrap().len(), 14, "{}", summary["by_type"]);
    let mut places = BTreeMap::new();
    let mut briefly = 0;
    for row in &mmmu {
        let original = &rows[row["id"].as_str().unwrap()]["conversations"];
        let asked = original[0]["value"].as_str().unwrap().trim_start_matches("<image>\n");
        let question = asked.trim_end_matches(" Answer briefly.");
        assert_eq!(options(row["question"].as_str().unwrap()).0, question);
        let is_same = right(row) == original[1]["value"].as_str().unwrap();
        // The options are short answers, but of two pictures, where they are sentences.
        if asked.ends_with("briefly.") != (row["type"] == "twice") {
            assert!(is_same, "{row}");
            briefly += 1;
        }
        *places.entry(row["reference"].to_string()).or_insert(0) += 1;
    }
    assert!(briefly > 300, "{briefly}");
    assert!(places.len() == 4 && places.values().all(|&count| count == 210), "{places:?}");

    // One picture a row: no questions about two.
    let (summary, mmbench) = world.asked("student-small", "test.tsv", "1000");
    assert_eq!((&summary["questions"], &summary["quarantined"]), (&780.into(), &0.into()));
    let one: Vec<&Value> = mmmu.iter().filter(|row| row["type"] != "twice").collect();
    for (ours, theirs) in mmbench.iter().zip(one) {
        assert_eq!((&ours["type"], right(ours)), (&theirs["type"], right(theirs)));
        let asked = |row: &Value| options(row["question"].as_str().unwrap()).0.to_owned();
        assert_eq!(asked(ours), asked(theirs));
    }
}

#[test]
fn a_split_of_choices_asks_as_the_benchmarks_are_asked() {
    let world = World::new(&["choices"]);
    let (summary, predictions) = world.asked("student-small", "choices.json", "40");
    assert_eq!((&summary["questions"], &summary["quarantined"]), (&40.into(), &0.into()));
    for row in &predictions {
        let (question, options) = options(row["question"].as_str().unwrap());
        assert!(question.ends_with(['?', '.']) && options.len() == 4, "{row}");
        assert!(options.contains(&right(row).as_str()), "{row}");
    }
}

/// Questions of one topic on boards of every level.
fn asked_about(topic: Topic) -> Vec<Question> {
    let ask = |seed: u64| {
        let mut dice = Dice::new(seed, "worked answers");
        let scene = Scene::random(Some(Level::ALL[seed as usize % 3]), false, &mut dice);
        Asker::new(&scene, false, &mut dice).ask(topic)
    };
    (0..600).filter_map(ask).collect()
}

#[test]
fn a_worked_answer_is_graded_by_what_it_comes_to() {
    for topic in Topic::ALL {
        let questions = asked_about(topic);
        assert!(questions.len() > 20, "{topic:?} is hardly ever asked");
        for Question { short, sentence, .. } in &questions {
            assert!(Metric::Conclusion.accepts(sentence, short), "{sentence:?} says {short:?}");
            assert!(Metric::Conclusion.accepts(short, short), "{short:?}");
        }
        // What it names on the way is no answer: `contains` would take many of these.
        let is_worked =
            matches!(topic, Topic::Sum | Topic::Larger | Topic::Most | Topic::Twice | Topic::Line);
        if is_worked {
            let all = || questions.iter().flat_map(|one| questions.iter().map(move |other| (one, other)));
            let wrong = all().filter(|(one, other)| one.short != other.short);
            let (mut contained, mut count) = (0, 0);
            for (one, other) in wrong {
                let (sentence, short) = (&one.sentence, &other.short);
                assert!(!Metric::Conclusion.accepts(sentence, short), "{sentence:?} does not say {short:?}");
                contained += usize::from(Metric::Contains.accepts(sentence, short));
                count += 1;
            }
            assert!(contained * 20 > count, "{topic:?}: {contained} of {count}");
        }
    }
}
