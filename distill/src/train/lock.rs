//! One process at a time in a run's folder: a second one would write the same metrics and checkpoints between the first one's.

use std::fs::TryLockError;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, bail};
use shared::lock::FileLock;

/// Held while a run is trained.
#[derive(Debug)]
pub(super) struct RunLock {
    /// None on a file system without locks, which is no reason not to train on it.
    _lock: Option<FileLock>,
}

impl RunLock {
    /// Takes the folder's lock, or refuses at once.
    pub(super) fn take(out: &Path) -> Result<Self> {
        let path = out.join(".lock");
        match FileLock::exclusive(&path) {
            Ok(lock) => Ok(Self { _lock: Some(lock) }),
            Err(TryLockError::WouldBlock) => bail!(
                "another process is training in `{}`\nhint: wait until it is done, or choose another --out",
                out.display()
            ),
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {
                Ok(Self { _lock: None })
            }
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock `{}`", path.display()))
            }
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
        let error = RunLock::take(dir.path()).unwrap_err().to_string();
        assert!(error.contains("another process") && error.contains("hint:"), "{error}");
        drop(held);
        RunLock::take(dir.path()).unwrap();
    }
}
