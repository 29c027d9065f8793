//! What a lossy codec costs, measured where it matters: in the probabilities that the teacher's head gives.

use std::fmt;
use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::codec::widen::widen;
use super::error::Result;
use super::head::{HeadFile, float_type};
use super::sample::{FeatureBlock, FeatureDtype};
use super::source::Access;

/// Positions measured of one sample, evenly spaced.
pub(super) const POSITIONS_PER_SAMPLE: usize = 4;
/// Positions measured of one cache: a head of 150,000 tokens takes about a gigaflop for each.
pub(super) const POSITIONS_PER_CACHE: u64 = 2048;

/// How many of a sample's positions are measured.
pub(super) fn positions_measured(positions: usize) -> u64 {
    positions.min(POSITIONS_PER_SAMPLE) as u64
}

/// The divergence between the head's probabilities before and after a lossy codec.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LossyError {
    /// Positions measured: four of a sample, until 2,048 of the cache.
    pub positions: u64,
    /// Mean of KL(before || after) in nats.
    pub mean_kl: f64,
    /// The largest of them.
    pub max_kl: f64,
    /// Share of the positions at which the most likely token stays the same.
    pub top1_agreement: f64,
}

impl LossyError {
    /// Of one position, whose logits (V) were `before` and are `after`; none if one of them is not finite.
    pub fn between(before: &[f64], after: &[f64]) -> Option<LossyError> {
        let log_sum = |logits: &[f64]| {
            let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            top + logits.iter().map(|logit| (logit - top).exp()).sum::<f64>().ln()
        };
        let (p, q) = (log_sum(before), log_sum(after));
        let term = |(before, after): (&f64, &f64)| (before - p).exp() * ((before - p) - (after - q));
        // Rounding may take the divergence of two equal distributions below zero.
        let kl = before.iter().zip(after).map(term).sum::<f64>().max(0.0);
        let top = |logits: &[f64]| {
            logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(token, _)| token)
        };
        let agrees = top(before) == top(after);
        let finite = before.iter().chain(after).all(|logit| logit.is_finite());
        finite.then(|| LossyError {
            positions: 1,
            mean_kl: kl,
            max_kl: kl,
            top1_agreement: f64::from(u8::from(agrees)),
        })
    }

    /// Joins what was measured elsewhere.
    pub fn add(&mut self, other: &LossyError) {
        let total = self.positions + other.positions;
        let mean = |ours: f64, theirs: f64| {
            (ours * self.positions as f64 + theirs * other.positions as f64) / total.max(1) as f64
        };
        *self = LossyError {
            positions: total,
            mean_kl: mean(self.mean_kl, other.mean_kl),
            max_kl: self.max_kl.max(other.max_kl),
            top1_agreement: mean(self.top1_agreement, other.top1_agreement),
        };
    }
}

impl fmt::Display for LossyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LossyError { positions, mean_kl, max_kl, top1_agreement } = self;
        write!(
            f,
            "KL through the head {mean_kl:.1e} nats on average, {max_kl:.1e} at most, the same first choice at {:.2} % of \
             {positions} positions",
            100.0 * top1_agreement
        )
    }
}

/// The teacher's head as the cache stores it, for measuring.
pub(super) struct HeadMatrix {
    file: HeadFile,
    width: usize,
}

impl HeadMatrix {
    /// Maps the head; none if its `lm_head.weight` does not have rows of `width` floats.
    pub(super) fn open(path: &Path, width: usize) -> Result<Option<Self>> {
        let head = Self { file: HeadFile::open(path, Access::Map)?, width };
        Ok(head.rows().is_some().then_some(head))
    }

    fn rows(&self) -> Option<(FeatureDtype, &[u8])> {
        let tensors = self.file.tensors().ok()?;
        let weight = tensors.tensor("lm_head.weight").ok()?;
        let dtype = float_type(weight.dtype())?;
        (weight.shape().len() == 2 && weight.shape()[1] == self.width).then_some((dtype, weight.data()))
    }

    /// Compares some positions of `before` with the same of `after`, values in the same number type.
    /// Positions whose logits are not finite tell nothing and are left out.
    pub(super) fn measure(&self, before: &FeatureBlock, after: &[u8]) -> LossyError {
        let Some((dtype, weights)) = self.rows() else { return LossyError::default() };
        let row_bytes = self.width * before.dtype.size();
        let rows = before.num_positions();
        let chosen = rows.min(POSITIONS_PER_SAMPLE);
        let vector = |bytes: &[u8], i: usize| -> Vec<f32> {
            let row = &bytes[i * rows / chosen * row_bytes..][..row_bytes];
            widen(before.dtype, row).map(f32::from_bits).collect()
        };
        let vectors: Vec<Vec<f32>> =
            (0..chosen).flat_map(|i| [vector(&before.bytes, i), vector(after, i)]).collect();
        // Logits (V) for each vector; a row of the head is widened once for all of them.
        let logits = |row: &[u8]| -> Vec<f64> {
            let weights: Vec<f32> = widen(dtype, row).map(f32::from_bits).collect();
            vectors.iter().map(|vector| dot(&weights, vector)).collect()
        };
        let by_token: Vec<Vec<f64>> =
            weights.par_chunks_exact(self.width * dtype.size()).map(logits).collect();
        let column = |at: usize| by_token.iter().map(|row| row[at]).collect::<Vec<f64>>();
        let mut total = LossyError::default();
        for pair in 0..chosen {
            if let Some(error) = LossyError::between(&column(2 * pair), &column(2 * pair + 1)) {
                total.add(&error);
            }
        }
        total
    }
}

/// Eight sums beside each other, which the compiler turns into vector instructions.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0f64; 8];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += f64::from(*a) * f64::from(*b);
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: P = (1/2, 1/2), Q = (3/4, 1/4): KL = ln(2/3)/2 + ln(2)/2 = ln(4/3)/2.
    #[test]
    fn the_divergence_of_known_distributions() {
        let error = LossyError::between(&[1.0, 1.0], &[3f64.ln() - 5.0, -5.0]).unwrap_or_default();
        assert!((error.mean_kl - (4f64 / 3.0).ln() / 2.0).abs() < 1e-12, "{error:?}");
        assert_eq!(
            (error.positions, error.top1_agreement),
            (1, 0.0),
            "of two equal logits the last is the first choice"
        );
        assert_eq!(LossyError::between(&[f64::NAN, 1.0], &[0.0, 1.0]), None);
    }

    #[test]
    fn errors_join_by_their_number_of_positions() {
        let error = |positions, kl: f64, top1_agreement| LossyError {
            positions,
            mean_kl: kl,
            max_kl: kl,
            top1_agreement,
        };
        let mut total = error(1, 0.5, 1.0);
        total.add(&error(3, 0.25, 0.0));
        assert_eq!(total, LossyError { positions: 4, mean_kl: 0.3125, max_kl: 0.5, top1_agreement: 0.25 });
        total.add(&LossyError::default());
        assert_eq!(total.positions, 4);
    }
}
