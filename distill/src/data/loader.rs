//! Reads batches ahead of the step, on threads of its own, through a bounded queue.
//!
//! What a step gets depends on the sampler alone: threads only decide how soon it comes.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rayon::prelude::*;

use super::ahead::Ahead;
use super::index::Skipped;
use super::sampler::Sampler;
use super::source::{Sample, Source};
use super::teacher_sample::TeacherNeed;
use crate::config::DataConfig;

/// The samples of one step.
#[derive(Debug)]
pub struct Batch {
    /// In the sampler's order.
    pub samples: Vec<Arc<Sample>>,
    /// Samples of this step that could not be used.
    pub skipped: Vec<Skipped>,
}

impl Batch {
    fn num_bytes(&self) -> usize {
        self.samples.iter().map(|sample| sample.num_bytes()).sum()
    }
}

/// Hands out the batches of a range of steps, in order.
#[derive(Debug)]
pub struct Loader {
    batches: Option<Receiver<Batch>>,
    thread: Option<JoinHandle<()>>,
    ahead: Arc<Ahead>,
    stall: Duration,
}

impl Loader {
    /// Starts reading.
    ///
    /// # Errors
    /// When threads cannot be started.
    pub fn start(
        source: Arc<Source>,
        mut sampler: Sampler,
        steps: Range<usize>,
        need: TeacherNeed,
        config: &DataConfig,
    ) -> Result<Self> {
        let builder = rayon::ThreadPoolBuilder::new().num_threads(config.workers);
        let builder = builder.thread_name(|n| format!("loader-{n}")).start_handler(|_| yield_to_training());
        let pool = builder.build().context("cannot start a thread")?;
        let (sender, batches) = sync_channel(config.prefetch);
        let ahead = Arc::new(Ahead::new(config.half_memory_bytes()));
        let room = ahead.clone();
        let work = move || {
            yield_to_training();
            let mut next = sampler.batch(steps.start);
            for step in steps {
                // The next step's pages come from the disk while this step's samples are encoded.
                let these = std::mem::replace(&mut next, sampler.batch(step + 1));
                source.will_need(&next, need);
                let batch = pool.install(|| read(&source, &these, need));
                if !room.enter(batch.num_bytes()) || sender.send(batch).is_err() {
                    // The run has stopped.
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("loader".into()).spawn(work);
        let thread = Some(thread.context("cannot start a thread")?);
        Ok(Self { batches: Some(batches), thread, ahead, stall: Duration::ZERO })
    }

    /// The next step's samples.
    ///
    /// # Errors
    /// When the reading thread has died.
    pub fn next_batch(&mut self) -> Result<Batch> {
        let start = Instant::now();
        let batches = self.batches.as_ref().context("the loader is closed")?;
        let batch = batches.recv().context("the thread that reads samples ahead has stopped")?;
        self.stall += start.elapsed();
        self.ahead.leave(batch.num_bytes());
        Ok(batch)
    }

    /// The time spent waiting since this was last asked.
    pub fn take_stall(&mut self) -> Duration {
        std::mem::take(&mut self.stall)
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // Closing the queue and its budget ends the thread at its next batch.
        self.batches = None;
        self.ahead.close();
        if let Some(thread) = self.thread.take() {
            // A panic there has already been reported.
            let _ = thread.join();
        }
    }
}

/// Tells the system that the calling thread works ahead of others: when a batch is taken and it wakes up for the next one, it
/// must not push the thread that took it off its core.
fn yield_to_training() {
    #[cfg(target_os = "linux")]
    // SAFETY: zero is a valid value of this struct of integers, which outlives the call; 0 means the calling thread. Where the
    // system refuses, nothing changes.
    unsafe {
        let priority: libc::sched_param = std::mem::zeroed();
        libc::sched_setscheduler(0, libc::SCHED_BATCH, &priority);
    }
}

/// Reads samples in parallel, in order.
pub fn read(source: &Source, indices: &[usize], need: TeacherNeed) -> Batch {
    let results: Vec<_> = indices.par_iter().map(|index| source.sample(*index, need)).collect();
    let mut batch = Batch { samples: Vec::with_capacity(results.len()), skipped: Vec::new() };
    for result in results {
        match result {
            Ok(sample) => batch.samples.push(sample),
            Err(skipped) => batch.skipped.push(skipped),
        }
    }
    batch
}
