//! Eight bits a value: for each token and 64 channels a grid of 255 points, then the lossless page.
//!
//! A group's step is the smallest power of two that takes its largest magnitude to at most 127.5
//! steps, and each value becomes the nearest multiple of it, at most 127 steps. Such a value has
//! at most seven significant bits, so that it is exact in bf16, f16 and f32 alike, the low bits of
//! its mantissa are zero, and the entropy code of the byte planes takes what an integer would:
//! the scale needs no column, because the values themselves are whole steps.
//!
//! An exact scale `largest / 127` has half the squared error, but its products fill the mantissa:
//! as float32 they compress to 25 bits a value, and as integers no other reader knows what they mean.
//!
//! The error is at most half a step, that is 1/127 of the largest magnitude among the 64 (a whole
//! step where rounding up would leave the number type's range): a massive channel coarsens its
//! own 64 and no other. NaN and infinities stay as they are and do not count as the largest.

use std::io;

use super::lossless::Lossless;
use super::widen::{narrow, widen};
use super::{Coding, Layout, Wanted};
use crate::cache::sample::{FeatureBlock, FeatureDtype};

/// Channels that share a step.
const GROUP: usize = 64;
/// Steps on each side of zero.
const STEPS: f64 = 127.0;

/// See the module.
pub(super) struct Int8;

impl Coding for Int8 {
    fn name(&self) -> &'static str {
        "int8"
    }

    fn about(&self) -> &'static str {
        "rounded to 8 bits for each token and 64 channels, stored as float32"
    }

    fn layout(&self) -> Layout {
        Layout::Planes
    }

    fn round(&self, block: &FeatureBlock) -> Option<Vec<u8>> {
        let mut words: Vec<u32> = widen(block.dtype, &block.bytes).collect();
        for position in words.chunks_mut(block.width.max(1)) {
            position.chunks_mut(GROUP).for_each(|group| round_group(group, block.dtype));
        }
        // Multiples of a step with seven bits are exact in every type, so this always succeeds.
        narrow(block.dtype, &words).ok()
    }

    fn is_lossy(&self) -> bool {
        true
    }

    fn room(&self, dtype: FeatureDtype, values: usize) -> usize {
        Lossless.room(dtype, values)
    }

    fn encode(&self, dtype: FeatureDtype, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        Lossless.encode(dtype, bytes, out)
    }

    fn decode(&self, body: &[u8], wanted: &Wanted, take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        Lossless.decode(body, wanted, take)
    }
}

/// The smallest positive number as a power of two, and the largest number.
fn range(dtype: FeatureDtype) -> (i32, f64) {
    match dtype {
        FeatureDtype::F32 => (-149, f64::from(f32::MAX)),
        FeatureDtype::Bf16 => (-133, half::bf16::MAX.to_f64()),
        FeatureDtype::F16 => (-24, half::f16::MAX.to_f64()),
    }
}

fn round_group(words: &mut [u32], dtype: FeatureDtype) {
    let value = |word: u32| f64::from(f32::from_bits(word));
    let finite = words.iter().map(|&word| value(word).abs()).filter(|magnitude| magnitude.is_finite());
    let largest = finite.fold(0.0, f64::max);
    let (smallest_step, limit) = range(dtype);
    let step = 2f64.powi(ceil_log2(largest / (STEPS + 0.5)).max(smallest_step));
    for word in words.iter_mut().filter(|word| value(**word).is_finite()) {
        // Division and multiplication by a power of two are exact in double precision.
        let mut steps = (value(*word) / step).round_ties_even().clamp(-STEPS, STEPS);
        if (steps * step).abs() > limit {
            steps -= steps.signum();
        }
        // Adding zero turns a negative zero into the only zero of the grid.
        *word = ((steps * step + 0.0) as f32).to_bits();
    }
}

/// The smallest integer whose power of two is at least `value`; the lowest of all for zero.
fn ceil_log2(value: f64) -> i32 {
    let bits = value.to_bits();
    let exponent = (bits >> 52) as i32 - 1023;
    if value == 0.0 { i32::MIN } else { exponent + i32::from(bits & ((1 << 52) - 1) != 0) }
}
