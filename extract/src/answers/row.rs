//! A row of the output: LLaVA's layout, with a `provenance` that readers of LLaVA pass over.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use shared::dataset::{ImageSource, Message, PLACEHOLDER, Part, Record, Role};
use shared::ids::{Digest, SampleKey};
use shared::models::checkout_name;

use super::cannot_write;
use super::respond::{Origin, Provenance};
use crate::config::RunConfig;

/// Whether a text can stand in a row: LLaVA has no way to write the placeholder as plain text.
pub(super) fn can_hold(text: &str) -> bool {
    !text.contains(PLACEHOLDER)
}

/// Whether the layout can hold a conversation; the reason why not, otherwise.
pub(super) fn check(record: &Record) -> Result<(), String> {
    if record.messages.iter().any(|message| message.skip_loss) {
        return Err("the output has no way to say `loss: false`, which an answer has".to_owned());
    }
    let parts = record.messages.iter().flat_map(|message| &message.content);
    let holds =
        |part: &Part| matches!(part, Part::Image) || matches!(part, Part::Text { text } if can_hold(text));
    match parts.into_iter().all(holds) {
        true => Ok(()),
        false => {
            Err(format!("a text contains `{PLACEHOLDER}`, which the output could not tell from an image"))
        }
    }
}

/// The row with its answers and where they came from.
///
/// # Errors
/// When an image that came as bytes cannot be written beside the output.
pub(super) fn of(record: &Record, key: SampleKey, turns: &[Provenance], run: &RunConfig) -> Result<Value> {
    let mut answers = turns.iter();
    let mut conversations = Vec::with_capacity(record.messages.len());
    for message in &record.messages {
        let (from, mut value) = written(message);
        if message.is_learnt() {
            match answers.next() {
                Some(turn) if turn.answer == Origin::Teacher => value.clone_from(&turn.response),
                _ => {}
            }
        }
        conversations.push(json!({ "from": from, "value": value }));
    }
    let images =
        record.images.iter().map(|image| image_path(image, record, run)).collect::<Result<Vec<_>>>()?;
    let mut row = json!({ "conversations": conversations });
    if !images.is_empty() {
        row["images"] = images.into();
    }
    if let Some(id) = &record.id {
        row["id"] = id.clone().into();
    }
    row["provenance"] = json!({
        "source": record.source, "row": record.row, "key": key.to_string(), "teacher": checkout_name(&run.teacher), "turns": turns,
    });
    if let Some(name) = run.settings.teacher.gguf.as_deref().and_then(Path::file_name) {
        row["provenance"]["gguf"] = name.to_string_lossy().into();
    }
    Ok(row)
}

/// A message as LLaVA has it: readers take one newline off on both sides of a placeholder, so one is put there.
fn written(message: &Message) -> (&'static str, String) {
    let from = match message.role {
        Role::System => "system",
        Role::User => "human",
        Role::Assistant => "gpt",
    };
    let text = message.content.iter().map(|part| match part {
        Part::Text { text } => text.clone(),
        Part::Image => format!("\n{PLACEHOLDER}\n"),
    });
    (from, text.collect())
}

/// An image's path from where the dataset's images start, so that the same `--image-root` serves the output. Bytes that
/// came with the row go into a folder beside the output, which then is where images start.
fn image_path(image: &ImageSource, record: &Record, run: &RunConfig) -> Result<String> {
    let root = run.settings.data.image_root.as_deref();
    match image {
        ImageSource::Path(path) => {
            let beside = Path::new(&record.source).parent().unwrap_or(Path::new(""));
            let relative = path.strip_prefix(root.unwrap_or(beside)).unwrap_or(path);
            Ok(relative.to_string_lossy().into_owned())
        }
        ImageSource::Bytes(_) | ImageSource::Slice { .. } if root.is_some() => {
            bail!(
                "images that are part of the dataset have no `--image-root`\nhint: leave `--image-root` out"
            )
        }
        ImageSource::Bytes(_) | ImageSource::Slice { .. } => {
            let bytes = image.read()?;
            let name = run.out.file_stem().context("the output has no name\nhint: `--out FILE.jsonl`")?;
            let folder = format!("{}_images", name.to_string_lossy());
            let path = run.out.with_file_name(&folder);
            cannot_write(std::fs::create_dir_all(&path), &path)?;
            let file = Digest::of(&bytes).to_string();
            let path = path.join(&file);
            if !path.exists() {
                // Under another name first: a file of this name is whole.
                let partial = path.with_extension("partial");
                let written =
                    std::fs::write(&partial, &bytes).and_then(|()| std::fs::rename(&partial, &path));
                cannot_write(written, &path)?;
            }
            Ok(format!("{folder}/{file}"))
        }
    }
}
