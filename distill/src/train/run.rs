//! A run: its stages in order, each from the checkout that the one before it left.
//!
//! ```text
//! RUN/config.toml, run.json       as resolved; what the run is made from
//! RUN/checkpoints/step-N/         the newest; each stage's last step has one
//! RUN/stages/<name>/              what a stage left: recalibrator.safetensors, student/ (float32)
//! RUN/student_features/           of the frozen student, until stage align, which sees samples more than once, is done
//! RUN/images.bin                  images of the data's own rows, until the run is done
//! RUN/student/                    the result, in the student's own type
//! RUN/summary.json                the run is done
//! RUN/report.html                 its curves and controls, as `distill report` shows them
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::Device;
use serde::{Deserialize, Serialize};
use shared::ids::Fingerprint;
use shared::models::{self, Processor};

use super::aligned::Aligned;
use super::checkpoint::{Checkpoint, Checkpoints, publish, publish_file, refuse_differences};
use super::identity::{claim, identity};
use super::lock::RunLock;
use super::metrics::peak_rss_bytes;
use super::progress::LINE_EVERY;
use super::run_log::Offsets;
use super::stage_loop::{Ended, StageLoop};
use super::step::Trainer;
use super::student_features::StudentFeatures;
use super::summary::{SUMMARY, Summary, last_evaluations, read_rows, read_summary};
use crate::config::{LoraConfig, RunConfig, StageName};
use crate::data::mixture::Caches;
use crate::data::source::Source;
use crate::data::spill::Spill;
use crate::lora;
use crate::report::{self, ReportOptions};
use crate::stage::Stage;
use crate::student;

mod trainer;

/// What stages left, in a run's folder.
pub const STAGES: &str = "stages";
const REPORT: &str = "report.html";
/// The Recalibrator's weights, where a stage left them.
pub const RECALIBRATOR: &str = "recalibrator.safetensors";

/// One stage of the plan.
#[derive(Clone, Copy, Debug)]
struct Planned {
    name: StageName,
    first_step: usize,
    num_steps: usize,
}

/// Runs all stages, or what is left of them.
///
/// # Errors
/// Anything that stops the run; the same command continues it.
pub fn run(config: &RunConfig) -> Result<Summary> {
    let start = Instant::now();
    let out = &config.out;
    let device = models::device(&config.device)?;
    let processor = Processor::load(&config.student)?;
    let caches = Caches::open(config)?.map(Arc::new);
    let mut base_identity = identity(config, &device, &processor, caches.as_deref())?;
    let aligned = aligned(config, caches.as_deref(), &base_identity)?;
    aligned.iter().for_each(|aligned| aligned.identify(&mut base_identity));
    std::fs::create_dir_all(out).with_context(|| format!("cannot write {}", out.display()))?;
    claim(out, &base_identity)?;
    if let Some(summary) = read_summary(out)? {
        shared::say!("{} is done", out.display());
        clear_away(out)?;
        if !out.join(REPORT).exists() {
            report(out)?;
        }
        return Ok(summary);
    }
    let _lock = RunLock::take(out)?;
    publish_file(&out.join("config.toml"), toml::to_string(config)?.as_bytes())?;
    let source = Source::open(config, processor, caches.clone(), &reading())?;
    for skipped in &source.skipped {
        shared::say!("left out: {}: {}", skipped.place, skipped.reason);
    }
    let mut run = Run {
        config,
        device,
        caches,
        plan: plan(config, source.num_train()),
        identity: with_samples(base_identity, &source),
        source: Arc::new(source),
        base: config.student.clone(),
        recalibrator: aligned.map(|aligned| aligned.file),
        offsets: Offsets::default(),
    };
    let resumed_from = run.all_stages()?;
    run.finish(start, resumed_from)
}

/// Another run's Recalibrator to begin with, if the keys name one and a stage has use for it.
fn aligned(config: &RunConfig, caches: Option<&Caches>, identity: &Fingerprint) -> Result<Option<Aligned>> {
    let Some(caches) = caches.filter(|_| config.has_recalibrator()) else { return Ok(None) };
    let Some(aligned) = Aligned::open(&config.recalibrator)? else { return Ok(None) };
    let student = models::config_of(&config.student)?;
    let spec = config.recalibrator.spec(student.config.decoder(), caches.first().width());
    aligned.check(identity, &spec)?;
    Ok(Some(aligned))
}

