//! The teacher's responses: batches of questions of like length, tried again until they agree or the tries are spent.

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared::agreement::agrees;
use shared::dataset::{Question, Record};
use shared::ids::{Digest, SampleKey};
use shared::models::{self, Encoded, Generated, Generation, Model, Processor};

use super::decide::{AnswersConfig, Choice};
use super::row;
use crate::stop::Stop;

/// A row with its questions as the teacher takes them.
pub(super) struct Asked {
    pub(super) record: Record,
    pub(super) key: SampleKey,
    pub(super) questions: Vec<Question>,
    pub(super) encoded: Vec<Encoded>,
}

/// Where one answer of a row came from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Provenance {
    /// `teacher` or `original`.
    pub answer: Origin,
    /// The original answer.
    pub reference: String,
    /// What the teacher said last: the answer if it is the teacher's.
    pub response: String,
    /// How often it was asked.
    pub tries: usize,
    /// Tokens of the last response.
    pub tokens: usize,
    /// The last response was cut off at the limit of tokens; such a response is never kept.
    pub hit_limit: bool,
}

/// Whose answer it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Origin {
    Teacher,
    Original,
}

/// The loaded teacher.
pub(super) struct Responder<'a> {
    pub(super) config: &'a AnswersConfig,
    pub(super) processor: &'a Processor,
    pub(super) model: Model,
    pub(super) choice: Choice,
}

impl Responder<'_> {
    /// The rows of the output, in order; none if the run was stopped.
    pub(super) fn answer(
        &self,
        rows: Vec<Asked>,
        stop: &Stop,
        generated: &mut u64,
    ) -> Result<Option<Vec<Value>>> {
        let turns: Vec<(usize, usize)> = rows
            .iter()
            .enumerate()
            .flat_map(|(row, asked)| (0..asked.questions.len()).map(move |turn| (row, turn)))
            .collect();
        let mut found: Vec<Option<Provenance>> = vec![None; turns.len()];
        let mut open: Vec<usize> = (0..turns.len()).collect();
        for attempt in 0..self.config.answers.tries {
            let lengths: Vec<usize> = open
                .iter()
                .map(|&at| {
                    self.encoded(&rows, turns[at]).prompt.input_ids.len() + self.config.answers.max_new_tokens
                })
                .collect();
            let max_tokens = self.config.run.settings.batch.max_tokens;
            for batch in models::in_like_lengths(&lengths, max_tokens) {
                if stop.is_raised() {
                    return Ok(None);
                }
                let batch: Vec<usize> = batch.into_iter().map(|at| open[at]).collect();
                let places: Vec<(usize, usize)> = batch.iter().map(|&at| turns[at]).collect();
                for (at, response) in batch.into_iter().zip(self.generate(&rows, &places, attempt)?) {
                    *generated += response.tokens.len() as u64;
                    let (row, turn) = turns[at];
                    found[at] = Some(self.judge(&rows[row].questions[turn], &response, attempt)?);
                }
            }
            open.retain(|&at| found[at].as_ref().is_none_or(|it| it.answer == Origin::Original));
        }
        let mut provenance = found.into_iter().flatten();
        let rows = rows.into_iter().map(|asked| {
            let turns: Vec<Provenance> = provenance.by_ref().take(asked.questions.len()).collect();
            row::of(&asked.record, asked.key, &turns, &self.config.run)
        });
        rows.collect::<Result<_>>().map(Some)
    }

    fn encoded<'r>(&self, rows: &'r [Asked], (row, turn): (usize, usize)) -> &'r Encoded {
        &rows[row].encoded[turn]
    }

    fn generate(&self, rows: &[Asked], places: &[(usize, usize)], attempt: usize) -> Result<Vec<Generated>> {
        let questions: Vec<&Encoded> = places.iter().map(|&place| self.encoded(rows, place)).collect();
        let seeds = places.iter().map(|&(row, turn)| self.seed(rows[row].key, turn, attempt));
        let generation = Generation {
            max_new_tokens: self.config.answers.max_new_tokens,
            eos: self.processor.eos_ids(),
            repetition_penalty: self.choice.repetition_penalty,
            sampling: self.choice.sampling(attempt),
        };
        Ok(models::generate(&self.model, &questions, &seeds.collect::<Vec<_>>(), &generation)?)
    }

    /// Follows from what is asked, not from where it stands in the dataset.
    fn seed(&self, key: SampleKey, turn: usize, attempt: usize) -> u64 {
        let text = format!("{} {key} {turn} {attempt}", self.config.answers.seed);
        let digest = *Digest::of(text.as_bytes()).as_bytes();
        digest.iter().take(8).fold(0, |seed, byte| seed << 8 | u64::from(*byte))
    }

    fn judge(&self, question: &Question, response: &Generated, attempt: usize) -> Result<Provenance> {
        let text = self.processor.tokenizer().decode(&response.tokens)?.trim().to_owned();
        let is_right = response.is_complete
            && !text.is_empty()
            && row::can_hold(&text)
            && agrees(&text, &question.text(), &question.reference, self.config.answers.metric);
        Ok(Provenance {
            answer: if is_right { Origin::Teacher } else { Origin::Original },
            reference: question.reference.clone(),
            response: text,
            tries: attempt + 1,
            tokens: response.tokens.len(),
            hit_limit: !response.is_complete,
        })
    }
}
