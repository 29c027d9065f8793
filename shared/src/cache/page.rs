//! Parquet data pages (version 2) written and read by hand: header, levels, checksum.
//!
//! The `parquet` crate writes no page checksums and offers no say in how a page is compressed, so
//! every page of a cache is framed here and spliced into the file as an encoded column chunk.
//! The header is Thrift's compact protocol, of which four type codes suffice:
//!
//! ```text
//! PageHeader   1 type = 3 (DATA_PAGE_V2)   2 uncompressed_page_size   3 compressed_page_size
//!              4 crc (CRC32 of everything after the header)           8 data_page_header_v2:
//!              1 num_values   2 num_nulls   3 num_rows   4 encoding
//!              5 definition_levels_byte_length   6 repetition_levels_byte_length   7 is_compressed
//! ```

/// What a data page says of itself. Sizes count the levels, not the header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PageHeader {
    pub(super) uncompressed_bytes: u32,
    pub(super) compressed_bytes: u32,
    pub(super) crc: u32,
    pub(super) num_values: u32,
    pub(super) num_nulls: u32,
    pub(super) num_rows: u32,
    pub(super) encoding: u32,
    pub(super) definition_bytes: u32,
    pub(super) repetition_bytes: u32,
    pub(super) is_compressed: bool,
}

/// `PageType::DATA_PAGE_V2`.
const DATA_PAGE_V2: u32 = 3;
/// `Encoding::PLAIN`.
pub(super) const PLAIN: u32 = 0;
/// `Encoding::DELTA_BINARY_PACKED`.
pub(super) const DELTA_BINARY_PACKED: u32 = 5;
/// `Encoding::DELTA_LENGTH_BYTE_ARRAY`.
pub(super) const DELTA_LENGTH_BYTE_ARRAY: u32 = 6;
/// `Encoding::BYTE_STREAM_SPLIT`.
pub(super) const BYTE_STREAM_SPLIT: u32 = 9;
/// Thrift compact type codes.
const TRUE: u8 = 1;
const FALSE: u8 = 2;
const I32: u8 = 5;
const STRUCT: u8 = 12;

impl PageHeader {
    /// Appends the encoded header.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let field = |out: &mut Vec<u8>, value: u32| {
            out.push(1 << 4 | I32);
            // The crc is a bit pattern in a signed field: reinterpreted, not converted.
            varint(out, zigzag(value as i32));
        };
        for value in [DATA_PAGE_V2, self.uncompressed_bytes, self.compressed_bytes, self.crc] {
            field(out, value);
        }
        out.push(4 << 4 | STRUCT);
        let counts = [self.num_values, self.num_nulls, self.num_rows, self.encoding];
        for value in counts.into_iter().chain([self.definition_bytes, self.repetition_bytes]) {
            field(out, value);
        }
        out.push(1 << 4 | if self.is_compressed { TRUE } else { FALSE });
        out.extend([0, 0]);
    }

    /// Reads a header as [`PageHeader::write`] makes it; returns it and its length.
    ///
    /// Strict on purpose: any other field, type or order is damage, since no one else writes here.
    pub(super) fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        let mut cursor = Cursor { bytes, at: 0 };
        if cursor.field()? != DATA_PAGE_V2 {
            return None;
        }
        let mut header = Self {
            uncompressed_bytes: cursor.field()?,
            compressed_bytes: cursor.field()?,
            crc: cursor.field()?,
            ..Self::default()
        };
        cursor.expect(4 << 4 | STRUCT)?;
        header.num_values = cursor.field()?;
        header.num_nulls = cursor.field()?;
        header.num_rows = cursor.field()?;
        header.encoding = cursor.field()?;
        header.definition_bytes = cursor.field()?;
        header.repetition_bytes = cursor.field()?;
        header.is_compressed = match cursor.byte()? {
            0x11 => true,
            0x12 => false,
            _ => return None,
        };
        cursor.expect(0)?;
        cursor.expect(0)?;
        Some((header, cursor.at))
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn expect(&mut self, expected: u8) -> Option<()> {
        (self.byte()? == expected).then_some(())
    }

    fn field(&mut self) -> Option<u32> {
        self.expect(1 << 4 | I32)?;
        let mut encoded = 0u64;
        for shift in (0..35).step_by(7) {
            let byte = self.byte()?;
            encoded |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                let encoded = u32::try_from(encoded).ok()?;
                return Some(((encoded >> 1) as i32 ^ -((encoded & 1) as i32)) as u32);
            }
        }
        None
    }
}

fn zigzag(value: i32) -> u32 {
    ((value << 1) ^ (value >> 31)) as u32
}

fn varint(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The longest header there can be: ten numbers of five bytes with a byte each, and what stands between them.
pub(super) const HEADER_ROOM: usize = 10 * 6 + 4;

/// Appends the levels of one sample's features, a list of `rows` lists of `width` floats, to `out`: the repetition levels, then
/// the definition levels, whose lengths it returns.
///
/// Repetition is 0 for the first value, 1 for the first of each further list, 2 inside a list;
/// definition is 2 throughout. Both are runs of the RLE/bit-packing hybrid: (length << 1, level).
pub(super) fn append_feature_levels(rows: usize, width: usize, out: &mut Vec<u8>) -> (usize, usize) {
    let start = out.len();
    let mut run = |length: usize, level: u8| {
        if length > 0 {
            varint(out, (length as u32) << 1);
            out.push(level);
        }
    };
    for row in 0..rows {
        run(1, u8::from(row > 0));
        run(width - 1, 2);
    }
    let repetition = out.len() - start;
    varint(out, ((rows * width) as u32) << 1);
    out.push(2);
    (repetition, out.len() - start - repetition)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    fn header(seed: u32) -> PageHeader {
        PageHeader {
            uncompressed_bytes: seed.wrapping_mul(7919) >> 1,
            compressed_bytes: seed >> 3,
            crc: seed.wrapping_mul(2_654_435_761),
            num_values: seed >> 5,
            num_nulls: 0,
            num_rows: 1,
            encoding: BYTE_STREAM_SPLIT,
            definition_bytes: 5,
            repetition_bytes: seed & 0xffff,
            is_compressed: seed.is_multiple_of(2),
        }
    }

    #[test]
    fn headers_come_back() {
        for seed in (0..2000).map(|i: u32| i.wrapping_mul(2_147_001)) {
            let mut bytes = Vec::new();
            header(seed).write(&mut bytes);
            assert!(bytes.len() <= HEADER_ROOM);
            assert_eq!(PageHeader::read(&bytes), Some((header(seed), bytes.len())));
            for cut in 0..bytes.len() {
                assert_eq!(PageHeader::read(&bytes[..cut]), None, "a header cut at {cut}");
            }
        }
    }

    /// Levels written out by hand from the Parquet encoding document: RLE runs as (length << 1, level).
    #[test]
    fn levels_of_two_lists_of_three() {
        let mut bytes = Vec::new();
        let (repetition, definition) = append_feature_levels(2, 3, &mut bytes);
        assert_eq!((repetition, definition), (8, 2));
        assert_eq!(bytes, [2, 0, 4, 2, 2, 1, 4, 2, 12, 2]);
    }
}