/// Tells how many rows of the data are read, now and then.
fn reading() -> impl Fn(usize) {
    let last = std::cell::Cell::new(Instant::now());
    move |rows| {
        if last.get().elapsed() >= LINE_EVERY {
            last.set(Instant::now());
            shared::say!("read {rows} rows of the data");
        }
    }
}

fn with_samples(mut identity: Fingerprint, source: &Source) -> Fingerprint {
    identity.insert("samples", source.digest());
    identity
}

fn plan(config: &RunConfig, num_samples: usize) -> Vec<Planned> {
    let mut first_step = 0;
    let stages = config.stages().into_iter();
    stages
        .map(|name| {
            let num_steps = config.stage(name).num_steps(num_samples);
            let planned = Planned { name, first_step, num_steps };
            first_step += num_steps;
            planned
        })
        .collect()
}

/// A run under way.
struct Run<'a> {
    config: &'a RunConfig,
    device: Device,
    caches: Option<Arc<Caches>>,
    plan: Vec<Planned>,
    identity: Fingerprint,
    source: Arc<Source>,
    /// The checkout the next stage starts from.
    base: PathBuf,
    /// The Recalibrator the next stage starts from.
    recalibrator: Option<PathBuf>,
    offsets: Offsets,
}

/// What a finished stage leaves besides weights.
#[derive(Serialize, Deserialize)]
struct StageEnd {
    identity: Fingerprint,
    offsets: Offsets,
}

