//! The world against a reader of its own: scenes are read back from pixels, answers are worked out
//! again from the question's words, and neither uses the code that made them.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed unwrap is a failed test

mod grown;

use super::question::{Asker, Topic};
use super::render::{GROUND, TICK, render};
use super::*;
use crate::dice::Dice;
use crate::oracle::{Seen, answer, read_picture, shows_held_out};

fn scenes(held_out: bool) -> impl Iterator<Item = (Scene, Dice)> {
    (0..300).map(move |seed| {
        let mut dice = Dice::new(seed, "world test");
        (Scene::random(None, held_out, &mut dice), dice)
    })
}

#[test]
fn pixels_give_the_scene_back() {
    for (scene, _) in scenes(true) {
        let seen = read_picture(&render(&scene));
        let made: Vec<_> = scene.objects.iter().map(|o| (o.row * BOARD + o.column, o.full_name())).collect();
        let seen: Vec<_> = seen.iter().map(|o| (o.cell as u8, o.full())).collect();
        assert_eq!(seen, made);
    }
}

#[test]
fn every_answer_follows_from_the_pixels_and_the_question() {
    let mut asked = [0; 12];
    for held_out in [false, true] {
        for (scene, mut dice) in scenes(held_out) {
            let seen = read_picture(&render(&scene));
            for (i, topic) in Topic::of_toy().iter().copied().enumerate() {
                let Some(question) = Asker::new(&scene, held_out, &mut dice).ask(topic) else { continue };
                asked[i] += 1;
                let (short, sentence) = answer(&seen, &question.text);
                assert_eq!((question.short, question.sentence), (short, sentence), "{}", question.text);
            }
        }
    }
    assert!(asked.iter().all(|&n| n > 150), "some topic is hardly ever asked: {asked:?}");
}

#[test]
fn training_never_shows_an_object_in_its_held_out_place_and_every_test_picture_does() {
    for held_out in [false, true] {
        for (scene, _) in scenes(held_out) {
            assert_eq!(shows_held_out(&read_picture(&render(&scene))), held_out);
        }
    }
}

#[test]
fn test_questions_about_a_cell_ask_for_a_held_out_place() {
    let mut asked = 0;
    for (scene, mut dice) in scenes(true) {
        let Some(question) = Asker::new(&scene, true, &mut dice).ask(Topic::Cell) else { continue };
        let seen = read_picture(&render(&scene));
        let meant = |object: &&Seen| question.text.contains(&object.place());
        assert!(seen.iter().find(meant).unwrap().is_held_out(), "{}", question.text);
        asked += 1;
    }
    assert!(asked > 200);
}

#[test]
fn every_cell_is_held_out_for_four_kinds() {
    for cell in 0..BOARD * BOARD {
        assert_eq!(Kind::of_toy().filter(|kind| kind.held_out_cell() == cell).count(), 4);
    }
}

#[test]
fn colours_stay_apart_from_each_other_and_from_the_ground() {
    let tinted = |rgb: [u8; 3]| rgb.map(i32::from);
    let mut all: Vec<[i32; 3]> = Colour::ALL.iter().map(|&c| tinted(render::rgb(c))).collect();
    all.extend([GROUND, TICK].map(tinted));
    for (i, a) in all.iter().enumerate() {
        for b in &all[..i] {
            let distance = (0..3).map(|c| (a[c] - b[c]).abs()).max().unwrap();
            // Twice the largest tint: no tinted colour is nearer to another's pure form.
            assert!(distance > 20, "{a:?} and {b:?}");
        }
    }
}
