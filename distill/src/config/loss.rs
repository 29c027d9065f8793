//! The keys of the losses.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{above_zero, at_least_zero};

/// The weights of the losses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossConfig {
    /// Weight of the cross entropy through the teacher's head.
    pub ce_teacher: f64,
    /// Weight of the divergence from the teacher's own prediction.
    pub kl: f64,
    /// Weight of the student's own cross entropy.
    pub ce_student: f64,
    /// Weight of the loss of a method other than genrecal and sft.
    pub method: f64,
    /// Temperature of the divergence, and of the softmaxes of methods kd, uld, multilevel_ot and dskd.
    pub temperature: f64,
    /// Score the first answer token, predicted at the last question position.
    pub score_boundary: bool,
    /// Stage align: what A2 is made of.
    pub regulariser: Regulariser,
    /// Weight of A2 beside A1, on top of those of its parts.
    pub regularisation: f64,
    /// Stage align: how much of the teacher's question A2 sees.
    pub regularisation_question: QuestionRows,
}

/// What stands for the teacher's question in the regularisation pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuestionRows {
    /// The features of all its tokens, as in the paper.
    All,
    /// The mean of them, and the last, which predicts the answer's first token: what a cache of two rows a question could give.
    Pooled,
}

/// What the regularisation pass of stage align minimises (the paper's ablation: MSE 71.7, KL 73.5, CE 74.6, both 76.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Regulariser {
    /// Cross entropy and divergence, each to its weight in A1.
    CeKl,
    /// The cross entropy alone.
    Ce,
    /// The divergence alone.
    Kl,
    /// The mean squared error between features, without the head.
    Mse,
}

impl Default for LossConfig {
    fn default() -> Self {
        Self {
            ce_teacher: 1.0,
            kl: 1.0,
            ce_student: 1.0,
            method: 1.0,
            temperature: 1.0,
            score_boundary: true,
            regulariser: Regulariser::CeKl,
            regularisation: 1.0,
            regularisation_question: QuestionRows::All,
        }
    }
}

impl LossConfig {
    /// Refuses weights that would turn a loss round, and what is no number.
    pub(super) fn validate(&self) -> Result<()> {
        let weights = [
            ("ce_teacher", self.ce_teacher),
            ("kl", self.kl),
            ("ce_student", self.ce_student),
            ("method", self.method),
            ("regularisation", self.regularisation),
        ];
        at_least_zero("loss", &weights)?;
        above_zero("loss", &[("temperature", self.temperature)])
    }

    /// Weights of cross entropy, divergence and squared error in the regularisation pass.
    #[must_use]
    pub fn regularisation_weights(&self) -> [f64; 3] {
        let whole = match self.regulariser {
            Regulariser::CeKl => [self.ce_teacher, self.kl, 0.0],
            Regulariser::Ce => [self.ce_teacher, 0.0, 0.0],
            Regulariser::Kl => [0.0, self.kl, 0.0],
            Regulariser::Mse => [0.0, 0.0, 1.0],
        };
        whole.map(|weight| weight * self.regularisation)
    }
}
