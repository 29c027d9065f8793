//! What can go wrong with a checkpoint, named so that the reader knows what to do next.

use std::path::{Path, PathBuf};

/// An error about a checkpoint or the device it should run on.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file of the checkpoint cannot be read or written.
    #[error("cannot {action} `{path}`: {source}\nhint: {hint}")]
    Io {
        /// `read`, `write`, `map`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
        /// The next step.
        hint: String,
    },
    /// A file of the checkpoint does not say what it must.
    #[error("`{path}`: {reason}\nhint: {hint}")]
    Invalid {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// The next step.
        hint: String,
    },
    /// The checkpoint is of a family that is not implemented.
    #[error("`{path}`: architecture `{found}` is not supported\nhint: supported are {supported}")]
    UnknownArchitecture {
        /// The config.json.
        path: PathBuf,
        /// What it says.
        found: String,
        /// The names of the families there are.
        supported: String,
    },
    /// The weights do not fit the configuration.
    #[error("`{path}`: {}\nhint: config.json and the safetensors files must come from one checkpoint", problems.join("\n  "))]
    Weights {
        /// The checkpoint.
        path: PathBuf,
        /// One line a problem: missing, unknown or misshapen weights, by name.
        problems: Vec<String>,
    },
    /// The device asked for is not there.
    #[error("device `{asked}`: {reason}\nhint: {hint}")]
    Device {
        /// As typed.
        asked: String,
        /// Why not.
        reason: String,
        /// The next step.
        hint: String,
    },
    /// The prompt does not fit the model.
    #[error("{reason}\nhint: {hint}")]
    Prompt {
        /// What is wrong with it.
        reason: String,
        /// The next step.
        hint: String,
    },
    /// An image of a sample does not suit the model.
    #[error("image {index} of the sample: {source}")]
    Image {
        /// Which one, from 0.
        index: usize,
        /// What is wrong with it.
        source: crate::image::ImageError,
    },
    /// A tokenizer, a template or a conversation under them.
    #[error(transparent)]
    Text(#[from] crate::text::TextError),
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl ModelError {
    /// A file that could not be read.
    pub fn read(path: &Path, source: std::io::Error) -> Self {
        let hint = match source.kind() {
            std::io::ErrorKind::NotFound => {
                "a checkpoint is a folder with config.json, tokenizer.json and safetensors files, as on the hub"
            }
            _ => "check the permissions of the folder",
        };
        Self::Io { action: "read", path: path.to_owned(), source, hint: hint.into() }
    }

    /// A file that could not be written.
    pub fn write(path: &Path, source: std::io::Error) -> Self {
        let hint = "check the permissions and the free space of the folder".into();
        Self::Io { action: "write", path: path.to_owned(), source, hint }
    }

    /// A file with the wrong content.
    pub fn invalid(path: &Path, reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Invalid { path: path.to_owned(), reason: reason.into(), hint: hint.into() }
    }
}
