//! Where each turn, answer and image lies in a prompt.
//!
//! A chat template is a program, so the only sure way to learn where it puts an answer is to run it on prefixes of the
//! conversation: the answer to turn `i` begins where the rendering of the turns before it, with the generation prompt, ends,
//! and reaches to where the rendering of the turns up to it ends. That the renderings are prefixes of each other is checked.
//! Where a template's generation prompt is not how it writes answers, the answer begins where its own text does.

use std::ops::Range;

use super::{ChatTemplate, ImageSpan, Prompt, TextError, TextTokenizer, TurnSpan};
use crate::dataset::{Message, Part, Role};

/// A rendered conversation and its turns, in bytes of its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The rendered template.
    pub text: String,
    turns: Vec<TurnText>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct TurnText {
    role: Role,
    end: usize,
    answer: Option<usize>,
}

/// The token that image features replace; a rendered template has it once for each image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placeholder {
    /// As the template writes it.
    pub text: String,
    /// Its id.
    pub id: u32,
}

/// What replaces one image's placeholder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expansion {
    /// The text that takes the placeholder's place.
    pub text: String,
    /// How many image tokens it holds.
    pub num_tokens: usize,
    /// (temporal, height, width) of the image's grid.
    pub grid: [usize; 3],
}

/// Renders a conversation and finds its turns. With `add_generation_prompt` the text ends where the answer to
/// the last question would begin, and the generation prompt belongs to the last turn.
///
/// # Errors
/// When the template refuses the conversation or does not render a prefix as a prefix.
pub fn layout(
    template: &ChatTemplate,
    messages: &[Message],
    add_generation_prompt: bool,
) -> Result<Layout, TextError> {
    let text = template.render(messages, add_generation_prompt)?;
    let prefix = |turn: usize, num_turns: usize, generation: bool| {
        let rendered = template.render(&messages[..num_turns], generation)?;
        let found = text.starts_with(&rendered).then_some(rendered.len());
        found.ok_or(TextError::NotPrefix { turn })
    };
    let mut turns = Vec::with_capacity(messages.len());
    for (turn, message) in messages.iter().enumerate() {
        let is_last = turn + 1 == messages.len();
        let end = if is_last { text.len() } else { prefix(turn, turn + 1, false)? };
        let answer =
            message.is_learnt().then(|| answer_start(template, messages, turn, &text)).transpose()?;
        turns.push(TurnText { role: message.role, end, answer });
    }
    Ok(Layout { text, turns })
}

