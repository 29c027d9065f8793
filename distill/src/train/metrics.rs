//! What one step tells: a line of `metrics.jsonl`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::StageName;

/// The file's name in a run.
pub const FILE_NAME: &str = "metrics.jsonl";

/// Per-token means of the loss terms, in nats; absent where the stage has no such term.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Terms {
    /// Cross entropy of the teacher's answer through the Recalibrator and the teacher's head.
    pub ce_teacher: Option<f64>,
    /// Divergence from the teacher's own prediction, through the Recalibrator.
    pub kl: Option<f64>,
    /// Cross entropy of the regularisation pass, on the teacher's own question features.
    pub ce_regularisation: Option<f64>,
    /// Divergence of the regularisation pass.
    pub kl_regularisation: Option<f64>,
    /// Squared error of the regularisation pass, in place of the two where `loss.regulariser` says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mse_regularisation: Option<f64>,
    /// Cross entropy of the student's answer through its own head.
    pub ce_student: Option<f64>,
    /// The loss of a method without a Recalibrator, per unit of its own (a token, a piece of text).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<f64>,
    /// That loss's terms by name, such as `kd`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub method_terms: BTreeMap<String, f64>,
}

/// One line of `metrics.jsonl`: one step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The stage that the step belongs to.
    pub stage: StageName,
    /// Steps done in the whole run, this one included.
    pub step: usize,
    /// What was minimised: the weighted sum of the terms.
    pub loss: f64,
    /// What it was summed from, before the weights.
    #[serde(flatten)]
    pub terms: Terms,
    /// The held-out samples, when this step evaluated them.
    #[serde(flatten)]
    pub eval: EvalRow,
    /// Learning rate.
    pub lr: f64,
    /// Global norm of the gradient before it was cut.
    pub grad_norm: f64,
    /// Student tokens through the step a second, the wait for data included.
    pub tokens_per_second: f64,
    /// The most memory the process has held.
    pub peak_rss_bytes: u64,
    /// Share of the step's time spent waiting for data.
    pub loader_stall: f64,
}

/// Losses on the held-out samples, and the leakage controls: the same with the student's question features
/// exchanged between samples, and with zeros for them. How much they are worse is how much the student is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EvalRow {
    /// Cross entropy through the teacher's head.
    pub eval_ce_teacher: Option<f64>,
    /// Divergence from the teacher's prediction, through its head.
    pub eval_kl: Option<f64>,
    /// The student's own cross entropy.
    pub eval_ce_student: Option<f64>,
    /// The loss of a method without a Recalibrator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_method: Option<f64>,
    /// `control_shuffled_ce + control_shuffled_kl`.
    pub control_shuffled: Option<f64>,
    /// Cross entropy with exchanged question features.
    pub control_shuffled_ce: Option<f64>,
    /// Divergence with exchanged question features.
    pub control_shuffled_kl: Option<f64>,
    /// `control_zeroed_ce + control_zeroed_kl`.
    pub control_zeroed: Option<f64>,
    /// Cross entropy with zeroed question features.
    pub control_zeroed_ce: Option<f64>,
    /// Divergence with zeroed question features.
    pub control_zeroed_kl: Option<f64>,
}

/// The most memory this process has held, in bytes; 0 where the system does not tell.
#[must_use]
pub fn peak_rss_bytes() -> u64 {
    shared::memory::peak_rss_bytes().unwrap_or(0)
}
