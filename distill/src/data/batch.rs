//! From samples to one forward pass: the student's packed tokens, the teacher's packed features, and the plans that
//! say which rows go where in the Recalibrator.
//!
//! ```text
//! student   [ q q q q | a a ]  [ q q | a a ]      features of the q's go into the joint sequence
//! teacher   [ . . . . q | a a ]  [ . . q | a a a ]  features of the a's do; without A2 only these and the q before
//! joint     [ q q q q   a a   ]  [ q q   a a a ]  the row before each answer token predicts it
//! ```

use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use shared::ids::SampleKey;
use shared::models::{Encoded, PackedBatch};

use super::align::Piece;
use super::source::Sample;
use super::teacher_sample::TeacherSample;
use crate::recalibrator::{Plan, SampleStarts, SampleTurns, Source};

/// What to build of a batch.
#[derive(Clone, Copy, Debug)]
pub struct BatchOptions {
    /// The joint sequences of A1.
    pub alignment: bool,
    /// The teacher-only sequences of A2, for samples whose features are complete.
    pub regularisation: bool,
    /// In A2 two rows stand for a question: the mean of its features, and its last one.
    pub pools_questions: bool,
    /// The joint sequences have the student's answers, not the teacher's.
    pub student_answers: bool,
    /// The answers of both models side by side, for a method without a Recalibrator.
    pub answers: bool,
    /// Score the first answer token in the joint sequences.
    pub score_boundary: bool,
    /// Tokens of one microbatch, student's and teacher's together.
    pub max_tokens: usize,
    /// Samples of one microbatch, whatever their tokens: an exchange between samples needs two.
    pub min_samples: usize,
}

/// Rows of features that predict answer tokens, and those tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scored {
    /// Rows, (M).
    pub rows: Vec<u32>,
    /// The token each row predicts, (M).
    pub targets: Vec<u32>,
}

/// One answer as both models have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerPair {
    /// Which sample of the microbatch.
    pub sample: usize,
    /// Its tokens among the student's scored ones.
    pub student: Range<usize>,
    /// Its tokens among the teacher's scored ones.
    pub teacher: Range<usize>,
    /// The pieces of text that both cut alike, counted within the answer.
    pub pieces: Vec<Piece>,
}

impl AnswerPair {
    /// Tokens of the shorter side.
    #[must_use]
    pub fn num_side_by_side(&self) -> usize {
        self.student.len().min(self.teacher.len())
    }
}

/// The teacher's features of a microbatch and what is made of them.
#[derive(Clone, Debug, Default)]
pub struct TeacherRows {
    /// (rows, width): each sample's, packed.
    pub features: Vec<f32>,
    /// Values per row.
    pub width: usize,
    /// The teacher's token of each row.
    pub tokens: Vec<u32>,
    /// The rows of answers, ascending.
    pub answer_rows: Vec<Range<usize>>,
    /// A1: the student's questions, the teacher's answers.
    pub alignment: Plan,
    /// A2: the teacher's features for both, for the samples that have all of them.
    pub regularisation: Plan,
    /// The leakage control: for each row of the student's features, the row of another sample that takes its place.
    pub shuffled: Vec<u32>,
    /// Rows that predict answer tokens, and those tokens, for a method without a Recalibrator.
    pub scored: Scored,
    /// The answers side by side with the student's.
    pub answers: Vec<AnswerPair>,
}

/// One forward and backward pass.
#[derive(Clone, Debug)]
pub struct Microbatch {
    /// The samples' identities.
    pub keys: Vec<SampleKey>,
    /// The student's tokens and images.
    pub student: PackedBatch,
    /// Rows of the student's features that predict its answer tokens.
    pub student_scored: Scored,
    /// What the Recalibrator needs.
    pub teacher: Option<TeacherRows>,
}

/// Cuts samples into microbatches, in order.
///
/// # Errors
/// When a sample lacks what the options ask for.
pub fn microbatches(samples: &[Arc<Sample>], options: &BatchOptions) -> Result<Vec<Microbatch>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut num_tokens = 0;
    for (index, sample) in samples.iter().enumerate() {
        let cost = cost(sample, options);
        let has_room = |group: &Range<usize>| {
            group.len() < options.min_samples || num_tokens + cost <= options.max_tokens
        };
        match groups.last_mut().filter(|group| has_room(group)) {
            Some(group) => {
                group.end = index + 1;
                num_tokens += cost;
            }
            None => {
                groups.push(index..index + 1);
                num_tokens = cost;
            }
        }
    }
    // What is left at the end may be too few.
    if let [.., before, last] = groups.as_mut_slice()
        && last.len() < options.min_samples
    {
        before.end = last.end;
        groups.pop();
    }
    groups.into_iter().map(|group| build(&samples[group], options)).collect()
}

