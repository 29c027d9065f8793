//! `extract pair`: what a teacher and a student make of the same prompt and of images of given sizes, side by side, and
//! which methods of `distill` could use the pair. Only their processors are loaded, no weights; of a folder without a
//! `config.json`, only the tokenizer, which has no prompt and takes no images.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;
use shared::dataset::{Message, Part, Role};
use shared::image::{self, RgbImage};
use shared::models::{Processor, checkout};
use shared::text::TextTokenizer;

use crate::cli::{Overrides, PairArgs, path};
use crate::config::{Settings, required};
use crate::units::ImageSize;

mod methods;

use methods::{Usable, usable};

const DEFAULT_TEXT: &str = "How many red cubes are left of the small green sphere?";

/// A thumbnail, two kinds of photographs, a page, a screen.
const DEFAULT_SIZES: [ImageSize; 5] = [
    ImageSize { width: 224, height: 224 },
    ImageSize { width: 640, height: 480 },
    ImageSize { width: 1024, height: 1024 },
    ImageSize { width: 1240, height: 1754 },
    ImageSize { width: 1920, height: 1080 },
];

/// A teacher and a student side by side.
#[derive(Debug, Serialize)]
pub struct Pair {
    /// The question that both are asked.
    pub text: String,
    /// One model's view of it.
    pub teacher: Side,
    /// The other's.
    pub student: Side,
    /// Whether both split the text alike and have one vocabulary.
    pub same_tokens: bool,
    /// For each method of `distill`, whether it could use the pair.
    pub methods: Vec<Usable>,
}

/// How one model sees the question.
#[derive(Debug, Serialize)]
pub struct Side {
    /// The model's checkout.
    pub model: PathBuf,
    /// Token ids there are.
    pub vocab_size: usize,
    /// Tokens of the whole prompt: template, images and text; none of a tokenizer alone.
    pub prompt_tokens: Option<usize>,
    /// Of these, for each image.
    pub image_tokens: Vec<usize>,
    /// The bare text, cut at token boundaries.
    pub pieces: Vec<String>,
    /// The ids of these pieces.
    pub ids: Vec<u32>,
    /// What images of given sizes would take.
    pub sizes: Vec<SizeTokens>,
    /// What decides the text's tokens, hashed.
    #[serde(skip)]
    tokenizer: String,
}

/// What an image of one size takes.
#[derive(Debug, Serialize)]
pub struct SizeTokens {
    /// Width and height in pixels.
    pub size: ImageSize,
    /// Its tokens; none where the model does not take it.
    pub tokens: Option<usize>,
    /// Why the model does not take it, where it does not.
    pub reason: Option<String>,
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
    let sizes = if args.image_size.is_empty() { &DEFAULT_SIZES[..] } else { &args.image_size };
    let mut images = Vec::new();
    for file in &args.image {
        let advice = || {
            let hint = "`--image` takes an image file; `--image-size WxH` counts tokens without one";
            format!("cannot read the image `{}`\nhint: {hint}", file.display())
        };
        images.push(image::decode(&std::fs::read(file).with_context(advice)?).with_context(advice)?);
    }
    let teacher = side(&teacher, &text, &images, sizes)?;
    let student = side(&student, &text, &images, sizes)?;
    let same_tokens = teacher.ids == student.ids && teacher.vocab_size == student.vocab_size;
    let methods = usable(teacher.tokenizer == student.tokenizer);
    Ok(Pair { text, teacher, student, same_tokens, methods })
}

fn side(model: &Path, text: &str, images: &[RgbImage], sizes: &[ImageSize]) -> Result<Side> {
    let model = &checkout(model)?;
    if !model.join("config.json").exists() && model.join("tokenizer.json").exists() {
        return tokenizer_side(model, &TextTokenizer::load(model)?, text, sizes);
    }
    let processor = Processor::load(model)?;
    let prompt = processor.encode_question(&question(images.len(), text), images)?.prompt;
    Ok(Side {
        prompt_tokens: Some(prompt.input_ids.len()),
        image_tokens: prompt.images.iter().map(|image| image.tokens.len()).collect(),
        sizes: sizes.iter().map(|size| size_tokens(&processor, *size)).collect(),
        ..tokenizer_side(model, processor.tokenizer(), text, &[])?
    })
}

