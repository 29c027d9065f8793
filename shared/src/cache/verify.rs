//! Finding any damage: every byte against its digest, every row against its invariants.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use super::commit::{Places, digest_of, unlisted};
use super::error::{CacheError, Result};
use super::manifest::{FileEntry, Manifest};
use super::reader::CacheReader;

/// What a verification found.
#[derive(Debug, Default)]
pub struct VerifyReport {
    /// Files whose digest was compared, the manifest included.
    pub files: u64,
    /// Bytes of these files.
    pub bytes: u64,
    /// Samples that were decoded.
    pub samples: u64,
    /// Everything that is wrong; empty for a sound cache.
    pub problems: Vec<CacheError>,
}

/// Verifies the cache at `dir`: the digest of every file, then every row of every sound shard.
/// `progress` is told the bytes done and in all, from several threads.
///
/// # Errors
/// If there is no readable manifest, so that nothing can be said about the rest.
pub fn verify(dir: impl AsRef<Path>, progress: impl Fn(u64, u64) + Sync) -> Result<VerifyReport> {
    let dir = dir.as_ref();
    let mut manifest = Manifest::load(dir)?;
    let mut sound = HashSet::new();
    let problems = loop {
        let problems = check_files(dir, &manifest, &mut sound, &progress)?;
        let now = Manifest::load(dir)?;
        if problems.is_empty() || now == manifest {
            break problems;
        }
        // A writer has committed meanwhile, and replaced what is no longer as it was: what is left to check is little.
        manifest = now;
    };
    let files = manifest.files().count() as u64 + 1;
    let bytes = manifest.files().map(|entry| entry.bytes).sum();
    let mut report = VerifyReport { files, bytes, samples: 0, problems };
    if report.problems.is_empty() {
        check_rows(dir, &mut report).unwrap_or_else(|problem| report.problems.push(problem));
    }
    Ok(report)
}

/// Checks the files that are not yet known to be sound, and notes those that are.
fn check_files(
    dir: &Path,
    manifest: &Manifest,
    sound: &mut HashSet<FileEntry>,
    progress: &(impl Fn(u64, u64) + Sync),
) -> Result<Vec<CacheError>> {
    let files: Vec<&FileEntry> = manifest.files().filter(|entry| !sound.contains(*entry)).collect();
    let total = files.iter().map(|entry| entry.bytes).sum();
    let done = AtomicU64::new(0);
    let places = Places::of(dir);
    let check = |entry: &&FileEntry| {
        let outcome = places.open(entry, |path| check_file(path, entry));
        let before = done.fetch_add(entry.bytes, Ordering::Relaxed);
        progress(before + entry.bytes, total);
        outcome.err()
    };
    let outcomes: Vec<Option<CacheError>> = files.par_iter().map(check).collect();
    let checked = files.into_iter().zip(&outcomes);
    sound.extend(checked.filter(|(_, problem)| problem.is_none()).map(|(entry, _)| entry.clone()));
    let mut problems: Vec<CacheError> = outcomes.into_iter().flatten().collect();
    problems.extend(unlisted(dir, manifest)?.into_iter().map(|path| CacheError::Unlisted { path }));
    Ok(problems)
}

fn check_file(path: &Path, entry: &FileEntry) -> Result<()> {
    let found = digest_of(path)?;
    if found != entry.digest {
        let reason = format!("content digest {found}, expected {}", entry.digest);
        return Err(CacheError::damaged(path, None, reason));
    }
    Ok(())
}

/// The digests hold, so what fails here was wrong when it was written.
fn check_rows(dir: &Path, report: &mut VerifyReport) -> Result<()> {
    let reader = CacheReader::open(dir)?;
    let check = |i: usize| -> Result<()> {
        reader.meta(i)?;
        reader.image_files(i)?;
        reader.features(i).map(drop)
    };
    report.samples = reader.len() as u64;
    report.problems.par_extend((0..reader.len()).into_par_iter().filter_map(|i| check(i).err()));
    if let Err(problem) = reader.quarantined() {
        report.problems.push(problem);
    }
    Ok(())
}
