//! A split as a multiple-choice benchmark, in the files that MMBench and MMMU are published in.
//!
//! The pictures and questions are those of the split; only topics whose answers have at least three others of their type
//! beside them become rows. The right option stands in each of the four places equally often.

mod mmbench;
mod mmmu;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::choices::{Choice, OPTIONS};
use crate::dice::Dice;
use crate::manifest::Manifest;
use crate::splits::{Conversation, Turn, conversations, png, row_id};
use crate::world::render::render;

/// Whose files to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A TSV with the picture in base64; questions about two pictures have no place in it.
    Mmbench,
    /// A Parquet file with columns `image_1` to `image_7`.
    Mmmu,
}

/// A question with its options.
struct Row {
    /// As the split's own row has it.
    id: String,
    topic: &'static str,
    /// 1 to 3; none in the toy.
    level: Option<u8>,
    question: String,
    choice: Choice,
    /// PNG files, one or two.
    pictures: Vec<Vec<u8>>,
}

/// Writes a split as a benchmark.
///
/// # Errors
/// When the split is not in the manifest, none of its questions can have options, or the file cannot be written.
pub fn write(manifest: &Manifest, split: &str, format: Format, out: &Path) -> Result<()> {
    let mut rows = rows(manifest, split)?;
    if format == Format::Mmbench {
        rows.retain(|row| row.pictures.len() == 1);
    }
    if rows.is_empty() {
        bail!(
            "no question of split `{split}` can have four options\nhint: yes or no, large or small, and whole \
             descriptions have no others beside them"
        );
    }
    settle_answers(&mut rows, &mut Dice::new(manifest.seed, "places of answers"));
    let bytes = match format {
        Format::Mmbench => mmbench::file(&rows).into_bytes(),
        Format::Mmmu => mmmu::file(&rows)?,
    };
    if let Some(folder) = out.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
    }
    fs::write(out, bytes).with_context(|| format!("cannot write `{}`", out.display()))
}

/// The questions of a split that can have options, the right one first.
fn rows(manifest: &Manifest, name: &str) -> Result<Vec<Row>> {
    let split = manifest.split_called(name)?;
    let stream = split.stream.as_deref().unwrap_or(name);
    let mut dice = Dice::new(manifest.seed, "options");
    let mut rows = Vec::new();
    for (i, conversation) in conversations(manifest.seed, stream, split).take(split.conversations).enumerate()
    {
        for turn in &conversation.turns {
            rows.extend(row(i, &conversation, turn, &mut dice)?);
        }
    }
    Ok(rows)
}

fn row(i: usize, conversation: &Conversation, turn: &Turn, dice: &mut Dice) -> Result<Option<Row>> {
    let (scene, question) = (&conversation.scene, &turn.question);
    let Some(choice) = Choice::of(scene, question, dice) else { return Ok(None) };
    let mut pictures = vec![png(&render(scene))?];
    if let Some(beside) = &question.beside {
        pictures.insert(usize::from(!beside.comes_first), png(&render(&beside.scene))?);
    }
    let topic = question.topic.name();
    Ok(Some(Row {
        id: row_id(topic, scene, i),
        topic,
        level: scene.level.map(|level| level as u8),
        question: question.text.clone(),
        choice,
        pictures,
    }))
}

/// Moves the right option of each four rows to each of the four places, in random order.
fn settle_answers(rows: &mut [Row], dice: &mut Dice) {
    for four in rows.chunks_mut(OPTIONS) {
        let mut places = [0, 1, 2, 3];
        for i in 0..OPTIONS {
            places.swap(i, i + dice.below(OPTIONS - i));
        }
        for (row, place) in four.iter_mut().zip(places) {
            row.choice = row.choice.clone().with_answer_at(place);
        }
    }
}

#[cfg(test)]
mod tests;
