//! `extract repair`: what is damaged goes, what is sound stays, and the teacher runs again on the rest.
//!
//! Until the rest is there the cache is not complete, and its manifest says what it is owed, so that a repair which was ended or
//! had too little data goes on.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Result, bail};
use serde::Serialize;
use shared::cache::{
    CacheError, CacheIdentity, Manifest, Owed, Salvaged, mend_manifest, restore_manifest, salvage,
};

use crate::cli::RepairArgs;
use crate::config::{RunConfig, Settings, required};
use crate::part::PartChoice;
use crate::run::{self, TeacherFiles};
use crate::scope::Scope;
use crate::summary::Summary;

/// What was repaired.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Repaired {
    /// Files that were damaged or missing.
    pub damaged: Vec<String>,
    /// Samples that damage had taken, in this or an earlier repair that was ended.
    pub lost: u64,
    /// Samples of damaged shards that were sound.
    pub saved: u64,
    /// The run that followed, if one was needed: `written` says how many samples were extracted again.
    pub run: Option<Summary>,
}

impl fmt::Display for Repaired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let written = self.run.as_ref().map_or(0, |run| run.written);
        if self.damaged.is_empty() && self.lost == 0 {
            return match &self.run {
                None => write!(f, "nothing is damaged"),
                Some(_) => {
                    write!(
                        f,
                        "nothing is damaged; the cache was unfinished, {written} samples were extracted"
                    )
                }
            };
        }
        self.damaged.iter().try_for_each(|file| writeln!(f, "damaged: `{file}`"))?;
        write!(f, "{} samples were sound, {} were lost, {written} extracted again", self.saved, self.lost)
    }
}

/// Repairs the cache with the teacher and the data it was made from.
///
/// # Errors
/// When the teacher or the settings are not the cache's, when the manifest is lost and nothing confirms them, or when
/// the data no longer has what was lost.
pub fn repair(args: RepairArgs) -> Result<Repaired> {
    let RepairArgs { cache, mut run } = args;
    run.out = cache.or(run.out);
    let settings = Settings::load(&run.common, run.overrides())?;
    let dir = required(settings.cache.dir, "the cache", "CACHE", "cache.dir")?;
    // A repair in one task of an array would give back that task's share alone.
    run.part.get_or_insert(PartChoice::ALL);
    let mended = match mend_manifest(&dir) {
        Err(CacheError::BeyondRepair { .. }) => None,
        outcome => Some(outcome?),
    };
    if mended.is_some() {
        run.take_from(&Manifest::load(&dir)?)?;
    }
    let config = RunConfig::decide(&run)?;
    let Salvaged { files, saved, .. } = {
        let files = TeacherFiles::open(&config)?;
        let identity = run::identity(&config, &files)?;
        if mended.is_none() {
            let dataset = run::digests(&run::open_dataset(&config)?)?;
            restore_manifest(&dir, &CacheIdentity { dataset, ..identity.clone() })?;
        }
        salvage(&dir, &identity, run::writer_options(&config))?
    };
    let manifest = Manifest::load(&dir)?;
    let lost = manifest.owed.as_ref().map_or(0, Owed::samples);
    let run = if manifest.complete { None } else { give_back(&config, &manifest)? };
    let damaged =
        mended.unwrap_or(true).then(|| "manifest.json".to_owned()).into_iter().chain(files).collect();
    Ok(Repaired { damaged, lost, saved, run })
}

/// Completes a cache with what it is owed.
fn give_back(config: &RunConfig, manifest: &Manifest) -> Result<Option<Summary>> {
    let scope = Scope::owed(manifest)?;
    if scope.is_empty() {
        let files = TeacherFiles::open(config)?;
        run::open_cache(config, &files, &scope, BTreeMap::new())?.finish()?;
        return Ok(None);
    }
    if manifest.owed.is_none() {
        // How much there is to do nobody has noted.
        require_all(manifest, config)?;
    }
    let run = run::run_within(config, &scope)?;
    let missing = Manifest::load(&config.out)?.owed.as_ref().map_or(0, Owed::samples);
    if missing > 0 {
        bail!(
            "{} samples were lost and {} extracted again\nhint: give `--data` everything that the cache was made from",
            missing + run.written,
            run.written
        );
    }
    Ok(Some(run))
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
