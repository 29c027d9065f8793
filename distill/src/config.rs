//! What was decided: every key of a run with its default.
//!
//! Precedence, lowest first: defaults, the `--config` file, `--set`, flags. Unknown keys are refused.

use std::path::{Path, PathBuf};

use anyhow::Result;
use candle_core::{DType, Device};
use clap::ValueEnum;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use shared::cache::Access;
pub use shared::models::ModelPart as PartName;
use shared::settings::{SettingsError, resolve_over};
use toml::Table;

use crate::cli::{CommonArgs, UsageError};
pub use crate::recalibrator::NormPlace;

mod lora;
mod memory;
mod methods;
mod stage;

pub use lora::LoraConfig;
pub use memory::{MemoryConfig, OptimizerStates, Recompute};
pub use methods::{AlmConfig, Divergence, KdConfig, Method, MultilevelOtConfig};
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

/// One cache of a mixture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixedCache {
    /// The feature cache.
    pub cache: PathBuf,
    /// Its share of the samples that are drawn is this over the sum of all weights.
    #[serde(default = "one")]
    pub weight: f64,
}

fn one() -> f64 {
    1.0
}

/// Where samples come from and how they are read ahead.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Datasets that hold the messages and images, when the cache does not embed them.
    pub sources: Vec<String>,
    /// The folder that image paths are relative to.
    pub image_root: Option<PathBuf>,
    /// Put image placeholders in front where a row has images but no placeholders.
    pub prepend_image: bool,
    /// Samples longer than this many student tokens are left out and listed.
    pub max_length: usize,
    /// Which of a conversation's answers are learnt: all, or the last one, with those before it as part of the question.
    pub answers: Answers,
    /// Share of samples that may be left out (broken image, no answer, too long) before the run stops.
    pub max_bad: f64,
    /// Memory of encoded samples, in MiB: half for those that are kept for later passes (the rest are encoded again at each
    /// use), half for batches that wait for their step, at least one of them.
    pub memory_mib: usize,
    /// Batches encoded ahead of the step, as many as `memory_mib` has room for.
    pub prefetch: usize,
    /// Threads that encode ahead; 0 for one a core.
    pub workers: usize,
    /// How the cache's files are read: `map`, or `plain` reads for network disks.
    pub read: Access,
    /// Samples of this many steps are sorted by length and dealt anew, so that those of a step are of like length; 1
    /// leaves them as they are drawn.
    pub bucket_steps: usize,
    /// Row groups of the cache that are mixed at a time, so that a disk is read in long stretches; 0 draws from the whole
    /// cache alike.
    pub groups_at_once: usize,
    /// Several caches of one teacher, in place of `cache`, each drawn to its weight.
    pub mixture: Vec<MixedCache>,
}

impl DataConfig {
    /// What kept samples may take, and what waiting batches may, in bytes.
    #[must_use]
    pub fn half_memory_bytes(&self) -> usize {
        (self.memory_mib << 20) / 2
    }
}

/// Which answers of a conversation are learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answers {
    /// Every turn of the assistant.
    All,
    /// The last one.
    Last,
}

/// The Recalibrator's shape; its width, heads and feed-forward are the student decoder's own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecalibratorConfig {
    /// Number of decoder blocks; the paper uses 2.
    pub depth: usize,
    /// `fresh`, or `copy` the student's last blocks.
    pub init: RecalibratorInit,
    /// Standard deviation of fresh weights.
    pub init_std: f64,
    /// Positions 0..n-1 over the joint sequence, as in the paper; else each row keeps its own.
    pub new_positions: bool,
    /// Biases on the two projections.
    pub projection_bias: bool,
    /// Where the LayerNorm stands: `after` the projection to the teacher's width, `before` it, or `none`.
    pub norm: NormPlace,
}

/// How the Recalibrator's blocks begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecalibratorInit {
    /// Random weights from the run's seed.
    Fresh,
    /// The student's last blocks.
    Copy,
}

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

impl LossConfig {
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
    /// Samples, the last by key order, that are kept out of training for the leakage controls.
    pub holdout: usize,
}

