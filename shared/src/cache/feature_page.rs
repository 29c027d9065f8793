//! The page that holds one sample's features: made here, opened here; its codec decodes it.
//!
//! ```text
//! header | repetition levels | definition levels | values, as the codec lays them out
//!          '------------------------------ crc -------------------------------------'
//! ```

use super::codec::{Coding, Layout};
use super::page::{BYTE_STREAM_SPLIT, PLAIN, PageHeader, feature_levels};
use super::sample::FeatureDtype;

/// Why a page cannot be made or read.
type Decoded<T> = Result<T, String>;

/// Bytes of a page's values as float32: a page's size is a signed 32-bit number, and zstd may add a little.
const LIMIT: usize = 2_000_000_000;

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

/// Encodes `bytes`, the values of at least one position, as a page: the bytes, and what its header says.
pub(super) fn make(
    coding: &dyn Coding,
    dtype: FeatureDtype,
    width: usize,
    bytes: &[u8],
) -> Decoded<(Vec<u8>, PageHeader)> {
    let rows = bytes.len() / (width * dtype.size());
    let plain_bytes = rows * width * size_of::<f32>();
    if plain_bytes > LIMIT {
        return Err(format!(
            "{rows} positions of width {width} are {plain_bytes} bytes as float32, the limit of a page is {LIMIT}"
        ));
    }
    let (repetition_bytes, definition_bytes, mut body) = feature_levels(rows, width);
    coding.encode(dtype, bytes, &mut body).map_err(|error| error.to_string())?;
    let levels = (repetition_bytes, definition_bytes);
    let header =
        PageHeader { crc: crc32fast::hash(&body), ..header(coding, (rows, width), levels, body.len()) };
    let mut page = Vec::with_capacity(body.len() + 64);
    header.write(&mut page);
    page.extend_from_slice(&body);
    Ok((page, header))
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
    let (repetition_bytes, definition_bytes, levels) = feature_levels(rows, width);
    let lengths = (repetition_bytes, definition_bytes);
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
