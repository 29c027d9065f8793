//! A run's student as a checkout that transformers loads; the Recalibrator stays behind.
//!
//! ```text
//! finished run     RUN/student/
//! after a stage    RUN/stages/<name>/student/                               (float32)
//! at a step        the checkout that the step's stage began with, and checkpoints/step-N/weights.safetensors
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use shared::models::{self, Replacement};

use crate::config::{RunConfig, StageName};
use crate::lora;
use crate::train::checkpoint::AVERAGES;

mod card;

/// Names of the student's weights in a run's files start with this.
const PREFIX: &str = "student.";

/// Which student of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The result; the run must be done.
    End,
    /// What a stage left.
    After(StageName),
    /// The checkpoint of this step.
    Step(usize),
}

/// What to export.
#[derive(Clone, Debug)]
pub struct ExportOptions {
    /// The run's folder.
    pub run: PathBuf,
    /// The new checkout.
    pub out: PathBuf,
    /// The point of the run that the student is taken at.
    pub moment: Moment,
    /// The type to store weights in; that of the run's student when absent.
    pub dtype: Option<DType>,
}

/// What was exported.
#[derive(Clone, Debug, Serialize)]
pub struct Exported {
    /// The new checkout.
    pub model: PathBuf,
    /// Its stage, when it is not the run's end.
    pub stage: Option<StageName>,
    /// Its step, when it is a checkpoint's.
    pub step: Option<usize>,
    /// Weights that training replaced, for a checkpoint.
    pub replaced: usize,
    /// Bytes of all files.
    pub bytes: u64,
}

/// Where a student comes from.
struct Student {
    base: PathBuf,
    weights: BTreeMap<String, Replacement>,
    stage: Option<StageName>,
}

/// Writes the checkout, and a README.md that says where it comes from.
///
/// # Errors
/// When the run has not come so far, the folder exists, or it cannot be written.
pub fn export(options: &ExportOptions) -> Result<Exported> {
    let config = read_config(&options.run)?;
    let student = match options.moment {
        Moment::End => at_the_end(&options.run)?,
        Moment::After(stage) => after(&options.run, stage)?,
        Moment::Step(step) => at_step(&options.run, &config, step)?,
    };
    models::export_checkout(&student.base, &options.out, &student.weights, options.dtype)?;
    let card = card::text(&config, &options.run, options.moment);
    let path = options.out.join("README.md");
    std::fs::write(&path, card).with_context(|| format!("cannot write `{}`", path.display()))?;
    Ok(Exported {
        model: options.out.clone(),
        stage: student.stage,
        step: match options.moment {
            Moment::Step(step) => Some(step),
            _ => None,
        },
        replaced: student.weights.len(),
        bytes: folder_bytes(&options.out)?,
    })
}

fn read_config(run: &Path) -> Result<RunConfig> {
    let path = run.join("config.toml");
    let text = std::fs::read_to_string(&path).with_context(|| {
        format!("`{}` is not a run\nhint: give the folder that `distill run --out` wrote", run.display())
    })?;
    toml::from_str(&text).with_context(|| format!("`{}` is not the configuration of a run", path.display()))
}

fn at_the_end(run: &Path) -> Result<Student> {
    if !run.join("summary.json").is_file() {
        bail!(
            "the run `{}` is not finished\nhint: the same `distill run` command continues it; `--after STAGE` and \
             `--step N` export what there is{}",
            run.display(),
            what_there_is(run)
        );
    }
    Ok(Student { base: run.join("student"), weights: BTreeMap::new(), stage: None })
}

fn after(run: &Path, stage: StageName) -> Result<Student> {
    let dir = run.join("stages").join(stage.as_str());
    if !dir.join("done.json").is_file() {
        bail!(
            "stage {} of `{}` is not done\nhint: available{}",
            stage.as_str(),
            run.display(),
            what_there_is(run)
        );
    }
    let base = dir.join("student");
    if !base.is_dir() {
        bail!(
            "stage {} does not train the student\nhint: export another moment{}",
            stage.as_str(),
            what_there_is(run)
        );
    }
    Ok(Student { base, weights: BTreeMap::new(), stage: Some(stage) })
}

/// What an export reads of a checkpoint's state.
#[derive(Deserialize)]
struct State {
    stage: StageName,
}

