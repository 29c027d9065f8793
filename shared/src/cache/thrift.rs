//! A walk over Thrift's compact protocol that only asks whether what is announced is there.
//!
//! The `parquet` crate allocates by the announced length of a list before it reads its elements: a footer of a few bytes
//! could take any amount of memory. What passes here announces no more elements than there are bytes.

/// Structs inside structs; Parquet's footer has half as many.
const MAX_DEPTH: usize = 16;

/// Whether `bytes` begin with a whole struct.
pub(super) fn holds_struct(bytes: &[u8]) -> bool {
    Walk { bytes }.skip_struct(0).is_some()
}

struct Walk<'a> {
    bytes: &'a [u8],
}

impl Walk<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(*first)
    }

    fn skip(&mut self, count: u64) -> Option<()> {
        self.bytes = self.bytes.get(usize::try_from(count).ok()?..)?;
        Some(())
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// A struct is fields, each a byte of (id's difference, type), until a zero byte.
    fn skip_struct(&mut self, depth: usize) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        loop {
            let header = self.byte()?;
            if header == 0 {
                return Some(());
            }
            if header >> 4 == 0 {
                self.varint()?;
            }
            // A field of a boolean has its value in its type.
            if !matches!(header & 15, 1 | 2) {
                self.skip_value(header & 15, depth)?;
            }
        }
    }

    fn skip_value(&mut self, kind: u8, depth: usize) -> Option<()> {
        match kind {
            // Booleans of a list, and bytes.
            1..=3 => self.skip(1),
            4..=6 => self.varint().map(drop),
            7 => self.skip(8),
            8 => {
                let length = self.varint()?;
                self.skip(length)
            }
            9 | 10 => {
                let header = self.byte()?;
                let length = if header >> 4 == 15 { self.varint()? } else { u64::from(header >> 4) };
                if length > self.bytes.len() as u64 {
                    return None;
                }
                (0..length).try_for_each(|_| self.skip_value(header & 15, depth + 1).map(drop))
            }
            12 => self.skip_struct(depth + 1),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the protocol's description: field 1 an i32 of 5, field 2 a list of two i32, field 3 a string, field 4 a struct, stop.
    const WHOLE: [u8; 14] = [0x15, 10, 0x19, 0x25, 2, 4, 0x18, 2, b'o', b'k', 0x1c, 0x11, 0, 0];

    #[test]
    fn what_is_announced_must_be_there() {
        assert!(holds_struct(&WHOLE));
        assert!((0..WHOLE.len()).all(|cut| !holds_struct(&WHOLE[..cut])));
        // A list of 2^31 - 1 elements in a few bytes, and structs without end.
        assert!(!holds_struct(&[0x19, 0xf5, 0xff, 0xff, 0xff, 0xff, 0x07, 0, 0, 0]));
        assert!(!holds_struct(&[0x1c; 64]));
    }
}
