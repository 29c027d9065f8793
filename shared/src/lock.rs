//! Files that one process holds at a time. The system gives a lock back when the process ends, however it ends, so that nothing
//! is left to clear away; two handles of one file exclude each other in one process, too.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

/// A file and the lock on it, held until it is dropped.
#[derive(Debug)]
pub struct FileLock(File);

impl FileLock {
    /// Takes the lock of the file at `path`, which is created if need be, for this process alone; or refuses at once.
    ///
    /// # Errors
    /// `WouldBlock` where another process holds it, else what the system refuses.
    pub fn exclusive(path: &Path) -> Result<Self, TryLockError> {
        Self::of(open(path).map_err(TryLockError::Error)?)
    }

    /// The same of an open file.
    ///
    /// # Errors
    /// As [`FileLock::exclusive`].
    pub fn of(file: File) -> Result<Self, TryLockError> {
        file.try_lock()?;
        Ok(Self(file))
    }

    /// Takes the lock beside others that share it; or refuses at once.
    ///
    /// # Errors
    /// As [`FileLock::exclusive`].
    pub fn shared(path: &Path) -> Result<Self, TryLockError> {
        let file = open(path).map_err(TryLockError::Error)?;
        file.try_lock_shared()?;
        Ok(Self(file))
    }

    /// Waits for the lock.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn wait(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        file.lock()?;
        Ok(Self(file))
    }

    /// The file.
    pub fn file(&mut self) -> &mut File {
        &mut self.0
    }

    /// Whether the file at `path` is still this one: what was removed and made again is another.
    pub fn is_at(&self, path: &Path) -> bool {
        use std::os::unix::fs::MetadataExt;
        let place = |file: std::fs::Metadata| (file.dev(), file.ino());
        let theirs = std::fs::metadata(path).map(place);
        matches!((self.0.metadata().map(place), theirs), (Ok(ours), Ok(theirs)) if ours == theirs)
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::options().create(true).truncate(false).write(true).open(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn a_lock_excludes_others_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".lock");
        let is_held = |outcome| matches!(outcome, Err(TryLockError::WouldBlock));
        let held = FileLock::exclusive(&path).unwrap();
        assert!(is_held(FileLock::exclusive(&path)) && is_held(FileLock::shared(&path)));
        drop(held);
        let beside = [FileLock::shared(&path).unwrap(), FileLock::shared(&path).unwrap()];
        assert!(is_held(FileLock::of(File::open(&path).unwrap())));
        drop(beside);
        let held = FileLock::wait(&path).unwrap();
        assert!(held.is_at(&path));
        std::fs::remove_file(&path).unwrap();
        let other = FileLock::exclusive(&path).unwrap();
        assert!(other.is_at(&path) && !held.is_at(&path));
    }
}
