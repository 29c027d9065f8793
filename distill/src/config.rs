//! What was decided: every key of a run with its default.
//!
//! Precedence, lowest first: defaults, the `--config` file, `--set`, flags. Unknown keys are refused.

use std::path::{Path, PathBuf};

use anyhow::Result;
use candle_core::{DType, Device};
use clap::ValueEnum;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use shared::models::DeviceName;
pub use shared::models::ModelPart as PartName;
use shared::settings::{SettingsError, resolve_over};
use toml::Table;

use crate::cli::{CommonArgs, UsageError};
pub use crate::recalibrator::NormPlace;
use crate::stage::{RecalibratorRole, Stage};

mod data;
mod lora;
mod loss;
mod memory;
mod methods;
mod recalibrator;
mod stage;

pub use data::{Answers, DataConfig, MixedCache};
pub use lora::LoraConfig;
pub use loss::{LossConfig, QuestionRows, Regulariser};
pub use memory::{MemoryConfig, OptimizerStates, Recompute};
pub use methods::{AlmConfig, Divergence, KdConfig, Method, MultilevelOtConfig};
pub use recalibrator::{AnswerRows, RecalibratorConfig, RecalibratorInit};
pub use stage::{KeepFeatures, StageConfig};

/// The three stages of the method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum StageName {
    /// Stage 1: the Recalibrator alone learns to speak to the teacher's head.
    Align,
    /// Stage 2: the student's body and the Recalibrator.
    Distill,
    /// Stage 3: the student without its vision encoder, on the answers' text.
    Finetune,
}

impl StageName {
    /// The name as in the configuration, the metrics and the progress bar.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Align => "align",
            Self::Distill => "distill",
            Self::Finetune => "finetune",
        }
    }
}

/// An exponential moving average of the weights that train.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmaConfig {
    /// Share of the old average that stays after an update, such as 0.999; 0 for no average.
    pub decay: f64,
    /// Evaluations during training use the averages.
    pub evaluate: bool,
    /// A stage leaves the averages, and exports of checkpoints have them; else the weights themselves.
    pub export: bool,
}

/// Evaluation during training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvalConfig {
    /// Steps between evaluations; 0 for only the last step of each stage.
    pub every: usize,
    /// Samples, the last by key order, that are kept out of training for the leakage controls, which exchange questions
    /// between them; 0 for no evaluation.
    pub holdout: usize,
}

/// Checkpoints and output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Steps between checkpoints; each stage's last step has one, too.
    pub every: usize,
    /// The newest checkpoints kept.
    pub keep: usize,
    /// Stop, with a checkpoint, once this many steps are done in all; 0 for never.
    pub stop_after_steps: usize,
}

/// The type that features, activations and frozen weights are computed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ComputeType {
    /// bfloat16 on a GPU, float32 on a CPU.
    Auto,
    /// float32.
    F32,
    /// bfloat16; on a CPU slower than float32.
    Bf16,
}

impl ComputeType {
    /// The type on this device.
    #[must_use]
    pub fn on(self, device: &Device) -> DType {
        match self {
            Self::Auto if !device.is_cpu() => DType::BF16,
            Self::Bf16 => DType::BF16,
            Self::Auto | Self::F32 => DType::F32,
        }
    }
}

/// Everything that decides a run, as `RUN/config.toml` keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// The feature cache.
    pub cache: Option<PathBuf>,
    /// The student's checkout.
    #[serde(default)]
    pub student: PathBuf,
    /// The run's folder.
    #[serde(default)]
    pub out: PathBuf,
    /// What the student learns from.
    pub method: Method,
    /// The stages, in order; all of the method's when absent.
    pub stages: Option<Vec<StageName>>,
    /// Seed of the sample order and of fresh weights.
    pub seed: u64,
    /// auto, cpu or cuda:N.
    pub device: String,
    /// What is computed in; weights that train are float32 whatever it is.
    pub dtype: ComputeType,
    /// Samples and images.
    pub data: DataConfig,
    /// Shape, beginning and input of the Recalibrator.
    pub recalibrator: RecalibratorConfig,
    /// Weights and forms of the losses.
    pub loss: LossConfig,
    /// Keys of method `kd`.
    pub kd: KdConfig,
    /// Keys of method `multilevel_ot`.
    pub multilevel_ot: MultilevelOtConfig,
    /// Keys of method `alm`.
    pub alm: AlmConfig,
    /// What is kept, and in how many bits, for the backward pass and the optimizer.
    pub memory: MemoryConfig,
    /// The average of the weights.
    pub ema: EmaConfig,
    /// Evaluation during training.
    pub eval: EvalConfig,
    /// How often a checkpoint is written, and how many are kept.
    pub checkpoint: CheckpointConfig,
    /// Stage 1: the Recalibrator alone.
    pub align: StageConfig,
    /// Stage 2: the student's body and the Recalibrator.
    pub distill: StageConfig,
    /// Stage 3: the student on its own cross entropy.
    pub finetune: StageConfig,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            cache: None,
            student: PathBuf::new(),
            out: PathBuf::new(),
            method: Method::Genrecal,
            stages: None,
            seed: 0,
            device: "auto".into(),
            dtype: ComputeType::Auto,
            data: DataConfig::default(),
            recalibrator: RecalibratorConfig::default(),
            loss: LossConfig::default(),
            kd: KdConfig::default(),
            multilevel_ot: MultilevelOtConfig::default(),
            alm: AlmConfig::default(),
            memory: MemoryConfig::default(),
            ema: EmaConfig { decay: 0.0, evaluate: true, export: true },
            eval: EvalConfig { every: 100, holdout: 16 },
            checkpoint: CheckpointConfig { every: 200, keep: 2, stop_after_steps: 0 },
            align: StageConfig::align(),
            distill: StageConfig::distill(),
            finetune: StageConfig::finetune(),
        }
    }
}

