//! A teacher that keeps to `--memory-limit`: its blocks stay in the checkpoint, and its batches follow from what is left.

use anyhow::Result;
use candle_core::Device;
use indicatif::{HumanBytes, HumanCount};
use shared::memory::{AnonymousPeak, anonymous_bytes};
use shared::models::Footprint;

use crate::budget::{Budget, Taken};
use crate::config::RunConfig;
use crate::forward::Teacher;
use crate::run::{TeacherFiles, writer_options};
use crate::summary::Streaming;
use crate::tally::Counts;

/// Tokens of a pass, after which reading the weights costs next to nothing even from a slow disk. What a pass has done comes
/// to the cache at its end, so that longer ones only make an interruption dearer. A GPU is faster, and so are its passes.
const PASS_TOKENS_CPU: usize = 16_384;
const PASS_TOKENS_GPU: usize = 65_536;

/// The teacher and its share of the memory.
pub(crate) struct Streamed {
    pub(crate) teacher: Teacher,
    pub(crate) budget: Budget,
    footprint: Footprint,
    limit_bytes: u64,
}

impl Streamed {
    /// The teacher of this run, if it has a limit.
    ///
    /// # Errors
    /// When the checkpoint is incomplete, or the limit cannot hold what it takes.
    pub(crate) fn open(config: &RunConfig, files: &TeacherFiles) -> Result<Option<Streamed>> {
        let Some(limit) = config.settings.batch.memory_limit else { return Ok(None) };
        let (teacher, footprint) = Teacher::stream(files.weights(config))?;
        let budget = plan(config, files, &footprint, limit.0)?;
        Ok(Some(Streamed { teacher, budget, footprint, limit_bytes: limit.0 }))
    }

    /// The same once all else that stays is in memory: the keys of a long cache, the plan.
    ///
    /// # Errors
    /// When the limit cannot hold that too.
    pub(crate) fn settled(self, config: &RunConfig, files: &TeacherFiles) -> Result<Streamed> {
        let budget = plan(config, files, &self.footprint, self.limit_bytes)?;
        shared::say!(
            "the teacher's weights are {}: blocks are read as they are needed, up to {} at a time, for batches of up to {} tokens",
            HumanBytes(self.footprint.total_bytes as u64),
            HumanBytes(self.footprint.streaming_bytes() as u64),
            HumanCount(budget.max_tokens as u64)
        );
        Ok(Streamed { budget, ..self })
    }

    /// Watches the run's memory from now on.
    pub(crate) fn watch(&self) -> Watch {
        let streaming = Streaming {
            limit_bytes: self.limit_bytes,
            peak_anonymous_bytes: None,
            weight_bytes: self.footprint.total_bytes as u64,
            batch_tokens: self.budget.max_tokens,
            pass_tokens: 0,
            passes: 0,
        };
        Watch { streaming, peak: AnonymousPeak::watch() }
    }
}

/// Divides the limit as memory is now.
fn plan(config: &RunConfig, files: &TeacherFiles, footprint: &Footprint, limit: u64) -> Result<Budget> {
    let is_cpu = matches!(files.device, Device::Cpu);
    let resident = footprint.resident_bytes as u64;
    let taken = Taken {
        // A GPU's memory holds no program and no tokenizer.
        now: if is_cpu { anonymous_bytes().unwrap_or(resident) } else { resident },
        row_group: writer_options(config).row_group_bytes as u64,
    };
    let pass_tokens = if is_cpu { PASS_TOKENS_CPU } else { PASS_TOKENS_GPU };
    let sizes = [config.settings.batch.max_tokens, pass_tokens];
    Budget::plan(limit, taken, footprint, sizes)
}

/// What the summary will say of the limit.
pub(crate) struct Watch {
    streaming: Streaming,
    peak: AnonymousPeak,
}

impl Watch {
    /// What the run took.
    pub(crate) fn end(self, counts: &Counts) -> Streaming {
        Streaming {
            peak_anonymous_bytes: self.peak.end(),
            pass_tokens: counts.largest_pass,
            passes: counts.passes,
            ..self.streaming
        }
    }
}
