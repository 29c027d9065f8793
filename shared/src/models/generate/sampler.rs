//! From scores to a token: repetition penalty, temperature, top-k and top-p in transformers' order and with its rules
//! for ties, then a draw from a stream of random numbers that belongs to one answer alone.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::Serialize;

/// How tokens are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sampling {
    /// What scores are divided by; positive.
    pub temperature: f64,
    /// Only so many of the highest scores; 0 for all.
    pub top_k: usize,
    /// Only the likeliest tokens that reach this probability together; 1 for all.
    pub top_p: f64,
}

/// Scores of tokens that were `seen` before are divided by the penalty where positive, multiplied where negative
/// (arXiv 1909.05858), each once.
pub fn penalise(scores: &mut [f32], seen: &[u32], penalty: f32) {
    let mut seen: Vec<u32> = seen.to_vec();
    seen.sort_unstable();
    seen.dedup();
    for token in seen {
        if let Some(score) = scores.get_mut(token as usize) {
            *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
        }
    }
}

impl Sampling {
    /// The tokens that may be drawn with their probabilities, likeliest first, equals by id.
    pub fn candidates(&self, scores: &[f32]) -> Vec<(u32, f64)> {
        let mut kept: Vec<(u32, f32)> =
            (0..).zip(scores.iter().map(|score| score / self.temperature as f32)).collect();
        kept.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        if let Some(&(_, last)) = self.top_k.checked_sub(1).and_then(|at| kept.get(at)) {
            kept.retain(|(_, score)| *score >= last);
        }
        let highest = kept.first().map_or(0.0, |first| f64::from(first.1));
        let mut weights: Vec<(u32, f64)> =
            kept.iter().map(|&(token, score)| (token, (f64::from(score) - highest).exp())).collect();
        let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
        if self.top_p < 1.0 {
            // From the least likely on: those that together stay within what top-p leaves out.
            let mut tail = 0.0;
            while weights.len() > 1 {
                tail += weights[weights.len() - 1].1 / total;
                if tail > 1.0 - self.top_p {
                    break;
                }
                weights.pop();
            }
        }
        let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
        weights.into_iter().map(|(token, weight)| (token, weight / total)).collect()
    }

    /// Draws a token.
    pub fn draw(&self, scores: &[f32], dice: &mut Dice) -> u32 {
        let candidates = self.candidates(scores);
        let mut left = dice.unit();
        for &(token, probability) in &candidates {
            left -= probability;
            if left < 0.0 {
                return token;
            }
        }
        // Rounding may leave a little beyond the last one.
        candidates.last().map_or(0, |(token, _)| *token)
    }
}

/// One answer's random numbers: they follow from its seed, whatever else is in the batch.
pub struct Dice(ChaCha8Rng);

impl Dice {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// In [0, 1), of 53 bits.
    fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_follow_the_probabilities() {
        let scores = [0.0f32, 1.0, 2.0, -1.0];
        let sampling = Sampling { temperature: 1.0, top_k: 3, top_p: 1.0 };
        let mut dice = Dice::new(7);
        let mut counts = [0usize; 4];
        for _ in 0..20_000 {
            counts[sampling.draw(&scores, &mut dice) as usize] += 1;
        }
        // softmax of (0, 1, 2) is (0.0900, 0.2447, 0.6652); 0.012 are more than three standard errors of each.
        for (count, expected) in counts.into_iter().zip([0.0900, 0.2447, 0.6652, 0.0]) {
            assert!((count as f64 / 20_000.0 - expected).abs() < 0.012, "{count} for {expected}");
        }
    }
}
