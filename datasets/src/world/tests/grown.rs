//! The grown-up world against the same reader: every topic on every level.

use super::super::glyphs::{self, DOTS, is_inked};
use super::super::question::{Asker, Question, Topic};
use super::super::render::render;
use super::super::scenes::LARGEST_SUM;
use super::super::words::{Line, Spelled, WORDS};
use super::super::*;
use crate::dice::Dice;
use crate::oracle::{Seen, answer, answer_about_two, read_picture, shows_held_out, word_in};

/// Scenes of every level, with the dice that their questions are drawn with.
fn grown_scenes(held_out: bool) -> impl Iterator<Item = (Scene, Dice)> {
    (0..900).map(move |seed| {
        let mut dice = Dice::new(seed, "grown world test");
        let level = Level::ALL[seed as usize % 3];
        (Scene::random(Some(level), held_out, &mut dice), dice)
    })
}

#[test]
fn pixels_give_scenes_of_each_level_back() {
    for held_out in [false, true] {
        for (scene, _) in grown_scenes(held_out) {
            let seen = read_picture(&render(&scene));
            let made: Vec<_> =
                scene.objects.iter().map(|o| (o.row * BOARD + o.column, o.full_name())).collect();
            let told: Vec<_> = seen.iter().map(|o| (o.cell as u8, o.full())).collect();
            assert_eq!(told, made);
            assert_eq!(shows_held_out(&seen), held_out, "{scene:?}");
            let sizes = [2..=3, 4..=5, 6..=8];
            assert!(sizes[scene.level.unwrap() as usize - 1].contains(&seen.len()), "{scene:?}");
        }
    }
}

#[test]
fn every_answer_about_a_level_follows_from_the_pixels_and_the_question() {
    let mut asked = [[0; 3]; Topic::ALL.len()];
    for held_out in [false, true] {
        for (scene, mut dice) in grown_scenes(held_out) {
            let level = scene.level.unwrap();
            let seen = read_picture(&render(&scene));
            for (i, topic) in Topic::ALL.into_iter().enumerate() {
                let Some(question) = Asker::new(&scene, held_out, &mut dice).ask(topic) else { continue };
                asked[i][level as usize - 1] += 1;
                let (short, sentence) = match &question.beside {
                    None => answer(&seen, &question.text),
                    Some(beside) => {
                        let other = read_picture(&render(&beside.scene));
                        assert!(held_out || !shows_held_out(&other));
                        let pictures = if beside.comes_first { [&*other, &seen] } else { [&*seen, &other] };
                        answer_about_two(pictures, &question.text)
                    }
                };
                assert_eq!((question.short, question.sentence), (short, sentence), "{}", question.text);
            }
        }
    }
    for (topic, counts) in Topic::ALL.iter().zip(asked) {
        assert!(counts.iter().all(|&n| n > 20), "{topic:?} is hardly ever asked: {counts:?}");
    }
}

/// What of a picture an answer turns on, by the words of question and sentence.
fn turned_on<'a>(seen: &'a [Seen], question: &Question) -> Vec<&'a Seen> {
    let names = |o: &&Seen, text: &str| text.contains(&o.place());
    let Question { topic, text, short, sentence, .. } = question;
    let fits = |o: &&Seen| match topic {
        Topic::Hop => names(o, sentence),
        Topic::Read => names(o, text) || (o.value().is_some() && text.contains(o.colour)),
        Topic::Larger => o.value().is_some() && text.contains(o.colour),
        Topic::Sum => o.value().is_some(),
        Topic::Most => o.colour == short,
        Topic::Line => {
            let line = Line::all().find(|line| sentence.contains(&line.name())).unwrap();
            line.cells().iter().any(|&(row, column)| usize::from(row * BOARD + column) == o.cell)
        }
        _ => panic!("{topic:?}"),
    };
    seen.iter().filter(fits).collect()
}

