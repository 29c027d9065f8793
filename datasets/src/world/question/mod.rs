//! Questions about a scene, with a short and a sentence answer each, all following from the scene.
//!
//! The words are few and the wordings several, so that a small model learns the language quickly
//! and has to look at the picture for the rest. A question that ends in [`BRIEF`] wants the short answer.

mod facts;
mod relations;

use super::{Kind, Object, Scene};
use crate::dice::Dice;

/// What ends a question that wants a short answer.
pub const BRIEF: &str = " Answer briefly.";

/// What a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    /// Whether one object is left of, right of, above or below another.
    Relation,
    /// Which of two objects is larger or smaller.
    Compare,
}

impl Topic {
    /// Every topic.
    pub const ALL: [Topic; 10] = [
        Topic::Colour,
        Topic::Shape,
        Topic::Size,
        Topic::Count,
        Topic::Exist,
        Topic::Locate,
        Topic::Cell,
        Topic::Describe,
        Topic::Relation,
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
            Topic::Relation => "relation",
            Topic::Compare => "compare",
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
}

/// Asks about one scene: with `held_out` every question turns on a pair that training never shows,
/// without it none names one.
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
        let (text, short, sentence) = match topic {
            Topic::Colour => self.colour(),
            Topic::Shape => self.shape(),
            Topic::Size => self.size(),
            Topic::Count => self.count(),
            Topic::Exist => self.exist(),
            Topic::Locate => self.locate(),
            Topic::Cell => self.cell(),
            Topic::Describe => self.describe(),
            Topic::Relation => self.relation(),
            Topic::Compare => self.compare(),
        }?;
        Some(Question { topic, text, short, sentence })
    }

    /// Up to `wanted` different questions on random topics. Of several the last asks for a description:
    /// it looks at every cell, which is what a model learns to see from; and it comes last, because
    /// after it the other questions could be answered without looking.
    pub fn several(&mut self, wanted: usize) -> Vec<Question> {
        let described = wanted > 1;
        let others = if described { wanted - 1 } else { wanted };
        let mut questions: Vec<Question> = Vec::with_capacity(wanted);
        // A scene of one repeated kind allows few questions: give up after a while.
        for _ in 0..50 * wanted {
            if questions.len() == others {
                break;
            }
            let topic = self.dice.one_of(Topic::ALL);
            if described && topic == Topic::Describe {
                continue;
            }
            let Some(question) = self.ask(topic) else { continue };
            if questions.iter().all(|other| other.text != question.text) {
                questions.push(question);
            }
        }
        if described {
            questions.extend(self.ask(Topic::Describe));
        }
        questions
    }

    fn may_turn_on(&self, kind: Kind) -> bool {
        kind.is_held_out() == self.held_out
    }

    /// The objects that a question may turn on, of those that satisfy `test`.
    fn targets(&self, test: impl Fn(&Object) -> bool) -> Vec<Object> {
        self.scene.objects.iter().filter(|o| self.may_turn_on(o.kind) && test(o)).copied().collect()
    }

    /// As [`targets`](Self::targets), of those that their kind alone identifies.
    fn unique_targets(&self) -> Vec<Object> {
        self.targets(|o| self.scene.count(|p| p.kind == o.kind) == 1)
    }
}

/// A wording, its short and its sentence answer.
type Exchange = (String, String, String);

/// `noun` with its indefinite article.
fn with_article(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {noun}")
}

/// "crosses", "circles".
fn plural(noun: &str) -> String {
    let ending = if noun.ends_with("ss") { "es" } else { "s" };
    format!("{noun}{ending}")
}

/// "top left".
fn place(row: u8, column: u8) -> String {
    let rows = ["top", "middle", "bottom"];
    let columns = ["left", "centre", "right"];
    format!("{} {}", rows[usize::from(row)], columns[usize::from(column)])
}