/// What the tokenizer alone says.
fn tokenizer_side(model: &Path, tokenizer: &TextTokenizer, text: &str, sizes: &[ImageSize]) -> Result<Side> {
    let tokens = tokenizer.encode_with(text, false)?;
    let piece =
        |&(start, end): &(u32, u32)| text.chars().skip(start as usize).take((end - start) as usize).collect();
    let not_taken = |&size: &ImageSize| SizeTokens {
        size,
        tokens: None,
        reason: Some("a tokenizer alone takes no images".to_owned()),
    };
    Ok(Side {
        model: model.to_owned(),
        vocab_size: tokenizer.vocab_size(),
        prompt_tokens: None,
        image_tokens: Vec::new(),
        pieces: tokens.offsets.iter().map(piece).collect(),
        ids: tokens.ids,
        sizes: sizes.iter().map(not_taken).collect(),
        tokenizer: tokenizer.digest().to_string(),
    })
}

fn question(num_images: usize, text: &str) -> [Message; 1] {
    let mut content = vec![Part::Image; num_images];
    content.push(Part::Text { text: text.to_owned() });
    [Message::new(Role::User, content)]
}

/// Has the model's own processor take a grey image: a black one would be nothing to some of them.
fn size_tokens(processor: &Processor, size: ImageSize) -> SizeTokens {
    let num_values = 3 * size.width as usize * size.height as usize;
    let image = RgbImage { width: size.width, height: size.height, data: vec![128; num_values] };
    match processor.encode_question(&question(1, "?"), &[image]) {
        Ok(encoded) => {
            let tokens = encoded.prompt.images.first().map(|image| image.tokens.len());
            SizeTokens { size, tokens, reason: None }
        }
        Err(error) => {
            let reason = error.to_string().lines().next().unwrap_or_default().to_owned();
            SizeTokens { size, tokens: None, reason: Some(reason) }
        }
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (teacher, student) = (&self.teacher, &self.student);
        let mut rows = vec![
            ("".to_owned(), "teacher".to_owned(), "student".to_owned()),
            ("model".to_owned(), teacher.model.display().to_string(), student.model.display().to_string()),
        ];
        let mut row = |name: String, teacher: String, student: String| rows.push((name, teacher, student));
        row("vocabulary".into(), teacher.vocab_size.to_string(), student.vocab_size.to_string());
        let prompt = |side: &Side| side.prompt_tokens.map_or("a tokenizer alone".into(), |n| tokens(Some(n)));
        row("prompt".into(), prompt(teacher), prompt(student));
        for (number, (ours, theirs)) in teacher.image_tokens.iter().zip(&student.image_tokens).enumerate() {
            row(format!("image {number}"), tokens(Some(*ours)), tokens(Some(*theirs)));
        }
        // Two tokenizers have nothing to say about images.
        let takes_images = teacher.prompt_tokens.or(student.prompt_tokens).is_some();
        for (ours, theirs) in teacher.sizes.iter().zip(&student.sizes).filter(|_| takes_images) {
            row(format!("image {}", ours.size), tokens(ours.tokens), tokens(theirs.tokens));
        }
        row("text".into(), tokens(Some(teacher.ids.len())), tokens(Some(student.ids.len())));
        for at in 0..teacher.ids.len().max(student.ids.len()) {
            row(String::new(), teacher.token(at), student.token(at));
        }
        write_columns(f, &rows)?;
        let verdict = if self.same_tokens { "split the text alike" } else { "split the text differently" };
        writeln!(f, "they {verdict}\n")?;
        for (number, method) in self.methods.iter().enumerate() {
            let answer = if method.usable { "yes" } else { "no" };
            let end = if number + 1 < self.methods.len() { "\n" } else { "" };
            write!(f, "{:<14} {answer:<4} {}{end}", method.method, method.why)?;
        }
        Ok(())
    }
}

impl Side {
    /// A token of the text, with its id.
    fn token(&self, at: usize) -> String {
        let both = self.pieces.get(at).zip(self.ids.get(at));
        both.map_or(String::new(), |(piece, id)| format!("{:<12} {id}", format!("`{piece}`")))
    }
}

fn tokens(count: Option<usize>) -> String {
    count.map_or("not taken".to_owned(), |count| format!("{count} tokens"))
}

/// Three columns, the second as wide as its widest cell.
fn write_columns(f: &mut fmt::Formatter<'_>, rows: &[(String, String, String)]) -> fmt::Result {
    let width = |cell: fn(&(String, String, String)) -> &String| {
        rows.iter().map(|row| cell(row).chars().count()).max().unwrap_or(0) + 2
    };
    let (first, second) = (width(|row| &row.0), width(|row| &row.1));
    rows.iter().try_for_each(|(name, ours, theirs)| {
        let line = format!("{name:<first$}{ours:<second$}{theirs}");
        writeln!(f, "{}", line.trim_end())
    })
}
