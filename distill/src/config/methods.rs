//! The keys of single methods.

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{RunConfig, StageName, above_zero, at_least_zero};
use crate::cli::UsageError;

/// What a student learns from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Method {
    /// The three stages, through a Recalibrator.
    Genrecal,
    /// Cross entropy on the answers of exactly the cache's samples: the control.
    Sft,
    /// Divergence from the teacher's distribution of each token; needs one vocabulary.
    Kd,
    /// L1 distance of the two distributions, sorted.
    Uld,
    /// Optimal transport between whole answers, at two levels.
    MultilevelOt,
    /// Likelihoods of pieces of text that both tokenizers cut alike.
    Alm,
    /// Distributions in both models' spaces, after learnt projections.
    Dskd,
}

impl Method {
    /// The name as in the configuration and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Genrecal => "genrecal",
            Self::Sft => "sft",
            Self::Kd => "kd",
            Self::Uld => "uld",
            Self::MultilevelOt => "multilevel_ot",
            Self::Alm => "alm",
            Self::Dskd => "dskd",
        }
    }

    /// The stages it goes through unless told otherwise.
    #[must_use]
    pub fn stages(self) -> &'static [StageName] {
        match self {
            Self::Genrecal => &[StageName::Align, StageName::Distill, StageName::Finetune],
            Self::Sft => &[StageName::Finetune],
            _ => &[StageName::Distill, StageName::Finetune],
        }
    }

    /// Whether a stage of it reads the teacher's features.
    #[must_use]
    pub fn reads_features(self, stage: StageName) -> bool {
        stage != StageName::Finetune && self != Self::Sft
    }
}

/// Which divergence method kd takes; p is the teacher's distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Divergence {
    /// KL(p || q).
    Forward,
    /// KL(q || p).
    Reverse,
    /// Jensen and Shannon's.
    Jsd,
}

/// Keys of method `kd`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KdConfig {
    /// `forward`, `reverse` or `jsd`.
    pub divergence: Divergence,
    /// Only the teacher's likeliest tokens; 0 for all.
    pub top_k: usize,
}

/// Keys of method `multilevel_ot`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MultilevelOtConfig {
    /// Ranks of the vocabulary that are compared.
    pub top_k: usize,
    /// Weight of the sequential logarithm beside the holistic difference.
    pub logarithm: f64,
    /// Weight of the Sinkhorn distance beside the holistic difference.
    pub sinkhorn: f64,
    /// Entropic regularisation of the transport.
    pub regularisation: f64,
    /// How often Sinkhorn's algorithm scales rows and columns.
    pub iterations: usize,
}

/// Keys of method `alm`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlmConfig {
    /// Flattens a piece's likelihood: P^(1/temperature).
    pub temperature: f64,
}

impl Default for KdConfig {
    fn default() -> Self {
        Self { divergence: Divergence::Forward, top_k: 0 }
    }
}

impl Default for MultilevelOtConfig {
    fn default() -> Self {
        Self { top_k: 50, logarithm: 0.1, sinkhorn: 0.1, regularisation: 0.1, iterations: 20 }
    }
}

impl Default for AlmConfig {
    fn default() -> Self {
        Self { temperature: 100.0 }
    }
}

impl RunConfig {
    /// Refuses what a method cannot work with.
    pub(super) fn validate_method(&self) -> Result<()> {
        let usage = |text: String| -> Result<()> { Err(UsageError(text).into()) };
        let name = self.method.as_str();
        if self.method != Method::Genrecal && self.stages().contains(&StageName::Align) {
            return usage(format!(
                "method {name} has the stages distill and finetune; align is genrecal's\n\
                 hint: leave --stages away, or --stages distill,finetune"
            ));
        }
        let ot = &self.multilevel_ot;
        if ot.top_k == 0 || ot.iterations == 0 {
            return usage("`multilevel_ot.top_k` and `multilevel_ot.iterations` must be at least 1".into());
        }
        at_least_zero("multilevel_ot", &[("logarithm", ot.logarithm), ("sinkhorn", ot.sinkhorn)])?;
        above_zero("multilevel_ot", &[("regularisation", ot.regularisation)])?;
        above_zero("alm", &[("temperature", self.alm.temperature)])
    }
}
