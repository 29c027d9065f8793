//! A question as multiple choice: four options of one type, of which one is right for the picture.

mod options;

use crate::dice::Dice;
use crate::world::Scene;
use crate::world::question::Question;

/// Options of a question.
pub const OPTIONS: usize = 4;

/// What options are called by.
pub const LETTERS: [&str; OPTIONS] = ["A", "B", "C", "D"];

/// The options of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// As they are listed.
    pub options: [String; OPTIONS],
    /// The place of the right one.
    pub answer: usize,
}

impl Choice {
    /// Options for a question, the right one first; none where its topic has no three other answers of a type.
    pub fn of(scene: &Scene, question: &Question, dice: &mut Dice) -> Option<Self> {
        options::of(scene, question, dice).map(|options| Self { options, answer: 0 })
    }

    /// The same with the right option in another place.
    pub fn with_answer_at(mut self, place: usize) -> Self {
        self.options.swap(self.answer, place);
        self.answer = place;
        self
    }

    /// The letter of the right option.
    pub fn letter(&self) -> &'static str {
        LETTERS[self.answer]
    }

    /// The question with its options, as `distill eval` writes those of the published benchmarks.
    pub fn asked(&self, question: &str) -> String {
        let lines = self.options.iter().zip(LETTERS).map(|(option, letter)| format!("{letter}. {option}\n"));
        format!("{question}\n{}Answer with the letter of the right option.", lines.collect::<String>())
    }
}
