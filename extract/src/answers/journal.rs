//! The output on its way: rows are appended to `FILE.jsonl.part`, which is renamed when the last one is there. A killed run
//! leaves whole lines and at most one torn one; the same command drops that and goes on. Whoever writes the file holds its
//! lock.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;
use shared::dataset::Record;
use shared::lock::FileLock;

use super::cannot_write;
use super::respond::{Origin, Provenance};

/// What the file holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) rows: u64,
    pub(super) replaced: u64,
    pub(super) original: u64,
    pub(super) at_limit: u64,
}

/// The file being written, or the finished one.
pub(super) struct Journal {
    out: PathBuf,
    part: PathBuf,
    /// None when the file is finished.
    file: Option<FileLock>,
    fingerprint: String,
    done: BTreeSet<(String, u64)>,
    pub(super) counts: Counts,
}

/// As much of a written row as is read back.
#[derive(Deserialize)]
struct Written {
    fingerprint: String,
    provenance: WrittenProvenance,
}

#[derive(Deserialize)]
struct WrittenProvenance {
    source: String,
    row: u64,
    turns: Vec<Provenance>,
}

impl Journal {
    /// Opens what a run of this fingerprint left, or begins.
    ///
    /// # Errors
    /// When the file is of another run, or cannot be read or written.
    pub(super) fn open(out: &Path, fingerprint: &str) -> Result<Self> {
        let mut name =
            out.file_name().context("the output has no name\nhint: `--out FILE.jsonl`")?.to_owned();
        name.push(".part");
        let mut journal = Self {
            part: out.with_file_name(name),
            out: out.to_owned(),
            file: None,
            fingerprint: fingerprint.to_owned(),
            done: BTreeSet::new(),
            counts: Counts::default(),
        };
        if journal.out.exists() {
            journal.read(&journal.out.clone())?;
            return Ok(journal);
        }
        if let Some(folder) = out.parent() {
            cannot_write(fs::create_dir_all(folder), folder)?;
        }
        let file =
            cannot_write(OpenOptions::new().create(true).append(true).open(&journal.part), &journal.part)?;
        let mut file = locked(file, out)?;
        let whole = journal.read(&journal.part.clone())?;
        cannot_write(file.file().set_len(whole), &journal.part)?;
        journal.file = Some(file);
        Ok(journal)
    }

    /// Whether all rows are there.
    pub(super) fn is_complete(&self) -> bool {
        self.file.is_none()
    }

    /// Whether a row is there.
    pub(super) fn has(&self, record: &Record) -> bool {
        self.done.contains(&(record.source.clone(), record.row))
    }

    /// Reads what is there; how many bytes are whole lines.
    fn read(&mut self, path: &Path) -> Result<u64> {
        let advice = || {
            format!(
                "cannot read `{}`\nhint: `--out` names a file, new or written by this command",
                path.display()
            )
        };
        let mut reader = BufReader::new(File::open(path).with_context(advice)?);
        let (mut whole, mut line) = (0, Vec::new());
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line).with_context(advice)? as u64;
            if line.last() != Some(&b'\n') {
                return Ok(whole);
            }
            whole += read;
            let written: Option<Written> = serde_json::from_slice(&line).ok();
            match written {
                Some(row) if row.fingerprint == self.fingerprint => self.count(row.provenance),
                found => {
                    let what = if found.is_some() { "of another run" } else { "not written by this command" };
                    bail!(
                        "`{}` is {what}: teacher, dataset or settings differ\nhint: give another `--out`, or remove the file",
                        path.display()
                    )
                }
            }
        }
    }

    fn count(&mut self, row: WrittenProvenance) {
        self.counts.rows += 1;
        for turn in &row.turns {
            match turn.answer {
                Origin::Teacher => self.counts.replaced += 1,
                Origin::Original => self.counts.original += 1,
            }
            self.counts.at_limit += u64::from(turn.hit_limit);
        }
        self.done.insert((row.source, row.row));
    }

    /// Appends rows in order.
    ///
    /// # Errors
    /// When the disk is full or the file cannot be written.
    pub(super) fn append(&mut self, rows: &[Value]) -> Result<()> {
        let mut lines = Vec::new();
        for row in rows {
            let mut row = row.clone();
            row["fingerprint"] = self.fingerprint.clone().into();
            lines.extend(serde_json::to_vec(&row)?);
            lines.push(b'\n');
            self.count(serde_json::from_value(row["provenance"].take())?);
        }
        let Some(file) = &mut self.file else { bail!("the output is finished\nhint: please report this") };
        let file = file.file();
        cannot_write(file.write_all(&lines).and_then(|()| file.sync_data()), &self.part)
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub(super) fn finish(&mut self) -> Result<()> {
        cannot_write(fs::rename(&self.part, &self.out), &self.out)?;
        self.file = None;
        Ok(())
    }
}

/// Takes the lock of the file on its way to `out`, or refuses at once: also where another process has finished meanwhile.
fn locked(file: File, out: &Path) -> Result<FileLock> {
    match FileLock::of(file) {
        Ok(lock) if !out.exists() => Ok(lock),
        Err(TryLockError::Error(error)) => cannot_write(Err(error), out),
        Ok(_) | Err(TryLockError::WouldBlock) => bail!(
            "`{}` is being written by another process\nhint: wait for it, then run the same command",
            out.display()
        ),
    }
}
