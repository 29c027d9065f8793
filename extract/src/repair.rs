//! `extract repair`: what is damaged goes, what is sound stays, and the teacher runs again on the rest.
//!
//! Until the rest is there the cache is not complete, so that a repair which was ended or had too little data goes on.

use std::fmt;

use anyhow::{Result, bail};
use serde::Serialize;
use shared::cache::{Manifest, salvage};

use crate::cli::RepairArgs;
use crate::config::{RunConfig, Settings, required};
use crate::run::{self, TeacherFiles};
use crate::summary::Summary;

/// What was repaired.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Repaired {
    /// Files that were damaged or missing.
    pub damaged: Vec<String>,
    /// Samples that the damage had taken.
    pub lost: u64,
    /// Samples of damaged shards that were sound.
    pub saved: u64,
    /// The run that followed: `written` says how many samples were extracted again.
    pub run: Option<Summary>,
}

impl fmt::Display for Repaired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(run) = &self.run else { return write!(f, "nothing is damaged") };
        if self.damaged.is_empty() {
            return write!(
                f,
                "nothing is damaged; the cache was unfinished, {} samples were extracted",
                run.written
            );
        }
        self.damaged.iter().try_for_each(|file| writeln!(f, "damaged: `{file}`"))?;
        write!(
            f,
            "{} samples were sound, {} were lost, {} extracted again",
            self.saved, self.lost, run.written
        )
    }
}

/// Repairs the cache with the teacher and the data it was made from.
///
/// # Errors
/// When the teacher or the settings are not the cache's, when the manifest itself is damaged, or when the data no longer
/// has what was lost.
pub fn repair(args: RepairArgs) -> Result<Repaired> {
    let RepairArgs { cache, mut run } = args;
    run.out = cache.or(run.out);
    let settings = Settings::load(&run.common, run.overrides())?;
    let dir = required(settings.cache.dir, "the cache", "CACHE", "cache.dir")?;
    run.take_from(&Manifest::load(&dir)?)?;
    let config = RunConfig::decide(&run)?;
    let found = {
        let files = TeacherFiles::open(&config)?;
        salvage(&dir, &run::identity(&config, &files)?, run::writer_options(&config))?
    };
    let manifest = Manifest::load(&dir)?;
    let run = match (manifest.complete, found.files.is_empty()) {
        (true, true) => None,
        (_, is_sound) => {
            // How much an earlier repair still owed is not known.
            if is_sound {
                require_all(&manifest, &config)?;
            }
            Some(run::run_owing(&config, found.lost)?)
        }
    };
    let again = run.as_ref().map_or(0, |run| run.written);
    if again < found.lost {
        bail!(
            "{} samples were lost and {again} extracted again\nhint: give `--data` everything that the cache was made from",
            found.lost
        );
    }
    Ok(Repaired { damaged: found.files, lost: found.lost, saved: found.saved, run })
}

/// Refuses data without a file that the unfinished cache was made from.
fn require_all(manifest: &Manifest, config: &RunConfig) -> Result<()> {
    let given = run::digests(&run::open_dataset(config)?)?;
    let is_given = |digest: &String| given.values().any(|other| other == digest);
    if let Some((file, _)) = manifest.dataset.iter().find(|(_, digest)| !is_given(digest)) {
        bail!(
            "`{}` is unfinished, and `{file}`, which it was made from, is not in the data\nhint: give `--data` \
             everything that the cache was made from; `extract run` continues with other data",
            config.out.display()
        );
    }
    Ok(())
}
