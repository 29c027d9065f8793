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

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::error::{CacheError, IoContext, Result};
use super::manifest::{FileEntry, Manifest, ShardEntry};
use super::{CARD, DATA, HEAD, MANIFEST, QUARANTINED};
use crate::ids::{Digest, SampleKey};
use crate::lock::FileLock;

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
    cache: FileLock,
    _part: Option<FileLock>,
}

impl WriterLock {
    /// Takes the lock or refuses at once. A single writer excludes all, a part only its own twin.
    pub(super) fn take(dir: &Path, part: Part) -> Result<Self> {
        let path = dir.join(LOCK);
        if part.count <= 1 {
            return Ok(Self { cache: taken(FileLock::exclusive(&path), &path)?, _part: None });
        }
        let cache = taken(FileLock::shared(&path), &path)?;
        let path = dir.join(format!(".lock-{}-of-{}", part.index, part.count));
        Ok(Self { cache, _part: Some(taken(FileLock::exclusive(&path), &path)?) })
    }

    /// Whether the lock in `dir` is still this one: a directory that was removed and made again has another.
    pub(super) fn is_of(&self, dir: &Path) -> bool {
        self.cache.is_at(&dir.join(LOCK))
    }
}

/// Held by whoever writes; see [`WriterLock`].
const LOCK: &str = ".lock";

/// Waits for the right to read, change and replace the manifest; held for moments.
pub(super) fn lock_manifest(dir: &Path) -> Result<FileLock> {
    let path = dir.join(".lock-manifest");
    FileLock::wait(&path).at("lock", &path)
}

fn taken(outcome: Result<FileLock, TryLockError>, path: &Path) -> Result<FileLock> {
    outcome.map_err(|error| match error {
        TryLockError::WouldBlock => CacheError::Locked { path: path.into() },
        TryLockError::Error(source) => CacheError::Io { action: "lock", path: path.into(), source },
    })
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
    replace_manifest(dir, &manifest.to_bytes()?)?;
    for file in staged {
        rename(&dir.join(format!("{}{NEXT}", file.file)), &dir.join(&file.file))?;
    }
    sync_directories(dir)
}

/// Step 3 of the protocol.
pub(super) fn replace_manifest(dir: &Path, bytes: &[u8]) -> Result<()> {
    let aside = dir.join(format!("{MANIFEST}{ASIDE}"));
    write_synced(&aside, bytes)?;
    rename(&aside, &dir.join(MANIFEST))?;
    sync_directories(dir)
}

/// Finishes an interrupted step 4 and removes what this part, or a single writer, left uncommitted.
pub(super) fn roll_forward(dir: &Path, manifest: Option<&Manifest>, part: Part) -> Result<()> {
    let places = Places::of(dir);
    for entry in manifest.into_iter().flat_map(Manifest::files) {
        let (path, found) = (dir.join(&entry.file), places.locate(entry));
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
    Places::of(dir).locate(entry)
}

/// Where the committed files of a cache lie. The shards are listed once, when the first of them is missed: a finishing run gives
/// thousands of them new names.
pub(super) struct Places<'a> {
    dir: &'a Path,
    shards: OnceLock<HashMap<String, PathBuf>>,
}

impl<'a> Places<'a> {
    pub(super) fn of(dir: &'a Path) -> Self {
        Self { dir, shards: OnceLock::new() }
    }

    /// Opens a committed file where it lies. It may get another name at this moment, where a run finishes.
    pub(super) fn open<T>(&self, entry: &FileEntry, open: impl Fn(&Path) -> Result<T>) -> Result<T> {
        let mut path = self.locate(entry);
        loop {
            let outcome = open(&path);
            match &outcome {
                Err(CacheError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
                _ => return outcome,
            }
            let now = locate(self.dir, entry);
            if now == path {
                return outcome;
            }
            path = now;
        }
    }

    fn locate(&self, entry: &FileEntry) -> PathBuf {
        let path = self.dir.join(&entry.file);
        let next = self.dir.join(format!("{}{NEXT}", entry.file));
        if next.exists() {
            // Beside a file that is already right, it is what a process left that never committed.
            let right = path.exists() && digest_of(&path).is_ok_and(|digest| digest == entry.digest);
            return if right { path } else { next };
        }
        if path.exists() {
            return path;
        }
        let stem = file_name(&path);
        let renamed = shard_stem(&stem).and_then(|stem| self.shards().get(stem));
        renamed.cloned().unwrap_or(path)
    }

    /// Every file that is called as a shard is, by what tells it from the others.
    fn shards(&self) -> &HashMap<String, PathBuf> {
        let by_stem = |path: PathBuf| Some((shard_stem(&file_name(&path))?.to_owned(), path));
        self.shards.get_or_init(|| {
            list(&self.dir.join(DATA)).unwrap_or_default().into_iter().filter_map(by_stem).collect()
        })
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

/// Whether a file is called as a shard is.
pub(super) fn is_shard(path: &Path) -> bool {
    shard_stem(&file_name(path)).is_some()
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
    if !dir.join(DATA).exists() {
        return Ok(Vec::new());
    }
    let mut found = unlisted_now(dir, manifest)?;
    if !found.is_empty() {
        // A run that finishes may have renamed it between two looks at the folder.
        let again = unlisted_now(dir, manifest)?;
        found.retain(|path| again.contains(path));
    }
    Ok(found)
}

fn unlisted_now(dir: &Path, manifest: &Manifest) -> Result<Vec<PathBuf>> {
    let places = Places::of(dir);
    // Where a shard lies and where it is to lie.
    let of = |shard: &ShardEntry| [places.locate(&shard.entry), dir.join(&shard.entry.file)];
    let listed: HashSet<PathBuf> = manifest.shards.iter().flat_map(of).collect();
    let foreign = |path: &PathBuf| {
        path.extension().is_some_and(|end| end == "parquet") && !listed.contains(path) && path.exists()
    };
    Ok(list(&dir.join(DATA))?.into_iter().filter(foreign).collect())
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
