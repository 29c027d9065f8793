//! One moment of one parameter on the CPU, stored in 4, 2 or 1 bytes a value.
//!
//! | stored | a value | rounding |
//! |---|---|---|
//! | `f32` | float32 | none |
//! | `bf16` | bfloat16 | stochastic |
//! | `f8` | an 8-bit float times its block's float32 scale | stochastic |
//!
//! The 8-bit floats have 4 exponent bits and 3 of the mantissa with a sign (first moments), or 4 without one (second
//! moments), and gradual underflow; a block's largest value is the largest of them (after arXiv 2110.02861, with another
//! code). A decay by 0.999 is less than half a step of either format and rounding to the nearest would never apply it, so a
//! value is rounded up with the probability of what is cut off. The random bits are a hash of the update's number and the
//! value's place: the same on every run, with any number of threads, and after a resume. A second moment above zero
//! never becomes zero, because a weight is divided by its root.

use candle_core::{DType, Device, Result, Shape, Tensor, bail};

use crate::config::OptimizerStates;

/// Values that share a scale.
pub(super) const BLOCK: usize = 256;
/// Below this exponent, of 2, 8-bit floats underflow gradually.
const LOWEST: i32 = -14;

/// Which of the two moments: the first has a sign, the second is never negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    First,
    Second,
}

impl Order {
    /// Mantissa bits of an 8-bit float.
    fn mantissa(self) -> u32 {
        if self == Self::First { 3 } else { 4 }
    }

    /// The largest 8-bit float: all exponent and mantissa bits set.
    fn largest(self) -> f32 {
        2.0 - (-(self.mantissa() as f32)).exp2()
    }

    /// The value of every code.
    pub(super) fn table(self) -> [f32; 256] {
        let bits = self.mantissa();
        std::array::from_fn(|code| {
            let magnitude = code & ((1 << (4 + bits)) - 1);
            let (exponent, mantissa) = ((magnitude >> bits) as i32, (magnitude & ((1 << bits) - 1)) as f32);
            let fraction = mantissa / (1 << bits) as f32;
            let value = match exponent {
                0 => fraction * (LOWEST as f32).exp2(),
                _ => (1.0 + fraction) * ((exponent - 1 + LOWEST) as f32).exp2(),
            };
            if self == Self::First && code >= 128 { -value } else { value }
        })
    }

    /// The code of `x`, of magnitude at most [`largest`](Self::largest), or of a neighbour that `random` picks.
    fn code(self, x: f32, random: u16) -> u8 {
        let bits = self.mantissa();
        let size = x.abs().min(self.largest());
        let random = u32::from(random);
        let magnitude = if size < (LOWEST as f32).exp2() {
            let units = size * ((bits as i32 - LOWEST) as f32).exp2();
            (units + random as f32 / 65536.0) as u32
        } else {
            // The float32's own bits with the exponent's origin moved; a carry runs into the exponent as it should.
            let cut = 23 - bits;
            let origin = (127 + LOWEST - 1) as u32;
            ((size.to_bits() + (random << (cut - 16))) >> cut) - (origin << bits)
        };
        let top = (1 << (4 + bits)) - 1;
        match self {
            Self::First => magnitude.min(top) as u8 | if x < 0.0 { 128 } else { 0 },
            Self::Second => magnitude.clamp(u32::from(x > 0.0), top) as u8,
        }
    }
}

/// The values of one moment.
#[derive(Debug)]
pub(super) enum Moment {
    F32(Vec<f32>),
    Bf16(Vec<half::bf16>),
    F8 { order: Order, codes: Vec<u8>, scales: Vec<f32> },
}

impl Moment {
    /// `len` zeros, as before the first step.
    pub(super) fn zeros(states: OptimizerStates, order: Order, len: usize) -> Self {
        match states {
            OptimizerStates::F32 => Self::F32(vec![0.0; len]),
            OptimizerStates::Bf16 => Self::Bf16(vec![half::bf16::ZERO; len]),
            OptimizerStates::F8 => {
                Self::F8 { order, codes: vec![0; len], scales: vec![0.0; len.div_ceil(BLOCK)] }
            }
        }
    }

