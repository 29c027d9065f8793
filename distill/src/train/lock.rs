//! One process at a time in a run's folder: a second one would write the same metrics and checkpoints between the first one's.

use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Held while a run is trained; the system gives it back when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct RunLock {
    _file: File,
}

impl RunLock {
    /// Takes the folder's lock, or refuses at once.
    pub(super) fn take(out: &Path) -> Result<Self> {
        let path = out.join(".lock");
        let cannot = || format!("cannot lock `{}`", path.display());
        let file =
            File::options().create(true).truncate(false).write(true).open(&path).with_context(cannot)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => bail!(
                "another process is training in `{}`\nhint: wait until it is done, or choose another --out",
                out.display()
            ),
            // A file system without locks is no reason not to train on it.
            Err(TryLockError::Error(error)) if error.kind() != ErrorKind::Unsupported => {
                Err(error).with_context(cannot)
            }
            _ => Ok(Self { _file: file }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn a_folder_is_one_processs_until_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let held = RunLock::take(dir.path()).unwrap();
        // Locks of the same file through two handles exclude each other in one process, too.
        let error = RunLock::take(dir.path()).unwrap_err().to_string();
        assert!(error.contains("another process") && error.contains("hint:"), "{error}");
        drop(held);
        RunLock::take(dir.path()).unwrap();
    }
}
