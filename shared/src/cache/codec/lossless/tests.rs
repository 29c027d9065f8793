#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]
use super::super::damaged;
use super::*;

/// All of a frame's values.
fn decoded(dtype: FeatureDtype, frame: &[u8], total: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let wanted = Wanted { dtype, total, values: 0..total };
    planes::decode(frame, &wanted, &mut |piece| bytes.extend_from_slice(piece))?;
    if bytes.len() == total * dtype.size() { Ok(bytes) } else { Err(damaged("fewer values than wanted")) }
}

/// Any standard decoder reads the frame: the planes of BYTE_STREAM_SPLIT, lowest byte first.
#[test]
fn frames_are_ordinary_zstd() {
    let bytes: Vec<u8> =
        (0..300_000u32).flat_map(|i| (i.wrapping_mul(2_654_435_761) >> 5).to_le_bytes()).collect();
    let mut frame = Vec::new();
    encode(FeatureDtype::F32, &bytes, &mut frame).unwrap();
    let planes = zstd::decode_all(frame.as_slice()).unwrap();
    let values = bytes.len() / 4;
    assert_eq!(planes.len(), bytes.len());
    for (i, value) in bytes.chunks_exact(4).enumerate() {
        assert!((0..4).all(|plane| planes[plane * values + i] == value[plane]), "value {i}");
    }
    assert_eq!(decoded(FeatureDtype::F32, &frame, values).unwrap(), bytes);
}

/// Lengths around the piece and zstd's block of 128 KiB.
#[test]
fn every_length_comes_back() {
    for values in [1, 2, 3, 255, 8191, 8192, 8193, 131_071, 131_072, 131_073, 400_001] {
        let bytes: Vec<u8> = (0..values as u64)
            .flat_map(|i| ((i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 49) as u16).to_le_bytes())
            .collect();
        let mut frame = Vec::new();
        encode(FeatureDtype::Bf16, &bytes, &mut frame).unwrap();
        assert_eq!(decoded(FeatureDtype::Bf16, &frame, values).unwrap(), bytes, "{values} values");
        assert!(decoded(FeatureDtype::Bf16, &frame, values + 1).is_err(), "one value more than there is");
        assert!(decoded(FeatureDtype::Bf16, &frame, values - 1).is_err() || values == 1);
        assert!(decoded(FeatureDtype::Bf16, &frame[..frame.len() - 1], values).is_err(), "a cut frame");
    }
}

/// The honest limit is the order-0 entropy of each plane (Shannon); Huffman codes whole bits, so it
/// stays a little above it. Features with a normal distribution and channels of different scale.
#[test]
fn size_is_near_the_entropy_of_the_planes() {
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / 16_777_216.0 - 0.5
    };
    let values: Vec<u16> = (0..400_000)
        .map(|i| (0..6).map(|_| uniform()).sum::<f32>() * (0.2 + (i % 64) as f32 / 32.0))
        .map(|value| half::bf16::from_f32(value).to_bits())
        .collect();
    let bits: f64 =
        [0, 8].into_iter().map(|shift| entropy(values.iter().map(|value| (value >> shift) as u8))).sum();
    let mut frame = Vec::new();
    encode(FeatureDtype::Bf16, bytemuck::cast_slice(&values), &mut frame).unwrap();
    let (bound, reached) = (16.0 / bits, (values.len() * 2) as f64 / frame.len() as f64);
    eprintln!(
        "bf16: {reached:.4}x smaller, entropy bound {bound:.4}x, {:.2} % of it",
        100.0 * reached / bound
    );
    assert!(reached > 0.985 * bound && reached <= bound, "{reached} of {bound}");
}

/// Bits per byte.
fn entropy(bytes: impl Iterator<Item = u8>) -> f64 {
    let mut counts = [0u32; 256];
    bytes.for_each(|byte| counts[byte as usize] += 1);
    let total: u32 = counts.iter().sum();
    let share = |&count: &u32| f64::from(count) / f64::from(total);
    counts.iter().map(share).filter(|p| *p > 0.0).map(|p| -p * p.log2()).sum()
}
