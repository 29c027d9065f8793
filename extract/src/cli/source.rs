//! What `extract run` and `extract answers` have in common: a teacher, a dataset, and how the one runs over the other.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use shared::dataset::Format;
use toml::Value;

use super::overrides::{Overrides, integer, path, utf8};
use crate::units::MaxBad;

/// Flags that name a teacher and a dataset.
#[derive(Clone, Debug, Default, Args)]
pub struct SourceArgs {
    /// The teacher: a checkout laid out as on the Hugging Face hub, or the name of one there: `org/name@revision`, the revision optional.
    #[arg(long, value_name = "DIR", value_parser = utf8(), value_hint = ValueHint::DirPath)]
    pub teacher: Option<PathBuf>,
    /// A GGUF file of the teacher's language model (Q8_0, Q4_K, ...): its quantised matrices take the place of the
    /// checkout's and stay quantised in memory.
    #[arg(long, value_name = "FILE", value_parser = utf8(), value_hint = ValueHint::FilePath)]
    pub gguf: Option<PathBuf>,
    /// The dataset: files, folders or globs; may be given several times.
    #[arg(long, value_name = "SRC", num_args = 1.., value_hint = ValueHint::AnyPath)]
    pub data: Vec<String>,
    /// Where relative image paths of the dataset start.
    #[arg(long, value_name = "DIR", value_parser = utf8(), value_hint = ValueHint::DirPath)]
    pub image_root: Option<PathBuf>,
    /// auto, cpu or cuda:N [default: auto].
    #[arg(long)]
    pub device: Option<String>,
    /// Tokens in one forward pass; changes speed and memory, never the result [default: 4096].
    #[arg(long, value_name = "TOKENS")]
    pub max_tokens_per_batch: Option<usize>,
    /// Bad rows to tolerate, as a share of the rows read or as a number; beyond them the command fails [default: 1%].
    #[arg(long, value_name = "1%|ROWS")]
    pub max_bad: Option<MaxBad>,
    /// Read the dataset as this format instead of telling it by its content.
    #[arg(long)]
    pub format: Option<Format>,
    /// Put images that no placeholder asks for at the front of the first question instead of refusing the row.
    #[arg(long)]
    pub prepend_image: bool,
}

impl SourceArgs {
    /// The flags that were typed.
    pub(super) fn overrides(&self) -> Overrides {
        let mut flags = Overrides::default();
        flags.put("teacher", "dir", self.teacher.as_deref().map(path));
        flags.put("teacher", "gguf", self.gguf.as_deref().map(path));
        flags.put("teacher", "device", self.device.clone());
        let sources = self.data.iter().cloned().map(Value::String).collect::<Vec<_>>();
        flags.put("data", "sources", (!sources.is_empty()).then_some(sources));
        flags.put("data", "image_root", self.image_root.as_deref().map(path));
        flags.put("data", "format", self.format.map(|format| format.to_string()));
        flags.put("data", "prepend_image", self.prepend_image.then_some(true));
        flags.put("data", "max_bad", self.max_bad.map(|max| max.to_string()));
        flags.put("batch", "max_tokens", self.max_tokens_per_batch.map(integer));
        flags
    }
}
