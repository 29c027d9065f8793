//! One stage: from its checkpoint or its beginning to its last step.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::Result;
use shared::ids::Fingerprint;

use super::checkpoint::{Checkpoint, Checkpoints, FORMAT_VERSION, State};
use super::metrics::{EvalRow, Row, peak_rss_bytes};
use super::progress::Progress;
use super::run_log::{Offsets, RunLog};
use super::step::{StepReport, Trainer};
use crate::config::{RunConfig, StageName};
use crate::data::index::{Skipped, check_budget};
use crate::data::loader::{Loader, read};
use crate::data::sampler::{Buckets, Sampler};
use crate::data::source::{Sample, Source};
use crate::data::teacher_sample::TeacherNeed;

/// Set by an interrupt: the step under way is finished, a checkpoint written, and the run ends.
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// What a stage's loop works on.
pub struct StageLoop<'a> {
    /// The run's keys.
    pub config: &'a RunConfig,
    /// The run's identity, kept in every checkpoint.
    pub identity: &'a Fingerprint,
    /// Where the samples come from.
    pub source: &'a Arc<Source>,
    /// The model and its optimizer.
    pub trainer: Trainer,
    /// Steps of the stages before this one.
    pub first_step: usize,
    /// Steps of this stage.
    pub num_steps: usize,
}

/// How a stage's loop ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// All steps are done.
    Done,
    /// Stopped on request, with a checkpoint; for this reason.
    Stopped(&'static str),
}

