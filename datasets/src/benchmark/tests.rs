//! Options: the right one is right for the picture, the others are not, by the observer's own reading.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed unwrap is a failed test

use std::collections::{BTreeMap, BTreeSet};

use image::RgbImage;

use super::*;
use crate::oracle::{answer, answer_about_two, read_picture};

fn world() -> Manifest {
    Manifest::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("replica/world.toml")).unwrap()
}

fn picture(png: &[u8]) -> RgbImage {
    image::load_from_memory(png).unwrap().to_rgb8()
}

/// The kind of thing an option says: how many words it has tells the types apart but for single words.
fn is_of_type(topic: &str, option: &str) -> bool {
    let colours = ["red", "green", "blue", "yellow", "purple", "orange"];
    let numbers = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen \
                   seventeen eighteen nineteen twenty";
    match topic {
        "colour" | "most" | "larger" => colours.contains(&option),
        "count" | "line" | "sum" | "read" => numbers.split(' ').any(|number| number == option),
        "locate" => option.split(' ').count() == 2 && !colours.contains(&option),
        "cell" | "hop" => option == "nothing" || option.starts_with("small ") || option.starts_with("large "),
        "compare" => colours.contains(&option.split(' ').next().unwrap()),
        "word" => option.len() == 3,
        "twice" => option.starts_with("The first has "),
        "shape" => !colours.contains(&option),
        _ => panic!("{topic}"),
    }
}

#[test]
fn one_option_is_right_and_three_of_its_type_are_wrong() {
    let world = world();
    let mut rows = rows(&world, "test").unwrap();
    settle_answers(&mut rows, &mut Dice::new(1, "test"));
    let mut asked: BTreeMap<&str, usize> = BTreeMap::new();
    for row in &rows {
        let seen: Vec<_> = row.pictures.iter().map(|png| read_picture(&picture(png))).collect();
        let right = match &seen[..] {
            [one] => answer(one, &row.question).0,
            [first, second] => answer_about_two([first, second], &row.question).1,
            _ => panic!("{} pictures", seen.len()),
        };
        let fitting = row.choice.options.iter().filter(|option| **option == right).count();
        assert_eq!(
            (fitting, &row.choice.options[row.choice.answer]),
            (1, &right),
            "{}: {:?}",
            row.id,
            row.choice.options
        );
        assert_eq!(
            row.choice.options.iter().collect::<BTreeSet<_>>().len(),
            OPTIONS,
            "{:?}",
            row.choice.options
        );
        assert!(
            row.choice.options.iter().all(|it| is_of_type(row.topic, it)),
            "{}: {:?}",
            row.topic,
            row.choice.options
        );
        if ["compare", "larger"].contains(&row.topic) {
            let named = row.choice.options.iter().filter(|option| row.question.contains(*option)).count();
            assert!(
                named >= 2,
                "both that are compared are options: {} {:?}",
                row.question,
                row.choice.options
            );
        }
        *asked.entry(row.topic).or_default() += 1;
    }
    // The test split asks about each of its topics as often; six of the twenty have too few answers.
    let split = &world.split["test"];
    assert_eq!((asked.len(), split.topics.as_ref().unwrap().len()), (14, 20));
    assert!(asked.values().all(|&count| count == split.conversations / 20), "{asked:?}");
}

#[test]
fn the_right_option_stands_in_each_place_as_often() {
    let mut rows = rows(&world(), "test").unwrap();
    settle_answers(&mut rows, &mut Dice::new(1, "test"));
    let mut places = [0; OPTIONS];
    rows.iter().for_each(|row| places[row.choice.answer] += 1);
    assert_eq!(places, [rows.len() / OPTIONS; OPTIONS]);
}

#[test]
fn a_split_without_such_questions_is_an_error() {
    let mut manifest = world();
    let split = manifest.split.get_mut("test").unwrap();
    split.topics = Some(vec![crate::world::question::Topic::Exist]);
    split.conversations = 3;
    let out = tempfile::tempdir().unwrap();
    let error = write(&manifest, "test", Format::Mmmu, &out.path().join("none.parquet")).unwrap_err();
    assert!(error.to_string().contains("hint:"), "{error}");
    assert!(!out.path().join("none.parquet").exists());
}
