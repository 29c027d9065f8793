//! One row of the cache as plain types, and the invariants each row keeps.

use std::fmt;
use std::str::FromStr;

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

use super::error::{CacheError, Result};
use crate::ids::{Digest, SampleKey};

/// The number type of a teacher's features, kept bit for bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FeatureDtype {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
}

impl FeatureDtype {
    /// Bytes of one value.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

impl fmt::Display for FeatureDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        })
    }
}

impl FromStr for FeatureDtype {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        match name {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            "bf16" => Ok(Self::Bf16),
            other => Err(format!("unknown feature dtype `{other}`, expected f32, f16 or bf16")),
        }
    }
}

/// The features of one sample: (positions, width), row by row, little-endian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureBlock {
    /// The number type of `bytes`.
    pub dtype: FeatureDtype,
    /// Values per position.
    pub width: usize,
    /// The values as the teacher computed them; `positions * width * dtype.size()` bytes.
    pub bytes: Vec<u8>,
}

impl FeatureBlock {
    /// A block of float32 values.
    pub fn from_f32(width: usize, values: &[f32]) -> Self {
        Self { dtype: FeatureDtype::F32, width, bytes: bytemuck::cast_slice(values).to_vec() }
    }

    /// A block of bfloat16 values.
    pub fn from_bf16(width: usize, values: &[bf16]) -> Self {
        Self { dtype: FeatureDtype::Bf16, width, bytes: bytemuck::cast_slice(values).to_vec() }
    }

    /// A block of float16 values.
    pub fn from_f16(width: usize, values: &[f16]) -> Self {
        Self { dtype: FeatureDtype::F16, width, bytes: bytemuck::cast_slice(values).to_vec() }
    }

    /// Number of positions; 0 if the width is 0.
    pub fn num_positions(&self) -> usize {
        self.bytes.len().checked_div(self.width * self.dtype.size()).unwrap_or(0)
    }
}

/// One image of a sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedImage {
    /// Digest of the encoded bytes, as read from the dataset.
    pub digest: Digest,
    /// Width in pixels, before any resizing.
    pub width: u32,
    /// Height in pixels, before any resizing.
    pub height: u32,
    /// The first of the image's placeholder tokens.
    pub token_start: u32,
    /// How many there are.
    pub num_tokens: u32,
    /// (temporal, height, width) of the image's grid, in the family's own units.
    pub grid: [u32; 3],
}

/// One turn of a sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedTurn {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// The turn's first token.
    pub token_start: u32,
    /// Tokens of the turn, template markers included.
    pub num_tokens: u32,
    /// The first answer token; 0 for a turn without an answer.
    pub answer_start: u32,
    /// Answer tokens, the end-of-turn token included; 0 for a turn without an answer.
    pub num_answer_tokens: u32,
}

/// All of a sample but its features.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampleMeta {
    /// Identity: the hash of the canonical messages and the image bytes.
    pub key: SampleKey,
    /// The row's own id in its dataset, if it has one.
    pub row_id: Option<String>,
    /// The dataset file the sample was read from, as given.
    pub source: String,
    /// The row in that file.
    pub row: u64,
    /// The conversation as canonical JSON.
    pub messages: String,
    /// The rendered prompt with each image placeholder expanded.
    pub text: String,
    /// The images, in the order the messages use them.
    pub images: Vec<CachedImage>,
    /// The teacher's token ids; T of them.
    pub input_ids: Vec<u32>,
    /// For each token, the half-open range of characters of `text` it came from; T of them.
    pub offsets: Vec<(u32, u32)>,
    /// The turns, in order.
    pub turns: Vec<CachedTurn>,
    /// The tokens that have features, strictly ascending.
    pub positions: Vec<u32>,
}

/// One row as it is appended: a sample, its features and, if they are embedded, its image files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// All but the features.
    pub meta: SampleMeta,
    /// One vector for each of `meta.positions`.
    pub features: FeatureBlock,
    /// The encoded images, one for each of `meta.images`, or none at all.
    pub image_files: Vec<Vec<u8>>,
}

/// A dataset row that could not become a sample, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuarantinedRow {
    /// The dataset file.
    pub source: String,
    /// The row in that file.
    pub row: u64,
    /// The row's own id, if it has one.
    pub id: Option<String>,
    /// The sample's key, if it got that far.
    pub key: Option<SampleKey>,
    /// What is wrong with it.
    pub reason: String,
}

/// Token ids, spans and counts are stored as non-negative `INT32`.
const LARGEST: u32 = i32::MAX as u32;

