//! How far chance alone moves an accuracy: a bootstrap over the questions.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

const RESAMPLES: usize = 1000;

/// The 95 % interval of the share of `true`: from the 2.5th to the 97.5th percentile over 1,000 resamples with replacement,
/// always the same ones. `None` without outcomes.
#[must_use]
pub fn interval(outcomes: &[bool]) -> Option<[f64; 2]> {
    let count = outcomes.len();
    if count == 0 {
        return None;
    }
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut draw = || outcomes[((u128::from(rng.next_u64()) * count as u128) >> 64) as usize];
    let mut shares: Vec<f64> =
        (0..RESAMPLES).map(|_| (0..count).filter(|_| draw()).count() as f64 / count as f64).collect();
    shares.sort_unstable_by(f64::total_cmp);
    Some([shares[RESAMPLES * 25 / 1000], shares[RESAMPLES * 975 / 1000 - 1]])
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn is_the_binomial_interval_of_many_questions() {
        // 60 of 200: the normal approximation is 0.3 plus and minus 1.96 sqrt(0.3 * 0.7 / 200) = 0.0635.
        let outcomes: Vec<bool> = (0..200).map(|i| i < 60).collect();
        let [low, high] = interval(&outcomes).unwrap();
        assert!((low - 0.2365).abs() < 0.015 && (high - 0.3635).abs() < 0.015, "{low} {high}");
        assert_eq!(interval(&outcomes), interval(&outcomes));
    }

    #[test]
    fn certainty_has_no_width() {
        assert_eq!(interval(&[true; 9]), Some([1.0, 1.0]));
        assert_eq!(interval(&[]), None);
    }
}
