//! Seeded samples of every shape the cache must keep: shared by the cache's tests, its fixture
//! generator and its benchmark. **Never change what a seed makes**: `tests/fixtures/cache_v1` holds it.

use e2e::random::Random;
use half::{bf16, f16};
use shared::cache::{
    CacheIdentity, CachedImage, CachedTurn, Codec, FeatureBlock, FeatureDtype, HeadTensor, QuarantinedRow,
    Row, SampleMeta,
};
use shared::ids::{Digest, Fingerprint, SampleKey};

/// The caches of `tests/fixtures/cache_v1`: folder, dtype, codec. Others may join them; none ever changes.
pub(crate) const FIXTURES: [(&str, FeatureDtype, Codec); 5] = [
    ("f32", FeatureDtype::F32, Codec::LOSSLESS),
    ("f16", FeatureDtype::F16, Codec::LOSSLESS),
    ("bf16", FeatureDtype::Bf16, Codec::LOSSLESS),
    ("bf16-int8", FeatureDtype::Bf16, Codec::INT8),
    ("bf16-none", FeatureDtype::Bf16, Codec::NONE),
];

/// Bit patterns that conversions like to lose: NaN of both kinds, infinities, zeros, subnormals, the largest.
const WILD_F32: [u32; 10] = [
    0x7fc0_0001,
    0xffa0_0000,
    0x7f80_0000,
    0xff80_0000,
    0x8000_0000,
    0x0000_0001,
    0x807f_ffff,
    0x7f7f_ffff,
    0x7f80_0001,
    0x0080_0000,
];
const WILD_F16: [u16; 9] = [0x7e01, 0xfd00, 0x7c00, 0xfc00, 0x8000, 0x0001, 0x83ff, 0x7bff, 0x7c01];
const WILD_BF16: [u16; 9] = [0x7fc1, 0xffa0, 0x7f80, 0xff80, 0x8000, 0x0001, 0x807f, 0x7f7f, 0x7f81];

/// `positions * width` features; one value in 40 is wild.
pub(crate) fn features(
    random: &mut Random,
    dtype: FeatureDtype,
    positions: usize,
    width: usize,
) -> FeatureBlock {
    let mut bytes = Vec::with_capacity(positions * width * dtype.size());
    for i in 0..positions * width {
        // Channels of different scale, a massive one among them.
        let scale = if i % width == 3 { 300.0 } else { 0.05 + (i % width) as f32 / width as f32 };
        let (value, wild) = (random.normal() * scale, random.below(40) == 0);
        let pick = random.below(9);
        match dtype {
            FeatureDtype::F32 if wild => bytes.extend(WILD_F32[pick].to_le_bytes()),
            FeatureDtype::F32 => bytes.extend(value.to_le_bytes()),
            FeatureDtype::F16 if wild => bytes.extend(WILD_F16[pick].to_le_bytes()),
            FeatureDtype::F16 => bytes.extend(f16::from_f32(value).to_le_bytes()),
            FeatureDtype::Bf16 if wild => bytes.extend(WILD_BF16[pick].to_le_bytes()),
            FeatureDtype::Bf16 => bytes.extend(bf16::from_f32(value).to_le_bytes()),
        }
    }
    FeatureBlock { dtype, width, bytes }
}

/// `count` samples: with and without id, image, embedded image, system turn, second answer.
pub(crate) fn rows(seed: u64, count: usize, dtype: FeatureDtype, width: usize) -> Vec<Row> {
    (0..count).map(|i| row(&mut Random(seed.wrapping_mul(1_000_003) + i as u64), i, dtype, width)).collect()
}