impl Run<'_> {
    fn all_stages(&mut self) -> Result<Option<usize>> {
        let checkpoints = Checkpoints::of(&self.config.out, self.config.checkpoint.keep);
        checkpoints.prune()?;
        let checkpoint = checkpoints.latest()?;
        if let Some(checkpoint) = &checkpoint {
            checkpoint.check(&self.identity)?;
        }
        let mut resumed_from = None;
        for planned in self.plan.clone() {
            if self.already_done(planned)? {
                resumed_from = Some(planned.first_step + planned.num_steps);
                continue;
            }
            let checkpoint = checkpoint.as_ref().filter(|checkpoint| checkpoint.state.stage == planned.name);
            if let Some(checkpoint) = checkpoint {
                resumed_from = Some(checkpoint.state.step);
                shared::say!("continuing after step {}", checkpoint.state.step);
                self.offsets = checkpoint.state.offsets;
            } else if planned.first_step == 0 {
                self.check_adapters()?;
            }
            self.one_stage(planned, checkpoint, &checkpoints)?;
        }
        Ok(resumed_from)
    }

    /// Refuses a later stage's adapters that have no layer to stand beside, before the first step: training changes no names.
    fn check_adapters(&self) -> Result<()> {
        let later = self.plan.iter().skip(1).map(|planned| self.config.stage(planned.name));
        let adapters: Vec<&LoraConfig> = later.filter_map(|keys| keys.lora.as_ref()).collect();
        let Some(first) = self.plan.first().filter(|_| !adapters.is_empty()) else { return Ok(()) };
        let (stage, dtype) = (Stage::new(self.config, first.name), self.config.dtype.on(&self.device));
        let mut model = student::open(&self.base, &stage, &self.device, dtype)?;
        adapters.into_iter().try_for_each(|keys| lora::check(&mut model, keys))
    }

    /// Whether an earlier call finished this stage; then its results are the next one's start.
    fn already_done(&mut self, planned: Planned) -> Result<bool> {
        let dir = self.stage_dir(planned.name);
        let path = dir.join("done.json");
        if !path.exists() {
            return Ok(false);
        }
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let end: StageEnd =
            serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", path.display()))?;
        refuse_differences(&dir, &end.identity, &self.identity)?;
        self.offsets = end.offsets;
        self.move_on(planned.name)?;
        Ok(true)
    }

    fn stage_dir(&self, name: StageName) -> PathBuf {
        self.config.out.join(STAGES).join(name.as_str())
    }

    /// Takes what a finished stage left as the next one's start, and drops what served it alone.
    fn move_on(&mut self, name: StageName) -> Result<()> {
        let dir = self.stage_dir(name);
        let (student, recalibrator) = (dir.join("student"), dir.join(RECALIBRATOR));
        if student.exists() {
            self.base = student;
        }
        if recalibrator.exists() {
            self.recalibrator = Some(recalibrator);
        }
        match name {
            StageName::Align => StudentFeatures::remove(&self.config.out),
            StageName::Distill | StageName::Finetune => Ok(()),
        }
    }

    fn one_stage(
        &mut self,
        planned: Planned,
        checkpoint: Option<&Checkpoint>,
        checkpoints: &Checkpoints,
    ) -> Result<()> {
        let trainer = self.trainer(planned)?;
        let mut stage_loop = StageLoop {
            config: self.config,
            identity: &self.identity,
            source: &self.source,
            trainer,
            first_step: planned.first_step,
            num_steps: planned.num_steps,
        };
        let (ended, offsets) = stage_loop.run(checkpoint, self.offsets, checkpoints)?;
        if let Ended::Stopped(reason) = ended {
            bail!("stopped: {reason}; what is done is kept\nhint: the same command continues");
        }
        let StageLoop { mut trainer, .. } = stage_loop;
        self.offsets = offsets;
        if self.config.ema.export {
            trainer.swap_ema()?;
        }
        self.leave(planned.name, &trainer)
    }

    /// Publishes what a stage has learnt.
    fn leave(&mut self, name: StageName, trainer: &Trainer) -> Result<()> {
        let dir = self.stage_dir(name);
        let end = StageEnd { identity: self.identity.clone(), offsets: self.offsets };
        let params = trainer.optimizer.params();
        publish(&dir, |dir| {
            if !trainer.model.params.is_empty() {
                let exact = Some(candle_core::DType::F32);
                let lora = trainer.keys.lora.as_ref();
                student::export(&self.base, &dir.join("student"), params, exact, lora)?;
            }
            if let Some(side) = &trainer.teacher {
                side.recalibrator.save(&dir.join(RECALIBRATOR)).context("cannot write the Recalibrator")?;
            }
            std::fs::write(dir.join("done.json"), serde_json::to_vec_pretty(&end)?)
                .context("cannot write the stage's end")
        })?;
        self.move_on(name)
    }

    /// Writes the result and the summary.
    fn finish(self, start: Instant, resumed_from: Option<usize>) -> Result<Summary> {
        let out = &self.config.out;
        let student = out.join("student");
        if !student.exists() {
            // The last stage left float32; the result has the type the student came in.
            let dtype = student::stored_dtype(&self.config.student)?;
            student::export(&self.base, &student, &[], Some(dtype), None)?;
        }
        let rows = read_rows(out)?;
        let summary = Summary {
            run: out.clone(),
            stages: self.config.stages(),
            samples: self.source.num_train(),
            steps: self.plan.iter().map(|planned| planned.num_steps).sum(),
            last: rows.last().cloned(),
            evaluations: last_evaluations(&rows),
            seconds: start.elapsed().as_secs_f64(),
            peak_rss_bytes: peak_rss_bytes(),
            resumed_from,
            student,
        };
        publish_file(&out.join(SUMMARY), &serde_json::to_vec_pretty(&summary)?)?;
        clear_away(out)?;
        report(out)?;
        Ok(summary)
    }
}

/// Removes what serves a run that is under way alone.
fn clear_away(out: &Path) -> Result<()> {
    let images = Spill::path(out);
    match images.exists() {
        true => std::fs::remove_file(&images).with_context(|| format!("cannot remove {}", images.display())),
        false => Ok(()),
    }
}

/// Writes a finished run's report.
fn report(out: &Path) -> Result<()> {
    let shown =
        ReportOptions { title: report::TITLE.into(), runs: vec![out.to_owned()], evaluations: Vec::new() };
    report::write(&report::render(&shown)?.page, &out.join(REPORT))
}
