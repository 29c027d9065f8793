//! From a row of the dataset to what the teacher takes: read, identify, decode, encode. All on the CPU, row by row
//! independent, so that rayon may run many at once ahead of the model.

use std::ops::Range;

use shared::cache::{CachedImage, CachedTurn, FeatureBlock, QuarantinedRow, Row, SampleMeta};
use shared::dataset::{BadRow, Message, Record, Role, canonical_json};
use shared::ids::{Digest, SampleKey};
use shared::image;
use shared::models::{Encoded, Processor};
use shared::text::Prompt;

use crate::config::Keep;

/// A row whose content is known, images still encoded.
pub struct Identified {
    record: Record,
    messages: String,
    image_files: Vec<Vec<u8>>,
    digests: Vec<Digest>,
    /// What it is, wherever it came from.
    pub key: SampleKey,
}

/// A sample ready for the teacher.
#[derive(Clone)]
pub struct Prepared {
    meta: SampleMeta,
    /// The encoded images, where the cache is to hold them.
    image_files: Vec<Vec<u8>>,
    /// What the teacher takes.
    pub encoded: Encoded,
}

/// What a sample may have at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Tokens.
    pub tokens: usize,
    /// Positions that keep features: more do not fit into a cache.
    pub positions: usize,
}

/// Reads a row's images and computes its key.
///
/// # Errors
/// The row with the reason, when an image cannot be read.
pub fn identify(record: Record) -> Result<Identified, QuarantinedRow> {
    let mut image_files = Vec::with_capacity(record.images.len());
    for source in &record.images {
        match source.read() {
            Ok(bytes) => image_files.push(bytes),
            Err(error) => return Err(quarantined(&record, None, &error)),
        }
    }
    let messages = canonical_json(&record.messages);
    let digests: Vec<Digest> = image_files.iter().map(|bytes| Digest::of(bytes)).collect();
    let key = SampleKey::of(&messages, &digests);
    Ok(Identified { record, messages, image_files, digests, key })
}

/// Decodes and encodes a row, and decides which of its tokens keep features and, by `embed_images`, whether its
/// image files go into the cache.
///
/// # Errors
/// The row with the reason: a broken image, a prompt that the processor refuses, more than `limits` allow, no answer.
pub fn prepare(
    row: Identified,
    processor: &Processor,
    limits: Limits,
    keep: Keep,
    embed_images: bool,
) -> Result<Prepared, QuarantinedRow> {
    let Identified { record, messages, image_files, digests, key } = row;
    let bad = |reason: &dyn std::fmt::Display| quarantined(&record, Some(key), reason);
    let mut images = Vec::with_capacity(image_files.len());
    for (number, bytes) in image_files.iter().enumerate() {
        let decoded = image::decode(bytes);
        images.push(decoded.map_err(|error| bad(&format!("image {number}: {error}")))?);
    }
    let image_files = if embed_images { image_files } else { Vec::new() };
    let mut encoded = processor.encode(&record.messages, &images).map_err(|error| bad(&error))?;
    let num_tokens = encoded.prompt.input_ids.len();
    if num_tokens > limits.tokens {
        return Err(bad(&format!("{num_tokens} tokens, more than the maximum of {}", limits.tokens)));
    }
    let positions = kept_positions(&encoded.prompt, &record.messages, keep).map_err(|reason| bad(&reason))?;
    if positions.len() > limits.positions {
        let (count, most) = (positions.len(), limits.positions);
        return Err(bad(&format!(
            "{count} positions have features, more than the {most} that a cache can hold"
        )));
    }
    let sizes = images.iter().map(|image| (image.width, image.height));
    let images = cached_images(&encoded.prompt, &digests, sizes);
    let turns = encoded.prompt.turns.iter().map(cached_turn).collect();
    let prompt = &mut encoded.prompt;
    let meta = SampleMeta {
        key,
        row_id: record.id,
        source: record.source,
        row: record.row,
        messages,
        text: std::mem::take(&mut prompt.text),
        images,
        input_ids: prompt.input_ids.clone(),
        offsets: std::mem::take(&mut prompt.offsets),
        turns,
        positions,
    };
    Ok(Prepared { meta, image_files, encoded })
}

impl Prepared {
    /// T.
    pub fn num_tokens(&self) -> usize {
        self.meta.input_ids.len()
    }

    /// Memory that its pixels and image files take, in bytes.
    pub fn pixel_bytes(&self) -> usize {
        let files: usize = self.image_files.iter().map(Vec::len).sum();
        files + self.encoded.images.iter().map(|image| image.pixels.len() * size_of::<f32>()).sum::<usize>()
    }

    /// The tokens that keep features, ascending.
    pub fn positions(&self) -> &[u32] {
        &self.meta.positions
    }

    /// All that the cache will say of it but its features.
    pub fn meta(&self) -> &SampleMeta {
        &self.meta
    }

    /// What it is.
    pub fn key(&self) -> SampleKey {
        self.meta.key
    }

    /// The row of the cache, once its features are there.
    pub fn into_row(self, features: FeatureBlock) -> Row {
        Row { meta: self.meta, features, image_files: self.image_files }
    }

    /// The row of the quarantine table, should its features turn out to be no use.
    pub fn into_quarantined(self, reason: &str) -> QuarantinedRow {
        let SampleMeta { source, row, row_id, key, .. } = self.meta;
        QuarantinedRow { source, row, id: row_id, key: Some(key), reason: reason.to_owned() }
    }
}

/// A row that the dataset itself refused.
pub fn refused(row: BadRow) -> QuarantinedRow {
    QuarantinedRow { source: row.source, row: row.row, id: row.id, key: None, reason: row.reason }
}