/// Checkpoints and output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Steps between checkpoints; one is also written at the end of each stage.
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

/// One run.
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
    /// The Recalibrator.
    pub recalibrator: RecalibratorConfig,
    /// The losses.
    pub loss: LossConfig,
    /// Method kd.
    pub kd: KdConfig,
    /// Method multilevel_ot.
    pub multilevel_ot: MultilevelOtConfig,
    /// Method alm.
    pub alm: AlmConfig,
    /// Memory.
    pub memory: MemoryConfig,
    /// The average of the weights.
    pub ema: EmaConfig,
    /// Evaluation during training.
    pub eval: EvalConfig,
    /// Checkpoints.
    pub checkpoint: CheckpointConfig,
    /// Stage 1.
    pub align: StageConfig,
    /// Stage 2.
    pub distill: StageConfig,
    /// Stage 3, and method sft.
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
            data: DataConfig {
                sources: Vec::new(),
                image_root: None,
                prepend_image: false,
                max_length: 4096,
                answers: Answers::All,
                max_bad: 0.01,
                memory_mib: 512,
                prefetch: 2,
                workers: 0,
                read: Access::Map,
                bucket_steps: 1,
                groups_at_once: 0,
                mixture: Vec::new(),
            },
            recalibrator: RecalibratorConfig {
                depth: 2,
                init: RecalibratorInit::Fresh,
                init_std: 0.02,
                new_positions: true,
                projection_bias: false,
                norm: NormPlace::After,
            },
            loss: LossConfig {
                ce_teacher: 1.0,
                kl: 1.0,
                ce_student: 1.0,
                method: 1.0,
                temperature: 1.0,
                score_boundary: true,
                regulariser: Regulariser::CeKl,
                regularisation: 1.0,
            },
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
    /// The stages this run goes through, in order.
    #[must_use]
    pub fn stages(&self) -> Vec<StageName> {
        self.stages.clone().unwrap_or_else(|| self.method.stages().to_vec())
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
        mixed.chain(self.cache.iter().map(|cache| (cache.as_path(), one()))).collect()
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
        if self.data.bucket_steps == 0 {
            return usage("`data.bucket_steps` must be at least 1");
        }
        self.validate_mixture()?;
        if self.data.groups_at_once > 0 && !has_cache {
            return usage("`data.groups_at_once` is about a cache's row groups, and there is no cache");
        }
        if self.recalibrator.depth == 0 {
            return usage("`recalibrator.depth` must be at least 1");
        }
        if self.loss.temperature.is_nan() || self.loss.temperature <= 0.0 {
            return usage("`loss.temperature` must be above 0");
        }
        if self.checkpoint.keep == 0 || self.checkpoint.every == 0 {
            return usage("`checkpoint.keep` and `checkpoint.every` must be at least 1");
        }
        Ok(())
    }

    fn validate_mixture(&self) -> Result<()> {
        let mixture = &self.data.mixture;
        let usage = |text: String| -> Result<()> { Err(UsageError(text).into()) };
        if !mixture.is_empty() && self.cache.is_some() {
            return usage(
                "both `cache` and `data.mixture` say where features come from\n\
                 hint: make the one cache a line of the mixture"
                    .into(),
            );
        }
        if let Some(wrong) = mixture.iter().find(|mixed| !(mixed.weight > 0.0 && mixed.weight.is_finite())) {
            return usage(format!(
                "the weight of `{}` in `data.mixture` must be above 0",
                wrong.cache.display()
            ));
        }
        let mut caches: Vec<&Path> = mixture.iter().map(|mixed| mixed.cache.as_path()).collect();
        caches.sort_unstable();
        match caches.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => usage(format!("`data.mixture` names `{}` twice", pair[0].display())),
            None => Ok(()),
        }
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
    let resolved = resolve_over(defaults, common.config.as_deref(), &common.set, typed);
    resolved.map_err(|error| match error {
        SettingsError::Unreadable { .. } => error.into(),
        _ => UsageError(error.to_string()).into(),
    })
}

#[cfg(test)]
mod tests;
