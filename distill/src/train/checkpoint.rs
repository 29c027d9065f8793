//! Checkpoints: a folder `step-N` that appears by rename, so that it is whole or not there.
//!
//! It holds the trained weights, their averages where there are any, the optimizer's moments, and how far the run had come. The order of samples is a
//! function of seed and step, so the step's number is the sampler's position; nothing else is drawn at random.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::safetensors::MmapedSafetensors;
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use shared::ids::Fingerprint;

use super::ema::Ema;
use super::optim::AdamW;
use super::run_log::Offsets;
use crate::config::StageName;

/// Counted up when a checkpoint of older code can no longer be continued bit for bit.
pub const FORMAT_VERSION: u32 = 2;

const STATE: &str = "state.json";
const WEIGHTS: &str = "weights.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
/// Names of folders that are not whole end with this.
const PARTIAL: &str = ".partial";
/// The averages of the weights, where the run keeps them.
pub const AVERAGES: &str = "ema.safetensors";

/// How far a run has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// [`FORMAT_VERSION`] of the code that wrote it.
    pub format_version: u32,
    /// What the run is made from; another run's checkpoint is refused.
    pub identity: Fingerprint,
    /// The stage under way.
    pub stage: StageName,
    /// Steps done in that stage.
    pub stage_step: usize,
    /// Steps done in the whole run.
    pub step: usize,
    /// Updates the optimizer has made in that stage.
    pub num_updates: u64,
    /// Samples left out so far, in the stage.
    pub num_skipped: usize,
    /// How far the run's own files had come.
    pub offsets: Offsets,
}

/// The checkpoints of one run.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    dir: PathBuf,
    keep: usize,
}

impl Checkpoints {
    /// The checkpoints under a run's folder; the newest `keep` stay.
    #[must_use]
    pub fn of(run: &Path, keep: usize) -> Self {
        Self { dir: run.join("checkpoints"), keep }
    }

    /// Writes a checkpoint and removes the oldest ones.
    ///
    /// # Errors
    /// When the disk is full or not writable; an earlier checkpoint then still stands.
    pub fn save(&self, state: &State, optimizer: &AdamW, ema: Option<&Ema>) -> Result<()> {
        let (_, moments) = optimizer.state()?;
        let params = optimizer.params().iter();
        let weights: HashMap<String, Tensor> =
            params.map(|param| (param.name.clone(), param.var.as_detached_tensor())).collect();
        let moments: HashMap<String, Tensor> = moments.into_iter().collect();
        publish(&self.dir.join(format!("step-{}", state.step)), |dir| {
            save_tensors(&weights, &dir.join(WEIGHTS))?;
            save_tensors(&moments, &dir.join(OPTIMIZER))?;
            if let Some(ema) = ema {
                let named = ema.named(optimizer.params());
                let averages = named.map(|(name, var)| (name.to_owned(), var.as_detached_tensor())).collect();
                save_tensors(&averages, &dir.join(AVERAGES))?;
            }
            let state = serde_json::to_vec_pretty(state)?;
            fs::write(dir.join(STATE), state).context("cannot write the checkpoint's state")
        })?;
        self.prune()
    }

    /// The newest checkpoint, if there is one.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn latest(&self) -> Result<Option<Checkpoint>> {
        match self.steps()?.pop() {
            Some(step) => Checkpoint::open(self.dir.join(format!("step-{step}"))).map(Some),
            None => Ok(None),
        }
    }

    fn names(&self) -> Result<Vec<String>> {
        if !self.dir.exists() {
            return Ok(Vec::new());
        }
        let entries =
            fs::read_dir(&self.dir).with_context(|| format!("cannot read {}", self.dir.display()))?;
        Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
    }

    /// Folders that [`publish`] did not come to rename.
    fn partial(&self) -> Result<Vec<PathBuf>> {
        let mut names = self.names()?;
        names.retain(|name| name.starts_with(".step-") && name.ends_with(PARTIAL));
        Ok(names.into_iter().map(|name| self.dir.join(name)).collect())
    }

    /// Steps that have a checkpoint, oldest first.
    fn steps(&self) -> Result<Vec<usize>> {
        let names = self.names()?.into_iter();
        let mut steps: Vec<usize> =
            names.filter_map(|name| name.strip_prefix("step-")?.parse().ok()).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    /// Removes the oldest checkpoints, and what a process that was killed left of those that never appeared or were being
    /// removed.
    ///
    /// # Errors
    /// When a folder cannot be removed.
    pub fn prune(&self) -> Result<()> {
        let remove =
            |dir: &Path| fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()));
        self.partial()?.iter().try_for_each(|dir| remove(dir))?;
        let steps = self.steps()?;
        for step in &steps[..steps.len().saturating_sub(self.keep)] {
            // Under the other name first: a checkpoint is never there in part.
            let (dir, partial) =
                (self.dir.join(format!("step-{step}")), self.dir.join(format!(".step-{step}{PARTIAL}")));
            fs::rename(&dir, &partial).with_context(|| format!("cannot remove {}", dir.display()))?;
            remove(&partial)?;
        }
        Ok(())
    }
}

/// One checkpoint on disk.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    /// How far the run had come.
    pub state: State,
}

impl Checkpoint {
    fn open(dir: PathBuf) -> Result<Self> {
        let path = dir.join(STATE);
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let state = serde_json::from_slice(&bytes).with_context(|| {
            format!(
                "{} is not a checkpoint of this program\nhint: start anew in another --out",
                path.display()
            )
        })?;
        Ok(Self { dir, state })
    }

