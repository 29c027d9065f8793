//! A file that is only added to, cut back when its run goes on from an earlier point.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The file, open at its end.
#[derive(Debug)]
pub(super) struct AppendFile {
    file: File,
    path: PathBuf,
    num_bytes: u64,
}

impl AppendFile {
    /// Opens the file, or makes it, and cuts off what follows `num_bytes`. It may be shorter.
    pub(super) fn open(path: &Path, num_bytes: u64) -> Result<Self> {
        let open = || -> std::io::Result<(File, u64)> {
            let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
            let num_bytes = file.metadata()?.len().min(num_bytes);
            file.set_len(num_bytes)?;
            file.seek(SeekFrom::Start(num_bytes))?;
            Ok((file, num_bytes))
        };
        let (file, num_bytes) = open().with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { file, path: path.to_owned(), num_bytes })
    }

    /// How far the file has come; what a checkpoint keeps.
    pub(super) fn num_bytes(&self) -> u64 {
        self.num_bytes
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).with_context(|| format!("cannot write {}", self.path.display()))?;
        self.num_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Brings the file to the disk.
    pub(super) fn sync(&self) -> Result<()> {
        self.file.sync_data().with_context(|| format!("cannot write {}", self.path.display()))
    }
}