impl BatchOptions {
    fn needs_teacher(&self) -> bool {
        self.alignment || self.answers
    }
}

fn cost(sample: &Sample, options: &BatchOptions) -> usize {
    let teacher = sample.teacher.as_ref().filter(|_| options.needs_teacher());
    sample.student.prompt.input_ids.len() + teacher.map_or(0, |teacher| teacher.positions.len())
}

fn build(samples: &[Arc<Sample>], options: &BatchOptions) -> Result<Microbatch> {
    let encoded: Vec<&Encoded> = samples.iter().map(|sample| &sample.student).collect();
    let student = PackedBatch::pack(&encoded);
    let mut student_scored = Scored::default();
    for (encoded, start) in encoded.iter().zip(&student.cu_seqlens) {
        let ids = &encoded.prompt.input_ids;
        for answer in answers(encoded) {
            student_scored.rows.extend(answer.clone().map(|token| (start + token - 1) as u32));
            student_scored.targets.extend_from_slice(&ids[answer]);
        }
    }
    let teacher = match options.needs_teacher() {
        true => Some(TeacherRows::build(samples, &student, options)?),
        false => None,
    };
    let keys = samples.iter().map(|sample| sample.key).collect();
    Ok(Microbatch { keys, student, student_scored, teacher })
}

/// The answers' tokens, turn by turn. A first answer token has a token before it: templates open the turn.
fn answers(encoded: &Encoded) -> impl Iterator<Item = Range<usize>> + '_ {
    encoded.prompt.turns.iter().filter_map(|turn| turn.answer.clone()).filter(|answer| answer.start > 0)
}

/// The tokens before each answer, back to the one before it.
fn questions(encoded: &Encoded) -> Vec<Range<usize>> {
    let mut end = 0;
    let range = |answer: Range<usize>| std::mem::replace(&mut end, answer.end)..answer.start;
    answers(encoded).map(range).collect()
}

impl TeacherRows {
    fn build(samples: &[Arc<Sample>], student: &PackedBatch, options: &BatchOptions) -> Result<Self> {
        let mut rows = Self::default();
        let (mut joint, mut teacher_only, mut student_only) = (Vec::new(), Vec::new(), Vec::new());
        for (index, (sample, bounds)) in samples.iter().zip(student.cu_seqlens.windows(2)).enumerate() {
            let teacher = sample.teacher.as_ref().context("a sample without teacher features")?;
            let answer_rows = rows.append(teacher)?;
            if options.answers {
                rows.pair(index, sample, teacher, &answer_rows);
                continue;
            }
            let end = rows.tokens.len();
            let answer_positions: Vec<u32> =
                teacher.answers.iter().map(|answer| answer.start as u32).collect();
            if options.regularisation && options.pools_questions && teacher.is_complete() {
                teacher_only.push(rows.append_pooled(teacher));
            } else if options.regularisation && teacher.is_complete() {
                teacher_only.push(SampleTurns {
                    tokens: end - teacher.positions.len()..end,
                    filled: answer_rows.clone(),
                    answers: answer_rows.clone(),
                    answer_positions: answer_positions.clone(),
                });
            }
            let filled = answers(&sample.student).map(|a| bounds[0] + a.start..bounds[0] + a.end);
            if options.student_answers {
                let starts =
                    filled.zip(&answer_rows).zip(&teacher.pieces).flat_map(|((ours, theirs), pieces)| {
                        let pieces = pieces.iter().skip(usize::from(!options.score_boundary));
                        pieces.map(move |piece| {
                            [ours.start + piece.student.start, theirs.start + piece.teacher.start]
                        })
                    });
                student_only.push(SampleStarts { tokens: bounds[0]..bounds[1], starts: starts.collect() });
                continue;
            }
            joint.push(SampleTurns {
                tokens: bounds[0]..bounds[1],
                filled: filled.collect(),
                answers: answer_rows,
                answer_positions,
            });
        }
        if options.answers {
            return Ok(rows);
        }
        rows.alignment = match options.student_answers {
            true => Plan::of_student(&student_only),
            false => Plan::new(&joint, Source::Student, options.score_boundary),
        };
        rows.regularisation = Plan::new(&teacher_only, Source::Teacher, options.score_boundary);
        rows.shuffled = shuffled(samples, student);
        Ok(rows)
    }

