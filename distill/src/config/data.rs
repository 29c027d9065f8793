//! The keys of samples: where they come from and how they are read ahead.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use shared::cache::Access;

use crate::cli::UsageError;

/// No machine has more cores; many more threads than that bring it to a stop.
const MOST_WORKERS: usize = 1024;

/// One cache of a mixture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixedCache {
    /// The feature cache.
    pub cache: PathBuf,
    /// Its share of the samples that are drawn is this over the sum of all weights.
    #[serde(default = "one")]
    pub weight: f64,
}

fn one() -> f64 {
    1.0
}

/// Where samples come from and how they are read ahead.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Datasets that hold the messages and images, when the cache does not embed them.
    pub sources: Vec<String>,
    /// The folder that image paths are relative to.
    pub image_root: Option<PathBuf>,
    /// Put image placeholders in front where a row has images but no placeholders.
    pub prepend_image: bool,
    /// Samples longer than this many student tokens are left out and listed.
    pub max_length: usize,
    /// Train on this many samples only, those with the smallest keys, so that a smaller number's are among a larger one's; 0 for
    /// all. Those held out stay the same.
    pub max_samples: usize,
    /// Which of a conversation's answers are learnt: all, or the last one, with those before it as part of the question.
    pub answers: Answers,
    /// Share of samples that may be left out (broken image, no answer, too long) before the run stops.
    pub max_bad: f64,
    /// Memory of encoded samples, in MiB: half for those that are kept for later passes (the rest are encoded again at each
    /// use), half for batches that wait for their step, at least one of them.
    pub memory_mib: usize,
    /// Batches encoded ahead of the step, as many as `memory_mib` has room for.
    pub prefetch: usize,
    /// Threads that encode ahead; 0 for one a core.
    pub workers: usize,
    /// How the cache's files are read: `map`, or `plain` reads for network disks.
    pub read: Access,
    /// Samples of this many steps are sorted by length and dealt anew, so that those of a step are of like length; 1
    /// leaves them as they are drawn.
    pub bucket_steps: usize,
    /// Row groups of the cache that are mixed at a time, so that a disk is read in long stretches; 0 draws from the whole
    /// cache alike.
    pub groups_at_once: usize,
    /// Several caches of one teacher, in place of `cache`, each drawn to its weight.
    pub mixture: Vec<MixedCache>,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            sources: Vec::new(),
            image_root: None,
            prepend_image: false,
            max_length: 4096,
            max_samples: 0,
            answers: Answers::All,
            max_bad: 0.01,
            memory_mib: 512,
            prefetch: 4,
            workers: 0,
            read: Access::Map,
            bucket_steps: 1,
            groups_at_once: 0,
            mixture: Vec::new(),
        }
    }
}

impl DataConfig {
    /// What kept samples may take, and what waiting batches may, in bytes.
    #[must_use]
    pub fn half_memory_bytes(&self) -> usize {
        (self.memory_mib << 20) / 2
    }

    /// Refuses what cannot be read so, beside the one cache of the run if it has one.
    pub(super) fn validate(&self, cache: Option<&Path>) -> Result<()> {
        let usage = |text: String| -> Result<()> { Err(UsageError(text).into()) };
        if self.bucket_steps == 0 {
            return usage("`data.bucket_steps` must be at least 1".into());
        }
        if !(0.0..=1.0).contains(&self.max_bad) {
            return usage("`data.max_bad` is a share, from 0 to 1".into());
        }
        if self.workers > MOST_WORKERS {
            return usage(format!(
                "`data.workers` is {}, and must be at most {MOST_WORKERS}\nhint: 0 takes a thread a core",
                self.workers
            ));
        }
        self.validate_mixture(cache)
    }

    /// Refuses a mixture that says nothing, or too much beside the one cache.
    fn validate_mixture(&self, cache: Option<&Path>) -> Result<()> {
        let mixture = &self.mixture;
        let usage = |text: String| -> Result<()> { Err(UsageError(text).into()) };
        if !mixture.is_empty() && cache.is_some() {
            return usage(
                "both `cache` and `data.mixture` say where features come from\n\
                 hint: make the one cache a line of the mixture"
                    .into(),
            );
        }
        if let Some(wrong) = mixture.iter().find(|mixed| !(mixed.weight > 0.0 && mixed.weight.is_finite())) {
            return usage(format!(
                "the weight of `{}` in `data.mixture` must be above 0",
                wrong.cache.display()
            ));
        }
        let mut caches: Vec<&Path> = mixture.iter().map(|mixed| mixed.cache.as_path()).collect();
        caches.sort_unstable();
        match caches.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => usage(format!("`data.mixture` names `{}` twice", pair[0].display())),
            None => Ok(()),
        }
    }
}

/// Which answers of a conversation are learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answers {
    /// Every turn of the assistant.
    All,
    /// The last one.
    Last,
}