    /// Refuses a checkpoint that another run, or code that trains differently, has written.
    ///
    /// # Errors
    /// Naming each difference.
    pub fn check(&self, identity: &Fingerprint) -> Result<()> {
        if self.state.format_version != FORMAT_VERSION {
            bail!(
                "{} was written by another version of this program (format {}, this one has {FORMAT_VERSION})\n\
                 hint: start anew in another --out",
                self.dir.display(),
                self.state.format_version
            );
        }
        refuse_differences(&self.dir, &self.state.identity, identity)
    }

    /// Puts weights, their averages and moments back.
    ///
    /// # Errors
    /// When a file is damaged, or a weight is missing, unknown or of another shape.
    pub fn restore(&self, optimizer: &mut AdamW, ema: Option<&Ema>) -> Result<()> {
        let weights = Tensors::open(&self.dir.join(WEIGHTS))?;
        weights.fill(optimizer.params().iter().map(|param| (param.name.as_str(), &param.var)))?;
        if let Some(ema) = ema {
            Tensors::open(&self.dir.join(AVERAGES))?.fill(ema.named(optimizer.params()))?;
        }
        let moments = Tensors::open(&self.dir.join(OPTIMIZER))?;
        let num_updates = self.state.num_updates;
        optimizer
            .restore(num_updates, |name| moments.get(name))
            .with_context(|| format!("{} does not fit the model", self.dir.display()))
    }
}

/// Refuses to mix two runs, saying what differs.
///
/// # Errors
/// When the fingerprints differ.
pub fn refuse_differences(place: &Path, there: &Fingerprint, here: &Fingerprint) -> Result<()> {
    let differences = there.differences(here);
    if differences.is_empty() {
        return Ok(());
    }
    let lines: String = differences.iter().map(|difference| format!("\n  {difference}")).collect();
    bail!(
        "{} belongs to another run{lines}\n\
         hint: use the same configuration, cache and student, or another --out",
        place.display()
    )
}

/// A mapped safetensors file.
pub struct Tensors {
    path: PathBuf,
    map: MmapedSafetensors,
}

impl Tensors {
    /// Maps a file.
    ///
    /// # Errors
    /// When it is missing or damaged.
    pub fn open(path: &Path) -> Result<Self> {
        // SAFETY: files of a run are replaced by rename, never changed in place.
        let map = unsafe { MmapedSafetensors::new(path) }
            .with_context(|| format!("{} is missing or damaged", path.display()))?;
        Ok(Self { path: path.to_owned(), map })
    }

    /// A tensor on the CPU.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn get(&self, name: &str) -> candle_core::Result<Tensor> {
        self.map.load(name, &Device::Cpu)
    }

    /// Name and shape of each tensor.
    pub fn shapes(&self) -> impl Iterator<Item = (String, Vec<usize>)> {
        self.map.tensors().into_iter().map(|(name, tensor)| (name, tensor.shape().to_vec()))
    }

    /// Sets every variable to the tensor of its name.
    ///
    /// # Errors
    /// When a tensor is missing, left over, or of another shape.
    pub fn fill<'a>(&self, vars: impl Iterator<Item = (&'a str, &'a candle_core::Var)>) -> Result<()> {
        let mut num_vars = 0;
        for (name, var) in vars {
            let fits = || var.set(&self.get(name)?.to_device(var.device())?);
            fits().with_context(|| format!("{}: `{name}` does not fit the model", self.path.display()))?;
            num_vars += 1;
        }
        let num_tensors = self.map.tensors().len();
        if num_tensors != num_vars {
            bail!("{}: {num_tensors} tensors for {num_vars} weights", self.path.display());
        }
        Ok(())
    }
}

/// Writes tensors to a safetensors file.
///
/// # Errors
/// When the disk is full or not writable.
pub fn save_tensors(tensors: &HashMap<String, Tensor>, path: &Path) -> Result<()> {
    candle_core::safetensors::save(tensors, path).with_context(|| format!("cannot write {}", path.display()))
}

/// Makes a folder appear at once: it is filled under another name, brought to the disk and renamed.
///
/// # Errors
/// Those of `fill`, and when the disk is full or not writable; nothing then appears.
pub fn publish(dir: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let parent = dir.parent().context("a folder without a parent")?;
    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let partial = parent.join(format!(".{name}{PARTIAL}"));
    let cannot = || format!("cannot write {}", dir.display());
    fs::create_dir_all(parent).with_context(cannot)?;
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(cannot)?;
    }
    fs::create_dir(&partial).with_context(cannot)?;
    fill(&partial)?;
    sync_tree(&partial).with_context(cannot)?;
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(cannot)?;
    }
    fs::rename(&partial, dir).and_then(|()| File::open(parent)?.sync_all()).with_context(cannot)
}

/// Makes a file appear at once.
///
/// # Errors
/// When the disk is full or not writable.
pub fn publish_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let partial = path.with_extension("partial");
    let write = || -> std::io::Result<()> {
        fs::write(&partial, bytes)?;
        File::open(&partial)?.sync_all()?;
        fs::rename(&partial, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn sync_tree(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            sync_tree(&path)?;
        } else {
            File::open(&path)?.sync_all()?;
        }
    }
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests;
