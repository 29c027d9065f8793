//! Every codec against the same demands; each file of `golden/` holds one page and is never changed.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use half::{bf16, f16};

use super::widen::{widen, widen_into};
use super::*;
use crate::cache::buffers::Buffers;
use crate::cache::feature_page;

const DTYPES: [FeatureDtype; 3] = [FeatureDtype::F32, FeatureDtype::F16, FeatureDtype::Bf16];
const WIDTH: usize = 150;

/// A page of 2 positions of 3 values, as the codec made it when it was new.
fn golden_page(codec: Codec) -> &'static [u8] {
    match codec.name() {
        "lossless" => include_bytes!("golden/lossless.page"),
        "int8" => include_bytes!("golden/int8.page"),
        "none" => include_bytes!("golden/none.page"),
        other => panic!("`{other}` has no golden page"),
    }
}

/// Seeded values: those of a channel are alike, one channel is massive, and one value in ten is any bit
/// pattern at all, NaN and infinities included.
fn block(seed: u64, dtype: FeatureDtype, positions: usize) -> FeatureBlock {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 32) as u32
    };
    let mut bytes = Vec::new();
    for i in 0..positions * WIDTH {
        let scale = if i % WIDTH == 70 { 3e4 } else { 0.1 + (i % WIDTH) as f32 / 50.0 };
        let (wild, value) = (next() % 10 == 0, (next() as f32 / 2f32.powi(31) - 1.0) * scale);
        match dtype {
            FeatureDtype::F32 if wild => bytes.extend(next().to_le_bytes()),
            _ if wild => bytes.extend((next() as u16).to_le_bytes()),
            FeatureDtype::F32 => bytes.extend(value.to_le_bytes()),
            FeatureDtype::F16 => bytes.extend(f16::from_f32(value).to_le_bytes()),
            FeatureDtype::Bf16 => bytes.extend(bf16::from_f32(value).to_le_bytes()),
        }
    }
    FeatureBlock { dtype, width: WIDTH, bytes }
}

/// Some values of a page.
fn decoded(codec: Codec, body: &[u8], dtype: FeatureDtype, total: usize, values: Range<usize>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let wanted = Wanted { dtype, total, values };
    codec.coding().decode(body, &wanted, &mut |piece| bytes.extend_from_slice(piece)).unwrap();
    bytes
}

/// Through a page and back.
fn stored(codec: Codec, block: &FeatureBlock) -> FeatureBlock {
    let (coding, rounded) = (codec.coding(), codec.rounded(block));
    let page =
        feature_page::make(coding, block.dtype, block.width, &rounded.bytes, &Buffers::default()).unwrap();
    let shape = (block.num_positions(), block.width);
    let body = feature_page::open(coding, page.bytes(), shape, true).unwrap();
    let total = shape.0 * shape.1;
    let bytes = decoded(codec, body, block.dtype, total, 0..total);
    let mut wide = Vec::new();
    widen_into(block.dtype, &bytes, &mut wide);
    assert!(
        wide.iter().map(|value| value.to_bits()).eq(widen(block.dtype, &bytes)),
        "both ways to widen agree"
    );
    let some = total / 3..total - total / 5;
    let of_it = some.start * block.dtype.size()..some.end * block.dtype.size();
    assert_eq!(decoded(codec, body, block.dtype, total, some), bytes[of_it], "a part is a part of the whole");
    assert_eq!(bytes, rounded.bytes, "a page gives back what went into it");
    FeatureBlock { bytes, ..*block }
}

#[test]
fn every_codec_but_the_lossy_keeps_every_bit() {
    for dtype in DTYPES {
        for seed in 0..20 {
            let block = block(seed, dtype, 1 + seed as usize % 5);
            for codec in Codec::all() {
                let once = stored(codec, &block);
                assert!(codec.is_lossy() || once == block, "{codec} {dtype} {seed}");
                assert_eq!(stored(codec, &once), once, "{codec}: rounding again changes nothing");
            }
        }
    }
}

