//! MMBench's TSV: one question a row, the image in base64, options in columns `A`, `B`, ...
//!
//! Fields are quoted as pandas quotes them. A row whose `image` is the number of another row has that row's image, which is
//! read from the file again: only where it lies stays in memory.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;

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
    let mut table = Table { lines: BufReader::new(file), num_bytes: 0 };
    let header = table.next_line().with_context(|| format!("cannot read `{source}`"))?;
    let header = header.map(|line| line.fields()).unwrap_or_default();
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

/// A tab-separated file.
struct Table {
    lines: BufReader<File>,
    /// Bytes read so far.
    num_bytes: u64,
}

/// A line, which is several where a quoted field has line breaks.
struct Line {
    text: String,
    /// Where it begins in the file.
    start: u64,
}

impl Table {
    fn next_line(&mut self) -> std::io::Result<Option<Line>> {
        let (mut record, mut start) = (String::new(), self.num_bytes);
        loop {
            let num_bytes = self.lines.read_line(&mut record)?;
            self.num_bytes += num_bytes as u64;
            let is_end = num_bytes == 0;
            let text = record.trim_end_matches(['\n', '\r']);
            // Quotes inside a quoted field are doubled, so that an odd number means the field goes on.
            let is_whole = text.bytes().filter(|byte| *byte == b'"').count() % 2 == 0;
            match text.is_empty() {
                true if is_end => return Ok(None),
                // pandas passes over blank lines.
                true => {
                    record.clear();
                    start = self.num_bytes;
                }
                false if is_end || is_whole => {
                    record.truncate(text.len());
                    return Ok(Some(Line { text: record, start }));
                }
                false => {}
            }
        }
    }
}

impl Line {
    fn fields(&self) -> Vec<String> {
        let (mut fields, mut field, mut is_quoted) = (Vec::new(), String::new(), false);
        let mut letters = self.text.chars().peekable();
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

    /// Where an image's base64 lies in the file: it has no quotes, so it stands there as it is. Megabytes are found by their
    /// beginning.
    fn place_of(&self, image: &str) -> Option<Range<u64>> {
        let beginnings = self.text.match_indices(image.get(..SHORTEST_IMAGE)?);
        let (at, _) = beginnings.into_iter().find(|(at, _)| self.text[*at..].starts_with(image))?;
        let start = self.start + at as u64;
        Some(start..start + image.len() as u64)
    }
}

struct Rows {
    source: String,
    header: Vec<String>,
    table: Table,
    /// Where the images so far are, in base64, by the row's number.
    images: HashMap<String, Range<u64>>,
    row: u64,
}

impl Rows {
    fn next_item(&mut self) -> Option<Result<Item, String>> {
        let row = self.row;
        self.row += 1;
        let line = self.table.next_line().transpose()?;
        let item = line.map_err(|error| error.to_string()).and_then(|line| self.item(row, &line));
        Some(item.map_err(|reason| format!("`{}` row {row}: {reason}", self.source)))
    }

    fn item(&mut self, row: u64, line: &Line) -> Result<Item, String> {
        let fields = line.fields();
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
        let (bytes, place) = self.image(field("image").ok_or("no `image`")?, line)?;
        self.images.insert(index.clone(), place);
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
            images: vec![ImageSource::Bytes(bytes.into())],
            answer: answer.unwrap_or_default(),
        };
        Ok(Item { record: asked.record(), kind, grading })
    }

    /// The image that a field holds, or the row that it names, and where it lies.
    fn image(&self, field: &str, line: &Line) -> Result<(Vec<u8>, Range<u64>), String> {
        let no_base64 = "its image is no base64";
        if let Some(place) = self.images.get(field) {
            let text =
                self.read(place).map_err(|error| format!("row {field}, whose image it has: {error}"))?;
            return Ok((decode_base64(&text).ok_or(no_base64)?, place.clone()));
        }
        if field.len() < SHORTEST_IMAGE {
            return Err(format!("no row {field} before this one has its image"));
        }
        let bytes = decode_base64(field).ok_or(no_base64)?;
        Ok((bytes, line.place_of(field).ok_or(no_base64)?))
    }

    fn read(&self, place: &Range<u64>) -> std::io::Result<String> {
        let mut file = File::open(&self.source)?;
        file.seek(SeekFrom::Start(place.start))?;
        let mut text = String::new();
        file.take(place.end - place.start).read_to_string(&mut text)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::sync::Arc;

    use super::*;

    #[test]
    fn an_image_is_held_by_its_own_row_alone() {
        let dir = tempfile::tempdir().unwrap();
        // 90 times the letter a, 120 in base64; the second row has it from the first, the third from the second.
        let (bytes, image) = ([b'a'; 90], "YWFh".repeat(30));
        let rows = format!(
            "index\tquestion\tA\timage\n\n1\t\"Two\nlines \"\"ü\"\"?\"\tx\t{image}\n2\t?\tx\t1\n3\t?\tx\t2\n"
        );
        let path = dir.path().join("t.tsv");
        std::fs::write(&path, rows).unwrap();
        let mut items = open(path.to_str().unwrap()).unwrap();
        for _ in 0..3 {
            let image =
                items.next().unwrap().unwrap_or_else(|reason| panic!("{reason}")).record.images.remove(0);
            let ImageSource::Bytes(held) = image else { panic!("{image:?}") };
            assert_eq!(held[..], bytes);
            let held = {
                let weak = Arc::downgrade(&held);
                drop(held);
                weak
            };
            assert!(held.upgrade().is_none(), "the reader holds an image");
        }
        assert!(items.next().is_none());
    }
}
