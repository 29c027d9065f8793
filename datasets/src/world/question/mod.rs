//! Questions about a scene, with a short and a sentence answer each, all following from the scene.
//!
//! The words are few and the wordings several, so that a small model learns the language quickly
//! and has to look at the picture for the rest. A question that ends in [`BRIEF`] wants the short answer.
//!
//! Where an answer takes steps (sums, neighbours, lines, two pictures), its sentence is a worked one: what was seen, then what
//! follows.

mod facts;
mod nouns;
mod overviews;
mod pairs;
mod reading;
mod relations;
mod steps;

use serde::Deserialize;

use super::{Kind, Object, Scene};
use crate::dice::Dice;
pub use pairs::Beside;

/// What ends a question that wants a short answer.
pub const BRIEF: &str = " Answer briefly.";

/// What a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Topic {
    /// The colour of the one object of a shape.
    Colour,
    /// The shape of the one object of a colour.
    Shape,
    /// The size of an object.
    Size,
    /// How many there are of a kind, a colour or a shape.
    Count,
    /// Whether there is an object of a kind.
    Exist,
    /// Where an object lies.
    Locate,
    /// What lies in a cell.
    Cell,
    /// Every cell of the picture, in reading order.
    Describe,
    /// Every object with its place, or only the colours or the shapes, in reading order.
    List,
    /// The objects of each colour or of each shape, with their places.
    Sort,
    /// Whether one object is left of, right of, above or below another.
    Relation,
    /// Which of two objects is larger or smaller.
    Compare,
    /// Which digit is in a cell or of a colour.
    Read,
    /// Which word is in a row or a column.
    Word,
    /// What the digits add up to.
    Sum,
    /// Which of two digits is worth more or less.
    Larger,
    /// What lies beside an object that has to be found first.
    Hop,
    /// How many objects are in the row or the column of an object.
    Line,
    /// Which colour there is most of.
    Most,
    /// Which of two pictures has more of something.
    Twice,
}

impl Topic {
    /// Every topic, the toy's first.
    pub const ALL: [Topic; 20] = [
        Topic::Colour,
        Topic::Shape,
        Topic::Size,
        Topic::Count,
        Topic::Exist,
        Topic::Locate,
        Topic::Cell,
        Topic::Describe,
        Topic::List,
        Topic::Sort,
        Topic::Relation,
        Topic::Compare,
        Topic::Read,
        Topic::Word,
        Topic::Sum,
        Topic::Larger,
        Topic::Hop,
        Topic::Line,
        Topic::Most,
        Topic::Twice,
    ];

    /// The toy's topics: what a split that names none asks about.
    pub fn of_toy() -> &'static [Topic] {
        &Self::ALL[..12]
    }

    /// Topics that look at the whole picture: what a model learns to see from.
    const OVERVIEWS: [Topic; 3] = [Topic::Describe, Topic::List, Topic::Sort];

    /// What the other questions of a conversation are drawn from. Relations and comparisons are drawn
    /// more often, because many scenes do not allow them.
    const DETAILS: [Topic; 14] = [
        Topic::Colour,
        Topic::Shape,
        Topic::Size,
        Topic::Count,
        Topic::Count,
        Topic::Exist,
        Topic::Locate,
        Topic::Locate,
        Topic::Cell,
        Topic::Relation,
        Topic::Relation,
        Topic::Compare,
        Topic::Compare,
        Topic::Compare,
    ];

    /// The name used in row ids.
    pub fn name(self) -> &'static str {
        match self {
            Topic::Colour => "colour",
            Topic::Shape => "shape",
            Topic::Size => "size",
            Topic::Count => "count",
            Topic::Exist => "exist",
            Topic::Locate => "locate",
            Topic::Cell => "cell",
            Topic::Describe => "describe",
            Topic::List => "list",
            Topic::Sort => "sort",
            Topic::Relation => "relation",
            Topic::Compare => "compare",
            Topic::Read => "read",
            Topic::Word => "word",
            Topic::Sum => "sum",
            Topic::Larger => "larger",
            Topic::Hop => "hop",
            Topic::Line => "line",
            Topic::Most => "most",
            Topic::Twice => "twice",
        }
    }
}

/// A question with both of its answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What it is about.
    pub topic: Topic,
    /// The question itself, without [`BRIEF`].
    pub text: String,
    /// The answer in a word or a few.
    pub short: String,
    /// The answer as a sentence.
    pub sentence: String,
    /// The other picture, where it is about two.
    pub beside: Option<Beside>,
}

/// Asks about one scene: with `held_out` every question about a single object, or about two, turns on one in a
/// place that training keeps from it.
pub struct Asker<'a> {
    scene: &'a Scene,
    held_out: bool,
    dice: &'a mut Dice,
}

