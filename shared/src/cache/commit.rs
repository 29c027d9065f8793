//! The commit protocol: every change of a cache is one replacement of its manifest.
//!
//! ```text
//! 1  new files are written under hidden names and synced
//! 2  each is renamed to `<final name>.next`, and the directories are synced
//! 3  manifest.json.tmp is written, synced and renamed to manifest.json    <- the commit
//! 4  each `.next` file is renamed to its final name
//! ```
//!
//! Killed before 3, nothing happened; killed after it, [`roll_forward`] finishes 4 on the next
//! opening for writing, and readers find a file under either name meanwhile. Thus no file under a
//! final name is ever uncommitted, and no clean-up decides what is valid.

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, File, Metadata, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::error::{CacheError, IoContext, Result};
use super::manifest::{FileEntry, Manifest, ShardEntry};
use super::{CARD, DATA, HEAD, MANIFEST, QUARANTINED};
use crate::ids::{Digest, SampleKey};

/// Marks a committed file whose last rename is still due.
pub(super) const NEXT: &str = ".next";
/// Marks a file under construction; hidden, so that no glob of `*.parquet` takes it.
pub(super) const ASIDE: &str = ".tmp";

/// Which of several processes this one is: part `index` of `count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// From 0.
    pub index: usize,
    /// At least 1.
    pub count: usize,
}

impl Default for Part {
    fn default() -> Self {
        Self { index: 0, count: 1 }
    }
}

impl Part {
    /// The name of this part's `number`-th file under construction.
    pub(super) fn aside(self, dir: &Path, number: usize) -> PathBuf {
        dir.join(DATA).join(format!("{}{number}{ASIDE}", self.prefix()))
    }

    /// Whether a sample is this part's: decided by its key alone, so that it does not depend on what was read before.
    pub fn owns(self, key: &SampleKey) -> bool {
        let mut low = [0; 8];
        low.copy_from_slice(&key.as_bytes()[..8]);
        u64::from_le_bytes(low) % self.count.max(1) as u64 == self.index as u64
    }

