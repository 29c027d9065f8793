//! How to generate and what to accept: settings with the checkpoint's own as defaults.

use anyhow::{Context, Result};
use serde::Deserialize;
use shared::agreement::Metric;
use shared::dataset::Dataset;
use shared::ids::{Digest, Fingerprint};
use shared::models::{self, GenerationDefaults, Processor, Sampling};

use crate::cli::AnswersArgs;
use crate::config::{RunConfig, positive};
use crate::error::Usage;
use crate::gguf;

/// Whether the first try samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Sample {
    /// As the checkpoint's generation_config.json says.
    #[default]
    Auto,
    /// It takes the likeliest tokens.
    Never,
    /// It draws tokens, as the later tries do.
    Always,
}

/// `[answers]`
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AnswersSettings {
    /// When a response agrees with the reference.
    pub metric: Metric,
    /// How often a question is asked at most.
    pub tries: usize,
    /// Tokens of one response at most.
    pub max_new_tokens: usize,
    /// Whether the first try samples; further ones always do, or they would say the same again.
    pub sample: Sample,
    /// In place of the checkpoint's.
    pub temperature: Option<f64>,
    /// In place of the checkpoint's; 0 for all tokens.
    pub top_k: Option<usize>,
    /// In place of the checkpoint's.
    pub top_p: Option<f64>,
    /// Of the random numbers.
    pub seed: u64,
}

impl Default for AnswersSettings {
    fn default() -> Self {
        Self {
            metric: Metric::Auto,
            tries: 4,
            max_new_tokens: 512,
            sample: Sample::Auto,
            temperature: None,
            top_k: None,
            top_p: None,
            seed: 0,
        }
    }
}

/// The command, complete and checked.
#[derive(Clone, Debug)]
pub struct AnswersConfig {
    /// Teacher, dataset and batches as a run has them; `out` is the file to write.
    pub run: RunConfig,
    /// How often to ask, how to draw, and when a response agrees.
    pub answers: AnswersSettings,
}

impl AnswersConfig {
    /// Decides what the typed flags mean.
    ///
    /// # Errors
    /// A [`Usage`] error when something indispensable is missing or a setting makes no sense.
    pub fn decide(args: &AnswersArgs) -> Result<Self> {
        let run = RunConfig::from_flags(&args.common, args.overrides(), "a file", "--out FILE.jsonl")?;
        let answers = run.settings.answers;
        positive(answers.tries, "answers.tries")?;
        positive(answers.max_new_tokens, "answers.max_new_tokens")?;
        Ok(Self { run, answers })
    }

    /// How tokens are chosen, under the checkpoint's `defaults`.
    ///
    /// # Errors
    /// A [`Usage`] error when a temperature or a top-p makes no sense.
    pub(super) fn choice(&self, defaults: &GenerationDefaults) -> Result<Choice> {
        let answers = &self.answers;
        let sampling = Sampling {
            temperature: answers.temperature.unwrap_or(defaults.sampling.temperature),
            top_k: answers.top_k.unwrap_or(defaults.sampling.top_k),
            top_p: answers.top_p.unwrap_or(defaults.sampling.top_p),
        };
        let first_samples = match answers.sample {
            Sample::Auto => defaults.do_sample,
            Sample::Never => false,
            Sample::Always => true,
        };
        // A checkpoint that never samples may say a temperature of 0, which counts where it is drawn with.
        if first_samples || answers.tries > 1 || answers.temperature.or(answers.top_p).is_some() {
            let usage = |reason| Usage(format!("{reason}\nhint: see `[answers]` in `--help`"));
            sampling.check().map_err(usage)?;
        }
        Ok(Choice { sampling, first_samples, repetition_penalty: defaults.repetition_penalty })
    }
}

/// How tokens are chosen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    sampling: Sampling,
    first_samples: bool,
    pub(super) repetition_penalty: f64,
}

impl Choice {
    /// Of this try, from 0.
    pub(super) fn sampling(&self, attempt: usize) -> Option<Sampling> {
        (attempt > 0 || self.first_samples).then_some(self.sampling)
    }

    /// What decides the file's content.
    pub(super) fn fingerprint(
        &self,
        config: &AnswersConfig,
        processor: &Processor,
        dataset: &Dataset,
    ) -> Result<Fingerprint> {
        let mut fingerprint = Fingerprint::default();
        fingerprint.extend(models::identity(&config.run.teacher)?);
        fingerprint.extend(processor.identity());
        if let Some(path) = &config.run.settings.teacher.gguf {
            fingerprint.insert("gguf", gguf::digest(path)?);
        }
        let AnswersSettings { metric, tries, max_new_tokens, seed, .. } = config.answers;
        fingerprint.insert("metric", metric);
        fingerprint.insert("tries", tries);
        fingerprint.insert("max_new_tokens", max_new_tokens);
        fingerprint.insert("seed", seed);
        fingerprint.insert("choice", format!("{self:?}"));
        fingerprint.insert("image_root", format!("{:?}", config.run.settings.data.image_root));
        for (number, path) in dataset.paths().enumerate() {
            let digest =
                Digest::of_file(path).with_context(|| format!("cannot read `{}`", path.display()))?;
            fingerprint.insert(format!("data {number}"), digest);
        }
        Ok(fingerprint)
    }
}
