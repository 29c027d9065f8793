//! A run: its stages in order, each from the checkout that the one before it left.
//!
//! ```text
//! RUN/config.toml, run.json       as resolved; what the run is made from
//! RUN/checkpoints/step-N/         the newest, while a stage runs
//! RUN/stages/<name>/              what a stage left: recalibrator.safetensors, student/ (float32)
//! RUN/student_features/           of the frozen student, where stage align sees samples more than once
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
use shared::models::{self, Model, Processor};

use super::checkpoint::{Checkpoint, Checkpoints, publish, publish_file, refuse_differences};
use super::ema::Ema;
use super::identity::{claim, identity};
use super::lock::RunLock;
use super::metrics::{Offsets, Row, peak_rss_bytes};
use super::optim::AdamW;
use super::progress::LINE_EVERY;
use super::schedule::Schedule;
use super::stage_loop::{Ended, StageLoop, append_skipped};
use super::step::{MethodSide, RecomputedSides, Trainer};
use super::student_features::StudentFeatures;
use super::teacher::{Start, TeacherSide, require_all_tokens, teacher_head};
use crate::config::{LoraConfig, RunConfig, StageName};
use crate::data::mixture::Caches;
use crate::data::source::Source;
use crate::data::spill::Spill;
use crate::lora;
use crate::methods;
use crate::report::{self, ReportOptions};
use crate::stage::{RecalibratorRole, Stage};
use crate::student;

const SUMMARY: &str = "summary.json";
const RECALIBRATOR: &str = "recalibrator.safetensors";

