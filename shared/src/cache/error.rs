//! Everything that can go wrong with a cache, one enum: what was expected, what was found, what to do next.

use std::io;
use std::path::{Path, PathBuf};

use super::MANIFEST;
use crate::ids::Difference;

/// An error of the cache's writer, reader or verifier. The message ends with a `hint:` line.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The operating system refused a file operation.
    #[error("cannot {action} `{}`: {source}{}", path.display(), io_hint(source))]
    Io {
        /// What was tried, as a verb: `write`, `rename`, `map`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's own reason.
        source: io::Error,
    },
    /// The directory holds something that is not a cache, or no cache at all.
    #[error("`{}` is not a feature cache: {reason}\nhint: {hint}", path.display())]
    NotACache {
        /// The directory.
        path: PathBuf,
        /// What is missing or foreign.
        reason: String,
        /// The next step.
        hint: &'static str,
    },
    /// The manifest or a shard has a format this program does not know.
    #[error("`{}` has format version {found}, this program reads {expected}\nhint: use the program version that wrote the cache, or extract again", path.display())]
    Version {
        /// The manifest.
        path: PathBuf,
        /// The version in the file.
        found: u32,
        /// The version this program reads.
        expected: u32,
    },
    /// The cache belongs to another teacher, tokenizer, template or setting.
    #[error("`{}` was made with another fingerprint:{}\nhint: choose another `--out`, or run with what made this cache", path.display(), list(differences))]
    OtherFingerprint {
        /// The cache directory.
        path: PathBuf,
        /// The fields that differ: expected is the cache's, got is this run's.
        differences: Vec<Difference>,
    },
    /// Two caches that were to be used as one differ in what they were made with.
    #[error("`{}` and `{}` were not made alike:{}\nhint: only caches of one teacher and one setting go together", first.display(), other.display(), lines(differences))]
    Unlike {
        /// A cache directory.
        first: PathBuf,
        /// Another.
        other: PathBuf,
        /// The fields that differ: expected is the first one's, got is the other's.
        differences: Vec<Difference>,
    },
    /// Another process writes this cache, or the same part of it.
    #[error("`{}` is being written by another process\nhint: wait for it, or give each process its own part with `--part I/N`", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// Somebody removed or exchanged the cache while it was being written.
    #[error("`{}` no longer holds the cache that this run writes: it was removed or exchanged meanwhile; what holds its place now is left as it is\nhint: run the same command again once nobody else changes the directory", path.display())]
    Replaced {
        /// The cache directory.
        path: PathBuf,
    },
    /// A sample was appended that the cache already has.
    #[error(
        "sample `{key}` is already in the cache\nhint: skip the writer's committed keys; give all processes the same part count"
    )]
    Duplicate {
        /// The sample's key.
        key: String,
    },
    /// A sample breaks an invariant of the format.
    #[error(
        "sample `{key}`: {reason}\nhint: this is a defect of the program that made the row; nothing was written for it"
    )]
    Invariant {
        /// The sample's key.
        key: String,
        /// The broken invariant, with expected and found.
        reason: String,
    },
    /// Bytes of a file are not what was written.
    #[error("`{}`{}: {reason}\nhint: {}", path.display(), at(row), damage_hint(path))]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The row in that file, where one is concerned.
        row: Option<u64>,
        /// What differs.
        reason: String,
    },
    /// The manifest is lost, or more than one bit of it is wrong.
    #[error("`{}`: {reason}\nhint: give `extract repair` the teacher and the flags that the cache was made with (`--features`, `--features-all-for`, `--codec`, `--dtype`), or restore the file from a copy", path.display())]
    BeyondRepair {
        /// The manifest.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A Parquet file lies among the shards that no manifest names.
    #[error("`{}` lies in the cache, but `manifest.json` does not name it\nhint: move it elsewhere: other readers would take it for a part of the cache", path.display())]
    Unlisted {
        /// The file.
        path: PathBuf,
    },
    /// The disk is nearly full; everything appended so far is committed.
    #[error("`{}` has {free} bytes of free space left, less than the {keep_free} to keep free; everything so far is committed\nhint: free some space, or lower `--keep-free`, and run the same command again", path.display())]
    SpaceLow {
        /// The cache directory.
        path: PathBuf,
        /// Bytes free for this user.
        free: u64,
        /// Bytes that were to stay free.
        keep_free: u64,
    },
    /// A failure inside the Parquet or zstd library that is not damage: a defect here or there.
    #[error("cannot encode `{}`: {reason}\nhint: please report this with the row that caused it", path.display())]
    Encode {
        /// The file being written.
        path: PathBuf,
        /// The library's reason.
        reason: String,
    },
}

/// The result of cache operations.
pub type Result<T, E = CacheError> = std::result::Result<T, E>;

impl CacheError {
    pub(super) fn damaged(path: &Path, row: Option<u64>, reason: impl ToString) -> Self {
        Self::Damaged { path: path.to_path_buf(), row, reason: reason.to_string() }
    }

    /// A Parquet failure while writing: the system's own error if that is what it wraps.
    pub(super) fn writing(path: &Path, error: parquet::errors::ParquetError) -> Self {
        match error {
            parquet::errors::ParquetError::External(inner) => match inner.downcast::<io::Error>() {
                Ok(source) => Self::Io { action: "write", path: path.to_path_buf(), source: *source },
                Err(other) => Self::Encode { path: path.to_path_buf(), reason: other.to_string() },
            },
            other => Self::Encode { path: path.to_path_buf(), reason: other.to_string() },
        }
    }
}

/// Attaches the action and the path to a system error.
pub(super) trait IoContext<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| CacheError::Io { action, path: path.to_path_buf(), source })
    }
}

fn io_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "\nhint: free some space and run the same command again: what was committed is kept"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "\nhint: check who owns the directory and whether it may be written"
        }
        _ if error.raw_os_error() == Some(libc::EMFILE) => {
            "\nhint: let the process open more files than the cache has shards (`ulimit -n`)"
        }
        io::ErrorKind::NotFound => "\nhint: check the path; a cache is a directory with a `manifest.json`",
        _ => "\nhint: check the disk, then run the same command again: what was committed is kept",
    }
}

/// A manifest that cannot be read says nothing of the other files, which are as they were.
fn damage_hint(path: &Path) -> &'static str {
    match path.file_name().is_some_and(|name| name == MANIFEST) {
        true => "`extract repair` mends it, or restore the file from a copy",
        false => {
            "`extract verify` names all that is damaged, `extract repair` extracts it again; or restore the file from a copy"
        }
    }
}

fn lines(differences: &[Difference]) -> String {
    differences.iter().map(|difference| format!("\n  {difference}")).collect()
}

fn list(differences: &[Difference]) -> String {
    let line = |d: &Difference| {
        let show = |value: &Option<String>| value.clone().unwrap_or_else(|| "(absent)".into());
        format!("\n  {}: the cache has `{}`, this run has `{}`", d.field, show(&d.expected), show(&d.got))
    };
    differences.iter().map(line).collect()
}

fn at(row: &Option<u64>) -> String {
    row.map(|row| format!(", row {row}")).unwrap_or_default()
}