fn row(random: &mut Random, i: usize, dtype: FeatureDtype, width: usize) -> Row {
    let (image_tokens, question, answer) =
        (random.below(9) as u32, 2 + random.below(6) as u32, 1 + random.below(7) as u32);
    let has_image = image_tokens > 0;
    let user = image_tokens + question;
    let mut turns =
        vec![turn("user", 0, user, None), turn("assistant", user, answer + 2, Some((user + 1, answer)))];
    if i % 3 == 2 {
        let start = user + answer + 2;
        turns.push(turn("user", start, 2, None));
        turns.push(turn("assistant", start + 2, answer, Some((start + 2, answer))));
    }
    let tokens = turns.iter().map(|turn| turn.num_tokens).sum::<u32>();
    let text: String =
        (0..tokens).map(|_| char::from_u32(0x3b1 + random.below(24) as u32).unwrap_or('?')).collect();
    let positions = match i % 4 {
        0 => (0..tokens).collect(),
        _ => answer_positions(&turns),
    };
    let file: Vec<u8> = (0..40).map(|_| random.bits() as u8).collect();
    let digest = Digest::of(&file);
    let image = CachedImage {
        digest,
        width: 28 + random.below(100) as u32,
        height: 28,
        token_start: 0,
        num_tokens: image_tokens,
        grid: [1, image_tokens, 4],
    };
    let messages = format!("[{{\"role\":\"user\",\"content\":[{{\"type\":\"text\",\"text\":\"{text}\"}}]}}]");
    let digests = if has_image { vec![digest] } else { vec![] };
    let features = features(random, dtype, positions.len(), width);
    Row {
        meta: SampleMeta {
            key: SampleKey::of(&messages, &digests),
            row_id: (!i.is_multiple_of(5)).then(|| format!("row-{i}")),
            source: "rows.jsonl".into(),
            row: i as u64,
            messages,
            text,
            images: if has_image { vec![image] } else { vec![] },
            input_ids: (0..tokens).map(|_| random.below(152_000) as u32).collect(),
            offsets: (0..tokens).map(|at| (at, at + 1)).collect(),
            turns,
            positions,
        },
        features,
        image_files: if has_image && i.is_multiple_of(2) { vec![file] } else { vec![] },
    }
}

fn turn(role: &str, token_start: u32, num_tokens: u32, answer: Option<(u32, u32)>) -> CachedTurn {
    let (answer_start, num_answer_tokens) = answer.unwrap_or_default();
    CachedTurn { role: role.into(), token_start, num_tokens, answer_start, num_answer_tokens }
}

/// All answer tokens, and the last question position before each answer.
fn answer_positions(turns: &[CachedTurn]) -> Vec<u32> {
    let answers = turns.iter().filter(|turn| turn.num_answer_tokens > 0);
    let mut positions: Vec<u32> =
        answers.flat_map(|turn| turn.answer_start - 1..turn.answer_start + turn.num_answer_tokens).collect();
    positions.dedup();
    positions
}

/// Two rows for the quarantine table.
pub(crate) fn quarantined() -> [QuarantinedRow; 2] {
    let row = |row, id: Option<&str>, reason: &str| QuarantinedRow {
        source: "rows.jsonl".into(),
        row,
        id: id.map(Into::into),
        key: id.map(|id| SampleKey::of(id, &[])),
        reason: reason.into(),
    };
    [row(1000, None, "image `missing.png` does not exist"), row(1001, Some("b"), "the answer is empty")]
}

/// The bytes of a head of 11 tokens.
pub(crate) fn head(dtype: FeatureDtype, width: usize) -> Vec<u8> {
    let mut random = Random(7);
    let values = (0..11 * width).map(|_| random.normal());
    match dtype {
        FeatureDtype::F32 => values.flat_map(|value| value.to_le_bytes()).collect(),
        FeatureDtype::F16 => values.flat_map(|value| f16::from_f32(value).to_le_bytes()).collect(),
        FeatureDtype::Bf16 => values.flat_map(|value| bf16::from_f32(value).to_le_bytes()).collect(),
    }
}

/// An identity with that head.
pub(crate) fn identity(dtype: FeatureDtype, width: usize, head: &[u8]) -> CacheIdentity<'_> {
    let mut fingerprint = Fingerprint::default();
    fingerprint.insert("weights", Digest::of(b"weights"));
    fingerprint.insert("norm_state", "after final norm");
    let tensor = HeadTensor { name: "lm_head.weight".into(), dtype, shape: vec![11, width], bytes: head };
    CacheIdentity {
        fingerprint,
        dtype,
        width,
        codec: Codec::default(),
        lossy_error: None,
        head: vec![tensor],
        about: [("teacher".to_string(), "seeded".to_string())].into(),
        dataset: [("rows.jsonl".to_string(), Digest::of(b"rows").to_string())].into(),
        selected: Vec::new(),
    }
}