fn quarantined(record: &Record, key: Option<SampleKey>, reason: &dyn std::fmt::Display) -> QuarantinedRow {
    // Advice belongs to the run's own messages, a table column takes one line.
    let reason = reason.to_string();
    let reason: Vec<&str> = reason.lines().filter(|line| !line.starts_with("hint:")).collect();
    let (source, id) = (record.source.clone(), record.id.clone());
    QuarantinedRow { source, row: record.row, id, key, reason: reason.join(" ") }
}

/// The tokens whose features are kept, ascending; the token before each answer, which predicts its first one, is among them.
fn kept_positions(prompt: &Prompt, messages: &[Message], keep: Keep) -> Result<Vec<u32>, String> {
    let num_tokens = prompt.input_ids.len();
    let mut is_kept = vec![keep != Keep::Answer; num_tokens];
    if keep == Keep::Text {
        prompt.images.iter().for_each(|image| is_kept[image.tokens.clone()].fill(false));
    }
    let answers = answers(prompt, messages)?;
    if answers.is_empty() {
        return Err("there is no answer to learn".to_owned());
    }
    for answer in answers {
        is_kept[answer.start - 1..answer.end].fill(true);
    }
    Ok((0..num_tokens as u32).filter(|token| is_kept[*token as usize]).collect())
}

/// The tokens of the answers to learn; one without any, or without a token before it, is an error.
fn answers(prompt: &Prompt, messages: &[Message]) -> Result<Vec<Range<usize>>, String> {
    let turns = prompt.turns.iter().zip(messages).enumerate().filter(|(_, (_, message))| message.is_learnt());
    turns
        .map(|(number, (turn, _))| match &turn.answer {
            Some(answer) if answer.start > 0 && !answer.is_empty() => Ok(answer.clone()),
            Some(answer) if answer.start == 0 => {
                Err(format!("the answer of turn {number} has no token before it"))
            }
            _ => Err(format!("the answer of turn {number} is empty")),
        })
        .collect()
}

fn cached_images(
    prompt: &Prompt,
    digests: &[Digest],
    sizes: impl Iterator<Item = (u32, u32)>,
) -> Vec<CachedImage> {
    let images = prompt.images.iter().zip(digests).zip(sizes);
    images
        .map(|((span, digest), (width, height))| CachedImage {
            digest: *digest,
            width,
            height,
            token_start: span.tokens.start as u32,
            num_tokens: span.tokens.len() as u32,
            grid: span.grid.map(|size| size as u32),
        })
        .collect()
}

fn cached_turn(turn: &shared::text::TurnSpan) -> CachedTurn {
    let answer = turn.answer.clone().unwrap_or(0..0);
    let role = match turn.role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
    };
    CachedTurn {
        role: role.to_owned(),
        token_start: turn.tokens.start as u32,
        num_tokens: turn.tokens.len() as u32,
        answer_start: answer.start as u32,
        num_answer_tokens: answer.len() as u32,
    }
}

#[cfg(test)]
mod tests {
    // A failed unwrap is a failed test.
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use shared::text::{ImageSpan, TurnSpan};

    use super::*;

    /// Ten tokens: a question of six with two image tokens, an answer of three, a newline.
    fn prompt(answer: Option<Range<usize>>) -> Prompt {
        let user = TurnSpan { role: Role::User, tokens: 0..5, answer: None };
        let assistant = TurnSpan { role: Role::Assistant, tokens: 5..10, answer };
        Prompt {
            text: "0123456789".to_owned(),
            input_ids: (0..10).collect(),
            offsets: (0..10).map(|at| (at, at + 1)).collect(),
            turns: vec![user, assistant],
            images: vec![ImageSpan { tokens: 1..3, grid: [1, 2, 4] }],
        }
    }

    fn messages() -> [Message; 2] {
        [Role::User, Role::Assistant].map(|role| Message::new(role, Vec::new()))
    }

    #[test]
    fn the_boundary_token_comes_with_the_answer() {
        let kept = kept_positions(&prompt(Some(6..9)), &messages(), Keep::Answer).unwrap();
        assert_eq!(kept, [5, 6, 7, 8]);
    }

    #[test]
    fn text_leaves_images_out_and_all_leaves_nothing_out() {
        assert_eq!(
            kept_positions(&prompt(Some(6..9)), &messages(), Keep::Text).unwrap(),
            [0, 3, 4, 5, 6, 7, 8, 9]
        );
        assert_eq!(kept_positions(&prompt(Some(6..9)), &messages(), Keep::All).unwrap().len(), 10);
    }

    #[test]
    fn an_answer_that_is_not_learnt_keeps_nothing() {
        let mut twice = prompt(None);
        let question = TurnSpan { role: Role::User, tokens: 10..12, answer: None };
        let answer = TurnSpan { role: Role::Assistant, tokens: 12..14, answer: Some(12..14) };
        twice.turns.extend([question, answer]);
        twice.input_ids = (0..14).collect();
        let mut said = [messages(), messages()].concat();
        said[1].skip_loss = true;
        assert_eq!(kept_positions(&twice, &said, Keep::Answer).unwrap(), [11, 12, 13]);
        said[3].skip_loss = true;
        assert_eq!(kept_positions(&twice, &said, Keep::Answer).unwrap_err(), "there is no answer to learn");
    }

    #[test]
    fn a_missing_answer_is_named() {
        assert_eq!(
            kept_positions(&prompt(None), &messages(), Keep::Answer).unwrap_err(),
            "the answer of turn 1 is empty"
        );
    }
}