    /// The features, (rows, width).
    ///
    /// # Errors
    /// When the device fails.
    pub fn tensor(&self, device: &Device, dtype: DType) -> candle_core::Result<Tensor> {
        Tensor::from_slice(&self.features, (self.tokens.len(), self.width), device)?.to_dtype(dtype)
    }

    /// Packs a sample's features; returns the rows of its answers.
    fn append(&mut self, teacher: &TeacherSample) -> Result<Vec<Range<usize>>> {
        if self.width != 0 && self.width != teacher.width {
            bail!("features of width {} and {} in one batch", self.width, teacher.width);
        }
        self.width = teacher.width;
        let first = self.tokens.len();
        self.features.extend_from_slice(&teacher.features);
        self.tokens.extend(teacher.positions.iter().map(|&token| teacher.input_ids[token as usize]));
        let rows = teacher.answers.iter().map(|answer| {
            let row = teacher.row_of(answer.start).context("an answer without teacher features")?;
            Ok(first + row..first + row + answer.len())
        });
        let rows: Vec<Range<usize>> = rows.collect::<Result<_>>()?;
        self.answer_rows.extend_from_slice(&rows);
        Ok(rows)
    }

    /// Packs a sample's features once more with its questions pooled: for each turn the mean of the question's rows but the
    /// last, that last one, and the answer's rows.
    fn append_pooled(&mut self, teacher: &TeacherSample) -> SampleTurns {
        let first = self.tokens.len();
        let (mut rows, mut starts, mut question) = (Vec::new(), Vec::new(), 0);
        for answer in &teacher.answers {
            let (width, last) = (teacher.width, answer.start - 1);
            let pooled = &teacher.features[question * width..last * width];
            if !pooled.is_empty() {
                let mut mean = vec![0.0; width];
                for row in pooled.chunks_exact(width) {
                    mean.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
                }
                let count = (last - question) as f32;
                self.features.extend(mean.iter().map(|sum| sum / count));
                self.tokens.push(teacher.input_ids[question]);
            }
            self.features.extend_from_slice(&teacher.features[last * width..answer.end * width]);
            self.tokens.extend_from_slice(&teacher.input_ids[last..answer.end]);
            let end = self.tokens.len();
            starts.push((end - answer.len() - first) as u32);
            rows.push(end - answer.len()..end);
            question = answer.end;
        }
        self.answer_rows.extend_from_slice(&rows);
        let tokens = first..self.tokens.len();
        SampleTurns { tokens, filled: rows.clone(), answers: rows, answer_positions: starts }
    }

    /// Adds a sample's answers, each beside the student's.
    fn pair(&mut self, index: usize, sample: &Sample, teacher: &TeacherSample, rows: &[Range<usize>]) {
        let mut ours = self.answers.last().map_or(0, |answer| answer.student.end);
        for ((answer, rows), pieces) in answers(&sample.student).zip(rows).zip(&teacher.pieces) {
            let start = self.scored.rows.len();
            // The row before each token predicts it.
            self.scored.rows.extend(rows.clone().map(|row| row as u32 - 1));
            self.scored.targets.extend_from_slice(&self.tokens[rows.clone()]);
            self.answers.push(AnswerPair {
                sample: index,
                student: ours..ours + answer.len(),
                teacher: start..start + rows.len(),
                pieces: pieces.clone(),
            });
            ours += answer.len();
        }
    }

    /// The teacher's tokens that a plan's scored rows predict.
    #[must_use]
    pub fn targets(&self, plan: &Plan) -> Vec<u32> {
        plan.targets.iter().map(|&row| self.tokens[row as usize]).collect()
    }
}

/// Each question's rows taken from the next sample's question of the same turn, or its last one; aligned at their
/// ends, where the answer is predicted, and repeated where that question is shorter.
fn shuffled(samples: &[Arc<Sample>], student: &PackedBatch) -> Vec<u32> {
    let mut rows: Vec<u32> = (0..student.num_tokens() as u32).collect();
    let all: Vec<Vec<Range<usize>>> = samples.iter().map(|sample| questions(&sample.student)).collect();
    for (index, own) in all.iter().enumerate() {
        let other = (index + 1) % all.len();
        let (start, other_start) = (student.cu_seqlens[index], student.cu_seqlens[other]);
        for (turn, question) in own.iter().enumerate() {
            let Some(donor) = all[other].get(turn).or(all[other].last()) else { continue };
            for (back, row) in question.clone().rev().enumerate() {
                let donor_row = donor.end - 1 - back % donor.len().max(1);
                rows[start + row] = (other_start + donor_row) as u32;
            }
        }
    }
    rows
}

#[cfg(test)]
mod tests;
