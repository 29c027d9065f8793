//! The page that holds one sample's features: made here, opened here; its codec decodes it.
//!
//! ```text
//! header | repetition levels | definition levels | values, as the codec lays them out
//!          '------------------------------ crc -------------------------------------'
//! ```

use super::buffers::Buffers;
use super::codec::{Coding, Layout};
use super::page::{BYTE_STREAM_SPLIT, HEADER_ROOM, PLAIN, PageHeader, append_feature_levels};
use super::sample::FeatureDtype;

/// Why a page cannot be made or read.
type Decoded<T> = Result<T, String>;

/// Bytes of a page's values as float32: a page's size is a signed 32-bit number, and zstd may add a little.
const LIMIT: usize = 2_000_000_000;

/// The most positions that a sample of features of this width may have.
pub fn most_positions(width: usize) -> usize {
    LIMIT / (width.max(1) * size_of::<f32>())
}

/// The levels of a position, at the most; of a whole page a few more.
const LEVEL_BYTES: usize = 8;

/// What the header says of a page of `rows` positions of `width` values, whose levels these are.
fn header(
    coding: &dyn Coding,
    (rows, width): (usize, usize),
    (repetition_bytes, definition_bytes): (usize, usize),
    compressed_bytes: usize,
) -> PageHeader {
    let levels = repetition_bytes + definition_bytes;
    PageHeader {
        uncompressed_bytes: (rows * width * size_of::<f32>() + levels) as u32,
        compressed_bytes: compressed_bytes as u32,
        crc: 0,
        num_values: (rows * width) as u32,
        num_nulls: 0,
        num_rows: 1,
        encoding: if coding.layout() == Layout::Planes { BYTE_STREAM_SPLIT } else { PLAIN },
        definition_bytes: definition_bytes as u32,
        repetition_bytes: repetition_bytes as u32,
        is_compressed: coding.layout() == Layout::Planes,
    }
}

/// A page that has been made: the end of a buffer, which is given back once the page is written.
pub(super) struct Page {
    pub(super) buffer: Vec<u8>,
    start: usize,
    /// What its header says.
    pub(super) header: PageHeader,
}

impl Page {
    /// Its bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..]
    }
}

/// Encodes `bytes`, the values of at least one position, as a page.
pub(super) fn make(
    coding: &dyn Coding,
    dtype: FeatureDtype,
    width: usize,
    bytes: &[u8],
    buffers: &Buffers,
) -> Decoded<Page> {
    let rows = bytes.len() / (width * dtype.size());
    let most = most_positions(width);
    if rows > most {
        return Err(format!("{rows} positions of width {width}, the limit of a page is {most}"));
    }
    // The header is known once the body is, and is written before it into room that was left.
    let mut buffer = buffers.take(HEADER_ROOM + LEVEL_BYTES * rows + coding.room(dtype, rows * width));
    buffer.resize(HEADER_ROOM, 0);
    let levels = append_feature_levels(rows, width, &mut buffer);
    coding.encode(dtype, bytes, &mut buffer).map_err(|error| error.to_string())?;
    let body = &buffer[HEADER_ROOM..];
    let header =
        PageHeader { crc: crc32fast::hash(body), ..header(coding, (rows, width), levels, body.len()) };
    let mut front = Vec::with_capacity(HEADER_ROOM);
    header.write(&mut front);
    let start = HEADER_ROOM - front.len();
    buffer[start..HEADER_ROOM].copy_from_slice(&front);
    Ok(Page { buffer, start, header })
}

/// Checks that a page is the one of `rows` positions of `width` values, and returns its values, encoded.
pub(super) fn open<'a>(
    coding: &dyn Coding,
    page: &'a [u8],
    (rows, width): (usize, usize),
    verify: bool,
) -> Decoded<&'a [u8]> {
    let (found, header_bytes) = PageHeader::read(page).ok_or("its page header is not one of ours")?;
    let body = &page[header_bytes..];
    // Before anything is allocated by these numbers: each position takes at least two bytes of levels.
    let fits = rows.checked_mul(width).is_some_and(|values| values == found.num_values as usize);
    if !fits || rows == 0 || width == 0 || rows > body.len() / 2 || found.num_values as usize > LIMIT / 4 {
        return Err(format!("it holds {} values, expected {rows} x {width}", found.num_values));
    }
    let mut levels = Vec::with_capacity(LEVEL_BYTES * (rows + 1));
    let lengths = append_feature_levels(rows, width, &mut levels);
    let expected = PageHeader { crc: found.crc, ..header(coding, (rows, width), lengths, body.len()) };
    if found != expected {
        return Err(format!("its page header is {found:?}, expected {expected:?}"));
    }
    if verify {
        let crc = crc32fast::hash(body);
        if crc != found.crc {
            return Err(format!("page checksum {crc:08x}, expected {:08x}", found.crc));
        }
    }
    body.strip_prefix(levels.as_slice())
        .ok_or_else(|| "its lists have other lengths than its positions".into())
}
