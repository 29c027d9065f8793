//! Datasets: one file per input format, one record type.
//!
//! ```text
//! sources -> container (json, parquet, webdataset) -> rows -> format (llava, messages, texts, caption) -> Record
//!                                                      | llama_factory renames their fields
//! ```
//!
//! Rows are streamed: a source of any size is read with the memory of a few rows. A row that cannot
//! be used is a [`BadRow`], never silently changed; a source that cannot be read at all is a
//! [`DatasetError`].

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

mod base64;
mod caption;
mod cells;
mod container;
mod error;
mod format;
mod images;
mod json;
mod llama_factory;
mod llava;
mod messages;
mod parquet;
mod question;
mod reader;
mod sources;
mod table;
mod tar;
mod texts;
mod turns;
mod webdataset;

pub use base64::decode_base64;
pub use error::{BadRow, DatasetError};
pub use format::Format;
pub use question::Question;
pub use reader::{Dataset, DatasetOptions, open};
pub use table::{Table, TableError, TableRow};
pub use turns::PLACEHOLDER;

#[cfg(test)]
mod tests;

/// Who speaks in a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions before the conversation.
    System,
    /// The question side.
    User,
    /// The answer side: what a student learns.
    Assistant,
}

/// One piece of a turn, in reading order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Part {
    /// Literal text.
    Text {
        /// The text as the dataset has it.
        text: String,
    },
    /// The next image of the record: images are consumed in order.
    Image,
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: Vec<Part>,
    /// Nothing is to be learnt of this turn: an answer that is only part of the conversation.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skip_loss: bool,
}

impl Message {
    /// A turn that is learnt if it is an answer.
    pub fn new(role: Role, content: Vec<Part>) -> Self {
        Self { role, content, skip_loss: false }
    }

    /// Whether it is an answer to learn.
    pub fn is_learnt(&self) -> bool {
        self.role == Role::Assistant && !self.skip_loss
    }
}

/// Where an image's encoded bytes come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageSource {
    /// A file.
    Path(PathBuf),
    /// Bytes that came with the row.
    Bytes(Arc<[u8]>),
    /// A part of a file: a member of an archive.
    Slice {
        /// The archive.
        path: Arc<Path>,
        /// Where the image begins.
        start: u64,
        /// Its length.
        num_bytes: u64,
    },
}

/// One row of a dataset, whatever its format was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The file the row was read from, as given.
    pub source: String,
    /// The row's index in that file.
    pub row: u64,
    /// The row's own id, if it has one; not unique in practice and never used as identity.
    pub id: Option<String>,
    /// The conversation. The number of [`Part::Image`] equals `images.len()`.
    pub messages: Vec<Message>,
    /// The images, in the order the messages use them.
    pub images: Vec<ImageSource>,
}

impl ImageSource {
    /// The encoded bytes of the image.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self) -> Result<Vec<u8>, DatasetError> {
        let failed = |path: &Path, source| DatasetError::Image { path: path.to_owned(), source };
        match self {
            Self::Bytes(bytes) => Ok(bytes.to_vec()),
            Self::Path(path) => std::fs::read(path).map_err(|error| failed(path, error)),
            Self::Slice { path, start, num_bytes } => {
                slice(path, *start, *num_bytes).map_err(|error| failed(path, error))
            }
        }
    }
}

fn slice(path: &Path, start: u64, num_bytes: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = vec![0; usize::try_from(num_bytes).map_err(io::Error::other)?];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The one JSON text of a conversation: what a sample key is computed from and what a cache stores.
/// [`parse_canonical`] is its inverse.
pub fn canonical_json(messages: &[Message]) -> String {
    // Strings, unit variants and lists: nothing here can fail to serialise.
    serde_json::to_string(messages).unwrap_or_default()
}

/// The conversation that [`canonical_json`] wrote.
///
/// # Errors
/// When the text is not such a conversation.
pub fn parse_canonical(json: &str) -> serde_json::Result<Vec<Message>> {
    serde_json::from_str(json)
}