impl<'a> Asker<'a> {
    /// An asker for `scene`, which was made with the same `held_out`.
    pub fn new(scene: &'a Scene, held_out: bool, dice: &'a mut Dice) -> Self {
        Self { scene, held_out, dice }
    }

    /// A question on `topic`, or none where the scene does not allow one.
    pub fn ask(&mut self, topic: Topic) -> Option<Question> {
        let mut beside = None;
        let (text, short, sentence) = match topic {
            Topic::Colour => self.colour(),
            Topic::Shape => self.shape(),
            Topic::Size => self.size(),
            Topic::Count => self.count(),
            Topic::Exist => self.exist(),
            Topic::Locate => self.locate(),
            Topic::Cell => self.cell(),
            Topic::Describe => self.describe(),
            Topic::List => self.list(),
            Topic::Sort => self.sort(),
            Topic::Relation => self.relation(),
            Topic::Compare => self.compare(),
            Topic::Read => self.read(),
            Topic::Word => self.word(),
            Topic::Sum => self.sum(),
            Topic::Larger => self.larger(),
            Topic::Hop => self.hop(),
            Topic::Line => self.line(),
            Topic::Most => self.most(),
            Topic::Twice => self.twice().map(|(exchange, other)| {
                beside = Some(other);
                exchange
            }),
        }?;
        Some(Question { topic, text, short, sentence, beside })
    }

    /// Up to `wanted` different questions on random topics. Of several the last asks for an overview, which
    /// comes last because after it the other questions could be answered without looking.
    pub fn several(&mut self, wanted: usize) -> Vec<Question> {
        if wanted < 2 {
            return self.about(Topic::of_toy(), wanted);
        }
        let mut questions = self.about(&Topic::DETAILS, wanted - 1);
        questions.extend(self.about(&Topic::OVERVIEWS, 1));
        questions
    }

    /// Up to `wanted` different questions on topics drawn from `topics`.
    pub fn about(&mut self, topics: &[Topic], wanted: usize) -> Vec<Question> {
        let mut questions: Vec<Question> = Vec::with_capacity(wanted);
        // A scene of one repeated kind allows few questions: give up after a while.
        for _ in 0..50 * wanted {
            if questions.len() == wanted {
                break;
            }
            let Some(question) = self.dice.pick(topics).and_then(|topic| self.ask(topic)) else { continue };
            if questions.iter().all(|other| other.text != question.text) {
                questions.push(question);
            }
        }
        questions
    }

    /// The objects that a question may turn on, of those that satisfy `test`.
    fn targets(&self, test: impl Fn(&Object) -> bool) -> Vec<Object> {
        let allowed = |o: &&Object| (!self.held_out || o.is_held_out()) && test(o);
        self.scene.objects.iter().filter(allowed).copied().collect()
    }

    /// As [`targets`](Self::targets), of those that their kind alone identifies.
    fn unique_targets(&self) -> Vec<Object> {
        self.targets(|o| self.scene.count(|p| p.kind == o.kind) == 1)
    }

    /// An object and words that only it answers to: its kind, or its colour or its shape alone.
    fn referred(&mut self) -> Option<(Object, String)> {
        let scene = self.scene;
        let object = self.dice.pick(&self.unique_targets())?;
        let Kind { colour, figure } = object.kind;
        let words = match self.dice.below(3) {
            0 if scene.count(|o| o.kind.colour == colour) == 1 => format!("{} object", colour.word()),
            1 if scene.count(|o| o.kind.figure == figure) == 1 => figure.word().to_owned(),
            _ => object.kind.name(),
        };
        Some((object, words))
    }
}

/// A wording, its short and its sentence answer.
type Exchange = (String, String, String);

/// The numbers that answers need, in words.
pub(crate) const NUMBERS: [&str; 21] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
];

/// `noun` with its indefinite article.
fn with_article(noun: &str) -> String {
    let is_vowel = noun.starts_with(['a', 'e', 'i', 'o', 'u']) && noun != "one";
    format!("{} {noun}", if is_vowel { "an" } else { "a" })
}

/// "crosses", "circles", "letters b".
fn plural(noun: &str) -> String {
    if let Some((before, letter)) = noun.rsplit_once("letter ") {
        return format!("{before}letters {letter}");
    }
    let ending = if noun.ends_with("ss") || noun.ends_with('x') { "es" } else { "s" };
    format!("{noun}{ending}")
}

/// A sentence's first word with its capital.
fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// "top left".
pub(crate) fn place(row: u8, column: u8) -> String {
    let rows = ["top", "middle", "bottom"];
    let columns = ["left", "centre", "right"];
    format!("{} {}", rows[usize::from(row)], columns[usize::from(column)])
}
