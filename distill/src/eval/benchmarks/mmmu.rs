//! MMMU and MMMU-Pro as Parquet: `image_1` to `image_7`, placeholders `<image 1>` in question and options, options as a
//! Python list in a text. In MMMU-Pro's vision subset the question itself is in the `image`.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value};
use shared::agreement::Metric;
use shared::dataset::{ImageSource, Part, Table, TableRow};

use super::{Asked, Grading, Item, Items, chosen, options_text, python_list};

const COLUMNS: [&str; 7] = ["id", "question", "options", "answer", "question_type", "subfield", "subject"];

/// What hidden test splits have for an answer.
const HIDDEN: &str = "?";

/// Opens a file; `None` when it is Parquet of another kind.
///
/// # Errors
/// When it cannot be read.
pub(super) fn open(source: &str, images: &Path) -> Result<Option<Items>> {
    let failed = || format!("cannot read `{source}`");
    let columns = Table::columns(Path::new(source)).with_context(failed)?;
    let has = |name: &str| columns.iter().any(|column| column == name);
    let (numbered, vision) = (has("image_1") && has("question"), has("image"));
    if !(has("options") && has("answer") && (numbered || vision)) {
        return Ok(None);
    }
    let is_image = |name: &str| name == "image" || name.starts_with("image_");
    let table = Table::open(Path::new(source), images, is_image, |name| COLUMNS.contains(&name));
    let table = table.with_context(failed)?;
    let name = source.to_owned();
    Ok(Some(Box::new((0..).zip(table).map(move |(index, row)| {
        let item = row.map_err(|error| error.to_string()).and_then(|row| item(&name, index, row));
        item.map_err(|reason| format!("`{name}` row {index}: {reason}"))
    }))))
}

fn item(source: &str, index: u64, row: TableRow) -> Result<Item, String> {
    let TableRow { fields, images } = row;
    let options = options(fields.get("options"))?;
    let answer = text(&fields, "answer").filter(|answer| *answer != HIDDEN).unwrap_or_default();
    let is_open = text(&fields, "question_type") == Some("open") || options.is_empty();
    let (prompt, grading) = match (text(&fields, "question"), is_open) {
        (Some(question), true) => (question.to_owned(), open_answers(answer)),
        (Some(question), false) => {
            let prompt = format!("{question}\n{}", options_text(&options));
            (prompt, chosen(answer, options)?)
        }
        // The vision subset shows the options with the question.
        (None, _) => (
            "Answer the question in the image with the letter of the right option.".to_owned(),
            chosen(answer, options)?,
        ),
    };
    let images: Result<Vec<(String, ImageSource)>, String> = images.into_iter().map(numbered).collect();
    let (question, images) = placed(&prompt, &images?)?;
    let reference = match &grading {
        Grading::AnyOf(answers, _) => answers.first().cloned().unwrap_or_default(),
        _ => answer.to_owned(),
    };
    let id = text(&fields, "id").map(str::to_owned);
    let asked = Asked { source: source.to_owned(), row: index, id, question, images, answer: reference };
    let kind = text(&fields, "subfield").or(text(&fields, "subject")).map(str::to_owned);
    Ok(Item { record: asked.record(), kind, grading })
}

fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    fields.get(name)?.as_str().filter(|text| !text.is_empty())
}

/// The options of a row: a Python list in a text as published, or a column of lists.
fn options(column: Option<&Value>) -> Result<Vec<String>, &'static str> {
    match column {
        Some(Value::Array(options)) => {
            let texts = options.iter().map(|option| option.as_str().map(str::to_owned));
            texts.collect::<Option<_>>().ok_or("its options are no texts")
        }
        Some(Value::String(options)) if !options.is_empty() => {
            python_list::parse(options).ok_or("its options are no Python list")
        }
        _ => Ok(Vec::new()),
    }
}

/// An open answer: one, or a Python list of those that will do. As in the authors' evaluation it may stand in a sentence.
fn open_answers(answer: &str) -> Grading {
    if answer.is_empty() {
        return Grading::Elsewhere;
    }
    let answers = python_list::parse(answer).unwrap_or_else(|| vec![answer.to_owned()]);
    Grading::AnyOf(answers, Metric::Contains)
}

/// The image under what its placeholder calls it.
fn numbered(
    (column, images): (String, Result<Vec<ImageSource>, String>),
) -> Result<(String, ImageSource), String> {
    let image = images.and_then(|images| images.into_iter().next().ok_or("is an empty list".into()));
    let image = image.map_err(|reason| format!("`{column}`: {reason}"))?;
    Ok((format!("<{}>", column.replace('_', " ")), image))
}

/// Cuts a text at its placeholders. Images that it does not mention, such as those of the explanation, are not shown; the only
/// ones of a text without placeholders come first.
fn placed(text: &str, images: &[(String, ImageSource)]) -> Result<(Vec<Part>, Vec<ImageSource>), String> {
    let (mut parts, mut used, mut rest) = (Vec::new(), Vec::new(), text);
    while let Some((start, end)) = placeholder(rest) {
        let name = &rest[start..end];
        let image = images.iter().find(|(known, _)| known == name);
        let (_, image) = image.ok_or_else(|| format!("`{name}` is mentioned and not there"))?;
        if start > 0 {
            parts.push(Part::Text { text: rest[..start].to_owned() });
        }
        parts.push(Part::Image);
        used.push(image.clone());
        rest = &rest[end..];
    }
    if used.is_empty() {
        parts.extend(images.iter().map(|_| Part::Image));
        used.extend(images.iter().map(|(_, image)| image.clone()));
        rest = text;
    }
    if !rest.is_empty() {
        parts.push(Part::Text { text: rest.to_owned() });
    }
    Ok((parts, used))
}

/// Where the first `<image N>` is.
fn placeholder(text: &str) -> Option<(usize, usize)> {
    let mut from = 0;
    loop {
        let start = from + text[from..].find("<image ")?;
        let digits = start + "<image ".len();
        let end = digits + text[digits..].bytes().take_while(u8::is_ascii_digit).count();
        if end > digits && text[end..].starts_with('>') {
            return Some((start, end + 1));
        }
        from = digits;
    }
}