/// Where the answer that is turn `turn` begins in the rendering of all turns. LLaVA-OneVision's generation prompt lacks a
/// space that its answers have: the answer's text is then looked for behind what both renderings share.
fn answer_start(
    template: &ChatTemplate,
    messages: &[Message],
    turn: usize,
    text: &str,
) -> Result<usize, TextError> {
    let question = template.render(&messages[..turn], true)?;
    if text.starts_with(&question) {
        return Ok(question.len());
    }
    let shared: usize =
        text.chars().zip(question.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
    let answer = messages[turn].content.iter().find_map(|part| match part {
        Part::Text { text } => Some(text.trim()).filter(|text| !text.is_empty()),
        Part::Image => None,
    });
    let found = answer.and_then(|answer| text[shared..].find(answer));
    found.map(|at| shared + at).ok_or(TextError::NotPrefix { turn })
}

impl Layout {
    /// Expands the image placeholders, encodes the text, and finds turns, answers and images among the tokens.
    /// `eos_ids` are the tokens that may end a turn; a model without a `placeholder` takes no images.
    ///
    /// # Errors
    /// When the placeholders do not match the images or the tokenizer fails.
    pub fn into_prompt(
        self,
        tokenizer: &TextTokenizer,
        placeholder: Option<&Placeholder>,
        images: &[Expansion],
        eos_ids: &[u32],
    ) -> Result<Prompt, TextError> {
        let expanded = match placeholder {
            Some(placeholder) => self.expand(&placeholder.text, images)?,
            None => self,
        };
        let tokens = tokenizer.encode(&expanded.text)?;
        let images = match placeholder {
            Some(placeholder) => image_spans(&tokens.ids, placeholder, images)?,
            None => Vec::new(),
        };
        let mut chars = CharIndex::new(&expanded.text);
        let mut prompt = Prompt {
            input_ids: tokens.ids,
            offsets: tokens.offsets,
            turns: Vec::new(),
            images,
            text: String::new(),
        };
        let mut start = 0;
        for (turn, is_last) in expanded.turns.iter().zip((1..).map(|n| n == expanded.turns.len())) {
            // The last turn takes whatever the tokenizer appends.
            let end = if is_last {
                prompt.input_ids.len()
            } else {
                first_from(&prompt.offsets, chars.of(turn.end))
            };
            let range = start..end.max(start);
            let written = turn.answer.map(|from| &expanded.text[from..turn.end]);
            let answer = turn.answer.zip(written).and_then(|(from, written)| {
                let trimmed = from + written.trim_end().len();
                let chars = chars.of(from)..chars.of(trimmed);
                answer_span(&prompt, range.clone(), chars, eos_ids)
            });
            start = range.end;
            prompt.turns.push(TurnSpan { role: turn.role, tokens: range, answer });
        }
        prompt.text = expanded.text;
        Ok(prompt)
    }

    /// Replaces each placeholder by its image's expansion; the turns move along.
    fn expand(mut self, placeholder: &str, images: &[Expansion]) -> Result<Self, TextError> {
        let places: Vec<usize> = self.text.match_indices(placeholder).map(|(at, _)| at).collect();
        if places.len() != images.len() {
            let (found, expected) = (places.len(), images.len());
            return Err(TextError::Placeholders { placeholder: placeholder.to_owned(), found, expected });
        }
        let moved = |byte: &mut usize| {
            let before = places.iter().zip(images).take_while(|(place, _)| **place < *byte);
            *byte = before.fold(*byte, |byte, (_, image)| byte + image.text.len() - placeholder.len());
        };
        for turn in &mut self.turns {
            moved(&mut turn.end);
            turn.answer.iter_mut().for_each(moved);
        }
        let mut text = String::new();
        let mut rest = self.text.split(placeholder);
        text.push_str(rest.next().unwrap_or_default());
        for (image, piece) in images.iter().zip(rest) {
            text.push_str(&image.text);
            text.push_str(piece);
        }
        self.text = text;
        Ok(self)
    }
}

/// Byte positions as character positions, without counting from the start each time.
struct CharIndex<'a> {
    text: &'a str,
    at: (usize, usize),
}

impl<'a> CharIndex<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, at: (0, 0) }
    }

    fn of(&mut self, byte: usize) -> u32 {
        let (from_byte, from_char) = if byte >= self.at.0 { self.at } else { (0, 0) };
        let chars = from_char + self.text[from_byte..byte].chars().count();
        self.at = (byte, chars);
        chars as u32
    }
}

/// The first token that starts at or after a character.
fn first_from(offsets: &[(u32, u32)], char: u32) -> usize {
    offsets.partition_point(|&(start, _)| start < char)
}

/// The answer among the tokens of its turn: from the first token that holds some of its text to the end-of-turn token, or to the
/// last of its text where the template writes none.
fn answer_span(
    prompt: &Prompt,
    turn: Range<usize>,
    chars: Range<u32>,
    eos_ids: &[u32],
) -> Option<Range<usize>> {
    let starts_in = |token: &usize| prompt.offsets[*token].1 > chars.start;
    let first = turn.clone().find(starts_in)?;
    let eos = (first..turn.end).rev().find(|&token| eos_ids.contains(&prompt.input_ids[token]));
    let end = match eos {
        Some(token) => token + 1,
        None => first_from(&prompt.offsets, chars.end).clamp(first, turn.end),
    };
    (first < end).then_some(first..end)
}

/// Where each image's tokens lie, from the first to the last.
fn image_spans(
    ids: &[u32],
    placeholder: &Placeholder,
    images: &[Expansion],
) -> Result<Vec<ImageSpan>, TextError> {
    let expected: usize = images.iter().map(|image| image.num_tokens).sum();
    let found = ids.iter().filter(|&&id| id == placeholder.id).count();
    if found != expected {
        return Err(TextError::Placeholders { placeholder: placeholder.text.clone(), found, expected });
    }
    let mut places =
        ids.iter().enumerate().filter_map(|(token, &id)| (id == placeholder.id).then_some(token));
    let span = |image: &Expansion| {
        let mut tokens = places.by_ref().take(image.num_tokens);
        let start = tokens.next().unwrap_or(ids.len());
        ImageSpan { tokens: start..tokens.last().unwrap_or(start) + 1, grid: image.grid }
    };
    Ok(images.iter().map(span).collect())
}
