//! What all conversations have in common: who may speak after whom, where a text's images are, and that there are as
//! many images as places for them.

use serde_json::Value;

use super::format::Parsed;
use super::{ImageSource, Message, Part, Role};

/// Where a text of a dataset wants an image.
pub const PLACEHOLDER: &str = "<image>";

/// A conversation under construction.
#[derive(Default)]
pub(super) struct Turns {
    messages: Vec<Message>,
    num_given: usize,
}

impl Turns {
    /// Takes the next turn: user and assistant alternate, behind at most one system turn.
    pub(super) fn push(&mut self, speaker: &str, content: Vec<Part>) -> Result<(), String> {
        let index = self.num_given;
        let role = role(speaker).ok_or_else(|| format!("turn {index} is from `{speaker}`"))?;
        let previous = self.messages.last().map(|message| message.role);
        let follows = match (previous, role) {
            (None, role) => role != Role::Assistant,
            (Some(before), Role::User) => before != Role::User,
            (Some(before), Role::Assistant) => before == Role::User,
            (Some(_), Role::System) => false,
        };
        if !follows {
            return Err(format!("turn {index} from `{speaker}` does not follow the turn before"));
        }
        if role == Role::Assistant && content.iter().all(is_blank) {
            return Err(format!("turn {index} is an empty answer"));
        }
        if role != Role::User && content.contains(&Part::Image) {
            return Err(format!(
                "turn {index} from `{speaker}` contains `{PLACEHOLDER}`: images belong to questions"
            ));
        }
        self.messages.push(Message::new(role, content));
        self.num_given += 1;
        Ok(())
    }

    /// Takes the system turn that a row has beside its other turns, as ShareGPT's rows and Anthropic's requests do.
    pub(super) fn push_system_of(&mut self, fields: &Value) -> Result<(), String> {
        match fields.get("system").and_then(Value::as_str).filter(|system| !system.is_empty()) {
            Some(system) => self.push("system", spoken("system", system)),
            None => Ok(()),
        }
    }

    /// Nothing is to be learnt of the turn that was taken last.
    pub(super) fn skip_loss_of_last(&mut self) {
        if let Some(message) = self.messages.last_mut() {
            message.skip_loss = message.role == Role::Assistant;
        }
    }

    /// Leaves a turn out: whether this one may be, being an answer that nothing asked for.
    pub(super) fn skip_unasked(&mut self, speaker: &str) -> bool {
        let is_first = self.messages.iter().all(|message| message.role == Role::System);
        let skips = is_first && role(speaker) == Some(Role::Assistant);
        self.num_given += usize::from(skips);
        skips
    }

    /// The turns taken so far, the skipped ones among them.
    pub(super) fn num_given(&self) -> usize {
        self.num_given
    }

    /// The whole conversation with the row's `listed` images in the places that its texts have for them.
    pub(super) fn with_listed(self, listed: Vec<ImageSource>, to_front: bool) -> Parsed {
        let mut messages = self.finish()?;
        let parts = messages.iter().flat_map(|message| &message.content);
        let places = parts.filter(|part| **part == Part::Image).map(|_| None).collect();
        let images = place_images(&mut messages, places, listed, to_front)?;
        Ok((messages, images))
    }

    /// The whole conversation; its last turn is an answer.
    pub(super) fn finish(self) -> Result<Vec<Message>, String> {
        match self.messages.last().map(|message| message.role) {
            Some(Role::Assistant) => Ok(self.messages),
            Some(_) => Err("the last question has no answer".into()),
            None => Err("has no turns".into()),
        }
    }
}

fn is_blank(part: &Part) -> bool {
    matches!(part, Part::Text { text } if text.trim().is_empty())
}

/// The role behind the names that datasets use.
fn role(speaker: &str) -> Option<Role> {
    match speaker {
        "human" | "user" => Some(Role::User),
        "gpt" | "assistant" => Some(Role::Assistant),
        "system" | "developer" => Some(Role::System),
        _ => None,
    }
}

/// What a turn's text holds: a question is cut at its placeholders; elsewhere one is refused by [`Turns::push`].
pub(super) fn spoken(speaker: &str, text: &str) -> Vec<Part> {
    match role(speaker) {
        Some(Role::User) => split(text),
        _ if text.contains(PLACEHOLDER) => vec![Part::Image],
        _ => vec![Part::Text { text: text.to_owned() }],
    }
}

/// Splits a text at its placeholders. One newline on either side of a placeholder belongs to it: LLaVA writes
/// `<image>\n` and `\n<image>`, and a chat template brings its own separator.
fn split(value: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut pieces = value.split(PLACEHOLDER).enumerate().peekable();
    while let Some((index, piece)) = pieces.next() {
        let mut text = piece;
        if index > 0 {
            parts.push(Part::Image);
            text = text.strip_prefix('\n').unwrap_or(text);
        }
        if pieces.peek().is_some() {
            text = text.strip_suffix('\n').unwrap_or(text);
        }
        if !text.is_empty() {
            parts.push(Part::Text { text: text.to_owned() });
        }
    }
    parts
}

/// The images in the order the messages use them. `inline` has one entry for each [`Part::Image`]: the image that the
/// part itself brought, or none where it takes the next of the row's `listed` images. With `to_front`, the listed images
/// of a row that has no place for any go before its first question.
pub(super) fn place_images(
    messages: &mut [Message],
    inline: Vec<Option<ImageSource>>,
    listed: Vec<ImageSource>,
    to_front: bool,
) -> Result<Vec<ImageSource>, String> {
    let num_places = inline.iter().filter(|image| image.is_none()).count();
    if num_places == 0 && !listed.is_empty() {
        if !to_front {
            return Err(format!(
                "{} image(s) and no `{PLACEHOLDER}`: `--prepend-image` puts them first",
                listed.len()
            ));
        }
        if let Some(question) = messages.iter_mut().find(|message| message.role == Role::User) {
            question.content.splice(0..0, std::iter::repeat_n(Part::Image, listed.len()));
        }
        return Ok(listed.into_iter().chain(inline.into_iter().flatten()).collect());
    }
    if num_places != listed.len() {
        return Err(format!("{num_places} `{PLACEHOLDER}` placeholder(s) and {} image(s)", listed.len()));
    }
    let mut listed = listed.into_iter();
    Ok(inline.into_iter().filter_map(|image| image.or_else(|| listed.next())).collect())
}
