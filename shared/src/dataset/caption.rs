//! Images with a text and nothing else, as WebDataset shards of captions have them (`txt`): the question is the
//! image alone, the answer the text.

use serde_json::Value;

use super::format::{Content, Parsed, RowContext};
use super::images;
use super::turns::{Turns, spoken};

/// The conversation and images of a row; the reason if it cannot be used.
pub(super) fn parse(content: &Content, context: &RowContext<'_>) -> Parsed {
    let caption = content.fields.get("txt").and_then(Value::as_str).ok_or("has no `txt`")?;
    let listed = images::listed(content, context.image_root)?;
    if listed.is_empty() {
        return Err("has no image".into());
    }
    let mut turns = Turns::default();
    turns.push("user", Vec::new())?;
    turns.push("assistant", spoken("assistant", caption.trim()))?;
    turns.with_listed(listed, true)
}
