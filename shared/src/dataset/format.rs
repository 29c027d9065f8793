//! The registry of row formats: what a row's fields are called and mean, whatever file they came in.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ImageSource, Message, caption, llava, messages, texts};

/// A row format that can be asked for instead of being recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Format {
    /// `conversations` of `from` and `value`, with `<image>` placeholders.
    Llava,
    /// `messages` of `role` and `content`.
    Messages,
    /// `texts` of `user` and `assistant`, images first.
    Texts,
    /// `txt` and an image.
    Caption,
}

/// What a row holds beside its place in the file.
pub(super) struct Content {
    /// A JSON object, in a row that can be used.
    pub(super) fields: Value,
    /// Images that lie beside the fields; none where the fields name them.
    pub(super) images: Option<Vec<ImageSource>>,
}

/// What a row format needs to know about the run.
pub(super) struct RowContext<'a> {
    /// Where image paths start.
    pub(super) image_root: &'a Path,
    /// Whether images without a place go to the front.
    pub(super) prepend_image: bool,
}

/// What a row says, or why it cannot be used.
pub(super) type Parsed = Result<(Vec<Message>, Vec<ImageSource>), String>;

/// One row format: a line in [`FORMATS`] and a file with its `parse`.
pub(super) struct RowFormat {
    pub(super) format: Format,
    name: &'static str,
    /// The field that only this format has.
    field: &'static str,
    pub(super) parse: fn(&Content, &RowContext<'_>) -> Parsed,
}

/// The first whose field a row has is the row's format.
const FORMATS: &[RowFormat] = &[
    RowFormat { format: Format::Llava, name: "llava", field: "conversations", parse: llava::parse },
    RowFormat { format: Format::Messages, name: "messages", field: "messages", parse: messages::parse },
    RowFormat { format: Format::Texts, name: "texts", field: "texts", parse: texts::parse },
    RowFormat { format: Format::Caption, name: "caption", field: "txt", parse: caption::parse },
];

impl Format {
    pub(super) fn rows(self) -> Option<&'static RowFormat> {
        FORMATS.iter().find(|known| known.format == self)
    }
}

/// The format of a row with these fields.
pub(super) fn recognise(fields: &Value) -> Option<&'static RowFormat> {
    FORMATS.iter().find(|known| fields.get(known.field).is_some_and(|value| !value.is_null()))
}

/// What a conversation may also be about; without it a row would be another one.
const UNSUPPORTED: [&str; 5] = ["video", "videos", "audio", "audios", "tools"];

/// The fields that any format reads, images aside.
pub(super) fn known_fields() -> impl Iterator<Item = &'static str> {
    FORMATS.iter().map(|known| known.field).chain(["id", "system"]).chain(UNSUPPORTED)
}

/// A row that texts and images are all of; the reason if there is more to it.
pub(super) fn supported(content: Content) -> Result<Content, String> {
    let is_used = |name: &&str| content.fields.get(*name).is_some_and(|value| !is_empty(value));
    match UNSUPPORTED.into_iter().find(is_used) {
        Some(name) => Err(format!("has `{name}`, which is not read")),
        None => Ok(content),
    }
}

/// Whether a field is as good as none.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.rows().map_or("", |known| known.name))
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let unknown = || {
            let names: Vec<_> = FORMATS.iter().map(|known| format!("`{}`", known.name)).collect();
            format!("there is no dataset format `{name}`: known are {}", names.join(", "))
        };
        let known = FORMATS.iter().find(|known| known.name == name);
        known.map(|known| known.format).ok_or_else(unknown)
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
