//! What goes through the teacher together: one batch where its weights are in memory; several where they are streamed, so
//! that each block, once read, serves them all.

use std::iter::Peekable;

use shared::models::{Encoded, PackedBatch};

use crate::budget::{Budget, sizes};
use crate::sample::Prepared;

/// Samples that the self-test compares.
const SELF_TEST_SAMPLES: usize = 3;

/// Samples of one batch, packed.
pub struct Batch {
    /// The samples, their images apart.
    pub samples: Vec<Prepared>,
    /// What the teacher takes.
    pub packed: PackedBatch,
}

impl Batch {
    /// Packs the samples; the pixels are there once after that.
    pub fn pack(mut samples: Vec<Prepared>) -> Batch {
        let encoded: Vec<&Encoded> = samples.iter().map(|sample| &sample.encoded).collect();
        let mut packed = PackedBatch::pack(&encoded);
        let positions = samples.iter().zip(&packed.cu_seqlens);
        let wanted =
            positions.flat_map(|(sample, start)| sample.positions().iter().map(|at| at + *start as u32));
        packed.wanted = Some(wanted.collect());
        samples.iter_mut().for_each(|sample| sample.encoded.images = Vec::new());
        Batch { samples, packed }
    }

    /// T.
    pub fn num_tokens(&self) -> usize {
        self.packed.num_tokens()
    }
}

/// A prompt whose first answer token the teacher is asked for.
pub struct Question {
    /// Which sample of the first batch it is from.
    pub sample: usize,
    /// Its last token.
    pub position: usize,
    /// The sample up to there.
    pub encoded: Encoded,
}

impl Question {
    /// The last question position before the first answer, and the prompt up to it.
    fn of(sample: usize, encoded: &Encoded) -> Option<Question> {
        let answer = encoded.prompt.turns.iter().find_map(|turn| turn.answer.clone())?;
        let mut question = encoded.clone();
        question.prompt.input_ids.truncate(answer.start);
        question.positions.truncate(answer.start);
        question.prompt.images.retain(|image| image.tokens.end <= answer.start);
        question.images.truncate(question.prompt.images.len());
        Some(Question { sample, position: answer.start - 1, encoded: question })
    }
}

/// Batches gathered to passes, in the order they come.
pub struct Passes<I: Iterator<Item = Vec<Prepared>>> {
    batches: Peekable<I>,
    budget: Option<Budget>,
    questions: Option<Vec<Question>>,
}

impl<I: Iterator<Item = Vec<Prepared>>> Passes<I> {
    /// One batch a pass without a budget.
    pub fn new(batches: I, budget: Option<Budget>) -> Self {
        Passes { batches: batches.peekable(), budget, questions: None }
    }

    /// Questions of the first batch, once, after it has come.
    pub fn take_questions(&mut self) -> Vec<Question> {
        self.questions.as_mut().map(std::mem::take).unwrap_or_default()
    }
}

impl<I: Iterator<Item = Vec<Prepared>>> Iterator for Passes<I> {
    type Item = Vec<Batch>;

    fn next(&mut self) -> Option<Vec<Batch>> {
        let first = self.batches.next()?;
        self.questions.get_or_insert_with(|| {
            let questions = first.iter().take(SELF_TEST_SAMPLES).enumerate();
            questions.filter_map(|(at, sample)| Question::of(at, &sample.encoded)).collect()
        });
        let mut gathered = vec![sizes(&first)];
        let mut pass = vec![Batch::pack(first)];
        while let (Some(budget), Some(next)) = (&self.budget, self.batches.peek()) {
            gathered.push(sizes(next));
            if !budget.fits(gathered.iter().copied()) {
                break;
            }
            pass.extend(self.batches.next().map(Batch::pack));
        }
        Some(pass)
    }
}
