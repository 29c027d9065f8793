//! The registry of file kinds: what rows lie in, told by a file's first bytes.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::format::Content;
use super::{json, parquet, webdataset};

/// The rows of one file, in order. After an error, or none, there are no more.
pub(super) trait Rows: Send {
    /// The next row; none at the end.
    fn next_row(&mut self) -> Result<Option<RawRow>, RowsError>;
    /// Bytes consumed so far, as far as it can be told.
    fn bytes_read(&self) -> u64;
}

/// One row as its file holds it.
pub(super) struct RawRow {
    /// Its index in the file.
    pub(super) index: u64,
    /// What the file calls it; the row's own `id` wins.
    pub(super) key: Option<String>,
    /// Its fields and images, or why it has none.
    pub(super) content: Result<Content, String>,
}

/// Why no further row can be read from a file.
#[derive(Debug)]
pub(super) enum RowsError {
    /// The system failed.
    Io(io::Error),
    /// The file breaks off or is not what it began as.
    Malformed(String),
}

impl From<io::Error> for RowsError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What a file's reader needs to know.
pub(super) struct Opening<'a> {
    /// Where image paths start.
    pub(super) image_root: &'a Path,
    /// Columns that hold images.
    pub(super) image_columns: &'a [String],
    /// All other columns that are read.
    pub(super) columns: &'a [String],
}

type Opened = Result<Box<dyn Rows>, RowsError>;

struct Container {
    begins: fn(&[u8]) -> bool,
    open: fn(&Path, &Opening<'_>) -> Opened,
}

/// The first that knows a file's beginning reads it; JSON has no mark of its own and comes last.
const CONTAINERS: &[Container] = &[
    Container { begins: |start| start.starts_with(b"PAR1"), open: parquet::open },
    Container { begins: webdataset::begins, open: webdataset::open },
    Container { begins: |start| start.starts_with(b"\x1f\x8b"), open: compressed },
    Container { begins: |_| true, open: json::open },
];

/// Enough for the mark of a tar archive, at byte 257.
const START_BYTES: u64 = 512;

/// Opens a file by its kind.
pub(super) fn open(path: &Path, opening: &Opening<'_>) -> Result<Box<dyn Rows>, RowsError> {
    let mut start = Vec::new();
    File::open(path)?.take(START_BYTES).read_to_end(&mut start)?;
    let container = CONTAINERS.iter().find(|container| (container.begins)(&start));
    container.map_or_else(
        || Err(RowsError::Malformed("is of no known kind".into())),
        |container| (container.open)(path, opening),
    )
}

fn compressed(_: &Path, _: &Opening<'_>) -> Result<Box<dyn Rows>, RowsError> {
    Err(RowsError::Malformed("is compressed with gzip: unpack it, so that reading can start anywhere".into()))
}
