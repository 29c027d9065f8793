//! Text as a model sees it: tokenizer, chat template, spans and the answer mask. On the CPU, deterministic.

use std::ops::Range;

use crate::dataset::Role;

mod error;
mod spans;
mod template;
mod tokenizer;

pub use error::TextError;
pub use spans::{Expansion, Layout, Placeholder, layout};
pub use template::ChatTemplate;
pub use tokenizer::{TextTokenizer, Tokens};

#[cfg(test)]
mod tests;

/// One image's place in a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSpan {
    /// From the first to the last of the placeholder tokens that image features replace; tokens between them that
    /// are none separate rows or tiles.
    pub tokens: Range<usize>,
    /// (temporal, height, width) of the image's grid, in the family's own units.
    pub grid: [usize; 3],
}

/// One turn's place in a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnSpan {
    /// Who speaks.
    pub role: Role,
    /// All tokens of the turn, template markers included; the turns tile the prompt.
    pub tokens: Range<usize>,
    /// For an assistant turn: the answer tokens, from the first token of the content to the
    /// end-of-turn token, included. The token before the first one is the last question position.
    pub answer: Option<Range<usize>>,
}

/// A conversation rendered, expanded and tokenised for one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// The rendered template with each image placeholder expanded to its tokens.
    pub text: String,
    /// Token ids; T of them.
    pub input_ids: Vec<u32>,
    /// For each token, the half-open range of characters (Unicode scalar values) of `text` it came from.
    pub offsets: Vec<(u32, u32)>,
    /// The turns, in order.
    pub turns: Vec<TurnSpan>,
    /// The images, in order.
    pub images: Vec<ImageSpan>,
}
