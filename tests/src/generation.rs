//! Generation against transformers: goldens that tests/fixtures/make_generation.py writes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{DType, Device};
use serde::Deserialize;
use serde_json::Value;
use shared::models::{Encoded, Generation, GenerationDefaults, LoadOptions, generate, load};

use crate::reference::samples;

/// The file.
#[derive(Deserialize)]
pub struct Golden {
    /// Tokens of an answer at most.
    pub limit: usize,
    /// Answers by checkpoint.
    pub greedy: BTreeMap<String, Vec<Greedy>>,
    /// What is left of scores.
    pub warped: Vec<Warped>,
}

/// One answer.
#[derive(Clone, Deserialize)]
pub struct Greedy {
    /// The sample that it continues.
    pub sample: String,
    /// The checkpoint's generation_config.json.
    pub config: Value,
    /// What transformers generates.
    pub tokens: Vec<u32>,
}

/// Scores and their probabilities after the logits processors.
#[derive(Deserialize)]
pub struct Warped {
    /// A generation_config.json.
    pub config: Value,
    /// Tokens before.
    pub seen: Vec<u32>,
    /// One score a token.
    pub scores: Vec<f32>,
    /// One probability a token.
    pub probabilities: Vec<f64>,
}

/// Reads a golden.
///
/// # Errors
/// When it is missing or damaged.
pub fn golden(path: &Path) -> Result<Golden> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    Ok(serde_json::from_str(&text)?)
}

/// The defaults that a generation_config.json with this content gives, read as of a checkpoint.
///
/// # Errors
/// When they are refused.
pub fn defaults(config: &Value) -> Result<GenerationDefaults> {
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join("generation_config.json"), config.to_string())?;
    Ok(GenerationDefaults::load(dir.path())?)
}

/// How many of the answers of the checkpoint in `dir` are equal, each generated among all that share its settings.
///
/// # Errors
/// When the checkpoint cannot be read.
pub fn equal_answers(dir: &Path, expected: &[Greedy], limit: usize) -> Result<usize> {
    let options = LoadOptions::frozen(Device::Cpu, DType::F32);
    let model = load(dir, &options)?;
    let stored = samples(dir)?;
    let encoded: Vec<Encoded> =
        stored.iter().map(|sample| sample.stored_inputs(&model)).collect::<Result<_>>()?;
    let all: Vec<&Encoded> = encoded.iter().collect();
    let mut equal = 0;
    for row in expected {
        let defaults = defaults(&row.config)?;
        let eos: Vec<u32> = serde_json::from_value(row.config["eos_token_id"].clone())?;
        let generation = Generation {
            max_new_tokens: limit,
            eos: &eos,
            repetition_penalty: defaults.repetition_penalty,
            sampling: None,
        };
        let answers = generate(&model, &all, &vec![0; all.len()], &generation)?;
        let at = stored.iter().position(|sample| sample.name == row.sample);
        let answer = &answers[at.with_context(|| format!("no sample `{}`", row.sample))?];
        let ended = answer.tokens.last().is_some_and(|last| eos.contains(last));
        equal += usize::from(answer.tokens == row.tokens && answer.is_complete == ended);
    }
    Ok(equal)
}
