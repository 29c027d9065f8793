//! What the cells say together: means, spreads, and gains over the baseline with intervals.
//!
//! A cell's student answers the same questions whatever its seed, so the outcomes of a row of the table form a matrix, seeds
//! by questions. Its interval is a bootstrap over both (crossed: a resample draws seeds and questions, with replacement); a gain
//! pairs each seed and question with the baseline's. With few seeds such an interval is somewhat too narrow: resampling n seeds sees
//! (n - 1) / n of their variance, which is why the spread over seeds stands beside it.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::cell::{Cell, Cells, Place};
use super::usage::{self, UseCurve, rank_correlation};
use crate::eval::{Prediction, interval_of_means};
use crate::report::run::{Evaluation, Run};

/// A cell that did not come to its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// Teacher, student, variant and seed in one name.
    pub cell: String,
    /// What it said.
    pub reason: String,
}

/// How much a variant is ahead of the baseline, of the same student and, where there is one, teacher, on the same seeds and
/// questions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gain {
    /// Mean difference of the accuracies.
    pub mean: f64,
    /// Its 95 % interval, by a paired bootstrap over seeds and questions.
    pub interval: [f64; 2],
    /// Seeds that both have.
    pub seeds: usize,
}

/// One row of the table: a teacher, a student and a variant over all seeds; or a student as it came.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Absent for a student as it came, and for a method without a teacher.
    pub teacher: Option<String>,
    /// The student's name in the grid.
    pub student: String,
    /// Absent for a student as it came.
    pub variant: Option<String>,
    /// The accuracy of each seed, in the grid's order.
    pub accuracies: Vec<f64>,
    /// Their mean.
    pub mean: f64,
    /// Their sample standard deviation; absent for a single one.
    pub deviation: Option<f64>,
    /// The 95 % interval of the mean, by a bootstrap over seeds and questions.
    pub interval: [f64; 2],
    /// Questions that were graded, of each seed.
    pub questions: usize,
    /// Over the baseline; absent for the baseline itself and for a student as it came.
    pub gain: Option<Gain>,
    /// How much the Recalibrator's loss rises when it sees another sample's question, at the last evaluation: how much it uses
    /// the student, in nats, mean of the seeds. Absent without a Recalibrator.
    pub student_use: Option<f64>,
    /// Seconds of training, mean of the seeds (of a run's last call, where it was interrupted).
    pub seconds: Option<f64>,
    /// The most memory that a seed's run held.
    pub peak_rss_bytes: Option<u64>,
}

/// The grid's results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The variant that gains are counted from.
    pub baseline: String,
    /// Students as they came, then the grid.
    pub rows: Vec<Row>,
    /// How much the student was used, for every row with a Recalibrator.
    pub usage: Vec<UseCurve>,
    /// Spearman's rank correlation of a run's last use and its gain, over all runs that have both.
    pub use_predicts_gain: Option<f64>,
    /// Cells that are missing in the rows.
    pub failures: Vec<Failure>,
}

/// A question, by where it stands: source, row, turn.
type Question = (String, u64, usize);

/// The outcomes of one row of the table.
#[derive(Default)]
struct Group {
    /// By seed; a student as it came has one.
    outcomes: BTreeMap<u64, BTreeMap<Question, bool>>,
    /// By seed, the use of the student over the steps; empty without a Recalibrator.
    uses: BTreeMap<u64, Vec<(f64, f64)>>,
    seconds: Vec<f64>,
    peaks: Vec<u64>,
}

/// Teacher, student and variant, in the grid's order.
type Name = (Option<String>, String, Option<String>);

/// Reads all cells that are done.
pub(super) fn compare(cells: &Cells, failures: &[Failure]) -> Result<Comparison> {
    let mut order: Vec<Name> = Vec::new();
    let mut groups: BTreeMap<Name, Group> = BTreeMap::new();
    for cell in &cells.all {
        let (name, seed) = match &cell.place {
            Place::Before { student } => ((None, student.clone(), None), 0),
            Place::Run { teacher, student, variant, seed } => {
                ((teacher.clone(), student.clone(), Some(variant.clone())), *seed)
            }
        };
        if !cell.is_done()? {
            continue;
        }
        if !order.contains(&name) {
            order.push(name.clone());
        }
        groups.entry(name).or_default().add(cell, seed)?;
    }
    let uses = order.iter().filter_map(|name| use_curve(name, &groups, &cells.baseline));
    let usage: Vec<UseCurve> = uses.collect();
    let rows: Vec<Row> = order.into_iter().filter_map(|name| row(name, &groups, &cells.baseline)).collect();
    if rows.iter().all(|row| row.variant.is_none()) {
        let first = failures.first().map_or(String::new(), |it| format!(": {}: {}", it.cell, it.reason));
        bail!("no run of the grid came to its end{first}");
    }
    let runs: Vec<(f64, f64)> = usage.iter().flat_map(|curve| curve.gains.clone()).collect();
    Ok(Comparison {
        baseline: cells.baseline.clone(),
        rows,
        use_predicts_gain: rank_correlation(&runs),
        usage,
        failures: failures.to_vec(),
    })
}

