//! What can be wrong with a tokenizer, a chat template, or a conversation under them.

use std::path::{Path, PathBuf};

/// An error about text.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// A file of the checkpoint cannot be read.
    #[error(
        "cannot read `{path}`: {source}\nhint: a checkpoint has tokenizer.json, tokenizer_config.json and a chat template; where the \
         first is missing, transformers' `AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)` writes it"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file of the checkpoint does not say what it must.
    #[error("`{path}`: {reason}\nhint: {hint}")]
    Invalid {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// The next step.
        hint: &'static str,
    },
    /// The template refused the conversation.
    #[error(
        "the chat template cannot render the conversation: {0}\nhint: the template decides which roles it takes, and in which order"
    )]
    Render(String),
    /// The template writes a turn differently once another follows.
    #[error(
        "the chat template rewrites turn {turn} when more turns follow, so its answer has no place in the prompt\nhint: use a template that only appends"
    )]
    NotPrefix {
        /// Index of the turn.
        turn: usize,
    },
    /// The text holds more or fewer image placeholders than there are images.
    #[error(
        "the rendered prompt has {found} `{placeholder}` for {expected} image(s)\nhint: the text of a turn must not contain the placeholder itself"
    )]
    Placeholders {
        /// The family's placeholder.
        placeholder: String,
        /// How many the rendered prompt has.
        found: usize,
        /// How many images there are.
        expected: usize,
    },
    /// The tokenizer failed.
    #[error("the tokenizer cannot encode or decode: {0}")]
    Tokenize(String),
}

impl TextError {
    pub(super) fn invalid(path: &Path, reason: impl ToString, hint: &'static str) -> Self {
        Self::Invalid { path: path.to_owned(), reason: reason.to_string(), hint }
    }
}

/// Reads and parses a JSON file of a checkpoint; none if there is no such file.
pub(super) fn read_json(path: &Path) -> Result<Option<serde_json::Value>, TextError> {
    let Some(text) = read_optional(path)? else { return Ok(None) };
    let hint = "copy the file from the original checkpoint again";
    serde_json::from_str(&text).map(Some).map_err(|error| TextError::invalid(path, error, hint))
}

/// Reads a file of a checkpoint; none if there is no such file.
pub(super) fn read_optional(path: &Path) -> Result<Option<String>, TextError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TextError::Read { path: path.to_owned(), source }),
    }
}
