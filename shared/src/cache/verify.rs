//! Finding any damage: every byte against its digest, every row against its invariants.

use std::path::Path;

use rayon::prelude::*;

use super::commit::{digest_of, locate, unlisted};
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
    let manifest = Manifest::load(dir)?;
    let total = manifest.files().map(|entry| entry.bytes).sum();
    let done = std::sync::atomic::AtomicU64::new(0);
    let files: Vec<&FileEntry> = manifest.files().collect();
    let check = |entry: &&FileEntry| {
        let outcome = check_file(dir, entry);
        let before = done.fetch_add(entry.bytes, std::sync::atomic::Ordering::Relaxed);
        progress(before + entry.bytes, total);
        outcome.err()
    };
    let mut problems: Vec<CacheError> = files.par_iter().filter_map(check).collect();
    problems.extend(unlisted(dir, &manifest)?.into_iter().map(|path| CacheError::Unlisted { path }));
    let mut report = VerifyReport { files: files.len() as u64 + 1, bytes: total, samples: 0, problems };
    if report.problems.is_empty() {
        check_rows(dir, &mut report)?;
    }
    Ok(report)
}

fn check_file(dir: &Path, entry: &FileEntry) -> Result<()> {
    let path = locate(dir, entry);
    let found = digest_of(&path)?;
    if found != entry.digest {
        let reason = format!("content digest {found}, expected {}", entry.digest);
        return Err(CacheError::damaged(&path, None, reason));
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