impl SampleMeta {
    /// Checks the invariants of one row; see the module documentation for the list.
    ///
    /// # Errors
    /// [`CacheError::Invariant`] naming the sample and the broken rule.
    pub fn check(&self) -> Result<()> {
        self.broken_rule().map_or(Ok(()), |reason| Err(self.invariant(reason)))
    }

    pub(super) fn invariant(&self, reason: String) -> CacheError {
        CacheError::Invariant { key: self.key.to_string(), reason }
    }

    fn broken_rule(&self) -> Option<String> {
        let tokens = self.input_ids.len();
        if self.offsets.len() != tokens {
            return Some(format!("{} character spans for {tokens} tokens", self.offsets.len()));
        }
        if tokens > LARGEST as usize || self.input_ids.iter().any(|&id| id > LARGEST) {
            return Some("a token id or the token count is above 2^31 - 1".into());
        }
        self.broken_offset().or_else(|| self.broken_span()).or_else(|| self.broken_position())
    }

    fn broken_offset(&self) -> Option<String> {
        let characters = self.text.chars().count() as u64;
        let bad = self.offsets.iter().position(|&(start, end)| start > end || u64::from(end) > characters)?;
        Some(format!("token {bad} spans characters {:?} of a text of {characters}", self.offsets[bad]))
    }

    fn broken_span(&self) -> Option<String> {
        let tokens = self.input_ids.len() as u64;
        let outside = |start: u32, count: u32| u64::from(start) + u64::from(count) > tokens;
        for (i, image) in self.images.iter().enumerate() {
            if outside(image.token_start, image.num_tokens) {
                return Some(format!("image {i} ends after the {tokens} tokens of the sample"));
            }
            if image.width.max(image.height).max(image.grid.into_iter().max().unwrap_or(0)) > LARGEST {
                return Some(format!("image {i} is larger than 2^31 - 1 pixels"));
            }
        }
        self.turns.iter().enumerate().find_map(|(i, turn)| {
            let answer_end = u64::from(turn.answer_start) + u64::from(turn.num_answer_tokens);
            let turn_end = u64::from(turn.token_start) + u64::from(turn.num_tokens);
            let has_answer = turn.num_answer_tokens > 0;
            if outside(turn.token_start, turn.num_tokens) {
                Some(format!("turn {i} ends after the {tokens} tokens of the sample"))
            } else if has_answer && (turn.answer_start < turn.token_start || answer_end > turn_end) {
                Some(format!("the answer of turn {i} lies outside its turn"))
            } else if has_answer && turn.answer_start == 0 {
                Some(format!("the answer of turn {i} has no token before it"))
            } else {
                (!has_answer && turn.answer_start != 0)
                    .then(|| format!("turn {i} has an answer start but no answer"))
            }
        })
    }

    /// The token before each answer predicts its first token, so it always has a feature.
    fn broken_position(&self) -> Option<String> {
        if self.positions.is_empty() {
            return Some("no position has features".into());
        }
        if self.positions.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Some("positions are not strictly ascending".into());
        }
        let last = self.positions.last().copied().unwrap_or(0) as usize;
        if last >= self.input_ids.len() {
            return Some(format!("position {last} of a sample of {} tokens", self.input_ids.len()));
        }
        let answers = self.turns.iter().filter(|turn| turn.num_answer_tokens > 0);
        let missing =
            answers.map(|turn| turn.answer_start - 1).find(|at| self.positions.binary_search(at).is_err())?;
        Some(format!("the last question position {missing} has no features"))
    }
}

impl Row {
    /// Checks the row's own invariants and that its features fit its positions and the cache.
    pub(super) fn check(&self, dtype: FeatureDtype, width: usize) -> Result<()> {
        self.meta.check()?;
        let found = &self.features;
        let expected_bytes = self.meta.positions.len() * width * dtype.size();
        let images = self.meta.images.len();
        if (found.dtype, found.width) != (dtype, width) {
            let reason = format!(
                "features are {} of width {}, the cache holds {dtype} of width {width}",
                found.dtype, found.width
            );
            return Err(self.meta.invariant(reason));
        }
        if found.bytes.len() != expected_bytes {
            let reason = format!(
                "{} bytes of features for {} positions, expected {expected_bytes}",
                found.bytes.len(),
                self.meta.positions.len()
            );
            return Err(self.meta.invariant(reason));
        }
        if !self.image_files.is_empty() && self.image_files.len() != images {
            return Err(self
                .meta
                .invariant(format!("{} image files for {images} images", self.image_files.len())));
        }
        let mut files = self.image_files.iter().zip(&self.meta.images);
        match files.position(|(file, image)| Digest::of(file) != image.digest) {
            Some(image) => Err(self.meta.invariant(format!("the file of image {image} is another one"))),
            None => Ok(()),
        }
    }
}
