//! A zstd frame taken apart into its blocks, so that planes can be read side by side and from the middle.
//!
//! ```text
//! magic | descriptor | window? | content size | block | block | ...          (RFC 8878, section 3.1.1)
//!                              block: 3 bytes of (last, kind, size) | raw bytes, one repeated byte, or coded literals
//! ```
//!
//! Only frames as `lossless.rs` makes them pass: blocks of literals alone, none across a plane's end. Such a block depends on
//! nothing but a Huffman code, its own or that of an earlier one, and says how long it is. For every other frame the answer is
//! `None`, and zstd's own decoder reads it from its first byte to its last.

/// Planes of a float32.
pub(super) const PLANES: usize = 4;
/// The longest block of a frame, decoded.
pub(super) const BLOCK: usize = 128 * 1024;
/// The blocks of each plane.
pub(super) type Planes<'a> = [Vec<Block<'a>>; PLANES];

/// A stretch of one plane.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block<'a> {
    /// Its place in the plane and its length, decoded.
    pub(super) start: usize,
    pub(super) len: usize,
    pub(super) content: Content<'a>,
}

impl Block<'_> {
    /// Whether it describes a code, which later blocks may use.
    pub(super) fn has_code(&self) -> bool {
        matches!(self.content, Content::Coded(coded) if coded.has_code)
    }
}

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Content<'a> {
    /// The bytes themselves.
    Raw(&'a [u8]),
    /// One byte, repeated.
    Run(u8),
    /// Coded literals.
    Coded(Coded<'a>),
}

/// Literals in a Huffman code.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Coded<'a> {
    /// The code's description, where it has its own, and the streams.
    pub(super) bytes: &'a [u8],
    /// Whether the code is described here, and not that of the last block of the plane where it was.
    pub(super) has_code: bool,
    /// One stream, or four.
    pub(super) is_one_stream: bool,
}

/// The blocks of a frame of four planes of `values` bytes.
pub(super) fn take_apart(frame: &[u8], values: usize) -> Option<Planes<'_>> {
    let mut rest = skip_header(frame, values * PLANES)?;
    let mut planes: Planes<'_> = [const { Vec::new() }; PLANES];
    // The writer fills its blocks; what needs many more would take memory out of proportion.
    let most = 2 * values.div_ceil(BLOCK) + 4;
    let (mut plane, mut start) = (0, 0);
    loop {
        let (&[a, b, c], after) = rest.split_first_chunk::<3>()?;
        let header = u32::from_le_bytes([a, b, c, 0]);
        let (is_last, kind, size) = (header & 1 == 1, (header >> 1) & 3, (header >> 3) as usize);
        let (stored, after) = after.split_at_checked(if kind == 1 { 1 } else { size })?;
        rest = after;
        let (len, content) = match kind {
            0 => (size, Content::Raw(stored)),
            1 => (size, Content::Run(stored[0])),
            2 => literals(stored)?,
            _ => return None,
        };
        if len > 0 {
            let blocks = planes.get_mut(plane)?;
            let is_readable = match content {
                Content::Coded(coded) => coded.has_code || blocks.iter().any(Block::has_code),
                _ => true,
            };
            let is_sound = len <= BLOCK.min(values - start) && blocks.len() < most && is_readable;
            if !is_sound {
                return None;
            }
            blocks.push(Block { start, len, content });
            start += len;
            if start == values {
                (plane, start) = (plane + 1, 0);
            }
        }
        if is_last {
            return (plane == PLANES && rest.is_empty()).then_some(planes);
        }
    }
}

/// What follows the header of a frame of `bytes` bytes without checksum and dictionary.
fn skip_header(frame: &[u8], bytes: usize) -> Option<&[u8]> {
    let rest = frame.strip_prefix(&[0x28, 0xb5, 0x2f, 0xfd])?;
    let (&descriptor, rest) = rest.split_first()?;
    let is_single = descriptor & 0x20 != 0;
    let rest = rest.get(usize::from(!is_single)..)?;
    let size_bytes = match descriptor >> 6 {
        0 => usize::from(is_single),
        flag => 1 << flag,
    };
    let (size, rest) = rest.split_at_checked(size_bytes)?;
    let size = little_endian(size) + if size_bytes == 2 { 256 } else { 0 };
    (descriptor & 0x0f == 0 && size_bytes > 0 && size == bytes as u64).then_some(rest)
}

/// The length of a block of literals without sequences (RFC 8878, section 3.1.1.3.1), and what it holds.
fn literals(stored: &[u8]) -> Option<(usize, Content<'_>)> {
    let head = little_endian(stored.get(..5.min(stored.len()))?);
    let (kind, format) = (head & 3, (head >> 2) & 3);
    let (header, bits) = match (kind, format) {
        (0 | 1, 1) => (2, 12),
        (0 | 1, 3) => (3, 20),
        (0 | 1, _) => (1, 5),
        (_, 2) => (4, 14),
        (_, 3) => (5, 18),
        _ => (3, 10),
    };
    let mask = (1u64 << bits) - 1;
    let len = (head >> if header == 1 { 3 } else { 4 }) & mask;
    // The last byte is the number of sequences.
    let bytes = stored.strip_suffix(&[0])?.get(header..)?;
    let (size, content) = match kind {
        0 => (len, Content::Raw(bytes)),
        1 => (1, Content::Run(*bytes.first()?)),
        _ => {
            let coded = Coded { bytes, has_code: kind == 2, is_one_stream: format == 0 };
            ((head >> (4 + bits)) & mask, Content::Coded(coded))
        }
    };
    (bytes.len() as u64 == size).then_some((len as usize, content))
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}
