//! The keys of one stage.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{LoraConfig, PartName, StageName, above_zero, at_least_zero};
use crate::cli::UsageError;

/// One stage's length, batches and optimiser. The paper gives the learning rates; the rest are our choices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageConfig {
    /// Optimizer steps; overrides `epochs`.
    pub steps: Option<usize>,
    /// Passes over the samples, when `steps` is absent.
    pub epochs: f64,
    /// Samples of one optimizer step.
    pub batch_size: usize,
    /// A step's samples are run in microbatches of at most this many tokens (a longer sample runs alone) and
    /// their gradients are summed.
    pub microbatch_tokens: usize,
    /// Learning rate after warm-up.
    pub lr: f64,
    /// Learning rate at the last step.
    pub lr_end: f64,
    /// Share of the steps over which the rate rises from 0.
    pub warmup: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay, on matrices only.
    pub weight_decay: f64,
    /// The gradient's global norm is cut to this; 0 for never.
    pub clip: f64,
    /// The parts of the student that train.
    pub train: Vec<PartName>,
    /// Stage align only: the loss A2, which needs the teacher's features of all tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regularisation: Option<bool>,
    /// Stage align only: the frozen student's features are kept on disk by the first pass, and read by later ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_student_features: Option<KeepFeatures>,
    /// Stage distill only: the Recalibrator stays as stage align left it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freeze_recalibrator: Option<bool>,
    /// Stages distill and finetune: adapters on the student's body, which `train` then leaves out; none without the table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
}

/// When the frozen student's features are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeepFeatures {
    /// Where the stage sees samples more than once.
    Auto,
    /// Also where each sample is seen once.
    Always,
    /// Every pass runs the student again.
    Never,
}

impl StageConfig {
    /// Whether this stage of `num_steps` steps keeps the student's features of `num_samples` samples.
    #[must_use]
    pub fn keeps_features(&self, num_steps: usize, num_samples: usize) -> bool {
        match self.keep_student_features {
            Some(KeepFeatures::Always) => true,
            Some(KeepFeatures::Auto) => num_steps * self.batch_size > num_samples,
            Some(KeepFeatures::Never) | None => false,
        }
    }

    fn base(train: Vec<PartName>) -> Self {
        Self {
            steps: None,
            epochs: 1.0,
            batch_size: 16,
            microbatch_tokens: 4096,
            lr: 1e-4,
            lr_end: 1e-5,
            warmup: 0.03,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.0,
            clip: 1.0,
            train,
            regularisation: None,
            keep_student_features: None,
            freeze_recalibrator: None,
            lora: None,
        }
    }

    /// Defaults of stage 1.
    pub(super) fn align() -> Self {
        Self {
            regularisation: Some(true),
            keep_student_features: Some(KeepFeatures::Auto),
            ..Self::base(Vec::new())
        }
    }

    /// Defaults of stage 2.
    pub(super) fn distill() -> Self {
        Self { freeze_recalibrator: Some(false), ..Self::base(vec![PartName::Body]) }
    }

    /// Defaults of stage 3.
    pub(super) fn finetune() -> Self {
        Self::base(vec![PartName::Projector, PartName::Body, PartName::Head])
    }

    /// Optimizer steps of this stage over `num_samples` samples.
    #[must_use]
    pub fn num_steps(&self, num_samples: usize) -> usize {
        let by_epochs = (self.epochs * num_samples as f64 / self.batch_size as f64).ceil() as usize;
        self.steps.unwrap_or(by_epochs.max(1))
    }

    /// Refuses values that cannot work.
    pub(super) fn validate(&self, stage: StageName) -> Result<()> {
        let name = stage.as_str();
        let wrong = |text: String| -> Result<()> { Err(UsageError(text).into()) };
        if stage == StageName::Align && !self.train.is_empty() {
            return wrong("`align.train` must be empty: stage align trains the Recalibrator alone".into());
        }
        if stage == StageName::Align && self.lora.is_some() {
            return wrong(
                "`align.lora` is for a student, and stage align trains the Recalibrator alone".into(),
            );
        }
        let is_student_frozen = self.train.is_empty() && self.lora.is_none();
        if stage == StageName::Finetune && is_student_frozen {
            return wrong("`finetune.train` names no part of the student".into());
        }
        if let Some(lora) = &self.lora {
            lora.validate(name, &self.train)?;
        }
        if self.regularisation.is_some() != (stage == StageName::Align) {
            return wrong(format!("`{name}.regularisation` is a key of stage align alone"));
        }
        if self.keep_student_features.is_some() != (stage == StageName::Align) {
            return wrong(format!("`{name}.keep_student_features` is a key of stage align alone"));
        }
        if self.freeze_recalibrator.is_some() != (stage == StageName::Distill) {
            return wrong(format!("`{name}.freeze_recalibrator` is a key of stage distill alone"));
        }
        if stage == StageName::Distill && is_student_frozen && self.freeze_recalibrator == Some(true) {
            return wrong(
                "stage distill would train nothing: `train` is empty and the Recalibrator frozen".into(),
            );
        }
        if self.batch_size == 0 || self.microbatch_tokens == 0 {
            return wrong(format!("`{name}.batch_size` and `{name}.microbatch_tokens` must be at least 1"));
        }
        if self.steps == Some(0) {
            return wrong(format!("`{name}.steps` must be at least 1\nhint: `--stages` leaves a stage out"));
        }
        above_zero(name, &[("lr", self.lr), ("epsilon", self.epsilon), ("epochs", self.epochs)])?;
        at_least_zero(
            name,
            &[("lr_end", self.lr_end), ("weight_decay", self.weight_decay), ("clip", self.clip)],
        )?;
        let shares = [("warmup", self.warmup), ("beta1", self.beta1), ("beta2", self.beta2)];
        if let Some((key, _)) = shares.iter().find(|(_, value)| !(0.0..1.0).contains(value)) {
            return wrong(format!("`{name}.{key}` must be at least 0 and below 1"));
        }
        Ok(())
    }
}
