//! No compression: plain float32, for disks that are larger than the processor is fast.
//!
//! Four bytes a value whatever the teacher's type is. A page decodes at the speed of memory.

use std::io;

use super::widen::widen;
use super::{Coding, Layout, damaged};
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

    fn encode(&self, dtype: FeatureDtype, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        out.reserve(bytes.len() / dtype.size() * size_of::<f32>());
        widen(dtype, bytes).for_each(|word| out.extend(word.to_le_bytes()));
        Ok(())
    }

    fn decode_words(&self, body: &[u8], out: &mut [u32]) -> io::Result<()> {
        let words = words(body, out.len())?;
        out.iter_mut().zip(words).for_each(|(word, value)| *word = value);
        Ok(())
    }

    fn decode_bf16(&self, body: &[u8], out: &mut [u16]) -> io::Result<()> {
        let mut low = 0;
        let words = words(body, out.len())?;
        for (half, word) in out.iter_mut().zip(words) {
            *half = (word >> 16) as u16;
            low |= word as u16;
        }
        if low == 0 { Ok(()) } else { Err(damaged("low bytes of widened bf16 values are not zero")) }
    }
}

fn words(body: &[u8], values: usize) -> io::Result<impl Iterator<Item = u32> + '_> {
    if body.len() != values * size_of::<f32>() {
        return Err(damaged("the page has not four bytes for each value"));
    }
    Ok(body.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])))
}
