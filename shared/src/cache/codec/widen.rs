//! The teacher's number types as float32 and back, without touching a bit of meaning.

use half::f16;

use crate::cache::sample::FeatureDtype;

/// Float32 bit patterns of little-endian values of `dtype`.
pub(crate) fn widen(dtype: FeatureDtype, bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    bytes.chunks_exact(dtype.size()).map(move |b| match dtype {
        FeatureDtype::F32 => u32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        FeatureDtype::F16 => f16_to_f32_bits(u16::from_le_bytes([b[0], b[1]])),
        FeatureDtype::Bf16 => u32::from(u16::from_le_bytes([b[0], b[1]])) << 16,
    })
}

/// Appends little-endian values of `dtype` to `out` as float32, bit by bit.
pub(crate) fn widen_into(dtype: FeatureDtype, bytes: &[u8], out: &mut Vec<f32>) {
    match dtype {
        // Written out for the type that is usual: a conversion at the speed of memory.
        FeatureDtype::Bf16 => {
            let halves = bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
            out.extend(halves.map(|half| f32::from_bits(u32::from(half) << 16)));
        }
        _ => out.extend(widen(dtype, bytes).map(f32::from_bits)),
    }
}

/// Float32 bit patterns back to the source's bytes; an error if they were not widened from it.
pub(crate) fn narrow(dtype: FeatureDtype, words: &[u32]) -> Result<Vec<u8>, String> {
    let foreign = || format!("a value is not a {dtype}");
    match dtype {
        FeatureDtype::F32 => Ok(words.iter().flat_map(|word| word.to_le_bytes()).collect()),
        FeatureDtype::Bf16 => {
            let low = words.iter().fold(0, |low, word| low | word & 0xffff);
            let halves: Vec<u16> = words.iter().map(|word| ((word >> 16) as u16).to_le()).collect();
            if low == 0 { Ok(bytemuck::cast_slice(&halves).to_vec()) } else { Err(foreign()) }
        }
        FeatureDtype::F16 => {
            let halves = words.iter().map(|&word| f32_bits_to_f16(word).map(u16::to_le));
            let halves = halves.collect::<Option<Vec<_>>>().ok_or_else(foreign)?;
            Ok(bytemuck::cast_slice(&halves).to_vec())
        }
    }
}

/// Widens bit by bit: hardware conversion would quieten a signalling NaN.
pub(crate) fn f16_to_f32_bits(bits: u16) -> u32 {
    if bits & 0x7c00 == 0x7c00 {
        return (u32::from(bits & 0x8000) << 16) | 0x7f80_0000 | (u32::from(bits & 0x03ff) << 13);
    }
    f16::from_bits(bits).to_f32().to_bits()
}

/// The inverse of [`f16_to_f32_bits`] on its image; none for a float32 that no float16 widens to.
pub(crate) fn f32_bits_to_f16(bits: u32) -> Option<u16> {
    let narrow = if bits & 0x7f80_0000 == 0x7f80_0000 {
        ((bits >> 16) & 0x8000) as u16 | 0x7c00 | ((bits >> 13) & 0x03ff) as u16
    } else {
        f16::from_f32(f32::from_bits(bits)).to_bits()
    };
    (f16_to_f32_bits(narrow) == bits).then_some(narrow)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every float16 there is, signalling NaN included.
    #[test]
    fn every_f16_widens_and_comes_back() {
        for bits in 0..=u16::MAX {
            let wide = f16_to_f32_bits(bits);
            assert_eq!(f32_bits_to_f16(wide), Some(bits));
            let number = f16::from_bits(bits);
            assert!(number.is_nan() || f64::from(f32::from_bits(wide)) == number.to_f64(), "{bits:04x}");
            assert_eq!(f32::from_bits(wide).is_nan(), number.is_nan());
        }
        assert_eq!(f32_bits_to_f16(0x3f80_0001), None, "1 + 2^-23 is no float16");
    }
}
