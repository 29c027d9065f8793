//! MMBench's TSV: one question a row, the image in base64, options in columns `A`, `B`, ...
//!
//! Fields are quoted as pandas quotes them. A row whose `image` is the number of another row has that row's image.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use shared::dataset::{ImageSource, Part, decode_base64};

use super::{Asked, Item, Items, chosen, letter, options_text};

/// No image in base64 is shorter; the number of a row is.
const SHORTEST_IMAGE: usize = 64;

/// Opens a file.
///
/// # Errors
/// When it cannot be read or lacks a column.
pub(super) fn open(source: &str) -> Result<Items> {
    let file = File::open(source).with_context(|| format!("cannot read `{source}`"))?;
    let mut table = Table { lines: BufReader::new(file) };
    let header = table.next_fields().with_context(|| format!("cannot read `{source}`"))?.unwrap_or_default();
    for needed in ["index", "question", "image", "A"] {
        if !header.iter().any(|name| name == needed) {
            bail!(
                "`{source}` has no column `{needed}`\nhint: MMBench's TSV is read, as its authors publish it"
            );
        }
    }
    let mut rows = Rows { source: source.to_owned(), header, table, images: HashMap::new(), row: 0 };
    Ok(Box::new(std::iter::from_fn(move || rows.next_item())))
}

/// Fields of a tab-separated file.
struct Table {
    lines: BufReader<File>,
}

impl Table {
    fn next_fields(&mut self) -> std::io::Result<Option<Vec<String>>> {
        let mut record = String::new();
        loop {
            let is_end = self.lines.read_line(&mut record)? == 0;
            let text = record.trim_end_matches(['\n', '\r']);
            // Quotes inside a quoted field are doubled, so that an odd number means the field goes on.
            let is_whole = text.bytes().filter(|byte| *byte == b'"').count() % 2 == 0;
            match text.is_empty() {
                true if is_end => return Ok(None),
                // pandas passes over blank lines.
                true => record.clear(),
                false if is_end || is_whole => return Ok(Some(split(text))),
                false => {}
            }
        }
    }
}

fn split(record: &str) -> Vec<String> {
    let (mut fields, mut field, mut is_quoted) = (Vec::new(), String::new(), false);
    let mut letters = record.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if is_quoted && letters.next_if_eq(&'"').is_some() => field.push('"'),
            '"' => is_quoted = !is_quoted,
            '\t' if !is_quoted => fields.push(std::mem::take(&mut field)),
            _ => field.push(letter),
        }
    }
    fields.push(field);
    fields
}

struct Rows {
    source: String,
    header: Vec<String>,
    table: Table,
    /// Images so far, by the row's number.
    images: HashMap<String, Arc<[u8]>>,
    row: u64,
}

impl Rows {
    fn next_item(&mut self) -> Option<Result<Item, String>> {
        let row = self.row;
        self.row += 1;
        let fields = self.table.next_fields().transpose()?;
        let item = fields.map_err(|error| error.to_string()).and_then(|fields| self.item(row, &fields));
        Some(item.map_err(|reason| format!("`{}` row {row}: {reason}", self.source)))
    }

    fn item(&mut self, row: u64, fields: &[String]) -> Result<Item, String> {
        let field = |name: &str| {
            let place = self.header.iter().position(|column| column == name)?;
            fields.get(place).map(|text| text.trim()).filter(|text| !text.is_empty() && *text != "nan")
        };
        let index = field("index").ok_or("no `index`")?.to_owned();
        let columns = ('A'..='Z').map(|letter| letter.to_string());
        let stated: Vec<Option<&str>> = columns.map(|letter| field(&letter)).collect();
        let options: Vec<String> = stated.iter().map_while(|it| it.map(str::to_owned)).collect();
        let hint = field("hint").map(|hint| format!("{hint}\n")).unwrap_or_default();
        let text =
            format!("\n{hint}{}\n{}", field("question").ok_or("no `question`")?, options_text(&options));
        let (answer, kind) = (field("answer").map(str::to_owned), field("category").map(str::to_owned));
        let image = field("image").ok_or("no `image`")?.to_owned();
        let bytes: Arc<[u8]> = match self.images.get(&image) {
            Some(bytes) => bytes.clone(),
            None if image.len() < SHORTEST_IMAGE => {
                return Err(format!("no row {image} before this one has its image"));
            }
            None => decode_base64(&image).ok_or("its image is no base64")?.into(),
        };
        self.images.insert(index.clone(), bytes.clone());
        // Other rows may have the image of one that cannot be asked.
        if stated.iter().flatten().count() > options.len() {
            return Err(format!("no option `{}`, and one behind it", letter(options.len())));
        }
        let grading = chosen(answer.as_deref().unwrap_or_default(), options)?;
        let asked = Asked {
            source: self.source.clone(),
            row,
            id: Some(index),
            question: vec![Part::Image, Part::Text { text }],
            images: vec![ImageSource::Bytes(bytes)],
            answer: answer.unwrap_or_default(),
        };
        Ok(Item { record: asked.record(), kind, grading })
    }
}