fn at_step(run: &Path, config: &RunConfig, step: usize) -> Result<Student> {
    let dir = run.join("checkpoints").join(format!("step-{step}"));
    let text = std::fs::read_to_string(dir.join("state.json")).with_context(|| {
        format!("`{}` has no checkpoint of step {step}\nhint: available{}", run.display(), what_there_is(run))
    })?;
    let State { stage } =
        serde_json::from_str(&text).with_context(|| format!("`{}` is damaged", dir.display()))?;
    // Stages that do not train the student leave none; the one before them counts.
    let earlier = config.stages().into_iter().take_while(|name| *name != stage);
    let left = earlier.map(|name| run.join("stages").join(name.as_str()).join("student"));
    let base = left.filter(|path| path.is_dir()).last().unwrap_or_else(|| config.student.clone());
    let averages = config.ema.decay > 0.0 && config.ema.export;
    let file = if averages { AVERAGES } else { "weights.safetensors" };
    let weights = candle_core::safetensors::load(dir.join(file), &Device::Cpu)
        .with_context(|| format!("the weights in `{}` cannot be read", dir.display()))?;
    let of_student = |(name, tensor): (String, Tensor)| Some((name.strip_prefix(PREFIX)?.to_owned(), tensor));
    let trained = weights.into_iter().filter_map(of_student);
    let weights = lora::replacements(trained, config.stage(stage).lora.as_ref())?;
    Ok(Student { base, weights, stage: Some(stage) })
}

/// `: after align, after distill, step 40, step 80`
fn what_there_is(run: &Path) -> String {
    let names = |folder: &str| -> Vec<String> {
        let entries = std::fs::read_dir(run.join(folder)).into_iter().flatten();
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
    };
    let mut steps: Vec<usize> =
        names("checkpoints").iter().filter_map(|name| name.strip_prefix("step-")?.parse().ok()).collect();
    steps.sort_unstable();
    // One that begins with a dot was never whole.
    let is_whole =
        |name: &String| !name.starts_with('.') && run.join("stages").join(name).join("student").is_dir();
    let stages = names("stages").into_iter().filter(is_whole);
    let list: Vec<String> = stages
        .map(|name| format!("--after {name}"))
        .chain(steps.iter().map(|step| format!("--step {step}")))
        .collect();
    if list.is_empty() { ": nothing yet".to_owned() } else { format!(": {}", list.join(", ")) }
}

fn folder_bytes(dir: &Path) -> Result<u64> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("cannot read `{}`", dir.display()))?;
    let sizes = entries.map(|entry| Ok(entry?.metadata()?.len()));
    sizes.sum::<std::io::Result<u64>>().with_context(|| format!("cannot read `{}`", dir.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn an_unfinished_run_is_refused_with_what_there_is() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path();
        std::fs::write(run.join("config.toml"), toml::to_string(&RunConfig::default()).unwrap()).unwrap();
        let there = ["checkpoints/step-20", "checkpoints/step-7", "stages/distill/student", "stages/align"];
        let killed = ["checkpoints/.step-30.partial", "stages/.finetune.partial/student"];
        for dir in there.iter().chain(&killed) {
            std::fs::create_dir_all(run.join(dir)).unwrap();
        }
        let asked = |moment| {
            let options = ExportOptions { run: run.to_owned(), out: run.join("out"), moment, dtype: None };
            format!("{:#}", export(&options).unwrap_err())
        };
        let error = asked(Moment::End);
        assert!(error.contains("not finished") && error.contains("hint:"), "{error}");
        assert!(error.ends_with(": --after distill, --step 7, --step 20"), "{error}");
        let error = asked(Moment::Step(8));
        assert!(error.contains("no checkpoint of step 8"), "{error}");
        let error = asked(Moment::After(StageName::Align));
        assert!(error.contains("stage align") && error.contains("is not done"), "{error}");
        assert!(!run.join("out").exists(), "nothing is written");
    }

    #[test]
    fn a_folder_that_is_no_run_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let options = ExportOptions {
            run: folder.path().to_owned(),
            out: folder.path().join("out"),
            moment: Moment::End,
            dtype: None,
        };
        let error = export(&options).unwrap_err().to_string();
        assert!(error.contains("is not a run") && error.contains("hint:"), "{error}");
    }
}
