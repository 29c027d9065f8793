//! MMMU's and MMMU-Pro's Parquet: up to seven images a question, `<image 1>` where one stands.
//!
//! `options` is a Python list written as a string; an empty one makes an open question, whose `answer` may be such a list
//! too. MMMU-Pro's vision split has one `image` that shows the question, and no `question`.

use std::fs::File;

use anyhow::{Context, Result};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use shared::dataset::{ImageSource, Part};

use super::{Asked, Grading, Item, Items, options_text};
use crate::eval::Metric;

/// Opens a file; `None` when it has other columns.
///
/// # Errors
/// When it cannot be read.
pub(super) fn open(source: &str) -> Result<Option<Items>> {
    let file = File::open(source).with_context(|| format!("cannot read `{source}`"))?;
    let reader = SerializedFileReader::new(file).with_context(|| format!("cannot read `{source}`"))?;
    let columns = reader.metadata().file_metadata().schema().get_fields().to_vec();
    let has = |name: &str| columns.iter().any(|column| column.name() == name);
    if !(has("options") && has("answer") && (has("image_1") || has("image"))) {
        return Ok(None);
    }
    let name = source.to_owned();
    let rows = reader.into_iter().enumerate().map(move |(index, row)| {
        let row = row.map_err(|error| error.to_string());
        let item = row.and_then(|row| item(&name, index as u64, &row));
        item.map_err(|reason| format!("`{name}` row {index}: {reason}"))
    });
    Ok(Some(Box::new(rows)))
}

fn item(source: &str, index: u64, row: &Row) -> Result<Item, String> {
    let field = |name: &str| row.get_column_iter().find(|column| column.0 == name).map(|column| column.1);
    let text = |name: &str| match field(name) {
        Some(Field::Str(text)) => Some(text.as_str()),
        _ => None,
    };
    let options = text("options").unwrap_or("[]");
    let options = python_list(options).ok_or_else(|| format!("`options` is no list: {options}"))?;
    let question = match (text("question"), options.is_empty()) {
        (Some(question), true) => question.to_owned(),
        (Some(question), false) => format!("{question}\n{}", options_text(&options)),
        (None, _) => {
            "<image 1>\nAnswer the question in the image with the letter of the right option.".to_owned()
        }
    };
    let image = |number: usize| {
        let numbered = field(&format!("image_{number}")).and_then(bytes_of);
        numbered.or_else(|| field("image").filter(|_| number == 1).and_then(bytes_of))
    };
    let (question, images) = with_images(&question, &image)?;
    let answer = text("answer").filter(|answer| !answer.is_empty() && *answer != "?").unwrap_or_default();
    let grading = match (answer, options.is_empty()) {
        ("", _) => Grading::Elsewhere,
        (_, false) => Grading::Options(options),
        (_, true) => {
            let answers = python_list(answer).unwrap_or_else(|| vec![answer.to_owned()]);
            Grading::AnyOf(answers, Metric::Contains)
        }
    };
    let id = text("id").map(str::to_owned);
    // `validation_Art_Theory_1` is of the subject Art_Theory.
    let subject = id.as_deref().and_then(|id| id.split_once('_')?.1.rsplit_once('_'));
    let kind = text("subject").or(subject.map(|(subject, _)| subject)).map(str::to_owned);
    let asked =
        Asked { source: source.to_owned(), row: index, id, question, images, answer: answer.to_owned() };
    Ok(Item { record: asked.record(), kind, grading })
}

/// The bytes of an image column's cell.
fn bytes_of(field: &Field) -> Option<Vec<u8>> {
    match field {
        Field::Bytes(bytes) => Some(bytes.data().to_vec()),
        Field::Group(group) => {
            let member = group.get_column_iter().find(|(name, _)| *name == "bytes");
            member.and_then(|(_, bytes)| bytes_of(bytes))
        }
        _ => None,
    }
}

type Shown = (Vec<Part>, Vec<ImageSource>);

/// Text and images in reading order; an image is taken as often as it is named.
fn with_images(text: &str, image: &dyn Fn(usize) -> Option<Vec<u8>>) -> Result<Shown, String> {
    const OPENS: &str = "<image ";
    let (mut parts, mut images) = (Vec::new(), Vec::new());
    let push = |text: &str, parts: &mut Vec<Part>| {
        if !text.is_empty() {
            parts.push(Part::Text { text: text.to_owned() });
        }
    };
    let mut rest = text;
    while let Some(start) = rest.find(OPENS) {
        let after = &rest[start + OPENS.len()..];
        let Some((number, end)) = after.find('>').and_then(|end| Some((after[..end].parse().ok()?, end)))
        else {
            break;
        };
        let bytes = image(number).ok_or_else(|| format!("image {number} is named and missing"))?;
        push(&rest[..start], &mut parts);
        parts.push(Part::Image);
        images.push(ImageSource::Bytes(bytes.into()));
        rest = &after[end + 1..];
    }
    push(rest, &mut parts);
    Ok((parts, images))
}

/// The strings of a Python list literal, such as `['a', "b's"]`; `None` when it is none.
fn python_list(text: &str) -> Option<Vec<String>> {
    let mut letters = text.trim().strip_prefix('[')?.strip_suffix(']')?.chars();
    let mut items = Vec::new();
    while let Some(letter) = letters.next() {
        match letter {
            '\'' | '"' => items.push(python_string(letter, &mut letters)?),
            ',' | ' ' | '\n' => {}
            _ => return None,
        }
    }
    Some(items)
}

fn python_string(quote: char, letters: &mut std::str::Chars) -> Option<String> {
    let mut string = String::new();
    loop {
        match letters.next()? {
            letter if letter == quote => return Some(string),
            '\\' => match letters.next()? {
                'n' => string.push('\n'),
                't' => string.push('\t'),
                letter @ ('\\' | '\'' | '"') => string.push(letter),
                other => string.extend(['\\', other]),
            },
            letter => string.push(letter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // As Python's repr writes them.
    #[test]
    fn reads_python_lists() {
        let list = |text| python_list(text).map(|items| items.join("|"));
        assert_eq!(list(r#"['$6', "it's", 'a "b"']"#).as_deref(), Some("$6|it's|a \"b\""));
        assert_eq!(list(r"['\\frac{1}', 'a\nb', 'x, y']").as_deref(), Some("\\frac{1}|a\nb|x, y"));
        assert_eq!(python_list("[]"), Some(vec![]));
        assert_eq!(python_list("B"), None);
        assert_eq!(python_list("['open"), None);
    }
}
