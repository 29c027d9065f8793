//! The world on disk: for each split a folder of PNG files and a LLaVA JSON, one row per picture.
//!
//! A row with one question has its topic in its id (`count-00012`), by which `distill eval` tells results apart.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder, RgbImage};
use serde_json::{Value, json};

use crate::dice::Dice;
use crate::manifest::{Manifest, Split};
use crate::world::Scene;
use crate::world::question::{Asker, BRIEF, Question};
use crate::world::render::render;

/// A scene and what is asked about it.
pub struct Conversation {
    /// The picture's content.
    pub scene: Scene,
    /// Questions and answers, as they are written.
    pub turns: Vec<Turn>,
}

/// A question and the answer it wants.
pub struct Turn {
    /// The question this is a form of.
    pub question: Question,
    /// Whether the short answer is wanted.
    pub brief: bool,
}

impl Turn {
    /// The question as it is asked.
    pub fn asked(&self) -> String {
        let ending = if self.brief { BRIEF } else { "" };
        format!("{}{ending}", self.question.text)
    }

    /// The answer it wants.
    pub fn answer(&self) -> &str {
        if self.brief { &self.question.short } else { &self.question.sentence }
    }
}

/// The conversations of a split, without end; the split takes as many as it needs.
pub fn conversations(seed: u64, name: &str, split: &Split) -> impl Iterator<Item = Conversation> {
    let mut dice = Dice::new(seed, name);
    let (turns, held_out, topics) = (split.turns, split.held_out, split.topics.clone());
    std::iter::repeat_with(move || {
        let scene = Scene::random(held_out, &mut dice);
        let mut asker = Asker::new(&scene, held_out, &mut dice);
        let questions = match &topics {
            Some(topics) => asker.about(topics, turns),
            None => asker.several(turns),
        };
        let turns = questions.into_iter().map(|question| Turn { question, brief: dice.chance(50) }).collect();
        Conversation { scene, turns }
    })
    .filter(|conversation| !conversation.turns.is_empty())
}

/// Writes the named splits of the manifest under `out`: `NAME.json` beside a folder `NAME`.
///
/// # Errors
/// When a split is not in the manifest or a file cannot be written.
pub fn write(manifest: &Manifest, names: &[String], out: &Path) -> Result<()> {
    for name in names {
        let known = || manifest.split.keys().cloned().collect::<Vec<_>>().join(", ");
        let split = manifest
            .split
            .get(name)
            .with_context(|| format!("no split `{name}` in the manifest\nhint: there are {}", known()))?;
        write_split(manifest.seed, name, split, out)
            .with_context(|| format!("cannot write split `{name}`"))?;
    }
    Ok(())
}

fn write_split(seed: u64, name: &str, split: &Split, out: &Path) -> Result<()> {
    fs::create_dir_all(out.join(name))?;
    let mut rows = Vec::with_capacity(split.conversations);
    let stream = split.stream.as_deref().unwrap_or(name);
    for (i, conversation) in conversations(seed, stream, split).take(split.conversations).enumerate() {
        let image = format!("{name}/{i:05}.png");
        fs::write(out.join(&image), png(&render(&conversation.scene))?)?;
        if split.separate {
            rows.extend(conversation.turns.chunks(1).map(|turn| row(name, i, &image, turn).to_string()));
        } else {
            rows.push(row(name, i, &image, &conversation.turns).to_string());
        }
    }
    // One row on a line: the file can be searched and compared with ordinary tools.
    fs::write(out.join(format!("{name}.json")), format!("[\n{}\n]\n", rows.join(",\n")))?;
    Ok(())
}

fn row(name: &str, i: usize, image: &str, asked: &[Turn]) -> Value {
    let id = match asked {
        [only] => format!("{}-{i:05}", only.question.topic.name()),
        _ => format!("{name}-{i:05}"),
    };
    let mut turns = Vec::with_capacity(2 * asked.len());
    for (k, turn) in asked.iter().enumerate() {
        let placeholder = if k == 0 { "<image>\n" } else { "" };
        turns.push(json!({"from": "human", "value": format!("{placeholder}{}", turn.asked())}));
        turns.push(json!({"from": "gpt", "value": turn.answer()}));
    }
    json!({"id": id, "image": image, "conversations": turns})
}

fn png(picture: &RgbImage) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    PngEncoder::new_with_quality(&mut bytes, CompressionType::Best, FilterType::NoFilter).write_image(
        picture.as_raw(),
        picture.width(),
        picture.height(),
        ExtendedColorType::Rgb8,
    )?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
