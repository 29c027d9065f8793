//! The columns of the index straight from the bodies of their pages: Parquet's delta encodings of integers and short texts.
//!
//! Opening a cache reads four columns of every row. The `parquet` crate builds an object for each value on the way, which takes
//! longer than everything else there is to do; what is written here by `table.rs` needs none. Another encoding, or anything that
//! is not as these pages are, is `None`, and the crate reads it.

/// The longest block of packed integers: the encoder writes 256 at most.
const LONGEST_BLOCK: u64 = 1 << 16;

/// `count` integers of DELTA_BINARY_PACKED, and what follows them.
///
/// Blocks of (smallest difference, bit widths, packed differences above it), after the header (block length, parts of a block,
/// count, first value).
pub(super) fn delta_integers(body: &[u8], count: usize) -> Option<(Vec<i32>, &[u8])> {
    let mut rest = Bytes(body);
    let (block, parts, total) = (rest.varint()?, rest.varint()?, rest.varint()?);
    let mut last = rest.zigzag()? as i32;
    let is_sound = total == count as u64 && count > 0 && is_block(block, parts) && block % (8 * parts) == 0;
    if !is_sound {
        return None;
    }
    let part = (block / parts) as usize;
    let mut values = Vec::with_capacity(count);
    values.push(last);
    while values.len() < count {
        let smallest = rest.zigzag()? as i32;
        let widths = rest.take(parts as usize)?;
        for width in widths.iter().map(|&width| usize::from(width)) {
            if values.len() == count {
                break;
            }
            let packed = rest.take(part * width / 8)?;
            for i in 0..part.min(count - values.len()) {
                last = last.wrapping_add(smallest).wrapping_add(bits(packed, i * width, width)?);
                values.push(last);
            }
        }
    }
    Some((values, rest.0))
}

/// Whether the header of a delta encoding announces no more than `count` values, in blocks as encoders make them.
///
/// The `parquet` crate makes room for as many as it says, before there is one.
pub(super) fn announces_at_most(body: &[u8], count: usize) -> bool {
    let mut rest = Bytes(body);
    let mut header = || Some((rest.varint()?, rest.varint()?, rest.varint()?));
    header().is_some_and(|(block, parts, total)| is_block(block, parts) && total <= count as u64)
}

/// Whether an encoder would make blocks of this length, in as many parts.
fn is_block(block: u64, parts: u64) -> bool {
    block <= LONGEST_BLOCK && (1..=block).contains(&parts)
}

/// `count` texts of `N` bytes each, of DELTA_LENGTH_BYTE_ARRAY: all lengths, then all bytes.
pub(super) fn delta_texts<const N: usize>(body: &[u8], count: usize) -> Option<&[[u8; N]]> {
    let (lengths, text) = delta_integers(body, count)?;
    let (texts, rest) = text.as_chunks::<N>();
    let is_sound =
        texts.len() == count && rest.is_empty() && lengths.iter().all(|&length| length == N as i32);
    is_sound.then_some(texts)
}

/// `count` 64-bit integers of PLAIN.
pub(super) fn plain_longs(body: &[u8], count: usize) -> Option<&[[u8; 8]]> {
    let (longs, rest) = body.as_chunks::<8>();
    (longs.len() == count && rest.is_empty()).then_some(longs)
}

/// `width` bits of `packed`, lowest first, from bit `at`.
fn bits(packed: &[u8], at: usize, width: usize) -> Option<i32> {
    if width > 32 {
        return None;
    }
    let mut word = [0; 8];
    let from = packed.get(at / 8..)?;
    let len = from.len().min(8);
    word[..len].copy_from_slice(&from[..len]);
    let mask = (1u64 << width) - 1;
    Some(((u64::from_le_bytes(word) >> (at % 8)) & mask) as i32)
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn zigzag(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The two examples of Parquet's encoding document, packed by hand with blocks of 128 values in 4 parts: 1 to 5, whose
    /// differences are all 1 and take no bits; and 7, 5, 3, 1, 2, 3, 4, 5, whose smallest difference is -2 and whose others are
    /// 0, 0, 0, 3, 3, 3, 3 above it, two bits each.
    #[test]
    fn integers_of_the_encoding_document() {
        let counting = [0x80, 1, 4, 5, 2, 2, 0, 0, 0, 0, 99];
        assert_eq!(delta_integers(&counting, 5), Some((vec![1, 2, 3, 4, 5], &[99][..])));
        let mut falling = vec![0x80, 1, 4, 8, 14, 3, 2, 0, 0, 0, 0b1100_0000, 0b0011_1111];
        falling.extend([0; 6]);
        assert_eq!(delta_integers(&falling, 8), Some((vec![7, 5, 3, 1, 2, 3, 4, 5], &[][..])));
        assert_eq!(delta_integers(&falling, 9), None);
        assert!((0..falling.len()).all(|cut| delta_integers(&falling[..cut], 8).is_none()));
        // In 2^61 parts, eight times which are none of 64 bits.
        let parts = [0x80, 1, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x20, 5, 2, 2];
        assert_eq!(delta_integers(&parts, 5), None);
    }

    /// By hand: blocks of 128 in 4 parts, of 5 values; then of 2^28, and in a block of 2^28.
    #[test]
    fn headers_announce_what_is_there() {
        let counting = [0x80, 1, 4, 5, 2];
        assert!(announces_at_most(&counting, 5) && !announces_at_most(&counting, 4));
        assert!(!announces_at_most(&[0x80, 1, 4, 0x80, 0x80, 0x80, 0x80, 1, 2], 5));
        assert!(!announces_at_most(&[0x80, 0x80, 0x80, 0x80, 1, 4, 5, 2], 5));
        assert!(!announces_at_most(&counting[..2], 5), "a cut header");
    }

    #[test]
    fn texts_have_one_length() {
        let body = [0x80, 1, 4, 2, 6, 0, 0, 0, 0, 0, b'a', b'b', b'c', b'd', b'e', b'f'];
        assert_eq!(delta_texts::<3>(&body, 2), Some(&[*b"abc", *b"def"][..]));
        assert_eq!(delta_texts::<2>(&body, 2), None);
        assert_eq!(delta_texts::<3>(&body[..15], 2), None);
    }
}