impl Group {
    fn add(&mut self, cell: &Cell, seed: u64) -> Result<()> {
        let answers = Evaluation::open(&cell.answers(), "")?;
        let outcome = |it: Prediction| ((it.source, it.row, it.turn), it.correct);
        self.outcomes.insert(seed, answers.predictions.into_iter().map(outcome).collect());
        if let Some(summary) = cell.run_summary()? {
            self.seconds.push(summary.seconds);
            self.peaks.push(summary.peak_rss_bytes);
            self.uses.insert(seed, usage::line(&Run::open(&cell.dir)?));
        }
        Ok(())
    }

    /// One list a seed, in the order of the questions, as far as `other` has them too: 1 for a right answer.
    fn matrix(&self, other: &Self) -> Vec<Vec<f64>> {
        let both = self.outcomes.iter().filter_map(|(seed, mine)| Some((mine, other.outcomes.get(seed)?)));
        both.map(|(mine, theirs)| {
            mine.iter().filter(|(at, _)| theirs.contains_key(*at)).map(|(_, &it)| f64::from(u8::from(it)))
        })
        .map(Iterator::collect)
        .collect()
    }

    /// One list a seed: each question's outcome less the baseline's.
    fn differences(&self, baseline: &Self) -> Vec<Vec<f64>> {
        let (mine, theirs) = (self.matrix(baseline), baseline.matrix(self));
        let pairs = mine.iter().zip(&theirs);
        pairs.map(|(mine, theirs)| mine.iter().zip(theirs).map(|(a, b)| a - b).collect()).collect()
    }

    /// Each seed with its gain over the baseline.
    fn gains(&self, baseline: &Self) -> Vec<(u64, f64)> {
        let seeds = self.outcomes.keys().copied().filter(|seed| baseline.outcomes.contains_key(seed));
        seeds.zip(self.differences(baseline).iter().map(|it| mean(it))).collect()
    }
}

fn row(name: Name, groups: &BTreeMap<Name, Group>, baseline: &str) -> Option<Row> {
    let group = groups.get(&name)?;
    let matrix = group.matrix(group);
    let accuracies: Vec<f64> = matrix.iter().map(|outcomes| mean(outcomes)).collect();
    let rival = rival(&name, groups, baseline);
    let last_uses: Vec<f64> = group.uses.values().filter_map(|line| Some(line.last()?.1)).collect();
    let means = |values: &[f64]| (!values.is_empty()).then(|| mean(values));
    Some(Row {
        gain: rival.and_then(|rival| gain(group, rival)),
        mean: mean(&accuracies),
        deviation: deviation(&accuracies),
        interval: interval_of_means(&matrix)?,
        questions: matrix.first().map_or(0, Vec::len),
        student_use: means(&last_uses),
        seconds: means(&group.seconds),
        peak_rss_bytes: group.peaks.iter().copied().max(),
        accuracies,
        teacher: name.0,
        student: name.1,
        variant: name.2,
    })
}

/// What a row's gain is counted from: the baseline of the same teacher and student; or of the student alone, where the
/// baseline has no teacher, or was run with one only.
fn rival<'a>(name: &Name, groups: &'a BTreeMap<Name, Group>, baseline: &str) -> Option<&'a Group> {
    let is_baseline = |it: &Name| it.1 == name.1 && it.2.as_deref() == Some(baseline);
    let of_teacher =
        |teacher: &Option<String>| groups.iter().find(|(it, _)| is_baseline(it) && it.0 == *teacher);
    let only = || {
        let mut all = groups.iter().filter(|(it, _)| is_baseline(it));
        all.next().filter(|_| all.next().is_none())
    };
    let found = of_teacher(&name.0).or_else(|| of_teacher(&None)).or_else(only).map(|(_, group)| group);
    found.filter(|_| name.2.as_deref().is_some_and(|it| it != baseline))
}

fn use_curve(name: &Name, groups: &BTreeMap<Name, Group>, baseline: &str) -> Option<UseCurve> {
    let group = groups.get(name)?;
    let lines: Vec<_> = group.uses.values().filter(|line| !line.is_empty()).cloned().collect();
    let last = |seed: u64| Some(group.uses.get(&seed)?.last()?.1);
    let gains = rival(name, groups, baseline).map(|rival| group.gains(rival)).unwrap_or_default();
    (!lines.is_empty()).then(|| UseCurve {
        name: label(name.0.as_deref(), &name.1, name.2.as_deref()),
        points: usage::mean_line(&lines),
        gains: gains.into_iter().filter_map(|(seed, gain)| Some((last(seed)?, gain))).collect(),
    })
}

