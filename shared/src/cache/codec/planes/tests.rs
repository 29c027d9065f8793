//! The fast way beside the plain one.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]
use std::io::Write;

use super::*;
use crate::cache::codec::Codec;

type Decoder = fn(&[u8], &Wanted, &mut dyn FnMut(&[u8])) -> io::Result<()>;

fn with(decoder: Decoder, frame: &[u8], wanted: &Wanted) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    decoder(frame, wanted, &mut |piece| bytes.extend_from_slice(piece))?;
    Ok(bytes)
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Values with skewed exponents, as features have them.
fn values(dtype: FeatureDtype, count: usize, random: &mut Random) -> Vec<u8> {
    let value = |bits: u64| {
        ((bits & 0xffff) as f32 + (bits >> 16 & 0xffff) as f32 - 65535.0)
            / 2f32.powi(14 + (bits >> 60) as i32)
    };
    let mut bytes = Vec::new();
    for value in (0..count).map(|_| value(random.next())) {
        match dtype {
            FeatureDtype::F32 => bytes.extend(value.to_le_bytes()),
            FeatureDtype::F16 => bytes.extend(half::f16::from_f32(value).to_le_bytes()),
            FeatureDtype::Bf16 => bytes.extend(half::bf16::from_f32(value).to_le_bytes()),
        }
    }
    bytes
}

fn frame_of(dtype: FeatureDtype, bytes: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    Codec::LOSSLESS.coding().encode(dtype, bytes, &mut frame).unwrap();
    frame
}

/// Lengths around a piece and a block, all of the values and parts that begin and end anywhere.
#[test]
fn both_ways_agree_on_every_part() {
    let mut random = Random(1);
    for dtype in [FeatureDtype::F32, FeatureDtype::F16, FeatureDtype::Bf16] {
        for total in [1, 7, 300, PIECE - 1, PIECE, PIECE + 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5000] {
            let bytes = values(dtype, total, &mut random);
            let frame = frame_of(dtype, &bytes);
            assert!(total < 300 || take_apart(&frame, total).is_some(), "{dtype}: {total} go the fast way");
            for round in 0..8 {
                let start = if round == 0 { 0 } else { random.next() as usize % total };
                let end =
                    if round == 0 { total } else { start + 1 + random.next() as usize % (total - start) };
                let wanted = Wanted { dtype, total, values: start..end };
                let expected = &bytes[start * dtype.size()..end * dtype.size()];
                assert!(
                    with(decode, &frame, &wanted).unwrap() == expected,
                    "{dtype}: {start}..{end} of {total}"
                );
                assert!(with(decode_plainly, &frame, &wanted).unwrap() == expected, "plainly");
            }
        }
    }
}

/// Planes that zstd's own compressor packs with matches and tables of its choice: another program's frame, just as good.
#[test]
fn frames_of_others_go_the_plain_way() {
    let bytes: Vec<u8> = (0..200_000u32).flat_map(|i| (((i % 977) as f32) * 0.5).to_le_bytes()).collect();
    let planes: Vec<u8> = (0..4).flat_map(|plane| bytes.iter().skip(plane).step_by(4).copied()).collect();
    let frame = zstd::encode_all(planes.as_slice(), 3).unwrap();
    let wanted = Wanted { dtype: FeatureDtype::F32, total: 200_000, values: 1000..150_000 };
    assert!(take_apart(&frame, wanted.total).is_none());
    assert!(with(decode, &frame, &wanted).unwrap() == bytes[4000..600_000]);
}

/// Codes that zstd's own compressor made and told, of bytes between nearly even and very steep.
#[test]
fn codes_of_zstd_go_the_fast_way() {
    let mut random = Random(3);
    let mut fast = 0;
    for round in 0..200 {
        let (total, steep) = (1000 + random.next() as usize % 60_000, 1.02 + (round % 20) as f64 * 0.03);
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        // As few matches as can be; a block for each plane.
        encoder.set_parameter(zstd_safe::CParameter::MinMatch(7)).unwrap();
        encoder.set_pledged_src_size(Some(4 * total as u64)).unwrap();
        encoder.include_contentsize(true).unwrap();
        let mut planes = Vec::new();
        for _ in 0..PLANES {
            let skewed = |bits: u64| (((bits >> 11) as f64 / 2f64.powi(53)).ln() / -steep.ln()) as u64 as u8;
            let plane: Vec<u8> = (0..total).map(|_| skewed(random.next()).wrapping_mul(31)).collect();
            encoder.write_all(&plane).unwrap();
            encoder.flush().unwrap();
            planes.extend(plane);
        }
        let frame = encoder.finish().unwrap();
        let wanted = Wanted { dtype: FeatureDtype::F32, total, values: 0..total };
        fast += usize::from(take_apart(&frame, total).is_some());
        let bytes: Vec<u8> = (0..4 * total).map(|at| planes[at % 4 * total + at / 4]).collect();
        assert!(with(decode, &frame, &wanted).unwrap() == bytes, "round {round}");
    }
    assert!(fast > 20, "{fast} frames have blocks of literals alone");
}

/// Accidents: whatever the fast way makes of them, it ends, and where both ways find values they are the same.
#[test]
fn damaged_frames_end_in_errors() {
    let mut random = Random(2);
    let total = 20_000;
    for dtype in [FeatureDtype::Bf16, FeatureDtype::F32] {
        let frame = frame_of(dtype, &values(dtype, total, &mut random));
        let wanted = Wanted { dtype, total, values: 0..total };
        let (mut refused, rounds) = (0, 400);
        for round in 0..rounds {
            let mut frame = frame.clone();
            // Half of them where the structure is: the headers of frame and first block.
            let bound = if round % 2 == 0 { 40 } else { frame.len() };
            let at = random.next() as usize % bound;
            match random.next() % 3 {
                0 => frame[at] ^= 1 << (random.next() % 8),
                1 => frame[at] = random.next() as u8,
                _ => frame.truncate(at),
            }
            match (with(decode, &frame, &wanted), with(decode_plainly, &frame, &wanted)) {
                (Ok(fast), Ok(plain)) => assert!(fast == plain, "round {round}"),
                (Err(_), _) => refused += 1,
                (Ok(_), Err(error)) => panic!("round {round}: only the plain way finds {error}"),
            }
        }
        assert!(refused > rounds / 4, "{dtype}: {refused} of {rounds}");
    }
}
