//! How much the Recalibrator uses the student, over training, and whether that tells what the student gains.
//!
//! The use is a leakage control: how much the loss through the teacher's head rises when each answer is given another
//! sample's question. The teacher's answer features alone tell much of the next token, so a Recalibrator may learn to do
//! without the student; then the use is near zero, and nothing of the loss reaches the student.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::report::run::Run;

/// The use over the steps of one row's runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UseCurve {
    /// The row, as the figures name it.
    pub name: String,
    /// Step and use in nats, mean of the seeds that have the step.
    pub points: Vec<(f64, f64)>,
    /// Last use in nats and gain over the baseline as a share, one a seed that both have.
    pub gains: Vec<(f64, f64)>,
}

/// The use at every evaluation of a run that had a Recalibrator.
pub(super) fn line(run: &Run) -> Vec<(f64, f64)> {
    let at = |metric| run.line(metric).into_iter().map(|(step, value)| (step as u64, value)).collect();
    let [ce, kl]: [BTreeMap<u64, f64>; 2] = ["eval_ce_teacher", "eval_kl"].map(at);
    let shuffled: BTreeMap<u64, f64> = at("control_shuffled");
    let usage = |(step, loss): (u64, f64)| Some((step as f64, loss - ce.get(&step)? - kl.get(&step)?));
    shuffled.into_iter().filter_map(usage).collect()
}

/// The mean of several lines, step by step.
pub(super) fn mean_line(lines: &[Vec<(f64, f64)>]) -> Vec<(f64, f64)> {
    let mut by_step: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for (step, value) in lines.iter().flatten() {
        by_step.entry(*step as u64).or_default().push(*value);
    }
    by_step.into_iter().map(|(step, values)| (step as f64, super::statistics::mean(&values))).collect()
}

/// Spearman's rank correlation; none for fewer than three points, or where one side does not vary.
pub(super) fn rank_correlation(points: &[(f64, f64)]) -> Option<f64> {
    if points.len() < 3 {
        return None;
    }
    let xs = ranks(&points.iter().map(|it| it.0).collect::<Vec<_>>());
    let ys = ranks(&points.iter().map(|it| it.1).collect::<Vec<_>>());
    let centre = (points.len() as f64 + 1.0) / 2.0;
    let sum = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - centre) * (b - centre)).sum::<f64>();
    let spread = (sum(&xs, &xs) * sum(&ys, &ys)).sqrt();
    (spread > 0.0).then(|| sum(&xs, &ys) / spread)
}

/// Ranks from 1; equal values share the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let below = |value: f64| values.iter().filter(|it| **it < value).count() as f64;
    let equal = |value: f64| values.iter().filter(|it| **it == value).count() as f64;
    values.iter().map(|&value| below(value) + (equal(value) + 1.0) / 2.0).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn the_rank_correlation_is_spearmans() {
        // scipy.stats.spearmanr([1, 2, 3, 4, 5], [5, 6, 7, 8, 7]) is 0.8207826816681233.
        let points: Vec<_> = [1.0, 2.0, 3.0, 4.0, 5.0].into_iter().zip([5.0, 6.0, 7.0, 8.0, 7.0]).collect();
        assert!((rank_correlation(&points).unwrap() - 0.820_782_681_668_123_3).abs() < 1e-12);
        assert_eq!(rank_correlation(&points[..2]), None);
        assert_eq!(rank_correlation(&[(1.0, 0.0), (2.0, 0.0), (3.0, 0.0)]), None);
    }

    #[test]
    fn lines_are_averaged_step_by_step() {
        let lines = [vec![(10.0, 1.0), (20.0, 2.0)], vec![(10.0, 3.0)]];
        assert_eq!(mean_line(&lines), [(10.0, 2.0), (20.0, 2.0)]);
        assert_eq!(mean_line(&[]), []);
    }
}
