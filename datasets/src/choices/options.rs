//! The options of a question: the right answer and three of its type that are wrong for its picture.
//!
//! Wrong ones that come near are taken first: what the picture shows elsewhere, the next number, a word that differs in a letter.

use super::OPTIONS;
use crate::dice::Dice;
use crate::world::question::{Beside, NUMBERS, Question, Topic, place};
use crate::world::words::WORDS;
use crate::world::{BOARD, Class, Colour, Figure, Kind, Object, Scene, Size};

/// The right answer, then three wrong ones; none where the topic has not as many.
pub(super) fn of(scene: &Scene, question: &Question, dice: &mut Dice) -> Option<[String; OPTIONS]> {
    let right = if question.beside.is_some() { &question.sentence } else { &question.short };
    let mut options = vec![right.clone()];
    for near in others(scene, question)? {
        let mut left: Vec<String> = near.into_iter().filter(|other| !options.contains(other)).collect();
        left.sort();
        left.dedup();
        while options.len() < OPTIONS && !left.is_empty() {
            options.push(left.swap_remove(dice.below(left.len())));
        }
    }
    options.try_into().ok()
}

/// Other answers of the same type, the nearest first; the right one may be among them.
fn others(scene: &Scene, question: &Question) -> Option<Vec<Vec<String>>> {
    let shown = |test: fn(&Object) -> bool, name: fn(&Object) -> String| {
        scene.objects.iter().filter(|o| test(o)).map(name).collect::<Vec<_>>()
    };
    let any = |_: &Object| true;
    Some(match question.topic {
        Topic::Colour | Topic::Most => vec![shown(any, colour_of), all_colours()],
        Topic::Larger => {
            let colours = shown(|o| o.kind.figure.class() == Class::Number, colour_of);
            vec![named(&colours, question), colours, all_colours()]
        }
        Topic::Shape => figures(&question.short),
        Topic::Locate => vec![shown(any, |o| place(o.row, o.column)), all_places()],
        Topic::Cell | Topic::Hop => vec![shown(any, Object::full_name), like(scene, &question.short)],
        Topic::Compare => {
            let kinds = shown(any, |o| o.kind.name());
            vec![named(&kinds, question), kinds, Kind::all().map(Kind::name).collect()]
        }
        Topic::Word => words(&question.short),
        Topic::Read => numbers(&question.short, 1..=9),
        Topic::Count => numbers(&question.short, 0..=9),
        // As many as a line has cells.
        Topic::Line => numbers(&question.short, 0..=usize::from(BOARD)),
        Topic::Sum => numbers(&question.short, 2..=NUMBERS.len() - 1),
        Topic::Twice => vec![other_counts(question.beside.as_ref()?)],
        Topic::Size | Topic::Exist | Topic::Relation | Topic::Describe | Topic::List | Topic::Sort => {
            return None;
        }
    })
}

/// Those that the question names: without the loser among the options, the winner could be told without looking.
fn named(names: &[String], question: &Question) -> Vec<String> {
    names.iter().filter(|name| question.text.contains(name.as_str())).cloned().collect()
}

fn colour_of(object: &Object) -> String {
    object.kind.colour.word().to_owned()
}

fn all_colours() -> Vec<String> {
    Colour::ALL.iter().map(|colour| colour.word().to_owned()).collect()
}

fn all_places() -> Vec<String> {
    (0..BOARD * BOARD).map(|cell| place(cell / BOARD, cell % BOARD)).collect()
}

/// Figures of the same class.
fn figures(right: &str) -> Vec<Vec<String>> {
    let class = Figure::all().find(|figure| figure.word() == right).map(Figure::class);
    let alike = Figure::all().filter(|figure| Some(figure.class()) == class);
    vec![alike.map(|figure| figure.word().to_owned()).collect()]
}

/// Names that differ from one of the shown objects, or from the right answer, in size or colour, and "nothing".
fn like(scene: &Scene, right: &str) -> Vec<String> {
    let mut names = vec!["nothing".to_owned()];
    for object in &scene.objects {
        for &size in Size::ALL {
            for &colour in Colour::ALL {
                let kind = Kind { colour, ..object.kind };
                names.push(Object { size, kind, ..*object }.full_name());
            }
        }
    }
    names.retain(|name| name != right);
    names
}

/// Numbers of a range by how far they are from the right one, two steps first.
fn numbers(right: &str, range: std::ops::RangeInclusive<usize>) -> Vec<Vec<String>> {
    let value = NUMBERS.iter().position(|word| *word == right).unwrap_or(0);
    let within = |reach: usize| {
        let near = range.clone().filter(|number| number.abs_diff(value) <= reach);
        near.map(|number| NUMBERS[number].to_owned()).collect()
    };
    vec![within(2), within(NUMBERS.len())]
}

/// Words by how many letters differ: one, or only in their order, then any.
fn words(right: &str) -> Vec<Vec<String>> {
    let sorted = |word: &str| {
        let mut letters: Vec<char> = word.chars().collect();
        letters.sort_unstable();
        letters
    };
    let differing = |word: &str| word.chars().zip(right.chars()).filter(|(a, b)| a != b).count();
    let is_near = |word: &&&str| differing(word) == 1 || sorted(word) == sorted(right);
    let near = WORDS.iter().filter(is_near).map(|word| (*word).to_owned()).collect();
    vec![near, WORDS.map(str::to_owned).to_vec()]
}

/// What would be said if the pictures showed one more or less, or each the other's.
fn other_counts(beside: &Beside) -> Vec<String> {
    let [a, b] = beside.counts;
    let others =
        [[b, a], [a + 1, b], [a, b + 1], [a.saturating_sub(1), b], [a, b.saturating_sub(1)], [a + 1, b + 1]];
    others
        .into_iter()
        .filter(|counts| *counts != beside.counts)
        .map(|counts| beside.sentence(counts))
        .collect()
}
