//! The members of a tar archive (POSIX and GNU), one after another, their contents left where they are.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use super::container::RowsError;

const BLOCK: u64 = 512;

/// A longer name, or a larger text to parse, is damage.
const MAX_TEXT_BYTES: u64 = 256 << 20;

/// One file of an archive.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: String,
    /// Where its contents begin in the archive.
    pub(super) start: u64,
    pub(super) num_bytes: u64,
}

/// An archive being read.
pub(super) struct Tar {
    reader: BufReader<File>,
    at: u64,
    num_bytes: u64,
}

impl Tar {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let num_bytes = file.metadata()?.len();
        Ok(Self { reader: BufReader::with_capacity(1 << 16, file), at: 0, num_bytes })
    }

    /// How far it is read.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// The next file; none at the archive's end mark. An archive without one has been cut off.
    pub(super) fn next_member(&mut self) -> Result<Option<Member>, RowsError> {
        let (mut long_name, mut long_size) = (None, None);
        loop {
            let header = self.header()?;
            if header.iter().all(|&byte| byte == 0) {
                return Ok(None);
            }
            check(&header).ok_or_else(|| self.broken("has a damaged header"))?;
            let size = number(&header[124..136]).ok_or_else(|| self.broken("has a damaged header"))?;
            let num_bytes = long_size.unwrap_or(size);
            let start = self.at;
            if start.checked_add(num_bytes).is_none_or(|end| end > self.num_bytes) {
                return Err(self.broken("is cut off"));
            }
            let member = Member { name: String::new(), start, num_bytes };
            match header[156] {
                b'L' => long_name = Some(text_of(&self.read(&member)?)),
                b'x' => {
                    let records = self.read(&member)?;
                    long_name = pax(&records, "path").or(long_name);
                    long_size = pax(&records, "size").and_then(|size| size.parse().ok()).or(long_size);
                }
                b'0' | 0 => {
                    let name = long_name.unwrap_or_else(|| short_name(&header));
                    return Ok(Some(Member { name, ..member }));
                }
                // Folders, links and what else has no contents to read.
                _ => (long_name, long_size) = (None, None),
            }
            self.skip(&member)?;
        }
    }

    /// The contents of the member that [`next_member`](Self::next_member) has just given.
    pub(super) fn read(&mut self, member: &Member) -> Result<Vec<u8>, RowsError> {
        if member.num_bytes > MAX_TEXT_BYTES {
            return Err(self.broken("has a text larger than 256 MiB"));
        }
        let mut contents = vec![0; member.num_bytes as usize];
        self.reader.read_exact(&mut contents)?;
        self.at += member.num_bytes;
        Ok(contents)
    }

    /// Moves on behind a member, read or not.
    pub(super) fn skip(&mut self, member: &Member) -> Result<(), RowsError> {
        let end = (member.start + member.num_bytes).next_multiple_of(BLOCK);
        self.reader.seek_relative((end - self.at) as i64)?;
        self.at = end;
        Ok(())
    }

    fn header(&mut self) -> Result<[u8; BLOCK as usize], RowsError> {
        let mut header = [0; BLOCK as usize];
        match self.reader.read_exact(&mut header) {
            Ok(()) => self.at += BLOCK,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(self.broken("is cut off"));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(header)
    }

    fn broken(&self, how: &str) -> RowsError {
        RowsError::Malformed(format!("the tar archive {how} at byte {}", self.at))
    }
}

/// The sum of a header's bytes, its own field taken as blanks.
fn check(header: &[u8; BLOCK as usize]) -> Option<()> {
    let blank = |at: usize| (148..156).contains(&at);
    let sum: u64 =
        (0..header.len()).map(|at| if blank(at) { u64::from(b' ') } else { u64::from(header[at]) }).sum();
    (number(&header[148..156])? == sum).then_some(())
}

/// Octal digits, or GNU's binary form of numbers too large for them.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let bytes = field[field.len() - 8..].try_into().ok()?;
        return Some(u64::from_be_bytes(bytes));
    }
    let text = std::str::from_utf8(field).ok()?.trim_matches([' ', '\0']);
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

/// The name in a header, behind its prefix where the header is POSIX's.
fn short_name(header: &[u8; BLOCK as usize]) -> String {
    let name = text_of(&header[..100]);
    match text_of(&header[345..500]) {
        prefix if header[257..263] == *b"ustar\0" && !prefix.is_empty() => format!("{prefix}/{name}"),
        _ => name,
    }
}

/// Up to the first zero byte.
fn text_of(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// A value of extended headers: records of `length key=value`.
fn pax(mut records: &[u8], key: &str) -> Option<String> {
    let mut found = None;
    while let Some(space) = records.iter().position(|&byte| byte == b' ') {
        let length: usize = std::str::from_utf8(&records[..space]).ok()?.parse().ok()?;
        let record = records.get(space + 1..length.checked_sub(1)?)?;
        let value = record.strip_prefix(key.as_bytes()).and_then(|rest| rest.strip_prefix(b"="));
        found = value.map(|value| String::from_utf8_lossy(value).into_owned()).or(found);
        records = records.get(length..)?;
    }
    found
}