/// A row's name in the figures.
pub(super) fn label(teacher: Option<&str>, student: &str, variant: Option<&str>) -> String {
    match (teacher, variant) {
        (Some(teacher), Some(variant)) => format!("{variant}: {teacher} → {student}"),
        (None, Some(variant)) => format!("{variant}: {student}"),
        (_, None) => format!("{student}, before"),
    }
}

fn gain(group: &Group, baseline: &Group) -> Option<Gain> {
    let differences = group.differences(baseline);
    let means: Vec<f64> = differences.iter().map(|it| mean(it)).collect();
    Some(Gain { mean: mean(&means), interval: interval_of_means(&differences)?, seeds: differences.len() })
}

pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The sample standard deviation, n - 1 below.
fn deviation(values: &[f64]) -> Option<f64> {
    let centre = mean(values);
    let squares: f64 = values.iter().map(|it| (it - centre).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn group(seeds: &[(u64, &[bool])]) -> Group {
        let outcomes = |answers: &[bool]| {
            answers.iter().enumerate().map(|(at, it)| ((String::new(), at as u64, 0), *it)).collect()
        };
        Group {
            outcomes: seeds.iter().map(|(seed, answers)| (*seed, outcomes(answers))).collect(),
            ..Group::default()
        }
    }

    #[test]
    fn gains_pair_seeds_and_questions() {
        let baseline = group(&[(0, &[true, false, false, false]), (1, &[true, true, false, false])]);
        // Seed 2 has no partner, and question 3 was set aside.
        let mine = group(&[(0, &[true, true, false]), (1, &[true, true, true]), (2, &[false, false, false])]);
        let gain = gain(&mine, &baseline).unwrap();
        // By hand, on questions 0 to 2: 2/3 - 1/3 and 3/3 - 2/3.
        assert_eq!(gain.seeds, 2);
        assert!((gain.mean - 1.0 / 3.0).abs() < 1e-12, "{gain:?}");
        assert!(gain.interval[0] <= gain.mean && gain.mean <= gain.interval[1], "{gain:?}");
        let gains = mine.gains(&baseline);
        assert!(gains.iter().map(|it| it.0).eq([0, 1]), "{gains:?}");
        assert!(gains.iter().all(|it| (it.1 - 1.0 / 3.0).abs() < 1e-12), "{gains:?}");
    }

    #[test]
    fn a_rival_is_the_same_teachers_baseline_or_that_of_none_or_the_only_one() {
        let name = |teacher: Option<&str>, variant: &str| {
            (teacher.map(str::to_owned), "student".to_owned(), Some(variant.to_owned()))
        };
        // Each group is told by its number of seeds.
        let seeds = |count: u64| Group {
            outcomes: (0..count).map(|seed| (seed, BTreeMap::new())).collect(),
            ..Group::default()
        };
        let mut groups =
            BTreeMap::from([(name(Some("a"), "base"), seeds(1)), (name(Some("b"), "mine"), seeds(9))]);
        let chosen = |groups: &BTreeMap<Name, Group>| {
            rival(&name(Some("b"), "mine"), groups, "base").map(|group| group.outcomes.len())
        };
        assert_eq!(chosen(&groups), Some(1), "the only one");
        groups.insert(name(Some("c"), "base"), seeds(3));
        assert_eq!(chosen(&groups), None, "one of two others would be a guess");
        groups.insert(name(None, "base"), seeds(2));
        assert_eq!(chosen(&groups), Some(2), "that of no teacher");
        groups.insert(name(Some("b"), "base"), seeds(4));
        assert_eq!(chosen(&groups), Some(4), "the same teacher's");
        assert!(rival(&name(Some("b"), "base"), &groups, "base").is_none(), "nothing is its own rival");
    }

    #[test]
    fn equal_students_have_no_gain_and_no_width() {
        let one = group(&[(0, &[true, false, true])]);
        let gain = gain(&one, &one).unwrap();
        assert_eq!(gain, Gain { mean: 0.0, interval: [0.0, 0.0], seeds: 1 });
    }

    #[test]
    fn the_deviation_is_the_sample_one() {
        // statistics.stdev([0.2, 0.4, 0.9]) in Python.
        assert!((deviation(&[0.2, 0.4, 0.9]).unwrap() - 0.360_555_127_546).abs() < 1e-9);
        assert_eq!(deviation(&[0.5]), None);
    }
}
