//! `extract answers`.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use shared::agreement::Metric;
use toml::Table;

use super::overrides::{integer, path, utf8};
use super::{CommonArgs, SourceArgs};
use crate::answers::Sample;

pub(super) const ANSWERS_EXAMPLES: &str = "\
Examples:
  extract answers --teacher teachers/qwen2-vl --data train.jsonl --image-root images --out answers.jsonl
  extract run --teacher teachers/qwen2-vl --data answers.jsonl --image-root images --out caches/teacher
  extract answers ... --tries 8 --temperature 0.7 --metric relaxed

The first try generates as the checkpoint's generation_config.json says, the others sample. A response that agrees \
with the reference answer takes its place; otherwise the original stays. `provenance` in the row says which, and \
when a response was cut off at --max-new-tokens. The same command again continues, or does nothing when done.

Metrics: auto looks in a response for an option letter, a number, yes or no, or the reference's words; relaxed \
allows 5 % in numbers; exact, choice, contains and conclusion are those of `distill eval`.

Configuration file: the keys are [answers] metric, tries, max_new_tokens, sample, temperature, top_k, top_p, seed, \
and those of [teacher], [data] and [batch] in `extract run`; cache.dir is the file to write.";

/// Flags of `extract answers`.
#[derive(Clone, Debug, Default, Args)]
pub struct AnswersArgs {
    /// Teacher and dataset.
    #[command(flatten)]
    pub source: SourceArgs,
    /// The dataset to write or to continue.
    #[arg(long, value_name = "FILE.jsonl", value_parser = utf8(), value_hint = ValueHint::FilePath)]
    pub out: Option<PathBuf>,
    /// Ask a question at most N times, until a response agrees [default: 4].
    #[arg(long, value_name = "N")]
    pub tries: Option<usize>,
    /// When a response agrees: auto, exact, relaxed, choice, contains or conclusion [default: auto].
    #[arg(long)]
    pub metric: Option<Metric>,
    /// Whether the first try samples [default: auto, as the checkpoint says].
    #[arg(long, value_enum)]
    pub sample: Option<Sample>,
    /// What scores are divided by before a token is drawn [default: the checkpoint's].
    #[arg(long, value_name = "T")]
    pub temperature: Option<f64>,
    /// Draw among the N likeliest tokens, 0 for all [default: the checkpoint's].
    #[arg(long, value_name = "N")]
    pub top_k: Option<usize>,
    /// Draw among the likeliest tokens that reach this probability [default: the checkpoint's].
    #[arg(long, value_name = "P")]
    pub top_p: Option<f64>,
    /// Seed of the random numbers [default: 0].
    #[arg(long, value_name = "N")]
    pub seed: Option<u32>,
    /// A response has at most N tokens [default: 512].
    #[arg(long, value_name = "N")]
    pub max_new_tokens: Option<usize>,
    /// Common flags.
    #[command(flatten)]
    pub common: CommonArgs,
}

impl AnswersArgs {
    /// The flags that were typed, as the tables of [`Settings`](crate::config::Settings).
    pub fn overrides(&self) -> Table {
        let mut flags = self.source.overrides();
        flags.put("cache", "dir", self.out.as_deref().map(path));
        flags.put("answers", "tries", self.tries.map(integer));
        flags.put("answers", "metric", self.metric.map(|metric| metric.to_string()));
        flags.put("answers", "sample", self.sample.map(|sample| format!("{sample:?}").to_lowercase()));
        flags.put("answers", "temperature", self.temperature);
        flags.put("answers", "top_k", self.top_k.map(integer));
        flags.put("answers", "top_p", self.top_p);
        flags.put("answers", "seed", self.seed.map(i64::from));
        flags.put("answers", "max_new_tokens", self.max_new_tokens.map(integer));
        flags.0
    }
}
