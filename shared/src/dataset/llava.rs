//! LLaVA rows: `{id, image, conversations: [{from: human | gpt | system, value}]}`, as in LLaVA-665k, LLaVA-NeXT and
//! Qwen's fine-tuning code (which writes `images`). Placeholders are the text `<image>`.

use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::{DatasetOptions, ImageSource, Message, Part, Role};

const PLACEHOLDER: &str = "<image>";

#[derive(Deserialize)]
struct Row {
    image: Option<OneOrMany>,
    images: Option<OneOrMany>,
    conversations: Vec<Turn>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
struct Turn {
    from: String,
    value: String,
}

/// Whether a row has this format's fields.
pub(super) fn recognises(row: &Value) -> bool {
    row.get("conversations").is_some_and(Value::is_array)
}

/// The conversation and images of a row; the reason if it cannot be used.
/// Image paths start from `image_root`.
pub(super) fn parse(
    json: &[u8],
    image_root: &Path,
    options: &DatasetOptions,
) -> Result<(Vec<Message>, Vec<ImageSource>), String> {
    let row: Row = serde_json::from_slice(json).map_err(|error| format!("is not a LLaVA row: {error}"))?;
    let images = image_paths(&row, image_root)?;
    let mut messages = messages(&row.conversations)?;
    let placeholders = messages.iter().flat_map(|message| &message.content).filter(|part| **part == Part::Image);
    match (placeholders.count(), images.len()) {
        (found, expected) if found == expected => {}
        (0, _) if options.prepend_image => prepend(&mut messages, images.len()),
        (0, expected) => {
            return Err(format!("{expected} image(s) and no `{PLACEHOLDER}`: `--prepend-image` puts them first"));
        }
        (found, expected) => return Err(format!("{found} `{PLACEHOLDER}` placeholder(s) and {expected} image(s)")),
    }
    Ok((messages, images))
}

fn image_paths(row: &Row, image_root: &Path) -> Result<Vec<ImageSource>, String> {
    let given = match (&row.image, &row.images) {
        (Some(_), Some(_)) => return Err("has both `image` and `images`".into()),
        (Some(given), None) | (None, Some(given)) => given,
        (None, None) => return Ok(Vec::new()),
    };
    let paths = match given {
        OneOrMany::One(path) => std::slice::from_ref(path),
        OneOrMany::Many(paths) => paths,
    };
    paths.iter().map(|path| resolve(path, image_root).map(ImageSource::Path)).collect()
}

/// A dataset is foreign input: its paths may name files under the image root and nothing else.
fn resolve(path: &str, image_root: &Path) -> Result<PathBuf, String> {
    if path.is_empty() {
        return Err("an image path is empty".into());
    }
    let inside = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    let given = Path::new(path);
    let relative = given.strip_prefix(image_root).unwrap_or(given);
    if !relative.components().all(inside) {
        return Err(format!("the image path `{path}` leaves the image root"));
    }
    Ok(image_root.join(relative))
}

fn messages(turns: &[Turn]) -> Result<Vec<Message>, String> {
    let mut messages: Vec<Message> = Vec::with_capacity(turns.len());
    for (index, turn) in turns.iter().enumerate() {
        let role = role(&turn.from).ok_or_else(|| format!("turn {index} is from `{}`", turn.from))?;
        let previous = messages.last().map(|message| message.role);
        match (previous, role) {
            // LLaVA's own loader drops an answer that nothing asked for.
            (None | Some(Role::System), Role::Assistant) => continue,
            (None, _) | (Some(Role::System), Role::User) => {}
            (Some(Role::User), Role::Assistant) | (Some(Role::Assistant), Role::User) => {}
            _ => return Err(format!("turn {index} from `{}` does not follow the turn before", turn.from)),
        }
        messages.push(Message { role, content: content(role, &turn.value, index)? });
    }
    match messages.last().map(|message| message.role) {
        Some(Role::Assistant) => Ok(messages),
        Some(_) => Err("the last question has no answer".into()),
        None => Err("has no turns".into()),
    }
}

fn role(from: &str) -> Option<Role> {
    match from {
        "human" | "user" => Some(Role::User),
        "gpt" | "assistant" => Some(Role::Assistant),
        "system" => Some(Role::System),
        _ => None,
    }
}

fn content(role: Role, value: &str, index: usize) -> Result<Vec<Part>, String> {
    if role == Role::Assistant && value.trim().is_empty() {
        return Err(format!("turn {index} is an empty answer"));
    }
    if role != Role::User && value.contains(PLACEHOLDER) {
        return Err(format!("turn {index} from `{role:?}` contains `{PLACEHOLDER}`: images belong to questions"));
    }
    Ok(if role == Role::User { split(value) } else { vec![Part::Text { text: value.to_owned() }] })
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

fn prepend(messages: &mut [Message], num_images: usize) {
    if let Some(question) = messages.iter_mut().find(|message| message.role == Role::User) {
        question.content.splice(0..0, std::iter::repeat_n(Part::Image, num_images));
    }
}
