//! The rows of one file as raw JSON texts, one at a time: the elements of a top-level JSON list, or the lines
//! of a JSONL file. Which of the two it is, its first character says.
//!
//! A list of a million rows is common and pretty-printed or not, so neither lines nor a JSON parser
//! that wants the whole list will do: a small scanner finds where each element ends.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use super::container::{Opening, RawRow, Rows, RowsError};
use super::format::Content;

/// A row beyond this is a missing quote or bracket, not a conversation.
const MAX_ROW_BYTES: usize = 256 << 20;

const UTF8_BOM: &[u8] = b"\xef\xbb\xbf";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Lines,
    List,
}

/// Raw rows of one file, in order.
pub(super) struct JsonRows {
    reader: BufReader<File>,
    layout: Layout,
    num_rows: u64,
    bytes_read: u64,
    finished: bool,
}

impl JsonRows {
    /// Opens `path` and tells its layout from its first character.
    fn open(path: &Path) -> Result<Self, RowsError> {
        let mut reader = BufReader::with_capacity(1 << 18, File::open(path)?);
        if reader.fill_buf()?.starts_with(UTF8_BOM) {
            reader.consume(UTF8_BOM.len());
        }
        let mut rows = Self { reader, layout: Layout::Lines, num_rows: 0, bytes_read: 0, finished: false };
        match rows.peek_token()? {
            Some(b'[') => {
                rows.consume(1);
                rows.layout = Layout::List;
            }
            Some(b'{') => {}
            Some(_) => return Err(RowsError::Malformed("is neither a JSON list nor JSON lines".into())),
            None => return Err(RowsError::Malformed("is empty".into())),
        }
        Ok(rows)
    }

    /// The next row's index and JSON text; none at the end of the file.
    fn next_text(&mut self) -> Result<Option<(u64, Vec<u8>)>, RowsError> {
        if self.finished {
            return Ok(None);
        }
        let text = match self.layout {
            Layout::Lines => self.next_line(),
            Layout::List => self.next_element(),
        };
        // After an error there is no telling where the next row would begin.
        self.finished = !matches!(text, Ok(Some(_)));
        let index = self.num_rows;
        self.num_rows += 1;
        Ok(text?.map(|text| (index, text)))
    }

    fn next_line(&mut self) -> Result<Option<Vec<u8>>, RowsError> {
        loop {
            let mut line = Vec::new();
            let limit = MAX_ROW_BYTES as u64 + 1;
            let num_bytes = (&mut self.reader).take(limit).read_until(b'\n', &mut line)?;
            self.bytes_read += num_bytes as u64;
            if num_bytes == 0 {
                return Ok(None);
            }
            self.check_size(&line)?;
            if !line.trim_ascii().is_empty() {
                return Ok(Some(line));
            }
        }
    }

    fn next_element(&mut self) -> Result<Option<Vec<u8>>, RowsError> {
        match self.peek_token()? {
            Some(b']') => {
                self.consume(1);
                return self.expect_end();
            }
            Some(b',') if self.num_rows > 0 => self.consume(1),
            Some(_) if self.num_rows == 0 => {}
            _ => return Err(self.broken("is not closed by `]`")),
        }
        let mut element = Element::default();
        loop {
            let chunk = self.reader.fill_buf()?;
            if chunk.is_empty() {
                return Err(self.broken("ends in the middle"));
            }
            let (num_bytes, complete) = element.extend(chunk);
            self.consume(num_bytes);
            self.check_size(&element.text)?;
            if complete {
                return Ok(Some(element.text));
            }
        }
    }

    fn expect_end(&mut self) -> Result<Option<Vec<u8>>, RowsError> {
        match self.peek_token()? {
            None => Ok(None),
            Some(_) => Err(self.broken("is followed by something else")),
        }
    }

    /// The next byte that is not white space, left unread.
    fn peek_token(&mut self) -> Result<Option<u8>, RowsError> {
        loop {
            let chunk = self.reader.fill_buf()?;
            if chunk.is_empty() {
                return Ok(None);
            }
            let num_spaces = chunk.iter().take_while(|b| b.is_ascii_whitespace()).count();
            let token = chunk.get(num_spaces).copied();
            self.consume(num_spaces);
            if token.is_some() {
                return Ok(token);
            }
        }
    }

    fn consume(&mut self, num_bytes: usize) {
        self.reader.consume(num_bytes);
        self.bytes_read += num_bytes as u64;
    }

    fn check_size(&self, row: &[u8]) -> Result<(), RowsError> {
        if row.len() <= MAX_ROW_BYTES {
            return Ok(());
        }
        Err(RowsError::Malformed(format!("row {} is larger than {} MiB", self.num_rows, MAX_ROW_BYTES >> 20)))
    }

    fn broken(&self, how: &str) -> RowsError {
        RowsError::Malformed(format!("its JSON list {how} after {} rows", self.num_rows))
    }
}

/// Opens a JSON or JSONL file.
pub(super) fn open(path: &Path, _: &Opening<'_>) -> Result<Box<dyn Rows>, RowsError> {
    Ok(Box::new(JsonRows::open(path)?))
}

impl Rows for JsonRows {
    fn next_row(&mut self) -> Result<Option<RawRow>, RowsError> {
        Ok(self.next_text()?.map(|(index, text)| {
            let fields = serde_json::from_slice(&text).map_err(|error| format!("is not JSON: {error}"));
            RawRow { index, key: None, content: fields.map(|fields| Content { fields, images: None }) }
        }))
    }

    fn bytes_read(&self) -> u64 {
        self.bytes_read
    }
}

/// One element of a list, growing until the comma or bracket that follows it.
#[derive(Default)]
struct Element {
    text: Vec<u8>,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Element {
    /// Takes what belongs to the element from the front of `chunk`: how many bytes, and whether it is complete.
    fn extend(&mut self, chunk: &[u8]) -> (usize, bool) {
        let end = chunk.iter().position(|&byte| self.ends_before(byte));
        let num_bytes = end.unwrap_or(chunk.len());
        self.text.extend_from_slice(&chunk[..num_bytes]);
        (num_bytes, end.is_some())
    }

    fn ends_before(&mut self, byte: u8) -> bool {
        if self.in_string {
            self.in_string = self.escaped || byte != b'"';
            self.escaped = !self.escaped && byte == b'\\';
            return false;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b',' | b']' if self.depth == 0 => return true,
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        false
    }
}