/// The bound of the codec's documentation, with the step computed by trial instead of from the exponent.
#[test]
fn the_error_of_int8_is_half_a_step_of_its_own_64_channels() {
    for dtype in DTYPES {
        for seed in 20..40 {
            let block = block(seed, dtype, 3);
            let values = |block: &FeatureBlock| -> Vec<f64> {
                widen(dtype, &block.bytes).map(|word| f64::from(f32::from_bits(word))).collect()
            };
            let (before, after) = (values(&block), values(&Codec::INT8.rounded(&block)));
            let positions = before.chunks(WIDTH).zip(after.chunks(WIDTH));
            for (before, after) in positions.flat_map(|(a, b)| a.chunks(64).zip(b.chunks(64))) {
                let finite = before.iter().filter(|value| value.is_finite());
                let largest = finite.fold(0f64, |largest, value| largest.max(value.abs()));
                let mut step = 2f64.powi(128);
                while step / 2.0 * 127.5 >= largest && step > 2f64.powi(-149) {
                    step /= 2.0;
                }
                for (before, after) in before.iter().zip(after) {
                    if !before.is_finite() {
                        assert_eq!(
                            (before.is_nan(), before.is_sign_negative()),
                            (after.is_nan(), after.is_sign_negative())
                        );
                        continue;
                    }
                    let top = dtype == FeatureDtype::F16 && largest > 65_000.0 || largest > 3.3e38;
                    let bound = if top { step } else { step / 2.0 };
                    assert!((before - after).abs() <= bound, "{dtype}: {before} became {after}, step {step}");
                    assert!(
                        after.is_finite() && after.abs() <= 127.0 * step && (after / step).fract() == 0.0
                    );
                }
            }
        }
    }
}

/// By hand: 1 is at most 127.5 / 64, so the step is 1/64: 0.3 is 19.2 steps, -0.01 is -0.64, 1/128 a tie that goes to
/// zero. 300 takes a step of 4, in its own group alone.
#[test]
fn int8_by_hand() {
    let mut values = [0.0f32; 66];
    values[..4].copy_from_slice(&[1.0, 0.3, -0.01, 1.0 / 128.0]);
    values[64..].copy_from_slice(&[300.0, 5.0]);
    let rounded = Codec::INT8.rounded(&FeatureBlock::from_f32(66, &values));
    let rounded: Vec<f32> = widen(FeatureDtype::F32, &rounded.bytes).map(f32::from_bits).collect();
    assert_eq!(rounded[..5], [1.0, 19.0 / 64.0, -1.0 / 64.0, 0.0, 0.0]);
    assert_eq!(rounded[64..], [300.0, 4.0]);
}

/// Shapes and values at the edges: one channel, about a group of 64, wide; one position, and more than a block of a plane holds.
#[test]
fn every_shape_and_value_comes_back() {
    // By bits of float32; as a narrower type the upper half of them, whatever that means there.
    let constants = [0x7fc0_0001u32, 0xff80_0000, 0, 0x8000_0000, 0x0001_0000, 0x3f80_0000, 0x7f7f_ffff];
    for dtype in DTYPES {
        let value = |bits: u32| bits.to_le_bytes()[4 - dtype.size()..].to_vec();
        for (width, positions) in [(1, 1), (1, 140_000), (63, 2), (64, 2), (65, 3), (8192, 1), (8192, 17)] {
            let blocks = constants.map(|bits| value(bits).repeat(width * positions));
            let counting =
                (0..(width * positions) as u32).flat_map(|i| value(i.wrapping_mul(0x9e37_79b9))).collect();
            for bytes in blocks.into_iter().chain([counting]) {
                let block = FeatureBlock { dtype, width, bytes };
                for codec in Codec::all() {
                    let once = stored(codec, &block);
                    assert!(codec.is_lossy() || once == block, "{codec} {dtype} {positions} x {width}");
                }
            }
        }
    }
}

/// NaN, an infinity, a negative zero, a subnormal and plain numbers, as bf16.
#[test]
fn golden_pages_decode_forever() {
    let values: Vec<u16> = vec![0x3f80, 0xbe9a, 0x7fc1, 0xff80, 0x8000, 0x0001];
    let block =
        FeatureBlock { dtype: FeatureDtype::Bf16, width: 3, bytes: bytemuck::cast_slice(&values).to_vec() };
    for codec in Codec::all() {
        let rounded = codec.rounded(&block);
        let page =
            feature_page::make(codec.coding(), block.dtype, 3, &rounded.bytes, &Buffers::default()).unwrap();
        assert!(page.bytes() == golden_page(codec), "{codec}: {:02x?}", page.bytes());
        let body = feature_page::open(codec.coding(), golden_page(codec), (2, 3), true).unwrap();
        let bytes = decoded(codec, body, block.dtype, 6, 0..6);
        // 0xbe9a is -0.30078125: -19.25 steps of 1/64, and -19 / 64 is 0xbe98.
        let expected = match codec.is_lossy() {
            true => bytemuck::cast_slice(&[0x3f80u16, 0xbe98, 0x7fc1, 0xff80, 0x0000, 0x0001]).to_vec(),
            false => block.bytes.clone(),
        };
        assert_eq!(bytes, expected, "{codec}");
    }
}

#[test]
fn codecs_are_known_by_name() {
    for codec in Codec::all() {
        assert_eq!(codec.to_string().parse(), Ok(codec));
    }
    assert_eq!("zfp".parse::<Codec>().unwrap_err(), "there is no codec `zfp`, only lossless, int8, none");
    assert_eq!(Codec::default(), Codec::LOSSLESS);
}
