//! How far chance alone moves an accuracy: a bootstrap over the questions.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

const RESAMPLES: usize = 1000;

/// The 95 % interval of the share of `true`: from the 2.5th to the 97.5th percentile over 1,000 resamples with replacement,
/// always the same ones. `None` without outcomes.
#[must_use]
pub fn interval(outcomes: &[bool]) -> Option<[f64; 2]> {
    interval_of_means(&[outcomes.iter().map(|&it| f64::from(u8::from(it))).collect()])
}

/// The same of the mean of rows (runs) by columns (questions), resampling both: a resample draws as many rows and as many columns,
/// with replacement. `None` when a row is empty or has another length than the first.
#[must_use]
pub fn interval_of_means(rows: &[Vec<f64>]) -> Option<[f64; 2]> {
    let count = rows.first().map(Vec::len).filter(|&count| count > 0)?;
    if rows.iter().any(|row| row.len() != count) {
        return None;
    }
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut draw = |below: usize| ((u128::from(rng.next_u64()) * below as u128) >> 64) as usize;
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let chosen: Vec<&Vec<f64>> = (0..rows.len()).map(|_| &rows[draw(rows.len())]).collect();
            let columns = (0..count).map(|_| draw(count));
            let sum: f64 = columns.map(|column| chosen.iter().map(|row| row[column]).sum::<f64>()).sum();
            sum / (count * rows.len()) as f64
        })
        .collect();
    means.sort_unstable_by(f64::total_cmp);
    Some([means[RESAMPLES * 25 / 1000], means[RESAMPLES * 975 / 1000 - 1]])
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
    fn rows_widen_the_interval_as_their_spread_says() {
        // Four runs of 0.2, 0.4, 0.6 and 0.8, each alike on every question: only the choice of runs moves the mean, with the
        // standard error sqrt(0.05 / 4) = 0.112 (variance of the four over their number); means are multiples of 0.05.
        let rows: Vec<Vec<f64>> = [0.2, 0.4, 0.6, 0.8].map(|it| vec![it; 10]).to_vec();
        let [low, high] = interval_of_means(&rows).unwrap();
        assert!((low - 0.28).abs() < 0.05 && (high - 0.72).abs() < 0.05, "{low} {high}");
        assert_eq!(interval_of_means(&[vec![1.0], vec![]]), None);
        assert_eq!(interval_of_means(&[]), None);
    }

    #[test]
    fn certainty_has_no_width() {
        assert_eq!(interval(&[true; 9]), Some([1.0, 1.0]));
        assert_eq!(interval(&[]), None);
    }
}
