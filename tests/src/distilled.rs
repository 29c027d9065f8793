//! A tiny distillation for tests: a made-up dataset, a Qwen2-VL teacher's cache of it, an InternVL student.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use serde_json::Value;

use crate::programs::{Finished, run};
use crate::rows::{fixture, made_up};

/// Samples of the dataset.
pub const NUM_SAMPLES: usize = 20;

/// What every run is given unless it says otherwise: 4 + 5 + 3 steps, two microbatches a step, an evaluation and a
/// checkpoint within each stage.
pub const KEYS: [&str; 12] = [
    "align.steps=4",
    "distill.steps=5",
    "finetune.steps=3",
    "align.batch_size=4",
    "distill.batch_size=4",
    "finetune.batch_size=4",
    "align.microbatch_tokens=256",
    "distill.microbatch_tokens=256",
    "finetune.microbatch_tokens=256",
    "eval.holdout=4",
    "eval.every=2",
    "checkpoint.every=2",
];

/// The dataset and the cache, in a folder that the process keeps.
#[derive(Debug)]
pub struct Inputs {
    /// The dataset.
    pub data: PathBuf,
    /// The teacher's features of all tokens.
    pub cache: PathBuf,
}

/// Makes the inputs once a process: extraction is the same for every test.
///
/// # Errors
/// When the dataset cannot be written or extraction fails.
pub fn inputs() -> Result<&'static Inputs> {
    static INPUTS: OnceLock<Result<Inputs, String>> = OnceLock::new();
    let made = INPUTS.get_or_init(|| make_inputs().map_err(|error| format!("{error:#}")));
    made.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
}

fn make_inputs() -> Result<Inputs> {
    // Kept until the process ends: other tests of it read the files. One folder a process, so that none is shared.
    let dir = std::env::temp_dir().join(format!("genrecal-distilled-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let data = made_up(&dir, NUM_SAMPLES)?;
    let cache = extract(&data, &dir.join("cache"), "all")?;
    Ok(Inputs { data, cache })
}

/// Extracts the features (`answer`, `text` or `all`) of the Qwen2-VL fixture.
///
/// # Errors
/// When extraction fails.
pub fn extract(data: &Path, cache: &Path, features: &str) -> Result<PathBuf> {
    let teacher = fixture("qwen2_vl");
    let mut args = ["run", "--device", "cpu", "--features", features].map(str::to_owned).to_vec();
    for (flag, path) in [("--teacher", teacher.as_path()), ("--data", data), ("--out", cache)] {
        args.extend([flag.to_owned(), path.display().to_string()]);
    }
    let finished = run("extract", args)?;
    ensure!(finished.code == Some(0), "extract failed:\n{}", finished.stderr);
    Ok(cache.to_owned())
}

/// The arguments of a run of all stages into `out`, with `more` at the end.
///
/// # Errors
/// When the inputs cannot be made.
pub fn arguments(out: &Path, more: &[&str]) -> Result<Vec<String>> {
    let inputs = inputs()?;
    let student = fixture("internvl");
    let mut args = ["run", "--device", "cpu", "--json", "--seed", "7"].map(str::to_owned).to_vec();
    let paths = [("--student", &student), ("--cache", &inputs.cache), ("--data", &inputs.data)];
    for (flag, path) in paths {
        args.extend([flag.to_owned(), path.display().to_string()]);
    }
    args.extend(["--out".to_owned(), out.display().to_string()]);
    for key in KEYS {
        args.extend(["--set".to_owned(), key.to_owned()]);
    }
    args.extend(more.iter().map(|arg| (*arg).to_owned()));
    Ok(args)
}

/// Runs `distill run` with [`arguments`].
///
/// # Errors
/// When the program cannot be started; not when it fails.
pub fn distill(out: &Path, more: &[&str]) -> Result<Finished> {
    run("distill", arguments(out, more)?)
}

/// As [`distill()`], which must succeed; its summary.
///
/// # Errors
/// When it fails.
pub fn distilled(out: &Path, more: &[&str]) -> Result<Value> {
    let finished = distill(out, more)?;
    ensure!(finished.code == Some(0), "distill failed:\n{}", finished.stderr);
    serde_json::from_str(&finished.stdout).context("stdout is not one JSON object")
}

/// The lines of a run's metrics.
///
/// # Errors
/// When they cannot be read.
pub fn metrics(out: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(out.join("metrics.jsonl"))?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// The weights of a checkout or of a safetensors file, by name.
///
/// # Errors
/// When they cannot be read.
pub fn weights(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let file = if path.is_dir() { path.join("model.safetensors") } else { path.to_owned() };
    let tensors = candle_core::safetensors::load(&file, &Device::Cpu);
    Ok(tensors.with_context(|| format!("cannot read {}", file.display()))?.into_iter().collect())
}

/// Whether two tensors are equal bit for bit.
///
/// # Errors
/// When a value cannot be read.
pub fn is_same(a: &Tensor, b: &Tensor) -> Result<bool> {
    let bits = |tensor: &Tensor| -> Result<Vec<u32>> {
        let values = tensor.flatten_all()?.to_dtype(candle_core::DType::F32)?.to_vec1::<f32>()?;
        Ok(values.into_iter().map(f32::to_bits).collect())
    };
    Ok(a.dims() == b.dims() && a.dtype() == b.dtype() && bits(a)? == bits(b)?)
}
