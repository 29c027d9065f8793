//! Rows of `messages: [{role, content}]`, as OpenAI, Anthropic, TRL and ms-swift write them. Content is a text, in which
//! `<image>` takes the next of the row's images, or a list of parts; a part of an image brings it along
//! (`image_url`, `source`, `image`) or takes the next one.

use std::path::Path;

use serde_json::{Map, Value};

use super::format::{Content, Parsed, RowContext};
use super::turns::{Turns, place_images, spoken};
use super::{ImageSource, Part, images};

/// The conversation and images of a row; the reason if it cannot be used.
pub(super) fn parse(content: &Content, context: &RowContext<'_>) -> Parsed {
    let given = content.fields.get("messages").and_then(Value::as_array);
    let given = given.ok_or("is not a row of messages: `messages` is no list")?;
    let mut turns = Turns::default();
    let mut inline = Vec::new();
    turns.push_system_of(&content.fields)?;
    for message in given {
        let index = turns.num_given();
        let message = message.as_object().ok_or_else(|| format!("turn {index} is no object"))?;
        let speaker = message.get("role").and_then(Value::as_str);
        let speaker = speaker.ok_or_else(|| format!("turn {index} has no `role`"))?;
        let said = Turn { index, speaker, message }.parts(context.image_root, &mut inline)?;
        turns.push(speaker, said)?;
        // ms-swift's `loss` is a truth value, OpenAI's `weight` a number.
        if ["loss", "weight"].into_iter().filter_map(|name| message.get(name)).any(is_off) {
            turns.skip_loss_of_last();
        }
    }
    let mut messages = turns.finish()?;
    let listed = images::listed(content, context.image_root)?;
    let images = place_images(&mut messages, inline, listed, context.prepend_image)?;
    Ok((messages, images))
}

fn is_off(value: &Value) -> bool {
    *value == Value::Bool(false) || value.as_f64() == Some(0.0)
}

struct Turn<'a> {
    index: usize,
    speaker: &'a str,
    message: &'a Map<String, Value>,
}

impl Turn<'_> {
    /// What is said; the images that its parts bring go to `inline`, and a `None` for each that takes a listed one.
    fn parts(&self, root: &Path, inline: &mut Vec<Option<ImageSource>>) -> Result<Vec<Part>, String> {
        let index = self.index;
        let calls = self.message.get("tool_calls").and_then(Value::as_array);
        if self.speaker == "tool" || calls.is_some_and(|calls| !calls.is_empty()) {
            return Err(format!("turn {index} is a tool call or its result, which templates differ about"));
        }
        let mut parts = Vec::new();
        match self.message.get("content") {
            Some(Value::String(text)) => self.text(text, &mut parts, inline),
            Some(Value::Array(given)) => {
                for part in given {
                    self.part(part, root, &mut parts, inline)?;
                }
            }
            _ => return Err(format!("turn {index} has no content")),
        }
        Ok(parts)
    }

    fn text(&self, text: &str, parts: &mut Vec<Part>, inline: &mut Vec<Option<ImageSource>>) {
        let pieces = spoken(self.speaker, text);
        inline.extend(pieces.iter().filter(|piece| **piece == Part::Image).map(|_| None));
        parts.extend(pieces);
    }

    fn part(
        &self,
        part: &Value,
        root: &Path,
        parts: &mut Vec<Part>,
        inline: &mut Vec<Option<ImageSource>>,
    ) -> Result<(), String> {
        let field = |name: &str| part.get(name).filter(|value| !value.is_null());
        match field("type").and_then(Value::as_str) {
            Some("text") => {
                let text = field("text").and_then(Value::as_str);
                self.text(text.ok_or("a part of type `text` has no `text`")?, parts, inline);
            }
            Some(kind @ ("image" | "image_url")) => {
                let brought = ["image_url", "source", "image", "url", "path"].into_iter().find_map(field);
                inline.push(brought.map(|image| brought_along(image, root)).transpose()?);
                if kind == "image_url" && brought.is_none() {
                    return Err("a part of type `image_url` has no `image_url`".into());
                }
                parts.push(Part::Image);
            }
            Some(kind) => return Err(format!("turn {} has a part of type `{kind}`", self.index)),
            None => return Err(format!("turn {} has a part without a `type`", self.index)),
        }
        Ok(())
    }
}

/// An image inside a part: a location, OpenAI's `{url}`, or Anthropic's `{type: base64 | url, data | url}`.
fn brought_along(image: &Value, root: &Path) -> Result<ImageSource, String> {
    match image.get("data").and_then(Value::as_str) {
        Some(data) => images::locate(&format!("data:;base64,{data}"), root),
        None => images::source(image, root),
    }
}
