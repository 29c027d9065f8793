//! No compression: plain float32, for disks that are larger than the processor is fast.
//!
//! Four bytes a value whatever the teacher's type is. A page decodes at the speed of memory.

use std::io;

use super::widen::{narrow, widen};
use super::{Coding, Layout, PIECE, Wanted, damaged};
use crate::cache::sample::FeatureDtype;

/// See the module.
pub(super) struct None;

impl Coding for None {
    fn name(&self) -> &'static str {
        "none"
    }

    fn about(&self) -> &'static str {
        "stored as float32, uncompressed"
    }

    fn layout(&self) -> Layout {
        Layout::Plain
    }

    fn room(&self, _dtype: FeatureDtype, values: usize) -> usize {
        values * size_of::<f32>()
    }

    fn encode(&self, dtype: FeatureDtype, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        out.reserve(bytes.len() / dtype.size() * size_of::<f32>());
        widen(dtype, bytes).for_each(|word| out.extend(word.to_le_bytes()));
        Ok(())
    }

    fn decode(&self, body: &[u8], wanted: &Wanted, take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        if body.len() != wanted.total * size_of::<f32>() {
            return Err(damaged("the page has not four bytes for each value"));
        }
        let values = &body[wanted.values.start * size_of::<f32>()..wanted.values.end * size_of::<f32>()];
        let mut words = Vec::with_capacity(PIECE);
        for piece in values.chunks(PIECE * size_of::<f32>()) {
            words.clear();
            words.extend(piece.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])));
            take(&narrow(wanted.dtype, &words).map_err(|reason| damaged(&reason))?);
        }
        Ok(())
    }
}
