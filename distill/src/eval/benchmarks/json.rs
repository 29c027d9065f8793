//! ChartQA, MM-Vet and plain VQA: JSON with image files beside it.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value};
use shared::agreement::Metric;
use shared::dataset::{ImageSource, Part};

use super::{Asked, Grading, Item, Items};

type Object = Map<String, Value>;

/// Opens a file; `None` when its first row is of none of these benchmarks.
///
/// # Errors
/// When it cannot be read.
pub(super) fn open(source: &str, images: &Path) -> Result<Option<Items>> {
    let bytes = std::fs::read(source).with_context(|| format!("cannot read `{source}`"))?;
    let rows: Vec<(Option<String>, Value)> = match serde_json::from_slice(&bytes) {
        Ok(Value::Array(rows)) => rows.into_iter().map(|row| (None, row)).collect(),
        Ok(Value::Object(rows)) => rows.into_iter().map(|(id, row)| (Some(id), row)).collect(),
        // Not one JSON text: JSON lines, say. Other readers will tell.
        _ => return Ok(None),
    };
    let first = rows.first().and_then(|(_, row)| row.as_object());
    let Some(read) = first.and_then(reader_of) else { return Ok(None) };
    let (name, images) = (source.to_owned(), images.to_owned());
    let items = rows.into_iter().enumerate().map(move |(index, (id, row))| {
        let place = Place { source: &name, row: index as u64, id, images: &images };
        let item = row.as_object().and_then(|row| read(row, place));
        item.ok_or_else(|| {
            format!("`{name}` row {index}: a question, an image or an answer is missing or of another kind")
        })
    });
    Ok(Some(Box::new(items)))
}

/// Where a row stands.
struct Place<'a> {
    source: &'a str,
    row: u64,
    id: Option<String>,
    images: &'a Path,
}

type Reader = fn(&Object, Place) -> Option<Item>;

fn reader_of(row: &Object) -> Option<Reader> {
    let has = |names: &[&str]| names.iter().all(|name| row.contains_key(*name));
    let readers: [(&[&str], Reader); 3] = [
        (&["imgname", "query", "label"], chartqa),
        (&["imagename", "question", "capability"], mm_vet),
        (&["image", "question"], vqa),
    ];
    readers.into_iter().find(|(names, _)| has(names)).map(|(_, reader)| reader)
}

fn text(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// What will do as an answer: a text, a number, an object with `answer`, or a list of these.
fn texts(value: &Value) -> Option<Vec<String>> {
    let one = |value: &Value| text(Some(value)).or_else(|| text(value.get("answer")));
    match value {
        Value::Array(values) => values.iter().map(one).collect(),
        value => Some(vec![one(value)?]),
    }
}

impl Place<'_> {
    fn asked(self, image: &str, question: &str, answer: String) -> Asked {
        Asked {
            source: self.source.to_owned(),
            row: self.row,
            id: self.id,
            question: vec![Part::Image, Part::Text { text: format!("\n{question}") }],
            images: vec![ImageSource::Path(self.images.join(image))],
            answer,
        }
    }
}

/// Images lie in a folder `png` beside the file, as its authors ship it, or under the image root itself.
fn chartqa(row: &Object, place: Place) -> Option<Item> {
    let name = text(row.get("imgname"))?;
    let in_folder = Path::new("png").join(&name);
    let image = if place.images.join(&in_folder).exists() { in_folder.display().to_string() } else { name };
    let labels = texts(row.get("label")?)?;
    let label = labels.first()?.clone();
    let grading = Grading::AnyOf(labels, Metric::Relaxed);
    let record = place.asked(&image, &text(row.get("query"))?, label).record();
    Some(Item { record, kind: None, grading })
}

fn mm_vet(row: &Object, place: Place) -> Option<Item> {
    let capabilities = row.get("capability")?.as_array()?.iter().filter_map(Value::as_str);
    let kind = Some(capabilities.collect::<Vec<_>>().join("+"));
    let (image, question) = (text(row.get("imagename"))?, text(row.get("question"))?);
    let answer = text(row.get("answer")).unwrap_or_default();
    let record = place.asked(&image, &question, answer).record();
    Some(Item { record, kind, grading: Grading::Elsewhere })
}

/// `answers` or `answer`; neither, or nothing in them, in a hidden test split.
fn vqa(row: &Object, mut place: Place) -> Option<Item> {
    let stated = ["answers", "answer"].into_iter().filter_map(|name| row.get(name)).find(|it| !it.is_null());
    let mut answers = stated.map_or(Some(Vec::new()), texts)?;
    answers.retain(|answer| !answer.trim().is_empty());
    place.id = text(row.get("question_id")).or_else(|| text(row.get("id"))).or(place.id);
    let (image, question) = (text(row.get("image"))?, text(row.get("question"))?);
    let reference = answers.first().cloned().unwrap_or_default();
    let record = place.asked(&image, &question, reference).record();
    let grading =
        if answers.is_empty() { Grading::Elsewhere } else { Grading::AnyOf(answers, Metric::Exact) };
    Some(Item { record, kind: None, grading })
}