    fn prefix(self) -> String {
        format!(".part-{}-of-{}-", self.index, self.count)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

/// Held while a process writes: alone, or beside the other parts of the same cache.
pub(super) struct WriterLock {
    cache: File,
    _part: Option<File>,
}

impl WriterLock {
    /// Takes the lock or refuses at once. A single writer excludes all, a part only its own twin.
    pub(super) fn take(dir: &Path, part: Part) -> Result<Self> {
        let path = dir.join(LOCK);
        let cache = lock_file(&path)?;
        if part.count <= 1 {
            refuse(cache.try_lock(), &path)?;
            return Ok(Self { cache, _part: None });
        }
        refuse(cache.try_lock_shared(), &path)?;
        let path = dir.join(format!(".lock-{}-of-{}", part.index, part.count));
        let own = lock_file(&path)?;
        refuse(own.try_lock(), &path)?;
        Ok(Self { cache, _part: Some(own) })
    }

    /// Whether the lock in `dir` is still this one: a directory that was removed and made again has another.
    pub(super) fn is_of(&self, dir: &Path) -> bool {
        let place = |file: &Metadata| (file.dev(), file.ino());
        let theirs = fs::metadata(dir.join(LOCK)).map(|file| place(&file));
        matches!((self.cache.metadata(), theirs), (Ok(ours), Ok(theirs)) if place(&ours) == theirs)
    }
}

/// Held by whoever writes; see [`WriterLock`].
const LOCK: &str = ".lock";

/// Waits for the right to read, change and replace the manifest; held for moments.
pub(super) fn lock_manifest(dir: &Path) -> Result<File> {
    let path = dir.join(".lock-manifest");
    let file = lock_file(&path)?;
    file.lock().at("lock", &path)?;
    Ok(file)
}

fn lock_file(path: &Path) -> Result<File> {
    File::options().create(true).truncate(false).write(true).open(path).at("open", path)
}

fn refuse(outcome: Result<(), TryLockError>, path: &Path) -> Result<()> {
    match outcome {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(CacheError::Locked { path: path.into() }),
        Err(TryLockError::Error(source)) => Err(source).at("lock", path),
    }
}

/// A finished, synced file and the name it is to have.
pub(super) struct Staged {
    pub(super) aside: PathBuf,
    pub(super) file: String,
}

/// Steps 2 to 4 of the protocol.
pub(super) fn commit(dir: &Path, staged: &[Staged], manifest: &Manifest) -> Result<()> {
    for file in staged {
        rename(&file.aside, &dir.join(format!("{}{NEXT}", file.file)))?;
    }
    sync_directories(dir)?;
    let path = dir.join(MANIFEST);
    let aside = dir.join(format!("{MANIFEST}{ASIDE}"));
    write_synced(&aside, &manifest.to_bytes()?)?;
    rename(&aside, &path)?;
    sync_directories(dir)?;
    for file in staged {
        rename(&dir.join(format!("{}{NEXT}", file.file)), &dir.join(&file.file))?;
    }
    sync_directories(dir)
}

/// Finishes an interrupted step 4 and removes what this part, or a single writer, left uncommitted.
pub(super) fn roll_forward(dir: &Path, manifest: Option<&Manifest>, part: Part) -> Result<()> {
    for entry in manifest.into_iter().flat_map(Manifest::files) {
        let (path, found) = (dir.join(&entry.file), locate(dir, entry));
        let foreign = is_next(&found) && digest_of(&found)? != entry.digest;
        if found != path && found.exists() && !foreign {
            rename(&found, &path)?;
        }
    }
    // All but shards under construction are written under the manifest's lock, which is held.
    let stale = |path: &PathBuf| {
        let name = file_name(path);
        let known = [MANIFEST, HEAD, CARD, QUARANTINED].iter().any(|file| name.starts_with(file));
        let unfinished =
            known || name.starts_with(&part.prefix()) || part.count <= 1 && name.starts_with(".part-");
        is_next(path) && (known || name.starts_with("train-")) || name.ends_with(ASIDE) && unfinished
    };
    for path in list(dir)?.into_iter().chain(list(&dir.join(DATA))?).filter(stale) {
        fs::remove_file(&path).at("remove", &path)?;
    }
    sync_directories(dir)
}

/// Where a committed file lies: under its name, or under the one it still has from before.
pub(super) fn locate(dir: &Path, entry: &FileEntry) -> PathBuf {
    let path = dir.join(&entry.file);
    let next = dir.join(format!("{}{NEXT}", entry.file));
    if next.exists() {
        // Beside a file that is already right, it is what a process left that never committed.
        let right = path.exists() && digest_of(&path).is_ok_and(|digest| digest == entry.digest);
        return if right { path } else { next };
    }
    if path.exists() {
        return path;
    }
    let Some(expected) = shard_stem(&file_name(&path)).map(str::to_owned) else { return path };
    let is_it = |file: &PathBuf| shard_stem(&file_name(file)) == Some(expected.as_str());
    let renamed = list(&dir.join(DATA)).ok().and_then(|files| files.into_iter().find(is_it));
    renamed.unwrap_or(path)
}

/// Opens a committed file where it lies. It may get another name at this moment, where a run finishes.
pub(super) fn open_located<T>(dir: &Path, entry: &FileEntry, open: impl Fn(&Path) -> Result<T>) -> Result<T> {
    loop {
        let path = locate(dir, entry);
        match open(&path) {
            Err(CacheError::Io { source, .. })
                if source.kind() == ErrorKind::NotFound && locate(dir, entry) != path => {}
            outcome => return outcome,
        }
    }
}

fn is_next(path: &Path) -> bool {
    file_name(path).ends_with(NEXT)
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// `train-00000` of every name that a shard may have, which tells it from the others.
fn shard_stem(name: &str) -> Option<&str> {
    let name = name.strip_suffix(NEXT).unwrap_or(name).strip_suffix(".parquet")?;
    let (stem, _) = name.split_once("-of-").unwrap_or((name, ""));
    stem.starts_with("train-").then_some(stem)
}

/// The name of a shard while its cache is unfinished, and once the total is known.
pub(super) fn shard_name(number: usize, total: Option<usize>) -> String {
    match total {
        Some(total) => format!("{DATA}/train-{number:05}-of-{total:05}.parquet"),
        None => format!("{DATA}/train-{number:05}.parquet"),
    }
}

/// Writes a whole file and syncs it.
pub(super) fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().at("write", path)
}

/// The entry of a file that lies at `path` and is to be named `file`.
pub(super) fn entry_of(path: &Path, file: &str) -> Result<FileEntry> {
    let bytes = fs::metadata(path).at("read", path)?.len();
    Ok(FileEntry { file: file.into(), bytes, digest: digest_of(path)? })
}

/// BLAKE3 of a file, without holding it in memory. Read, not mapped: where the disk is damaged, a map ends the process.
pub(super) fn digest_of(path: &Path) -> Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    let file = File::open(path).at("open", path)?;
    hasher.update_reader(file).at("read", path)?;
    Ok(Digest::from_bytes(hasher.finalize().into()))
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).at("rename", from)
}

fn sync_directories(dir: &Path) -> Result<()> {
    for dir in [dir.join(DATA), dir.to_path_buf()] {
        File::open(&dir).and_then(|file| file.sync_all()).at("sync", &dir)?;
    }
    Ok(())
}

/// Parquet files that the manifest does not name: other tools would read them as part of the cache.
pub(super) fn unlisted(dir: &Path, manifest: &Manifest) -> Result<Vec<PathBuf>> {
    let data = dir.join(DATA);
    if !data.exists() {
        return Ok(Vec::new());
    }
    // Where a shard lies and where it is to lie: a run that finishes may rename it before the files are listed.
    let places = |shard: &ShardEntry| [locate(dir, &shard.entry), dir.join(&shard.entry.file)];
    let listed: HashSet<PathBuf> = manifest.shards.iter().flat_map(places).collect();
    let foreign = |path: &PathBuf| {
        path.extension().is_some_and(|end| end == "parquet") && !listed.contains(path) && path.exists()
    };
    Ok(list(&data)?.into_iter().filter(foreign).collect())
}

/// Refuses a cache with a shard too many.
pub(super) fn refuse_unlisted(dir: &Path, manifest: &Manifest) -> Result<()> {
    match unlisted(dir, manifest)?.into_iter().next() {
        Some(path) => Err(CacheError::Unlisted { path }),
        None => Ok(()),
    }
}

pub(super) fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).at("list", dir)?;
    entries.map(|entry| entry.map(|entry| entry.path()).at("list", dir)).collect()
}
