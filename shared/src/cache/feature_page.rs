//! The page that holds one sample's features: made here, opened here, decoded here.
//!
//! ```text
//! header | repetition levels | definition levels | zstd frame of byte planes
//!          '------------------------- crc -------------------------------'
//! ```

use xxhash_rust::xxh3::Xxh3;

use super::codec::lossless::{decode_bf16, decode_words, encode, f32_bits_to_f16};
use super::page::{BYTE_STREAM_SPLIT, PageHeader, feature_levels};
use super::sample::{FeatureBlock, FeatureDtype};

/// Why a page cannot be made or read.
type Decoded<T> = Result<T, String>;

/// Encodes a block of at least one position as a page: the bytes, and what its header says.
pub(super) fn make(features: &FeatureBlock) -> Decoded<(Vec<u8>, PageHeader)> {
    let (rows, width) = (features.num_positions(), features.width);
    let plain_bytes = rows * width * size_of::<f32>();
    // The page's size is a signed 32-bit number, and zstd may add a little.
    let limit = 2_000_000_000;
    if plain_bytes > limit {
        return Err(format!(
            "{rows} positions of width {width} are {plain_bytes} bytes as float32, the limit of a page is {limit}"
        ));
    }
    let (repetition_bytes, definition_bytes, mut body) = feature_levels(rows, width);
    let uncompressed_bytes = (plain_bytes + body.len()) as u32;
    encode(features.dtype, &features.bytes, &mut body).map_err(|error| error.to_string())?;
    let header = PageHeader {
        uncompressed_bytes,
        compressed_bytes: body.len() as u32,
        crc: crc32fast::hash(&body),
        num_values: (rows * width) as u32,
        num_nulls: 0,
        num_rows: 1,
        encoding: BYTE_STREAM_SPLIT,
        definition_bytes: definition_bytes as u32,
        repetition_bytes: repetition_bytes as u32,
        is_compressed: true,
    };
    let mut page = Vec::with_capacity(body.len() + 64);
    header.write(&mut page);
    page.extend_from_slice(&body);
    Ok((page, header))
}

/// Checks that a page is the one of `rows` positions of `width` values, and returns its frame.
pub(super) fn open(page: &[u8], rows: usize, width: usize, verify: bool) -> Decoded<&[u8]> {
    let (header, header_bytes) = PageHeader::read(page).ok_or("its page header is not one of ours")?;
    let body = &page[header_bytes..];
    let (repetition_bytes, definition_bytes, levels) = feature_levels(rows, width);
    let expected = PageHeader {
        uncompressed_bytes: (rows * width * size_of::<f32>() + levels.len()) as u32,
        compressed_bytes: body.len() as u32,
        crc: header.crc,
        num_values: (rows * width) as u32,
        num_nulls: 0,
        num_rows: 1,
        encoding: BYTE_STREAM_SPLIT,
        definition_bytes: definition_bytes as u32,
        repetition_bytes: repetition_bytes as u32,
        is_compressed: true,
    };
    if header != expected {
        return Err(format!("its page header is {header:?}, expected {expected:?}"));
    }
    if verify {
        let crc = crc32fast::hash(body);
        if crc != header.crc {
            return Err(format!("page checksum {crc:08x}, expected {:08x}", header.crc));
        }
    }
    body.strip_prefix(levels.as_slice())
        .ok_or_else(|| "its lists have other lengths than its positions".into())
}

/// The `values` of a frame in the source's own number type, little-endian.
pub(super) fn decode(frame: &[u8], dtype: FeatureDtype, values: usize) -> Decoded<Vec<u8>> {
    let mut bytes = vec![0; values * dtype.size()];
    let outcome = match dtype {
        FeatureDtype::Bf16 => with_words(&mut bytes, |words: &mut [u16]| {
            decode_bf16(frame, words)?;
            words.iter_mut().for_each(|word| *word = word.to_le());
            Ok(())
        }),
        FeatureDtype::F32 => with_words(&mut bytes, |words: &mut [u32]| {
            decode_words(frame, words)?;
            words.iter_mut().for_each(|word| *word = word.to_le());
            Ok(())
        }),
        FeatureDtype::F16 => {
            let mut words = vec![0; values];
            decode_words(frame, &mut words).map_err(|error| error.to_string())?;
            return narrow(dtype, &words);
        }
    };
    outcome.map_err(|error: std::io::Error| error.to_string())?;
    Ok(bytes)
}

/// Decodes float32 bit patterns into `out`; returns the XXH3-64 of the source's bytes if asked.
pub(super) fn decode_f32(
    frame: &[u8],
    dtype: FeatureDtype,
    out: &mut [u32],
    hash: bool,
) -> Decoded<Option<u64>> {
    decode_words(frame, out).map_err(|error| error.to_string())?;
    if !hash {
        return Ok(None);
    }
    // In pieces that stay in the cache: the source's bytes are never whole in memory.
    let mut hasher = Xxh3::new();
    for words in out.chunks(8192) {
        hasher.update(&narrow(dtype, words)?);
    }
    Ok(Some(hasher.digest()))
}

/// Float32 bit patterns back to the source's bytes; an error if they were not widened from it.
fn narrow(dtype: FeatureDtype, words: &[u32]) -> Decoded<Vec<u8>> {
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

/// Views bytes as words; an allocation that happens to be unaligned goes through a copy.
fn with_words<T: bytemuck::Pod, E>(
    bytes: &mut [u8],
    fill: impl FnOnce(&mut [T]) -> Result<(), E>,
) -> Result<(), E> {
    if let Ok(words) = bytemuck::try_cast_slice_mut(bytes) {
        return fill(words);
    }
    let mut words = vec![T::zeroed(); bytes.len() / size_of::<T>()];
    fill(&mut words)?;
    bytes.copy_from_slice(bytemuck::cast_slice(&words));
    Ok(())
}