    /// Pieces of `size` values, a multiple of [`BLOCK`].
    pub(super) fn pieces(&mut self, size: usize) -> Vec<Piece<'_>> {
        match self {
            Self::F32(values) => values.chunks_mut(size).map(Piece::F32).collect(),
            Self::Bf16(values) => values.chunks_mut(size).map(Piece::Bf16).collect(),
            Self::F8 { order, codes, scales } => {
                let pieces = codes.chunks_mut(size).zip(scales.chunks_mut(size / BLOCK));
                pieces.map(|(codes, scales)| Piece::F8 { order: *order, codes, scales }).collect()
            }
        }
    }

    /// What a checkpoint keeps: tensors by the ending of their name.
    pub(super) fn tensors(&self, shape: &Shape) -> Result<Vec<(&'static str, Tensor)>> {
        let cpu = &Device::Cpu;
        Ok(match self {
            Self::F32(values) => vec![("", Tensor::from_slice(values, shape, cpu)?)],
            Self::Bf16(values) => vec![("", Tensor::from_slice(values, shape, cpu)?)],
            Self::F8 { codes, scales, .. } => vec![
                ("", Tensor::from_slice(codes, shape, cpu)?),
                (".scales", Tensor::from_slice(scales, scales.len(), cpu)?),
            ],
        })
    }

    /// Takes back what [`tensors`](Self::tensors) gave; `find` looks a tensor up by the ending of its name.
    pub(super) fn fill(&mut self, shape: &Shape, find: impl Fn(&str) -> Result<Tensor>) -> Result<()> {
        let read = |ending: &str, dtype: DType| -> Result<Tensor> {
            let tensor = find(ending)?;
            if tensor.dtype() != dtype {
                bail!("a moment is stored as {:?}, not {dtype:?}", tensor.dtype())
            }
            Ok(tensor)
        };
        let fits = |tensor: &Tensor| match tensor.shape() == shape {
            true => tensor.flatten_all(),
            false => bail!("a moment has shape {:?}, its weight {shape:?}", tensor.shape()),
        };
        match self {
            Self::F32(values) => *values = fits(&read("", DType::F32)?)?.to_vec1()?,
            Self::Bf16(values) => *values = fits(&read("", DType::BF16)?)?.to_vec1()?,
            Self::F8 { codes, scales, .. } => {
                let stored = read(".scales", DType::F32)?.to_vec1()?;
                if stored.len() != scales.len() {
                    bail!("a moment has {} scales, not {}", stored.len(), scales.len())
                }
                *codes = fits(&read("", DType::U8)?)?.to_vec1()?;
                *scales = stored;
            }
        }
        Ok(())
    }
}

/// Some values of a moment, borrowed for an update.
pub(super) enum Piece<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [half::bf16]),
    F8 { order: Order, codes: &'a mut [u8], scales: &'a mut [f32] },
}

impl Piece<'_> {
    /// The values of block `block`, into `out`.
    pub(super) fn load(&self, block: usize, tables: &[[f32; 256]; 2], out: &mut [f32]) {
        let start = block * BLOCK;
        match self {
            Self::F32(values) => out.copy_from_slice(&values[start..start + out.len()]),
            Self::Bf16(values) => {
                out.iter_mut().zip(&values[start..]).for_each(|(out, value)| *out = value.to_f32());
            }
            Self::F8 { order, codes, scales } => {
                let (table, scale) = (&tables[usize::from(*order == Order::Second)], scales[block]);
                out.iter_mut()
                    .zip(&codes[start..])
                    .for_each(|(out, code)| *out = table[*code as usize] * scale);
            }
        }
    }

    /// Stores the values of block `block`; `random(i)` has 16 bits for the block's value `i`.
    pub(super) fn store(&mut self, block: usize, values: &[f32], random: impl Fn(usize) -> u16) {
        let start = block * BLOCK;
        match self {
            Self::F32(stored) => stored[start..start + values.len()].copy_from_slice(values),
            Self::Bf16(stored) => {
                for (i, (stored, value)) in stored[start..].iter_mut().zip(values).enumerate() {
                    let bits = value.to_bits() + u32::from(random(i));
                    *stored = half::bf16::from_bits((bits >> 16) as u16);
                }
            }
            Self::F8 { order, codes, scales } => {
                let largest = values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
                scales[block] = largest / order.largest();
                let inverse = if scales[block] > 0.0 { 1.0 / scales[block] } else { 0.0 };
                for (i, (code, value)) in codes[start..].iter_mut().zip(values).enumerate() {
                    *code = order.code(value * inverse, random(i));
                }
            }
        }
    }
}

/// 32 bits for the value at `place` in update number `update`: a finaliser of MurmurHash3 over both.
pub(super) fn random(update: u64, place: usize) -> u32 {
    let mut x = (place as u32).wrapping_mul(0x9e37_79b1) ^ (update as u32).wrapping_mul(0x85eb_ca77);
    x = (x ^ (x >> 16)).wrapping_mul(0x85eb_ca6b);
    x = (x ^ (x >> 13)).wrapping_mul(0xc2b2_ae35);
    x ^ (x >> 16)
}

#[cfg(test)]
mod tests;
