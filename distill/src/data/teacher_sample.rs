//! What a cache knows of one sample, as a stage needs it.

use std::ops::Range;

use anyhow::{Context, Result};
use shared::cache::{CacheReader, SampleMeta};
use shared::models::Encoded;

use super::align::{CutText, Piece, pieces};

/// What a stage takes of the teacher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TeacherNeed {
    /// Nothing: the text alone.
    Nothing,
    /// Features of the answers and of the token before each.
    Answers,
    /// Features of every token, where the cache has them.
    All,
}

/// What the cache knows of a sample.
#[derive(Clone, Debug)]
pub struct TeacherSample {
    /// The teacher's token ids.
    pub input_ids: Vec<u32>,
    /// The answers' tokens, turn by turn.
    pub answers: Vec<Range<usize>>,
    /// For each answer, the pieces of text that both tokenizers cut alike.
    pub pieces: Vec<Vec<Piece>>,
    /// Tokens whose features are here, ascending.
    pub positions: Vec<u32>,
    /// Values per feature.
    pub width: usize,
    /// (positions, width).
    pub features: Vec<f32>,
}

impl TeacherSample {
    /// What a stage needs of a sample of the cache.
    ///
    /// # Errors
    /// When it is damaged, or has no feature that an answer needs.
    pub(super) fn read(
        cache: &CacheReader,
        row: usize,
        meta: &SampleMeta,
        need: TeacherNeed,
        student: &Encoded,
    ) -> Result<Self> {
        let answered = meta.turns.iter().filter(|turn| turn.num_answer_tokens > 0);
        let answers: Vec<Range<usize>> = answered
            .map(|turn| turn.answer_start as usize..(turn.answer_start + turn.num_answer_tokens) as usize)
            .collect();
        let wanted = |position: u32| {
            let position = position as usize;
            need == TeacherNeed::All
                || answers.iter().any(|answer| answer.start <= position + 1 && position < answer.end)
        };
        // From the first wanted position to the last: what lies outside is not even decoded.
        let (width, mut span) = (cache.width(), Vec::new());
        let first = meta.positions.iter().position(|&position| wanted(position)).unwrap_or(0);
        let last = meta.positions.iter().rposition(|&position| wanted(position)).unwrap_or(0);
        cache.features_f32_at(row, first..last + 1, &mut span)?;
        let positions = &meta.positions[first..=last];
        if let Some(bad) = span.iter().position(|value| !value.is_finite()) {
            let reason = format!("a feature of token {} is not finite", positions[bad / width]);
            return Err(cache.damaged(row, reason).into());
        }
        let rows = positions.iter().zip(span.chunks_exact(width)).filter(|(position, _)| wanted(**position));
        let (positions, rows): (Vec<u32>, Vec<&[f32]>) = rows.unzip();
        let sample = Self {
            input_ids: meta.input_ids.clone(),
            pieces: common_pieces(student, meta, &answers),
            answers,
            positions,
            width,
            features: rows.concat(),
        };
        let needed = sample.answers.iter().flat_map(|answer| answer.start - 1..answer.end);
        for token in needed {
            sample.row_of(token).with_context(|| {
                format!("the cache has no feature of token {token}, which an answer needs\nhint: `extract repair` the cache")
            })?;
        }
        Ok(sample)
    }

    /// The row of `features` that belongs to a token.
    #[must_use]
    pub fn row_of(&self, token: usize) -> Option<usize> {
        self.positions.binary_search(&(token as u32)).ok()
    }

    /// Whether every token up to the end of the last answer has a feature.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let end = self.answers.last().map_or(0, |answer| answer.end);
        self.positions.len() >= end && self.row_of(end.saturating_sub(1)) == Some(end.saturating_sub(1))
    }
}

/// The pieces of each answer that both models have.
fn common_pieces(student: &Encoded, meta: &SampleMeta, answers: &[Range<usize>]) -> Vec<Vec<Piece>> {
    let prompt = &student.prompt;
    let ours = prompt.turns.iter().filter_map(|turn| turn.answer.clone());
    let cut = |(ours, theirs): (Range<usize>, &Range<usize>)| {
        let student = CutText { text: &prompt.text, offsets: prompt.offsets.get(ours).unwrap_or_default() };
        let offsets = meta.offsets.get(theirs.clone()).unwrap_or_default();
        pieces(student, CutText { text: &meta.text, offsets })
    };
    ours.zip(answers).map(cut).collect()
}
