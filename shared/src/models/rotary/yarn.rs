//! YaRN (arXiv 2309.00071): a longer context by slower rotation, as transformers 5.23 reads and computes it.

use serde::Serialize;
use serde_json::Value;

use crate::models::fields::{Parsed, flag, number, only};

/// Frequencies that turn often over the positions first trained on stay, those that hardly turn are divided, and between
/// the two it goes evenly from one to the next.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(in crate::models) struct Yarn {
    /// What slow frequencies are divided by.
    factor: f64,
    /// What cosines and sines are multiplied by, so that attention stays as sharp.
    attention_factor: f64,
    /// The last frequency that stays and the first that is divided in full, counted from 0.
    between: [f64; 2],
}

/// What a decoder's other fields say.
pub(in crate::models) struct Unscaled {
    /// K.
    pub head_dim: usize,
    /// Base of the angles.
    pub theta: f64,
    /// Positions the model was first trained on.
    pub original: f64,
    /// Positions it is made for.
    pub max_positions: usize,
}

impl Yarn {
    /// Reads rotary parameters.
    pub(in crate::models) fn read(json: &Value, unscaled: &Unscaled) -> Parsed<Self> {
        let Unscaled { head_dim, theta, original, max_positions } = *unscaled;
        let factor = number(json, "factor", max_positions as f64 / original)?;
        only(factor > 0.0, format!("a rotary `factor` of {factor}"))?;
        // 0 is as good as absent in all of these.
        let or = |key, default| {
            Ok::<_, String>(Some(number(json, key, 0.0)?).filter(|n| *n != 0.0).unwrap_or(default))
        };
        let softened = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
        let computed = match (or("mscale", 0.0)?, or("mscale_all_dim", 0.0)?) {
            (0.0, _) | (_, 0.0) => softened(1.0),
            (scale, all) => softened(scale) / softened(all),
        };
        let dim = head_dim as f64;
        // The frequency, counted from 0, that turns so often.
        let turning =
            |turns: f64| dim * (original / (turns * std::f64::consts::TAU)).ln() / (2.0 * theta.ln());
        let (mut first, mut last) = (turning(or("beta_fast", 32.0)?), turning(or("beta_slow", 1.0)?));
        if flag(json, "truncate", true)? {
            (first, last) = (first.floor(), last.ceil());
        }
        Ok(Self {
            factor,
            attention_factor: number(json, "attention_factor", computed)?,
            between: [first.max(0.0), last.min(dim - 1.0)],
        })
    }

    /// Frequencies as they are after scaling.
    pub(super) fn scale(&self, frequencies: &[f32]) -> Vec<f32> {
        let [first, mut last] = self.between;
        if first == last {
            last += 0.001;
        }
        let (first, width, factor) = (first as f32, (last - first) as f32, self.factor as f32);
        let scaled = |(index, frequency): (usize, &f32)| {
            let divided = ((index as f32 - first) / width).clamp(0.0, 1.0);
            frequency / factor * divided + frequency * (1.0 - divided)
        };
        frequencies.iter().enumerate().map(scaled).collect()
    }

    /// See [`attention_factor`](Self::attention_factor).
    pub(super) fn attention_factor(&self) -> f64 {
        self.attention_factor
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use serde_json::json;

    use super::*;
    use crate::models::layers::frequencies;

    /// Expected values: `ROPE_INIT_FUNCTIONS["yarn"]` of transformers 5.24 for a `LlamaConfig` of the same fields.
    #[test]
    fn frequencies_and_factors_are_those_of_transformers() {
        let check = |json: Value,
                     [theta, original]: [f64; 2],
                     max_positions,
                     expected: &[f32],
                     factor: f64| {
            let head_dim = 2 * expected.len();
            let yarn = Yarn::read(&json, &Unscaled { head_dim, theta, original, max_positions }).unwrap();
            let scaled = yarn.scale(&frequencies(head_dim, theta).unwrap());
            for (ours, theirs) in scaled.iter().zip(expected) {
                assert!((ours - theirs).abs() <= 1e-6 * theirs, "{json}: {scaled:?}");
            }
            assert!((yarn.attention_factor() - factor).abs() < 1e-12, "{json}: {}", yarn.attention_factor());
        };
        let by_hundred = [100.0, 64.0];
        let expected = [1.0, 0.2371708, 0.05, 0.007905695];
        check(json!({"factor": 4.0}), by_hundred, 256, &expected, 1.138629436111989);
        // As null it follows from the two lengths.
        check(json!({"factor": null}), by_hundred, 256, &expected, 1.138629436111989);
        let exact = json!({"factor": 4.0, "truncate": false, "beta_fast": 4, "beta_slow": 2});
        check(exact, by_hundred, 256, &[1.0, 0.2421213, 0.025, 0.007905695], 1.138629436111989);
        let scales = json!({"factor": 8.0, "mscale": 1.0, "mscale_all_dim": 0.5});
        let expected = [1.0, 0.2470529, 0.05625, 0.01087033, 0.00125, 0.0003952847, 0.000125, 3.952847e-05];
        check(scales, [10_000.0, 512.0], 4096, &expected, 1.094179988101349);
        let stated = json!({"factor": 8.0, "attention_factor": 1.5, "beta_fast": 0});
        let expected = [1.0, 0.3162278, 0.1, 0.02470529, 0.005625, 0.001087033, 0.000125, 3.952847e-05];
        check(stated, [10_000.0, 4096.0], 4096, &expected, 1.5);
        // Both ends of what lies between at the first frequency.
        let short = json!({"factor": 0.5, "beta_fast": 1});
        check(short, [10_000.0, 4.0], 4096, &[1.0, 0.2, 0.02, 0.002], 1.0);
    }
}
