//! A teacher's head (V, D), straight from the cache's file: no copy of it is made, and trainers on one machine share its
//! pages.
//!
//! A float32 head is read where it lies. A half-precision one is widened some rows at a time, into one buffer; products
//! that add up over the vocabulary are then summed tile by tile.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use candle_core::safetensors::MmapedSafetensors;
use candle_core::{Device, Result, Tensor, bail};
use rayon::prelude::*;
use safetensors::Dtype;

/// The head's name in the cache, as on the hub.
pub const HEAD: &str = "lm_head.weight";

/// Bytes of the widened rows at a time.
const TILE_BYTES: usize = 32 << 20;

/// A head that is mapped, not loaded.
#[derive(Clone)]
pub struct MappedHead {
    map: Arc<MmapedSafetensors>,
    dims: (usize, usize),
}

impl MappedHead {
    /// Maps the head in a safetensors file.
    ///
    /// # Errors
    /// When the file cannot be read, or has no matrix of floats under [`HEAD`].
    pub fn open(path: &Path) -> Result<Self> {
        // SAFETY: files of a committed cache are not changed; one that is truncated meanwhile ends the process.
        let map = unsafe { MmapedSafetensors::new(path) }?;
        let view = map.get(HEAD)?;
        let dims = match (view.shape(), view.dtype()) {
            (&[vocab, width], Dtype::F32 | Dtype::F16 | Dtype::BF16) => (vocab, width),
            (shape, dtype) => bail!("the cache's head is {shape:?} of {dtype:?}"),
        };
        Ok(Self { map: Arc::new(map), dims })
    }

    /// (V, D).
    #[must_use]
    pub fn dims(&self) -> (usize, usize) {
        self.dims
    }

    /// The rows of some tokens, (tokens, D), float32.
    ///
    /// # Errors
    /// When a token is none of the vocabulary.
    pub fn rows(&self, tokens: &[u32]) -> Result<Tensor> {
        let head = self.map.get(HEAD)?;
        let (vocab, width) = self.dims;
        let row_bytes = width * head.dtype().bitsize() / 8;
        let mut rows = vec![0.0; tokens.len() * width];
        for (&token, row) in tokens.iter().zip(rows.chunks_exact_mut(width.max(1))) {
            let start = token as usize * row_bytes;
            let Some(bytes) = head.data().get(start..start + row_bytes) else {
                bail!("token {token} has no row in a head of {vocab}");
            };
            widen(bytes, head.dtype(), row);
        }
        Tensor::from_vec(rows, (tokens.len(), width), &Device::Cpu)
    }
}

/// The head of a loss: one that may train, or one from a cache.
#[derive(Clone, Copy)]
pub enum HeadWeight<'a> {
    /// On any device, of any type; it receives a gradient where it tracks one.
    Tensor(&'a Tensor),
    /// Frozen, for float32 features on a CPU.
    Mapped(&'a MappedHead),
}

impl<'a> From<&'a Tensor> for HeadWeight<'a> {
    fn from(weight: &'a Tensor) -> Self {
        Self::Tensor(weight)
    }
}

impl<'a> From<&'a MappedHead> for HeadWeight<'a> {
    fn from(head: &'a MappedHead) -> Self {
        Self::Mapped(head)
    }
}

/// The head's values as a product reads them.
pub(super) enum Values<'a> {
    Slice(&'a [f32]),
    Mapped(&'a MappedHead),
}

impl Values<'_> {
    /// Calls `f(rows, values)` for all rows of width `width`, in order; `buffer` is reused from call to call.
    pub(super) fn for_each_tile(
        &self,
        (vocab, width): (usize, usize),
        buffer: &mut Vec<f32>,
        mut f: impl FnMut(Range<usize>, &[f32]),
    ) -> Result<()> {
        let head = match self {
            Self::Slice(values) => {
                f(0..vocab, values);
                return Ok(());
            }
            Self::Mapped(head) => head.map.get(HEAD)?,
        };
        let bytes = head.data();
        if let (Dtype::F32, Ok(values)) = (head.dtype(), bytemuck::try_cast_slice(bytes)) {
            f(0..vocab, values);
            return Ok(());
        }
        let rows = (TILE_BYTES / (4 * width.max(1))).max(1);
        let row_bytes = width * head.dtype().bitsize() / 8;
        buffer.resize(rows.min(vocab) * width, 0.0);
        for start in (0..vocab).step_by(rows) {
            let tile = start..vocab.min(start + rows);
            let out = &mut buffer[..tile.len() * width];
            widen(&bytes[tile.start * row_bytes..tile.end * row_bytes], head.dtype(), out);
            f(tile, out);
        }
        Ok(())
    }
}

/// Little-endian floats of any of the three types as float32.
fn widen(bytes: &[u8], dtype: Dtype, out: &mut [f32]) {
    const PIECE: usize = 1 << 14;
    let size = dtype.bitsize() / 8;
    let pieces = out.par_chunks_mut(PIECE).zip(bytes.par_chunks(PIECE * size));
    pieces.for_each(|(out, bytes)| match dtype {
        Dtype::F32 => {
            let (values, _) = bytes.as_chunks::<4>();
            out.iter_mut().zip(values).for_each(|(out, value)| *out = f32::from_le_bytes(*value));
        }
        Dtype::BF16 => {
            let (values, _) = bytes.as_chunks::<2>();
            let wide = |value: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*value)) << 16);
            out.iter_mut().zip(values).for_each(|(out, value)| *out = wide(value));
        }
        _ => {
            let (values, _) = bytes.as_chunks::<2>();
            let wide = |value: &[u8; 2]| half::f16::from_le_bytes(*value).to_f32();
            out.iter_mut().zip(values).for_each(|(out, value)| *out = wide(value));
        }
    });
}
