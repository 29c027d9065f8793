//! From sources to records: opens each file, tells its format by its first row, and yields row after row.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::rows::{Rows, RowsError};
use super::{BadRow, DatasetError, ImageSource, Message, Record, llava, sources};

/// A row format that can be asked for instead of being recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Format {
    /// `conversations` with `<image>` placeholders, as a JSON list or JSON lines.
    Llava,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Llava => "llava",
        })
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = || FORMATS.iter().map(|known| known.format);
        let unknown = || {
            let names: Vec<_> = known().map(|format| format!("`{format}`")).collect();
            format!("there is no dataset format `{name}`: known are {}", names.join(", "))
        };
        known().find(|format| format.to_string() == name).ok_or_else(unknown)
    }
}

impl TryFrom<String> for Format {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse()
    }
}

impl From<Format> for String {
    fn from(format: Format) -> Self {
        format.to_string()
    }
}

/// What a row holds, or why it cannot be used.
type Parsed = Result<(Vec<Message>, Vec<ImageSource>), String>;

/// One row format: a line in [`FORMATS`] and a file with these two functions.
struct RowFormat {
    format: Format,
    recognises: fn(&Value) -> bool,
    parse: fn(&[u8], &Path, &DatasetOptions) -> Parsed,
}

const FORMATS: &[RowFormat] =
    &[RowFormat { format: Format::Llava, recognises: llava::recognises, parse: llava::parse }];

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
    current: Option<(SourceFile, Rows)>,
    options: DatasetOptions,
    bytes_total: u64,
    bytes_done: u64,
}

struct SourceFile {
    path: PathBuf,
    format: &'static RowFormat,
    num_bytes: u64,
}

/// Opens `sources`: files, folders or patterns. Each file is looked into, so that what is no dataset fails now.
///
/// # Errors
/// When a file is missing, unreadable, not JSON, or of no known row format.
pub fn open(sources: &[String], options: &DatasetOptions) -> Result<Dataset, DatasetError> {
    let files = sources::expand(sources)?;
    let files = files.into_iter().map(|path| SourceFile::inspect(path, options.format));
    let files = files.collect::<Result<Vec<_>, _>>()?;
    Ok(Dataset {
        bytes_total: files.iter().map(|file| file.num_bytes).sum(),
        bytes_done: 0,
        files: files.into_iter(),
        current: None,
        options: options.clone(),
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
        current.chain(self.files.as_slice()).map(|file| file.path.as_path())
    }

    /// The next raw row and the file it is in.
    fn next_row(&mut self) -> Result<Option<(u64, Vec<u8>)>, DatasetError> {
        loop {
            let Some((file, rows)) = &mut self.current else {
                let Some(file) = self.files.next() else { return Ok(None) };
                let rows = Rows::open(&file.path).map_err(|error| fatal(&file.path, error))?;
                self.current = Some((file, rows));
                continue;
            };
            if let Some(row) = rows.next_row().map_err(|error| fatal(&file.path, error))? {
                return Ok(Some(row));
            }
            self.bytes_done += file.num_bytes;
            self.current = None;
        }
    }
}

impl Iterator for Dataset {
    type Item = Result<Result<Record, BadRow>, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.next_row() {
            Ok(None) => None,
            Ok(Some((row, json))) => {
                let (file, _) = self.current.as_ref()?;
                Some(Ok(file.record(row, &json, &self.options)))
            }
            Err(error) => {
                // Nothing follows a fatal error, not even the other files.
                self.files = Vec::new().into_iter();
                self.current = None;
                Some(Err(error))
            }
        }
    }
}

impl SourceFile {
    fn inspect(path: PathBuf, format: Option<Format>) -> Result<Self, DatasetError> {
        let failed = |source| DatasetError::Read { path: path.clone(), source };
        let num_bytes = std::fs::metadata(&path).map_err(failed)?.len();
        let mut rows = Rows::open(&path).map_err(|error| fatal(&path, error))?;
        let first = rows.next_row().map_err(|error| fatal(&path, error))?;
        let known = match (format, first) {
            (Some(format), _) => FORMATS.iter().find(|known| known.format == format),
            (None, Some((_, json))) => recognise(&path, &json)?,
            (None, None) => FORMATS.first(),
        };
        let unknown = || DatasetError::Malformed {
            path: path.clone(),
            reason: "its first row is of no known format".into(),
            hint: "a LLaVA row has `conversations`, a list of `from` and `value`",
        };
        let format = known.ok_or_else(unknown)?;
        Ok(Self { format, num_bytes, path })
    }

    fn record(&self, row: u64, json: &[u8], options: &DatasetOptions) -> Result<Record, BadRow> {
        let beside = self.path.parent().unwrap_or(Path::new(""));
        let image_root = options.image_root.as_deref().unwrap_or(beside);
        let source = self.path.display().to_string();
        let id = own_id(json);
        match (self.format.parse)(json, image_root, options) {
            Ok((messages, images)) => Ok(Record { source, row, id, messages, images }),
            Err(reason) => Err(BadRow { source, row, id, reason }),
        }
    }
}

fn recognise(path: &Path, json: &[u8]) -> Result<Option<&'static RowFormat>, DatasetError> {
    let row: Value = serde_json::from_slice(json)
        .map_err(|error| fatal(path, RowsError::Malformed(format!("its first row is not JSON: {error}"))))?;
    Ok(FORMATS.iter().find(|known| (known.recognises)(&row)))
}

/// The row's `id`, whatever else is wrong with the row.
fn own_id(json: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Identified {
        id: Value,
    }
    match serde_json::from_slice::<Identified>(json).ok()?.id {
        Value::String(id) => Some(id),
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
            hint: "a dataset is one JSON list of rows, or one JSON row a line; a download may have broken off",
        },
    }
}
