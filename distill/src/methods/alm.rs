//! `alm`: likelihoods of pieces of text that both tokenizers cut alike (arXiv 2503.20083, approximate likelihood
//! matching).
//!
//! The answer is cut wherever a token of the teacher and one of the student end at the same character. A piece is a
//! yes-or-no event of each model, of probability P and Q (the products of its tokens' probabilities), flattened by
//! `alm.temperature` T: a = P^(1/T), b = Q^(1/T). The loss is the sum over pieces of
//!
//! ```text
//! a log(a / b) + (1 - a) log((1 - a) / (1 - b))
//! ```
//!
//! The paper's T is 100. A piece that a model is sure of has b = 1; 1 - b is held at [`LEAST`] or more.

use candle_core::{Result, Tensor};

use super::{Distillation, MethodLoss, View, Views};
use crate::config::AlmConfig;
use crate::data::batch::AnswerPair;
use crate::data::source::Sample;
use crate::losses::log_probs::{from_log_probs, log_probs};

/// The least probability of the event that a piece is not said.
pub const LEAST: f64 = 1e-6;

/// The method's choices.
#[derive(Clone, Copy, Debug)]
pub struct Alm {
    temperature: f64,
}

impl Alm {
    /// As the keys say.
    #[must_use]
    pub fn new(config: &AlmConfig) -> Self {
        Self { temperature: config.temperature }
    }

    /// One piece's loss and its gradient with respect to the student's log-likelihood, from both log-likelihoods.
    fn piece(&self, teacher: f64, student: f64) -> (f64, f64) {
        let flatten = |log_likelihood: f64| (log_likelihood / self.temperature).min((-LEAST).ln_1p());
        let (log_a, log_b) = (flatten(teacher), flatten(student));
        let (a, not_a, not_b) = (log_a.exp(), -log_a.exp_m1(), -log_b.exp_m1());
        let value = a * (log_a - log_b) + not_a * (not_a.ln() - not_b.ln());
        // Where 1 - b is held, the value does not change with b.
        let is_held = log_b != student / self.temperature;
        (value, if is_held { 0.0 } else { (log_b.exp() - a) / not_b / self.temperature })
    }
}

/// The log-probability of each token, N.
fn by_token(log_probs: &Tensor) -> Result<Vec<f32>> {
    log_probs.flatten_all()?.to_vec1()
}

fn targets(view: &View) -> Result<Tensor> {
    Tensor::new(view.targets.as_slice(), view.features.device())?.unsqueeze(1)
}

impl Distillation for Alm {
    fn num_units(&self, answers: &[AnswerPair]) -> usize {
        answers.iter().map(|answer| answer.pieces.len()).sum()
    }

    fn loss(&self, views: &Views) -> Result<MethodLoss> {
        let (student, teacher) = (&views.student, &views.teacher);
        let theirs = by_token(&log_probs(&teacher.features, teacher.head, &targets(teacher)?, 1.0)?)?;
        let (loss, value) =
            from_log_probs(&student.features, student.head, &targets(student)?, 1.0, |ours| {
                let ours = by_token(ours)?;
                let (mut value, mut gradient) = (0.0, vec![0f32; ours.len()]);
                let sum = |tokens: &[f32]| tokens.iter().map(|x| f64::from(*x)).sum::<f64>();
                for answer in views.answers {
                    for piece in &answer.pieces {
                        let places = answer.student.start + piece.student.start
                            ..answer.student.start + piece.student.end;
                        let teacher = answer.teacher.start + piece.teacher.start
                            ..answer.teacher.start + piece.teacher.end;
                        let (loss, slope) = self.piece(sum(&theirs[teacher]), sum(&ours[places.clone()]));
                        value += loss;
                        gradient[places].fill(slope as f32);
                    }
                }
                let gradient = Tensor::from_vec(gradient, (ours.len(), 1), student.features.device())?;
                Ok((value, gradient))
            })?;
        Ok(MethodLoss { loss, terms: vec![("alm", value)] })
    }
}

/// Why a sample cannot be served.
pub(super) fn refuses(sample: &Sample) -> Option<String> {
    let none = sample.teacher.as_ref()?.pieces.iter().all(Vec::is_empty);
    none.then(|| "no token of the one model's answer ends where one of the other's does".into())
}
