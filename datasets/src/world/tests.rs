//! The world against a reader of its own: scenes are read back from pixels, answers are worked out
//! again from the question's words, and neither uses the code that made them.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed unwrap is a failed test

use super::question::{Asker, Topic};
use super::render::{GROUND, TICK, render};
use super::*;
use crate::oracle::{answer, read_picture};

fn scenes(held_out: bool) -> impl Iterator<Item = (Scene, Dice)> {
    (0..300).map(move |seed| {
        let mut dice = Dice::new(seed, "world test");
        (Scene::random(held_out, &mut dice), dice)
    })
}

#[test]
fn pixels_give_the_scene_back() {
    for (scene, _) in scenes(true) {
        let seen = read_picture(&render(&scene));
        let made: Vec<_> = scene.objects.iter().map(|o| (o.row, o.column, o.full_name())).collect();
        assert_eq!(seen, made);
    }
}

#[test]
fn every_answer_follows_from_the_pixels_and_the_question() {
    let mut asked = [0; Topic::ALL.len()];
    for held_out in [false, true] {
        for (scene, mut dice) in scenes(held_out) {
            let seen = read_picture(&render(&scene));
            for (i, topic) in Topic::ALL.into_iter().enumerate() {
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
fn training_neither_shows_nor_names_a_held_out_pair() {
    for (scene, mut dice) in scenes(false) {
        assert!(scene.objects.iter().all(|o| !o.kind.is_held_out()));
        for question in Asker::new(&scene, false, &mut dice).several(6) {
            let words = [question.text, question.short, question.sentence].join(" ");
            // Plurals start with the singular, so a plain search finds them too.
            assert!(HELD_OUT.iter().all(|kind| !words.contains(&kind.name())), "{words}");
        }
    }
}

#[test]
fn every_test_picture_shows_a_held_out_pair() {
    for (scene, _) in scenes(true) {
        assert!(scene.objects.iter().any(|o| o.kind.is_held_out()));
    }
}

#[test]
fn held_out_pairs_take_each_colour_and_each_shape_once() {
    assert!(Colour::ALL.iter().all(|&c| HELD_OUT.iter().filter(|k| k.colour == c).count() == 1));
    assert!(Shape::ALL.iter().all(|&s| HELD_OUT.iter().filter(|k| k.shape == s).count() == 1));
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
