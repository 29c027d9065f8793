//! What can be wrong with a dataset: with one row, which is set aside, or with a whole source, which stops the run.

use std::fmt;
use std::path::PathBuf;

/// A row that cannot be used. The run goes on; the row goes to the quarantine table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRow {
    /// The file the row was read from, as given.
    pub source: String,
    /// The row's index in that file.
    pub row: u64,
    /// The row's own id, as far as it could be read.
    pub id: Option<String>,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` row {}", self.source, self.row)?;
        if let Some(id) = &self.id {
            write!(f, " (id `{id}`)")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// A source that cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// A data file is missing or unreadable.
    #[error(
        "cannot read `{path}`: {source}\nhint: give a data file, a folder of them, a pattern such as `part-*.jsonl` or a range such as `{{000..012}}.tar`"
    )]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// An image file is missing or unreadable.
    #[error(
        "cannot read the image `{path}`: {source}\nhint: `--image-root` names the folder that image paths start from"
    )]
    Image {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A folder or pattern that no file answers to.
    #[error(
        "no dataset file matches `{given}`\nhint: folders are searched for *.json, *.jsonl, *.parquet and *.tar, not recursively"
    )]
    NoFiles {
        /// As typed.
        given: String,
    },
    /// A file that is no dataset, or not to its end.
    #[error("`{path}`: {reason}\nhint: {hint}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// The next step.
        hint: &'static str,
    },
}