impl RunConfig {
    /// The stages this run goes through, in order: those of the method when none are named, but for stage align where the
    /// Recalibrator comes aligned.
    #[must_use]
    pub fn stages(&self) -> Vec<StageName> {
        let of_method = self.method.stages().iter().copied();
        let is_left = |stage: &StageName| *stage != StageName::Align || self.recalibrator.from.is_none();
        self.stages.clone().unwrap_or_else(|| of_method.filter(is_left).collect())
    }

    /// Whether a stage of this run has a Recalibrator.
    #[must_use]
    pub fn has_recalibrator(&self) -> bool {
        let absent = |stage| Stage::new(self, stage).recalibrator == RecalibratorRole::Absent;
        !self.stages().into_iter().all(absent)
    }

    /// The keys of a stage.
    #[must_use]
    pub fn stage(&self, name: StageName) -> &StageConfig {
        match name {
            StageName::Align => &self.align,
            StageName::Distill => &self.distill,
            StageName::Finetune => &self.finetune,
        }
    }

    /// The caches of the run and their weights: those of the mixture, or the one.
    #[must_use]
    pub fn caches(&self) -> Vec<(&Path, f64)> {
        let mixed = self.data.mixture.iter().map(|mixed| (mixed.cache.as_path(), mixed.weight));
        mixed.chain(self.cache.iter().map(|cache| (cache.as_path(), 1.0))).collect()
    }

    /// Refuses combinations that cannot run, before anything is read.
    ///
    /// # Errors
    /// A [`UsageError`] that names the key.
    pub fn validate(&self) -> Result<()> {
        let stages = self.stages();
        let usage = |text: &str| -> Result<()> { Err(UsageError(text.to_owned()).into()) };
        if self.student.as_os_str().is_empty() {
            return usage("no student given\nhint: --student DIR, a checkout as on the Hugging Face hub");
        }
        if self.out.as_os_str().is_empty() {
            return usage("no output folder given\nhint: --out RUN");
        }
        if stages.is_empty() || !stages.is_sorted_by(|a, b| a < b) {
            return usage("`stages` must name each stage at most once, in the order align,distill,finetune");
        }
        self.validate_method()?;
        let teacher = stages.iter().find(|stage| self.method.reads_features(**stage));
        let has_cache = !self.caches().is_empty();
        match (has_cache, teacher) {
            (false, Some(stage)) => {
                return usage(&format!(
                    "stage {} needs the teacher's features\nhint: --cache CACHE (made by `extract run`), or \
                     --stages finetune to train on the data alone",
                    stage.as_str()
                ));
            }
            (false, None) if self.data.sources.is_empty() => {
                return usage("nothing to train on\nhint: --data SRC, or --cache CACHE");
            }
            _ => {}
        }
        for stage in [StageName::Align, StageName::Distill, StageName::Finetune] {
            self.stage(stage).validate(stage)?;
        }
        if !(0.0..1.0).contains(&self.ema.decay) {
            return usage("`ema.decay` must be at least 0 and below 1");
        }
        self.data.validate(self.cache.as_deref())?;
        if self.data.groups_at_once > 0 && !has_cache {
            return usage("`data.groups_at_once` is about a cache's row groups, and there is no cache");
        }
        if self.eval.holdout == 1 && self.has_recalibrator() {
            return usage(
                "`eval.holdout` is 1, and the leakage control exchanges questions between held-out samples\n\
                 hint: --set eval.holdout=2 or more; 0 for no evaluation",
            );
        }
        self.device.parse::<DeviceName>().map_err(|error| UsageError(error.to_string()))?;
        self.recalibrator.validate()?;
        if self.recalibrator.from.is_some() && self.method == Method::Genrecal && !self.has_recalibrator() {
            return usage("`recalibrator.from` is for stages align and distill, and this run has neither");
        }
        self.loss.validate()?;
        if self.checkpoint.keep == 0 || self.checkpoint.every == 0 {
            return usage("`checkpoint.keep` and `checkpoint.every` must be at least 1");
        }
        Ok(())
    }
}

/// Refuses the first of some keys of a table that is not above 0, or infinite.
fn above_zero(table: &str, keys: &[(&str, f64)]) -> Result<()> {
    refuse_unless(table, keys, |value| value > 0.0, "above 0")
}

/// Refuses the first of some keys of a table that is below 0, or infinite.
fn at_least_zero(table: &str, keys: &[(&str, f64)]) -> Result<()> {
    refuse_unless(table, keys, |value| value >= 0.0, "at least 0")
}

fn refuse_unless(table: &str, keys: &[(&str, f64)], fits: fn(f64) -> bool, bound: &str) -> Result<()> {
    match keys.iter().find(|(_, value)| !(value.is_finite() && fits(*value))) {
        Some((key, value)) => Err(UsageError(format!(
            "`{table}.{key}` is `{value}`, and must be a number {bound}\nhint: `distill run --help` has its default"
        ))
        .into()),
        None => Ok(()),
    }
}

/// The configuration of a command: defaults, then the file, then `--set`, then the flags.
///
/// # Errors
/// When the file cannot be read, or a key is unknown or of the wrong type (a [`UsageError`]).
pub fn resolve<T>(defaults: &T, common: &CommonArgs, typed: Table) -> Result<T>
where
    T: Serialize + DeserializeOwned,
{
    let defaults = Table::try_from(defaults)?;
    let resolved = resolve_over(defaults, &common.config, &common.set, typed);
    resolved.map_err(|error| match error {
        SettingsError::Unreadable { .. } => error.into(),
        _ => UsageError(error.to_string()).into(),
    })
}

#[cfg(test)]
mod tests;
