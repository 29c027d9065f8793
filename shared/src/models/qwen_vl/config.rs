//! The text part of a Qwen-VL configuration: flat as on the hub, or nested as transformers 5 writes it.

use serde_json::Value;

use crate::models::fields::{Parsed, flag};
use crate::models::text_config::{self, TextConfig};

/// The decoder, of the class `model_type`.
pub(in crate::models) fn text(json: &Value, model_type: &str) -> Parsed<TextConfig> {
    let text = if json["text_config"].is_object() { &json["text_config"] } else { json };
    // Checkpoints written before transformers 5 may say it in the text configuration only.
    let tied = flag(json, "tie_word_embeddings", false)? || flag(text, "tie_word_embeddings", false)?;
    text_config::parse(text, model_type, tied)
}

/// The vision encoder's rows, whose width config.json gives under `field`, must be of the decoder's width.
pub(in crate::models) fn check_width(field: &str, width: usize, text: &TextConfig) -> Parsed<()> {
    let expected = text.decoder.hidden_size;
    if width != expected {
        return Err(format!("`vision_config.{field}` is {width}, the decoder's width {expected}"));
    }
    Ok(())
}
