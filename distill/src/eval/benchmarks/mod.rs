//! Benchmarks in the files that their authors publish, told apart by content.
//!
//! | benchmark | file | graded by |
//! |---|---|---|
//! | MMBench | TSV: base64 images, options in columns `A` to `D` and on | the option chosen |
//! | ChartQA | JSON: `imgname`, `query`, `label` | relaxed accuracy |
//! | MM-Vet | JSON: questions by id | a language model elsewhere: `submission.json` |
//! | MMMU, MMMU-Pro | Parquet: `image_1` to `image_7`, `options`; vision subset: `image` | the option chosen; open answers: one that stands in the answer |
//! | VQA | JSON: `image`, `question`, `answer` or `answers` | equality after normalisation |
//!
//! `--metric` overrides how answers are graded. A row without a reference answer, as in a hidden test split, goes to
//! `submission.json` under its id and is not graded; a second one of a file with that id is set aside. MMBench's circular evaluation is not made: each row counts for itself.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result, bail};
use shared::agreement::{Metric, letter};
use shared::dataset::{ImageSource, Message, Part, Record, Role};

mod json;
mod mmbench;
mod mmmu;
mod python_list;

/// How an answer is graded when the user asks for no metric.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Grading {
    /// As [`Metric::Auto`] says.
    Auto,
    /// The reference is the letter of one of these options.
    Options(Vec<String>),
    /// Any of these references will do.
    AnyOf(Vec<String>, Metric),
    /// Not here: the answer is handed in.
    Elsewhere,
}

/// One question of a benchmark.
pub(super) struct Item {
    /// The question and its reference answer.
    pub(super) record: Record,
    /// The kind of question, for the table.
    pub(super) kind: Option<String>,
    /// How its answer is graded.
    pub(super) grading: Grading,
}

/// A benchmark's questions; a row that cannot be used is its reason.
pub(super) type Items = Box<dyn Iterator<Item = Result<Item, String>>>;

/// The benchmark in a file, if it is one.
///
/// # Errors
/// When the file looks like a benchmark and cannot be read.
pub(super) fn open(source: &str, image_root: Option<&Path>) -> Result<Option<Items>> {
    let path = Path::new(source);
    if !path.is_file() {
        return Ok(None);
    }
    let images = image_root.or(path.parent()).unwrap_or(Path::new(""));
    let mut start = BufReader::new(File::open(path).with_context(|| format!("cannot read `{source}`"))?);
    let head = start.fill_buf().with_context(|| format!("cannot read `{source}`"))?;
    if head.starts_with(b"PAR1") {
        return mmmu::open(source, images);
    }
    let first = head.iter().copied().find(|byte| !byte.is_ascii_whitespace());
    Ok(match (path.extension().and_then(|it| it.to_str()), first) {
        (Some("tsv"), _) => Some(mmbench::open(source)?),
        (_, Some(b'[' | b'{')) if !source.ends_with(".jsonl") => json::open(source, images)?,
        _ => None,
    })
}

/// Opens all sources: all of them benchmarks, or none.
///
/// # Errors
/// When some are and others are not, or one cannot be read.
pub(super) fn open_all(sources: &[String], image_root: Option<&Path>) -> Result<Option<Items>> {
    let opened = sources.iter().map(|source| open(source, image_root)).collect::<Result<Vec<_>>>()?;
    let count = opened.iter().flatten().count();
    if count == 0 {
        return Ok(None);
    }
    if count < opened.len() {
        bail!("benchmarks and other datasets cannot be evaluated together\nhint: one command for each");
    }
    Ok(Some(Box::new(opened.into_iter().flatten().flat_map(each_id_once))))
}

/// Sets aside a row whose answer is handed in under an id that an earlier row of the file has: there is place for one.
fn each_id_once(items: Items) -> impl Iterator<Item = Result<Item, String>> {
    let mut rows: HashMap<String, u64> = HashMap::new();
    items.map(move |item| {
        let item = item?;
        if item.grading != Grading::Elsewhere {
            return Ok(item);
        }
        let Record { source, row, .. } = &item.record;
        let id = submitted_as(item.record.id.as_deref(), *row);
        match rows.insert(id.clone(), *row) {
            None => Ok(item),
            Some(earlier) => Err(format!(
                "`{source}` row {row}: its answer would be handed in as `{id}`, as that of row {earlier}"
            )),
        }
    })
}

/// What an answer is called where it is handed in: by its row's id, or its number.
pub(super) fn submitted_as(id: Option<&str>, row: u64) -> String {
    id.map_or_else(|| row.to_string(), str::to_owned)
}

/// What a row of any benchmark has.
struct Asked {
    source: String,
    row: u64,
    id: Option<String>,
    question: Vec<Part>,
    images: Vec<ImageSource>,
    answer: String,
}

impl Asked {
    fn record(self) -> Record {
        let user = Message::new(Role::User, self.question);
        let answer = Message::new(Role::Assistant, vec![Part::Text { text: self.answer }]);
        Record {
            source: self.source,
            row: self.row,
            id: self.id,
            messages: vec![user, answer],
            images: self.images,
        }
    }
}

/// An option's letter is graded; nothing is where the answer is hidden.
fn chosen(answer: &str, options: Vec<String>) -> Result<Grading, String> {
    if answer.is_empty() {
        return Ok(Grading::Elsewhere);
    }
    let is_letter = (0..options.len()).any(|place| answer == letter(place).to_string());
    is_letter
        .then_some(Grading::Options(options))
        .ok_or_else(|| format!("its answer `{answer}` is no option"))
}

/// Options a line each, and what to answer with.
fn options_text(options: &[String]) -> String {
    let lines = options.iter().enumerate().map(|(place, option)| format!("{}. {option}\n", letter(place)));
    format!("{}Answer with the letter of the right option.", lines.collect::<String>())
}