#[test]
fn test_questions_turn_on_what_training_never_shows() {
    let topics = [Topic::Hop, Topic::Read, Topic::Larger, Topic::Sum, Topic::Most, Topic::Line];
    let (mut asked, mut words) = ([0; 6], 0);
    for (scene, mut dice) in grown_scenes(true) {
        let seen = read_picture(&render(&scene));
        for (i, topic) in topics.into_iter().enumerate() {
            let Some(question) = Asker::new(&scene, true, &mut dice).ask(topic) else { continue };
            let turned_on = turned_on(&seen, &question);
            assert!(turned_on.iter().any(|o| o.is_held_out()), "{}: {seen:?}", question.text);
            asked[i] += 1;
        }
        let Some(question) = Asker::new(&scene, true, &mut dice).ask(Topic::Word) else { continue };
        let line = Line::all().position(|line| question.text.contains(&line.name())).unwrap();
        let cells = Line::all().nth(line).unwrap().cells();
        let is_there =
            |o: &&Seen| cells.iter().any(|&(row, column)| usize::from(row * BOARD + column) == o.cell);
        let kept = word_in(&seen, line).unwrap().1;
        assert!(kept || seen.iter().filter(is_there).any(Seen::is_held_out), "{}: {seen:?}", question.text);
        words += 1;
    }
    assert!(words > 50 && asked.iter().all(|&n| n > 50), "{words} {asked:?}");
}

#[test]
fn sums_stay_below_twenty_one() {
    let mut largest = 0;
    for (scene, _) in grown_scenes(false) {
        let sum = scene.objects.iter().filter_map(|o| o.kind.figure.value()).sum::<usize>();
        assert!(sum <= LARGEST_SUM, "{scene:?}");
        largest = largest.max(sum);
    }
    assert_eq!(largest, 20, "sums do not reach what they may");
}

#[test]
fn every_digit_and_letter_is_kept_from_six_cells_and_every_line_from_four_words() {
    for figure in Figure::all().filter(|figure| figure.class() != Class::Shape) {
        let cells: std::collections::BTreeSet<u8> =
            Colour::ALL.iter().map(|&colour| Kind { colour, figure }.held_out_cell()).collect();
        assert_eq!(cells.len(), 6, "{figure:?}");
    }
    for line in Line::all() {
        let kept = |word: &&&str| Spelled::find(word, line).unwrap().is_held_out();
        assert_eq!(WORDS.iter().filter(kept).count(), 4, "{line:?}");
    }
}

#[test]
fn training_can_show_each_word_in_all_other_lines() {
    let letter = |c: char| *Letter::ALL.iter().find(|it| it.letter().starts_with(c)).unwrap();
    for word in WORDS {
        let is_shown = |line: Line, colour: Colour| {
            let cells = line.cells().map(|(row, column)| row * BOARD + column);
            let kinds = word.chars().map(|c| Kind { colour, figure: Figure::Letter(letter(c)) });
            kinds.zip(cells).all(|(kind, cell)| kind.held_out_cell() != cell)
        };
        for line in Line::all() {
            assert!(Colour::ALL.iter().any(|&colour| is_shown(line, colour)), "{word} in {line:?}");
        }
    }
}

/// The nearest are O and D, two corners apart: eight pixels in a small glyph.
#[test]
fn glyphs_differ_in_several_dots() {
    let digits = Digit::ALL.iter().map(|&digit| (digit.word(), glyphs::digit(digit)));
    let letters = Letter::ALL.iter().map(|&letter| (letter.word(), glyphs::letter(letter)));
    let all: Vec<_> = digits.chain(letters).collect();
    for (i, (name, glyph)) in all.iter().enumerate() {
        for (other, theirs) in &all[..i] {
            let dots = (0..DOTS.1).flat_map(|row| (0..DOTS.0).map(move |column| (row, column)));
            let apart =
                dots.filter(|&(row, column)| is_inked(glyph, row, column) != is_inked(theirs, row, column));
            let apart = apart.count();
            assert!(apart >= 2, "{name} and {other}: {apart}");
        }
    }
}

#[test]
fn plain_words_for_odd_nouns() {
    // By hand: articles and plurals that the rule alone would get wrong.
    let mut texts = std::collections::BTreeSet::new();
    for (scene, mut dice) in grown_scenes(false) {
        for topic in [Topic::Shape, Topic::Count] {
            let Some(question) = Asker::new(&scene, false, &mut dice).ask(topic) else { continue };
            texts.extend([question.text, question.sentence]);
        }
    }
    let said = |part: &str| texts.iter().any(|text| text.contains(part));
    assert!(["a one.", "an eight.", "sixes", "crosses", "letters b"].iter().all(|part| said(part)));
    assert!(!["an one.", "a eight.", "sixs", "letter bs"].iter().any(|part| said(part)));
}
