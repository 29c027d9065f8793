//! `extract merge` and `extract subset`: rows of finished caches into another one of the same fingerprint.
//!
//! Rows go through the reader with every check and through the writer with its commit protocol, so that a killed copy
//! continues with the same command, and damage never travels.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use indicatif::{HumanBytes, HumanCount};
use rayon::prelude::*;
use serde::Serialize;
use shared::cache::{CacheIdentity, CacheReader, CacheWriter, Manifest, Row, SampleMeta, WriterOptions};

use crate::cli::{MergeArgs, SubsetArgs};
use crate::conditions::Condition;
use crate::config::Settings;
use crate::embedded;
use crate::error::{Interrupted, Usage};
use crate::progress::{Unit, bar};
use crate::stop::{self, Stop};

/// Rows in memory at a time.
const ROWS_AT_ONCE: usize = 64;

/// What a copy did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Copied {
    /// Samples in the new cache.
    pub samples: u64,
    /// Samples that this command added to it.
    pub written: u64,
    /// Samples of the sources that were left out: by the conditions, or because the new cache had them.
    pub left_out: u64,
    /// Bytes of the new cache's shards.
    pub bytes: u64,
    /// The new cache's fingerprint, which is the sources'.
    pub fingerprint: String,
}

impl fmt::Display for Copied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (samples, written, left_out) =
            (HumanCount(self.samples), HumanCount(self.written), HumanCount(self.left_out));
        write!(
            f,
            "{samples} samples, {} in shards: {written} added, {left_out} left out",
            HumanBytes(self.bytes)
        )
    }
}

/// The union of caches with one fingerprint; a sample that several have is taken once, from the first.
///
/// # Errors
/// When the fingerprints differ, naming the fields, or a cache cannot be read or written.
pub fn merge(args: &MergeArgs) -> Result<Copied> {
    Settings::load(&args.common, toml::Table::new())?;
    let readers = args.caches.iter().map(CacheReader::open).collect::<Result<Vec<_>, _>>()?;
    let Some((first, others)) = readers.split_first() else {
        return Err(Usage("no cache to merge\nhint: extract merge OUT CACHE CACHE".into()).into());
    };
    for other in others {
        first.require_alike(other)?;
    }
    let mut identity = CacheIdentity::of(first)?;
    for reader in others {
        let Manifest { dataset, lossy_error, selected, .. } = reader.manifest();
        identity.dataset.extend(dataset.clone());
        if let (Some(total), Some(error)) = (&mut identity.lossy_error, lossy_error) {
            total.add(error);
        }
        if identity.selected != *selected {
            identity.selected.clear();
        }
    }
    copy(&args.out, identity, &readers, &[])
}

/// The samples of a cache that meet every condition.
///
/// # Errors
/// When no condition is given, or a cache cannot be read or written.
pub fn subset(args: &SubsetArgs) -> Result<Copied> {
    Settings::load(&args.common, toml::Table::new())?;
    if args.conditions.is_empty() {
        let hint = "give `--where`, for example `--where 'num_tokens<=1024'`";
        return Err(Usage(format!("nothing says which samples to take\nhint: {hint}")).into());
    }
    let reader = CacheReader::open(&args.cache)?;
    let mut identity = CacheIdentity::of(&reader)?;
    identity.selected.extend(args.conditions.iter().map(Condition::to_string));
    copy(&args.out, identity, std::slice::from_ref(&reader), &args.conditions)
}

fn copy(
    out: &Path,
    identity: CacheIdentity,
    sources: &[CacheReader],
    conditions: &[Condition],
) -> Result<Copied> {
    stop::on_signals();
    refuse_itself(out, sources)?;
    embedded::require_alike(sources)?;
    let stop = Stop::default();
    let mut writer = CacheWriter::open(out, identity, WriterOptions::default())?;
    let (before, mut seen) = (writer.manifest().totals.samples, 0);
    if before > 0 {
        embedded::require_alike(sources.iter().chain([&CacheReader::open(out)?]))?;
    }
    let (total, shown) = (sources.iter().map(CacheReader::len).sum::<usize>() as u64, bar(Unit::Samples));
    for source in sources {
        if !source.manifest().complete {
            shared::say!(
                "`{}` is unfinished: its {} samples are taken as they are",
                source.dir().display(),
                source.len()
            );
        }
        copy_rows(source, &mut writer, conditions, &stop, |done| shown(seen + done, total))?;
        seen += source.len() as u64;
        if conditions.is_empty() {
            source.quarantined()?.into_iter().for_each(|row| writer.quarantine(row));
        }
    }
    if stop.is_raised() {
        writer.commit()?;
        return Err(Interrupted { samples: writer.manifest().totals.samples }.into());
    }
    // A copy that was complete and gained nothing stays as it is, to the byte.
    let is_done =
        writer.manifest().complete && writer.committed_keys().len() as u64 == before && !writer.has_news();
    let manifest = if is_done { writer.manifest().clone() } else { writer.finish()? };
    let written = manifest.totals.samples - before;
    Ok(Copied {
        samples: manifest.totals.samples,
        written,
        left_out: seen - written,
        bytes: manifest.totals.bytes,
        fingerprint: manifest.fingerprint_digest.to_string(),
    })
}

fn refuse_itself(out: &Path, sources: &[CacheReader]) -> Result<()> {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| PathBuf::from(path));
    match sources.iter().any(|source| real(source.dir()) == real(out)) {
        true => {
            bail!("`{}` is a source and the result at once\nhint: give a new directory first", out.display())
        }
        false => Ok(()),
    }
}

fn copy_rows(
    source: &CacheReader,
    writer: &mut CacheWriter,
    conditions: &[Condition],
    stop: &Stop,
    show: impl Fn(u64),
) -> Result<()> {
    let numbers: Vec<usize> =
        (0..source.len()).filter(|&i| !writer.committed_keys().contains(&source.key(i))).collect();
    for some in numbers.chunks(ROWS_AT_ONCE) {
        if stop.is_raised() {
            break;
        }
        let meets = |meta: &SampleMeta| conditions.iter().all(|condition| condition.holds(meta));
        let row = |&i: &usize| -> Option<Result<Row>> {
            // Features are decoded for the samples that are taken, not for the others.
            let taken = conditions.is_empty() || source.meta(i).map_or(true, |meta| meets(&meta));
            taken.then(|| source.row(i).context("repair the source first"))
        };
        let rows = some.par_iter().filter_map(row).collect::<Result<Vec<_>>>()?;
        // Of several sources, the first that has a sample gives it.
        let rows = rows.into_iter().filter(|row| !writer.has(&row.meta.key)).collect();
        writer.append_batch(rows)?;
        show(some.last().map_or(0, |last| *last as u64 + 1));
    }
    Ok(())
}