/// What a run did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The run's folder.
    pub run: PathBuf,
    /// The stages that the run consists of, in order.
    pub stages: Vec<StageName>,
    /// Samples that train.
    pub samples: usize,
    /// Steps done in all.
    pub steps: usize,
    /// The last step.
    pub last: Option<Row>,
    /// The last evaluation of each stage that has one.
    pub evaluations: Vec<Row>,
    /// Seconds of this call.
    pub seconds: f64,
    /// The most memory the process held.
    pub peak_rss_bytes: u64,
    /// The step this call continued from; absent for a fresh run.
    pub resumed_from: Option<usize>,
    /// The trained student.
    pub student: PathBuf,
}

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
    let base_identity = identity(config, &device, &processor, caches.as_deref())?;
    std::fs::create_dir_all(out).with_context(|| format!("cannot write {}", out.display()))?;
    claim(out, &base_identity)?;
    if let Some(summary) = read_summary(out)? {
        shared::say!("{} is done", out.display());
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
        recalibrator: None,
        offsets: Offsets::default(),
    };
    let resumed_from = run.all_stages()?;
    run.finish(start, resumed_from)
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
        let checkpoint = checkpoints.latest()?;
        if let Some(checkpoint) = &checkpoint {
            checkpoint.check(&self.identity)?;
        }
        if !self.source.skipped.is_empty() && checkpoint.is_none() {
            append_skipped(&self.config.out, &self.source.skipped)?;
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
        self.move_on(&dir);
        Ok(true)
    }

    fn stage_dir(&self, name: StageName) -> PathBuf {
        self.config.out.join("stages").join(name.as_str())
    }

    fn move_on(&mut self, dir: &Path) {
        let (student, recalibrator) = (dir.join("student"), dir.join(RECALIBRATOR));
        if student.exists() {
            self.base = student;
        }
        if recalibrator.exists() {
            self.recalibrator = Some(recalibrator);
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
        self.move_on(&dir);
        Ok(())
    }

    /// Loads what a stage needs, from where the last one ended.
    fn trainer(&self, planned: Planned) -> Result<Trainer> {
        let stage = Stage::new(self.config, planned.name);
        let keys = self.config.stage(planned.name).clone();
        let recomputed = RecomputedSides::default();
        let mut model = student::open(&self.base, &stage, &self.device, self.config.dtype.on(&self.device))?;
        if let Some(keys) = &keys.lora {
            lora::adapt(&mut model, keys, self.config.seed)?;
        }
        let recompute = self.config.memory.recompute.applies(model.body.decoder(), keys.microbatch_tokens);
        if recompute {
            model.body.recompute(recomputed.student.clone());
        }
        let mut params = student::params(&model);
        let teacher = match (&self.caches, stage.recalibrator) {
            (_, RecalibratorRole::Absent) => None,
            (None, _) => bail!("stage {} needs a cache", planned.name.as_str()),
            (Some(caches), role) => {
                if stage.regularisation {
                    require_all_tokens(caches)?;
                }
                let start = Start {
                    file: self.recalibrator.as_deref(),
                    trains: role == RecalibratorRole::Trains,
                    regularisation: stage.regularisation,
                    seed: self.config.seed,
                    student: &self.base,
                };
                let mut side = TeacherSide::open(&self.config.recalibrator, caches.first(), &model, &start)?;
                if recompute {
                    side.recalibrator.recompute(recomputed.recalibrator.clone());
                }
                params.extend(side.params());
                Some(side)
            }
        };
        let method = self.method_side(&stage, &model)?;
        params.extend(method.iter().flat_map(|side| side.method.params()));
        if params.is_empty() {
            bail!("stage {} trains nothing", planned.name.as_str());
        }
        let num_trained: usize = params.iter().map(|param| param.var.elem_count()).sum();
        shared::say!(
            "stage {} trains {num_trained} weights, {} of them the student's",
            planned.name.as_str(),
            model.params.num_elements()
        );
        let student_features = self.student_features(planned, &model)?;
        let averaged = self.config.ema.decay > 0.0;
        let ema = averaged.then(|| Ema::new(self.config.ema.decay, &params)).transpose()?;
        let optimizer = AdamW::new((&keys).into(), self.config.memory.optimizer, params)?;
        let schedule = Schedule::new(&keys, planned.num_steps);
        let loss = self.config.loss.clone();
        Ok(Trainer {
            stage,
            schedule,
            loss,
            model,
            teacher,
            method,
            student_features,
            recomputed,
            optimizer,
            ema,
            evaluates_ema: self.config.ema.evaluate,
            keys,
        })
    }

    /// Where a stage with a frozen student keeps its features. A student is its weights and what encodes its samples.
    fn student_features(&self, planned: Planned, model: &Model) -> Result<Option<StudentFeatures>> {
        let keys = self.config.stage(planned.name);
        if !keys.keeps_features(planned.num_steps, self.source.num_train()) {
            return Ok(None);
        }
        let fields = self.identity.fields.iter();
        let of_student = fields.filter(|(field, _)| {
            field.starts_with("student ") || ["device", "dtype"].contains(&field.as_str())
        });
        let identity = Fingerprint { fields: of_student.map(|(k, v)| (k.clone(), v.clone())).collect() };
        let dir = self.config.out.join("student_features");
        let width = model.body.decoder().hidden_size;
        StudentFeatures::open(&dir, &identity, width, (&model.device, model.dtype)).map(Some)
    }

    /// The method without a Recalibrator, if this stage has one.
    fn method_side(&self, stage: &Stage, model: &Model) -> Result<Option<MethodSide>> {
        let Some(caches) = self.caches.as_ref().filter(|_| stage.method) else { return Ok(None) };
        let cache = caches.first();
        let Some(method) = methods::open(self.config, model, cache.width())? else { return Ok(None) };
        let head = teacher_head(cache, &model.device, model.dtype)?;
        methods::check(self.config.method, method.as_ref(), cache, &self.source)?;
        Ok(Some(MethodSide { method, head }))
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
        let evaluated = rows.iter().filter(|row| row.eval != Default::default());
        let mut evaluations: Vec<Row> = Vec::new();
        for row in evaluated {
            evaluations.retain(|earlier| earlier.stage != row.stage);
            evaluations.push(row.clone());
        }
        let summary = Summary {
            run: out.clone(),
            stages: self.config.stages(),
            samples: self.source.num_train(),
            steps: self.plan.iter().map(|planned| planned.num_steps).sum(),
            last: rows.last().cloned(),
            evaluations,
            seconds: start.elapsed().as_secs_f64(),
            peak_rss_bytes: peak_rss_bytes(),
            resumed_from,
            student,
        };
        publish_file(&out.join(SUMMARY), &serde_json::to_vec_pretty(&summary)?)?;
        let images = Spill::path(out);
        if images.exists() {
            std::fs::remove_file(&images).with_context(|| format!("cannot remove {}", images.display()))?;
        }
        let shown =
            ReportOptions { title: report::TITLE.into(), runs: vec![out.clone()], evaluations: Vec::new() };
        report::write(&report::render(&shown)?.page, &out.join("report.html"))?;
        Ok(summary)
    }
}

/// What a finished run says of itself; `None` when it is not finished.
///
/// # Errors
/// When the file cannot be read or is damaged.
pub fn read_summary(out: &Path) -> Result<Option<Summary>> {
    let path = out.join(SUMMARY);
    if !path.exists() {
        return Ok(None);
    }
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&bytes).map(Some).with_context(|| format!("{} is damaged", path.display()))
}

fn read_rows(out: &Path) -> Result<Vec<Row>> {
    let path = out.join(super::metrics::FILE_NAME);
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let rows = text.lines().map(serde_json::from_str::<Row>);
    rows.collect::<Result<_, _>>().with_context(|| format!("{} is damaged", path.display()))
}