impl StageLoop<'_> {
    /// Runs the stage, from `checkpoint` if there is one.
    ///
    /// # Errors
    /// When a step fails, too many samples are unusable, or nothing can be written.
    pub fn run(
        &mut self,
        checkpoint: Option<&Checkpoint>,
        offsets: Offsets,
        checkpoints: &Checkpoints,
    ) -> Result<(Ended, Offsets)> {
        let (mut done, mut num_skipped) =
            checkpoint.map_or((0, 0), |it| (it.state.stage_step, it.state.num_skipped));
        let (sampler, need) = (self.sampler()?, self.need());
        // It reads the first batch while all the rest is made ready.
        let mut loader =
            Loader::start(self.source.clone(), sampler, done..self.num_steps, need, &self.config.data)?;
        if let Some(checkpoint) = checkpoint {
            checkpoint.restore(&mut self.trainer.optimizer, self.trainer.ema.as_ref())?;
        }
        let mut log = RunLog::open(&self.config.out, offsets)?;
        if checkpoint.is_none() && self.first_step == 0 {
            log.skip(&self.source.skipped)?;
        }
        let mut progress = Progress::new(self.trainer.stage.name.as_str(), self.num_steps, done);
        let held_out = self.held_out(need, checkpoint.is_none(), &mut log, &progress)?;
        while done < self.num_steps {
            let start = Instant::now();
            let batch = loader.next_batch()?;
            log.skip(&batch.skipped)?;
            num_skipped += self.note_skipped(&progress, &batch.skipped, num_skipped, done)?;
            // Where none of them can be used and that many may be bad, the step changes nothing and counts.
            let report = self.trainer.step(done, &batch.samples).map_err(|error| self.advised(error))?;
            let stall = loader.take_stall().as_secs_f64();
            let seconds = start.elapsed().as_secs_f64();
            done += 1;
            let eval = match self.evaluates(done) && !held_out.is_empty() {
                true => self.trainer.evaluate(&held_out)?,
                false => EvalRow::default(),
            };
            let row = self.row(done, &report, eval, seconds, stall);
            log.append(&row)?;
            progress.step(done, &row);
            let stop = self.stops(done);
            let is_due = done == self.num_steps || done.is_multiple_of(self.config.checkpoint.every);
            if stop.is_some() || is_due {
                let state = self.state(done, num_skipped, log.sync()?);
                checkpoints.save(&state, &self.trainer.optimizer, self.trainer.ema.as_ref())?;
            }
            if let Some(reason) = stop {
                return Ok((Ended::Stopped(reason), log.sync()?));
            }
        }
        Ok((Ended::Done, log.sync()?))
    }

    /// A GPU's memory is smaller than a host's, and what fills it has keys.
    fn advised(&self, error: anyhow::Error) -> anyhow::Error {
        let said = format!("{error:#}");
        if !["OUT_OF_MEMORY", "ALLOC_FAILED"].iter().any(|failure| said.contains(failure)) {
            return error;
        }
        let stage = self.trainer.stage.name.as_str();
        error.context(format!(
            "the device has too little memory for a step of stage {stage}\n\
             hint: lower `{stage}.microbatch_tokens`, or `memory.recompute=always`, or train less: `distill.train`, `distill.lora.rank`"
        ))
    }

    fn need(&self) -> TeacherNeed {
        match &self.trainer.stage {
            stage if stage.regularisation => TeacherNeed::All,
            stage if stage.alignment || stage.method => TeacherNeed::Answers,
            _ => TeacherNeed::Nothing,
        }
    }

    /// The order differs from stage to stage, and is the same for a stage of every method: runs compare. Stages
    /// are counted from the last.
    ///
    /// # Errors
    /// When a cache of a mixture would never be drawn from.
    fn sampler(&self) -> Result<Sampler> {
        let place = StageName::Finetune as u64 - self.trainer.stage.name as u64;
        let seed = self.config.seed.wrapping_add(place << 32);
        let sampler = Sampler::new(seed, self.source.num_train(), self.trainer.keys.batch_size);
        let sampler = sampler.ordered(self.source.order(self.config.data.groups_at_once)?);
        Ok(match self.config.data.bucket_steps {
            1 => sampler,
            bucket_steps => sampler.bucketed(Buckets {
                lengths: self.source.lengths(),
                bucket_steps,
                num_steps: self.num_steps,
            }),
        })
    }

    /// The held-out samples. One that cannot be used is left out of the evaluation and listed, when the stage begins; the
    /// budget is for training.
    fn held_out(
        &self,
        need: TeacherNeed,
        is_beginning: bool,
        log: &mut RunLog,
        progress: &Progress,
    ) -> Result<Vec<Arc<Sample>>> {
        let indices: Vec<usize> = self.source.held_out().collect();
        let batch = read(self.source, &indices, need.min(TeacherNeed::Answers));
        if is_beginning {
            log.skip(&batch.skipped)?;
            for sample in &batch.skipped {
                progress.note(&format!("left out of the evaluation: {}: {}", sample.place, sample.reason));
            }
            let is_controlled = self.trainer.teacher.is_some();
            match batch.samples.len() {
                0 if !indices.is_empty() => progress.note("no held-out sample can be used: no evaluation"),
                1 if is_controlled => progress.note(
                    "one held-out sample can be used: no other to exchange questions with, no `control_shuffled`",
                ),
                _ => {}
            }
        }
        Ok(batch.samples)
    }

    fn evaluates(&self, done: usize) -> bool {
        let every = self.config.eval.every;
        done == self.num_steps || (every > 0 && done.is_multiple_of(every))
    }

    fn stops(&self, done: usize) -> Option<&'static str> {
        let limit = self.config.checkpoint.stop_after_steps;
        if INTERRUPTED.load(Ordering::Relaxed) {
            return Some("interrupted");
        }
        (limit > 0 && self.first_step + done >= limit).then_some("`checkpoint.stop_after_steps` reached")
    }

    fn row(&self, done: usize, report: &StepReport, eval: EvalRow, seconds: f64, stall: f64) -> Row {
        Row {
            stage: self.trainer.stage.name,
            step: self.first_step + done,
            loss: report.loss,
            terms: report.terms.clone(),
            eval,
            lr: report.lr,
            grad_norm: report.grad_norm,
            tokens_per_second: report.num_tokens as f64 / seconds.max(1e-9),
            peak_rss_bytes: peak_rss_bytes(),
            loader_stall: stall / seconds.max(1e-9),
        }
    }

    fn state(&self, done: usize, num_skipped: usize, offsets: Offsets) -> State {
        State {
            format_version: FORMAT_VERSION,
            identity: self.identity.clone(),
            stage: self.trainer.stage.name,
            stage_step: done,
            step: self.first_step + done,
            num_updates: done as u64,
            num_skipped,
            offsets,
        }
    }

    /// Names samples that could not be used, and stops once they are too many; how many they are.
    fn note_skipped(
        &self,
        progress: &Progress,
        skipped: &[Skipped],
        so_far: usize,
        done: usize,
    ) -> Result<usize> {
        if skipped.is_empty() {
            return Ok(0);
        }
        for sample in skipped {
            progress.note(&format!("left out: {}: {}", sample.place, sample.reason));
        }
        let drawn = (done + 1) * self.trainer.keys.batch_size;
        check_budget(skipped, so_far + skipped.len(), drawn, self.config.data.max_bad)?;
        Ok(skipped.len())
    }
}
