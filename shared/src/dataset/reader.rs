//! From sources to records: opens each file by its kind, tells the format of its rows, and yields row after row.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::container::{self, Opening, RawRow, Rows, RowsError};
use super::format::{self, Content, Format, Parsed, RowContext, RowFormat};
use super::sources::{self, Source};
use super::{BadRow, DatasetError, Record};

/// How many rows may be unreadable before the first that tells the format.
const ROWS_TO_TELL: usize = 100;

/// How to read a dataset.
#[derive(Clone, Debug, Default)]
pub struct DatasetOptions {
    /// The folder that image paths start from; by default the folder of the file that names them.
    pub image_root: Option<PathBuf>,
    /// Put the images of a row without placeholders in front of its first question.
    pub prepend_image: bool,
    /// The row format; by default each file's first row tells.
    pub format: Option<Format>,
}

/// The rows of one or several sources, streamed.
///
/// The inner result is the row's own: a bad row is quarantined and the run goes on. The outer
/// error is the source's: the file broke off or cannot be read on, and no row follows it.
pub struct Dataset {
    files: std::vec::IntoIter<SourceFile>,
    current: Option<(SourceFile, Box<dyn Rows>)>,
    prepend_image: bool,
    bytes_total: u64,
    bytes_done: u64,
}

struct SourceFile {
    source: Source,
    format: &'static RowFormat,
    num_bytes: u64,
}

/// Opens `sources`: files, folders, patterns, ranges in braces or datasets of a `dataset_info.json`. Each file is looked
/// into, so that what is no dataset fails now.
///
/// # Errors
/// When a file is missing, unreadable, of no known kind, or its rows are of no known format.
pub fn open(sources: &[String], options: &DatasetOptions) -> Result<Dataset, DatasetError> {
    let files = sources::expand(sources)?.into_iter().map(|mut source| {
        source.image_root = options.image_root.clone().unwrap_or(source.image_root);
        SourceFile::inspect(source, options.format)
    });
    let files = files.collect::<Result<Vec<_>, _>>()?;
    Ok(Dataset {
        bytes_total: files.iter().map(|file| file.num_bytes).sum(),
        bytes_done: 0,
        files: files.into_iter(),
        current: None,
        prepend_image: options.prepend_image,
    })
}

impl Dataset {
    /// Bytes read and bytes there are, over all files: what a progress bar can show before the rows are counted.
    pub fn progress(&self) -> (u64, u64) {
        let current = self.current.as_ref().map_or(0, |(_, rows)| rows.bytes_read());
        (self.bytes_done + current, self.bytes_total)
    }

    /// The files that are still to be read: all of them right after [`open`].
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        let current = self.current.iter().map(|(file, _)| file);
        current.chain(self.files.as_slice()).map(|file| file.source.path.as_path())
    }

    /// The next row of any file.
    fn next_row(&mut self) -> Result<Option<Result<Record, BadRow>>, DatasetError> {
        loop {
            let Some((file, rows)) = &mut self.current else {
                let Some(file) = self.files.next() else { return Ok(None) };
                let rows = file.source.open()?;
                self.current = Some((file, rows));
                continue;
            };
            if let Some(row) = rows.next_row().map_err(|error| fatal(&file.source.path, error))? {
                return Ok(Some(file.record(row, self.prepend_image)));
            }
            self.bytes_done += file.num_bytes;
            self.current = None;
        }
    }
}

impl Iterator for Dataset {
    type Item = Result<Result<Record, BadRow>, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.next_row();
        if row.is_err() {
            // Nothing follows a fatal error, not even the other files.
            self.files = Vec::new().into_iter();
            self.current = None;
        }
        row.transpose()
    }
}

impl Source {
    fn open(&self) -> Result<Box<dyn Rows>, DatasetError> {
        let (image_columns, columns) = match &self.mapping {
            Some(mapping) => (mapping.image_columns(), mapping.columns()),
            None => (
                vec!["image".to_owned(), "images".to_owned()],
                format::known_fields().map(str::to_owned).collect(),
            ),
        };
        let opening =
            Opening { image_root: &self.image_root, image_columns: &image_columns, columns: &columns };
        container::open(&self.path, &opening).map_err(|error| fatal(&self.path, error))
    }

    /// The row's content under the names of its format.
    fn named(&self, content: Content) -> Result<Content, String> {
        match &self.mapping {
            Some(mapping) => mapping.apply(content),
            None => format::supported(content),
        }
    }
}

impl SourceFile {
    fn inspect(source: Source, format: Option<Format>) -> Result<Self, DatasetError> {
        let path = source.path.clone();
        let failed = |error| DatasetError::Read { path: path.clone(), source: error };
        let num_bytes = std::fs::metadata(&path).map_err(failed)?.len();
        let mut rows = source.open()?;
        // A `dataset_info.json` has said what the rows are.
        let told = format.or(source.mapping.as_ref().map(|_| Format::Llava));
        let format = match told.and_then(Format::rows) {
            Some(format) => format,
            None => recognise(&path, rows.as_mut())?,
        };
        Ok(Self { source, format, num_bytes })
    }

    fn record(&self, row: RawRow, prepend_image: bool) -> Result<Record, BadRow> {
        let source = self.source.path.display().to_string();
        let RawRow { index, key, content } = row;
        let id = content.as_ref().ok().and_then(|content| own_id(&content.fields)).or(key);
        let context = RowContext { image_root: &self.source.image_root, prepend_image };
        let parsed: Parsed = content
            .and_then(|content| self.source.named(content))
            .and_then(|content| (self.format.parse)(&content, &context));
        match parsed {
            Ok((messages, images)) => Ok(Record { source, row: index, id, messages, images }),
            Err(reason) => Err(BadRow { source, row: index, id, reason }),
        }
    }
}

/// The format of the first row that can be read.
fn recognise(path: &Path, rows: &mut dyn Rows) -> Result<&'static RowFormat, DatasetError> {
    let malformed = |reason| DatasetError::Malformed {
        path: path.to_owned(),
        reason,
        hint: "a row has `conversations` (LLaVA), `messages`, `texts`, or `txt` beside an image",
    };
    let mut first_reason = None;
    for _ in 0..ROWS_TO_TELL {
        let Some(row) = rows.next_row().map_err(|error| fatal(path, error))? else { break };
        match row.content {
            Ok(content) => {
                let known = format::recognise(&content.fields);
                return known.ok_or_else(|| malformed("its first row is of no known format".into()));
            }
            Err(reason) => first_reason = first_reason.or(Some(reason)),
        }
    }
    match first_reason {
        Some(reason) => Err(malformed(format!("its first row {reason}"))),
        // An empty list is a dataset without rows.
        None => Format::Llava.rows().ok_or_else(|| malformed("has no rows".into())),
    }
}

/// The row's `id`, whatever else is wrong with the row.
fn own_id(fields: &Value) -> Option<String> {
    match fields.get("id")? {
        Value::String(id) => Some(id.clone()),
        Value::Null => None,
        other => Some(other.to_string()),
    }
}

fn fatal(path: &Path, error: RowsError) -> DatasetError {
    let path = path.to_owned();
    match error {
        RowsError::Io(source) => DatasetError::Read { path, source },
        RowsError::Malformed(reason) => DatasetError::Malformed {
            path,
            reason,
            hint: "a dataset is a JSON list of rows, one JSON row a line, a Parquet file, or a tar of WebDataset samples; a \
                   download may have broken off",
        },
    }
}
