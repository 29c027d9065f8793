//! A checkpoint's tokenizer: ids with the characters they came from.

use std::path::Path;

use serde_json::Value;
use tokenizers::Tokenizer;

use super::TextError;
use super::error::read_json;
use crate::ids::Digest;

/// The tokens of a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Token ids.
    pub ids: Vec<u32>,
    /// For each token, the half-open range of characters (Unicode scalar values) it came from. Starts never
    /// decrease. Tokens that share a character (bytes of one) share its range.
    pub offsets: Vec<(u32, u32)>,
}

/// A tokenizer as a checkpoint has it: `tokenizer.json` and `tokenizer_config.json`.
pub struct TextTokenizer {
    inner: Tokenizer,
    digest: Digest,
    config: Value,
    is_verbatim: bool,
}

impl TextTokenizer {
    /// Loads the tokenizer of the checkpoint in `dir`.
    ///
    /// # Errors
    /// When `tokenizer.json` is missing or is none.
    pub fn load(dir: &Path) -> Result<Self, TextError> {
        let path = dir.join("tokenizer.json");
        let bytes = std::fs::read(&path).map_err(|source| TextError::Read { path: path.clone(), source })?;
        let hint = "save the tokenizer with transformers' `save_pretrained`, which writes tokenizer.json";
        let mut inner =
            Tokenizer::from_bytes(&bytes).map_err(|error| TextError::invalid(&path, error, hint))?;
        // A prompt is encoded whole: what the file says about batches would cut or pad it.
        inner.with_truncation(None).map_err(|error| TextError::invalid(&path, error, hint))?;
        inner.with_padding(None);
        let config = read_json(&dir.join("tokenizer_config.json"))?.unwrap_or(Value::Null);
        Ok(Self { inner, digest: Digest::of(&bytes), config, is_verbatim: false })
    }

    /// The same tokenizer for prompts that write all their special tokens: it adds none.
    pub fn verbatim(self) -> Self {
        Self { is_verbatim: true, ..self }
    }

    /// Encodes a rendered prompt. The tokenizer's own begin-of-text token is added unless the text starts with it.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn encode(&self, text: &str) -> Result<Tokens, TextError> {
        let bos = self.special("bos_token");
        let has_bos = bos.is_some_and(|bos| !bos.is_empty() && text.starts_with(bos));
        self.encode_with(text, !has_bos && !self.is_verbatim)
    }

    /// Encodes a text with or without the tokens that the tokenizer puts around it.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn encode_with(&self, text: &str, add_special_tokens: bool) -> Result<Tokens, TextError> {
        let encoding = self.inner.encode_char_offsets(text, add_special_tokens);
        let encoding = encoding.map_err(|error| TextError::Tokenize(error.to_string()))?;
        let mut reached = 0;
        let offsets = encoding.get_offsets().iter().map(|&(start, end)| {
            // Tokens that stand for no text have (0, 0) wherever they are.
            reached = reached.max(start as u32);
            (reached, reached.max(end as u32))
        });
        Ok(Tokens { offsets: offsets.collect(), ids: encoding.get_ids().to_vec() })
    }

    /// The text of `ids`, special tokens skipped.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TextError> {
        self.decode_with(ids, true)
    }

    /// The text of ids, with or without special tokens.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn decode_with(&self, ids: &[u32], skip_special: bool) -> Result<String, TextError> {
        self.inner.decode(ids, skip_special).map_err(|error| TextError::Tokenize(error.to_string()))
    }

    /// The id of a token by its exact text.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Number of ids, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The text of a special token that `tokenizer_config.json` names, such as `eos_token`.
    pub fn special(&self, name: &str) -> Option<&str> {
        token_text(self.config.get(name)?)
    }

    /// The text of a token that `tokenizer_config.json` names, at its top or among the extra special tokens.
    pub fn named(&self, name: &str) -> Option<&str> {
        let extra = self.config.pointer(&format!("/extra_special_tokens/{name}"));
        self.special(name).or_else(|| extra?.as_str())
    }

    /// `tokenizer_config.json`; null if there is none.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// Digest of `tokenizer.json`.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

/// Special tokens are written as their text or as an object with `content`.
pub(super) fn token_text(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}
