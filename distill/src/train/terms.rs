//! The losses of one microbatch, as sums over its scored tokens, and how a step turns sums into means.

use std::collections::BTreeMap;

use candle_core::{Result, Tensor};

use super::metrics::Terms;
use crate::config::LossConfig;
use crate::data::batch::Microbatch;
use crate::methods::Distillation;

/// Scored tokens of a whole step: what the summed losses are divided by, once.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// Teacher tokens scored in the joint sequences.
    pub teacher: usize,
    /// Teacher tokens scored in the regularisation pass.
    pub regularisation: usize,
    /// Student tokens scored by its own head.
    pub student: usize,
    /// Units of the method's loss.
    pub method: usize,
}

impl Counts {
    /// Adds up a step's microbatches.
    #[must_use]
    pub fn of(microbatches: &[Microbatch], method: Option<&dyn Distillation>) -> Self {
        let mut counts = Self::default();
        for microbatch in microbatches {
            counts.student += microbatch.student_scored.targets.len();
            if let Some(teacher) = &microbatch.teacher {
                counts.teacher += teacher.alignment.num_scored();
                counts.regularisation += teacher.regularisation.num_scored();
                counts.method += method.map_or(0, |method| method.num_units(&teacher.answers));
            }
        }
        counts
    }
}

/// One loss term's sums, in nats.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PairSums {
    /// Cross entropy.
    pub ce: f64,
    /// Divergence.
    pub kl: f64,
}

impl PairSums {
    fn plus(self, other: Self) -> Self {
        Self { ce: self.ce + other.ce, kl: self.kl + other.kl }
    }

    /// Per-token means.
    #[must_use]
    pub fn mean(self, count: usize) -> (f64, f64) {
        (self.ce / count.max(1) as f64, self.kl / count.max(1) as f64)
    }
}

/// The sums of A2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RegularisationSums {
    /// Cross entropy and divergence, whichever of them is minimised.
    Predictions(PairSums),
    /// The squared error between features.
    Features(f64),
}

impl RegularisationSums {
    fn plus(self, other: Self) -> Self {
        match (self, other) {
            (Self::Predictions(a), Self::Predictions(b)) => Self::Predictions(a.plus(b)),
            (Self::Features(a), Self::Features(b)) => Self::Features(a + b),
            // A run has one form.
            (Self::Predictions(_), Self::Features(_)) | (Self::Features(_), Self::Predictions(_)) => other,
        }
    }

    /// Per-token means of cross entropy, divergence and squared error, those that there are.
    fn means(self, count: usize) -> [Option<f64>; 3] {
        match self {
            Self::Predictions(pair) => {
                let (ce, kl) = pair.mean(count);
                [Some(ce), Some(kl), None]
            }
            Self::Features(sum) => [None, None, Some(sum / count.max(1) as f64)],
        }
    }
}

/// A method's sums: the whole, and its terms by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MethodSums {
    /// The weighted sum of the terms.
    pub loss: f64,
    /// Each term's sum, by name.
    pub terms: BTreeMap<&'static str, f64>,
}

/// Sums of each term over the microbatches of a step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TermSums {
    /// A1.
    pub alignment: Option<PairSums>,
    /// A2.
    pub regularisation: Option<RegularisationSums>,
    /// The student's own cross entropy.
    pub student: Option<f64>,
    /// The method's loss.
    pub method: Option<MethodSums>,
}

impl TermSums {
    /// Adds another microbatch's.
    pub fn add(&mut self, other: &Self) {
        fn both<T>(a: Option<T>, b: Option<T>, plus: impl Fn(T, T) -> T) -> Option<T> {
            match (a, b) {
                (Some(a), Some(b)) => Some(plus(a, b)),
                (a, b) => a.or(b),
            }
        }
        self.alignment = both(self.alignment, other.alignment, PairSums::plus);
        self.regularisation = both(self.regularisation, other.regularisation, RegularisationSums::plus);
        self.student = both(self.student, other.student, |a, b| a + b);
        if let Some(other) = &other.method {
            let sums = self.method.get_or_insert_default();
            sums.loss += other.loss;
            for (name, value) in &other.terms {
                *sums.terms.entry(name).or_default() += value;
            }
        }
    }

    /// Per-token means, and the weighted loss that they make.
    #[must_use]
    pub fn means(&self, counts: &Counts, weights: &LossConfig) -> (f64, Terms) {
        let alignment = self.alignment.map(|sums| sums.mean(counts.teacher));
        let regularisation =
            self.regularisation.map(|sums| sums.means(counts.regularisation)).unwrap_or_default();
        let ce_student = self.student.map(|sum| sum / counts.student.max(1) as f64);
        let per_unit = |sum: f64| sum / counts.method.max(1) as f64;
        let method = self.method.as_ref().map(|sums| per_unit(sums.loss));
        let method_terms = self.method.iter().flat_map(|sums| &sums.terms);
        let weighted = regularisation.iter().zip(weights.regularisation_weights());
        let loss = alignment.map_or(0.0, |(ce, kl)| weights.ce_teacher * ce + weights.kl * kl)
            + weighted.map(|(term, weight)| term.unwrap_or(0.0) * weight).sum::<f64>()
            + ce_student.map_or(0.0, |ce| weights.ce_student * ce)
            + method.map_or(0.0, |loss| weights.method * loss);
        let terms = Terms {
            ce_teacher: alignment.map(|pair| pair.0),
            kl: alignment.map(|pair| pair.1),
            ce_regularisation: regularisation[0],
            kl_regularisation: regularisation[1],
            mse_regularisation: regularisation[2],
            ce_student,
            method,
            method_terms: method_terms.map(|(name, sum)| ((*name).to_owned(), per_unit(*sum))).collect(),
        };
        (loss, terms)
    }

    /// Whether every sum is a number.
    #[must_use]
    pub fn is_finite(&self) -> bool {
        let pair = |pair: PairSums| [pair.ce, pair.kl];
        let alignment = self.alignment.into_iter().flat_map(pair);
        let regularisation = self.regularisation.into_iter().flat_map(|sums| sums.means(1)).flatten();
        let method = self.method.as_ref().map(|sums| sums.loss);
        alignment.chain(regularisation).chain(self.student).chain(method).all(f64::is_finite)
    }
}

/// Adds scalars that may be absent.
///
/// # Errors
/// When the device fails.
pub fn add_losses(sum: Option<Tensor>, loss: Tensor) -> Result<Option<Tensor>> {
    Ok(Some(match sum {
        Some(sum) => (sum + loss)?,
        None => loss,
    }))
}
