//! Where each turn, answer and image lies in a prompt.
//!
//! A chat template is a program, so the only sure way to learn where it puts an answer is to run it on prefixes of the
//! conversation: the answer to turn `i` begins where the rendering of the turns before it, with the generation prompt, ends,
//! and reaches to where the rendering of the turns up to it ends. That the renderings are prefixes of each other is checked.
//! Where they are not (Qwen3 drops the reasoning of earlier answers, Pixtral moves a system turn to the last question), the
//! conversation is rendered once more with a mark in place of the turn's content, which shows where that lies.

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
    answer: Option<AnswerText>,
}

/// An answer in a rendered conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct AnswerText {
    start: usize,
    /// Where what is said ends, and what the template closes it with begins. A token in between ends no turn, whichever it is.
    content_end: usize,
}

/// The token that image features replace; a rendered template has it once for each image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placeholder {
    /// As the template writes it.
    pub text: String,
    /// What the tokenizer makes of it.
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
    let whole = Rendering { template, messages, add_generation_prompt, text: &text };
    let mut turns = Vec::with_capacity(messages.len());
    for (turn, message) in messages.iter().enumerate() {
        let is_last = turn + 1 == messages.len();
        let end = if is_last { text.len() } else { whole.turn_end(turn)? };
        let answer = message.is_learnt().then(|| whole.answer(turn)).transpose()?;
        turns.push(TurnText { role: message.role, end, answer });
    }
    Ok(Layout { text, turns })
}

/// Stands for a turn's content; no text of a dataset has it.
const MARK: &str = "\u{1}mark\u{1}";

/// A conversation and what its template makes of it.
struct Rendering<'a> {
    template: &'a ChatTemplate,
    messages: &'a [Message],
    add_generation_prompt: bool,
    text: &'a str,
}

impl Rendering<'_> {
    /// The length of the rendering of the first turns, if the whole one begins with it.
    fn prefix(&self, num_turns: usize, add_generation_prompt: bool) -> Option<usize> {
        let rendered = self.template.render(&self.messages[..num_turns], add_generation_prompt).ok()?;
        self.text.starts_with(&rendered).then_some(rendered.len())
    }

    /// The answer that is turn `turn`. LLaVA-OneVision's generation prompt lacks a space that its answers have: the answer
    /// then begins where its content does. Where the template does not write it as it is, all of it may close it.
    fn answer(&self, turn: usize) -> Result<AnswerText, TextError> {
        let Some(start) = self.prefix(turn, true) else {
            let content = self.content(turn)?;
            return Ok(AnswerText { start: content.start, content_end: content.end });
        };
        let content_end = self.content(turn).map_or(start, |content| content.end);
        Ok(AnswerText { start, content_end })
    }

    /// Where a turn ends that is not the last. One that is written otherwise when nothing follows ends with what closes it
    /// then, or else where the content of the next turn begins.
    fn turn_end(&self, turn: usize) -> Result<usize, TextError> {
        if let Some(end) = self.prefix(turn + 1, false) {
            return Ok(end);
        }
        let content = self.content(turn)?;
        let closing = self.closing(turn).filter(|closing| self.text[content.end..].starts_with(closing));
        match closing {
            Some(closing) => Ok(content.end + closing.len()),
            None => Ok(self.content(turn + 1)?.start),
        }
    }

    /// What follows the content of a turn that is the last.
    fn closing(&self, turn: usize) -> Option<String> {
        let (template, messages) = (self.template, &self.messages[..=turn]);
        let text = template.render(messages, false).ok()?;
        let alone = Rendering { template, messages, add_generation_prompt: false, text: &text };
        Some(text[alone.content(turn).ok()?.end..].to_owned())
    }

    /// Where the content of a turn lies: all around it is as it is around the mark.
    fn content(&self, turn: usize) -> Result<Range<usize>, TextError> {
        let mut messages = self.messages.to_vec();
        messages[turn].content = vec![Part::Text { text: MARK.to_owned() }];
        let marked = self.template.render(&messages, self.add_generation_prompt)?;
        let around = marked.split_once(MARK).filter(|(before, after)| {
            let rest = self.text.strip_prefix(before);
            rest.is_some_and(|rest| rest.ends_with(after))
        });
        let (before, after) = around.ok_or(TextError::NotPrefix { turn })?;
        Ok(before.len()..self.text.len() - after.len())
    }
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
            let answer = turn.answer.and_then(|AnswerText { start, content_end }| {
                let trimmed = start + expanded.text[start..turn.end].trim_end().len();
                let [start, content_end, trimmed] = [start, content_end, trimmed].map(|byte| chars.of(byte));
                answer_span(&prompt, range.clone(), [start..content_end, start..trimmed], eos_ids)
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
            if let Some(answer) = &mut turn.answer {
                [&mut answer.start, &mut answer.content_end].into_iter().for_each(moved);
            }
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

/// The answer among the tokens of its turn, `content` and `written` in characters: from the first token that holds some of its text
/// to the end-of-turn token behind what is said, or to the last of its text where the template writes none.
fn answer_span(
    prompt: &Prompt,
    turn: Range<usize>,
    [content, written]: [Range<u32>; 2],
    eos_ids: &[u32],
) -> Option<Range<usize>> {
    // What the tokenizer appends stands for no text.
    let is_said = |token: usize| {
        let (start, end) = prompt.offsets[token];
        start.max(content.start) < end.min(content.end)
    };
    let first = turn.clone().find(|&token| prompt.offsets[token].1 > written.start)?;
    let closes = |token: &usize| eos_ids.contains(&prompt.input_ids[*token]) && !is_said(*token);
    let end = match (first..turn.end).rev().find(closes) {
        Some(token) => token + 1,
        None => first_from(&prompt.offsets, written.end).clamp(first, turn.end),
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
