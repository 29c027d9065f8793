//! `extract pair`: the same question under a teacher's and a student's tokenizer and image processor, side by side.
//! Only their processors are loaded, no weights.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;
use shared::dataset::{Message, Part, Role};
use shared::image;
use shared::models::Processor;

use crate::cli::{Overrides, PairArgs, path};
use crate::config::{Settings, required};

const DEFAULT_TEXT: &str = "How many red cubes are left of the small green sphere?";

/// Both sides.
#[derive(Debug, Serialize)]
pub struct Pair {
    /// The question.
    pub text: String,
    /// One model's view of it.
    pub teacher: Side,
    /// The other's.
    pub student: Side,
    /// Whether both split the text alike: then methods that compare logits token by token apply.
    pub same_tokens: bool,
}

/// How one model sees the question.
#[derive(Debug, Serialize)]
pub struct Side {
    /// The checkout.
    pub model: PathBuf,
    /// Token ids there are.
    pub vocab_size: usize,
    /// Tokens of the whole prompt: template, images and text.
    pub prompt_tokens: usize,
    /// Of these, for each image.
    pub image_tokens: Vec<usize>,
    /// The bare text, cut at token boundaries.
    pub pieces: Vec<String>,
    /// The ids of these pieces.
    pub ids: Vec<u32>,
}

/// Encodes the question under both.
///
/// # Errors
/// When a checkout or an image cannot be read.
pub fn pair(args: &PairArgs) -> Result<Pair> {
    let mut flags = Overrides::default();
    flags.put("teacher", "dir", args.teacher.as_deref().map(path));
    flags.put("student", "dir", args.student.as_deref().map(path));
    let settings = Settings::load(&args.common, flags.0)?;
    let teacher = required(settings.teacher.dir, "a teacher", "--teacher DIR", "teacher.dir")?;
    let student = required(settings.student.dir, "a student", "--student DIR", "student.dir")?;
    let text = args.text.clone().unwrap_or_else(|| DEFAULT_TEXT.to_owned());
    let mut images = Vec::new();
    for file in &args.image {
        let advice = || format!("cannot read the image `{}`", file.display());
        images.push(image::decode(&std::fs::read(file).with_context(advice)?).with_context(advice)?);
    }
    let teacher = side(&teacher, &text, &images)?;
    let student = side(&student, &text, &images)?;
    let same_tokens = teacher.ids == student.ids && teacher.vocab_size == student.vocab_size;
    Ok(Pair { text, teacher, student, same_tokens })
}

fn side(model: &Path, text: &str, images: &[image::RgbImage]) -> Result<Side> {
    let processor = Processor::load(model)?;
    let mut content = vec![Part::Image; images.len()];
    content.push(Part::Text { text: text.to_owned() });
    let prompt = processor.encode_question(&[Message { role: Role::User, content }], images)?.prompt;
    let tokens = processor.tokenizer().encode_with(text, false)?;
    let piece =
        |&(start, end): &(u32, u32)| text.chars().skip(start as usize).take((end - start) as usize).collect();
    Ok(Side {
        model: model.to_owned(),
        vocab_size: processor.tokenizer().vocab_size(),
        prompt_tokens: prompt.input_ids.len(),
        image_tokens: prompt.images.iter().map(|image| image.tokens.len()).collect(),
        pieces: tokens.offsets.iter().map(piece).collect(),
        ids: tokens.ids,
    })
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, side) in [("teacher", &self.teacher), ("student", &self.student)] {
            writeln!(f, "{name} `{}`", side.model.display())?;
            writeln!(f, "  vocabulary   {}", side.vocab_size)?;
            writeln!(f, "  prompt       {} tokens", side.prompt_tokens)?;
            if !side.image_tokens.is_empty() {
                writeln!(f, "  images       {:?} tokens", side.image_tokens)?;
            }
            writeln!(f, "  text         {} tokens: {}", side.ids.len(), side.pieces.join("|"))?;
            writeln!(f, "  ids          {:?}", side.ids)?;
        }
        let verdict = if self.same_tokens { "split the text alike" } else { "split the text differently" };
        write!(f, "they {verdict}")
    }
}
