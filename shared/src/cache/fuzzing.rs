//! What the targets of `fuzz/` call: single parts of a cache read from bytes alone, in every way that there is to read them.
//!
//! Bytes may be refused, and each function says whether they were. It panics where two ways to read the same bytes find
//! different values: the fast decoders of pages and indexes beside the plain ones. `tests/tests/fuzzed.rs` runs the seeds and
//! what was once found; checksums are made to fit first, because what lies behind them is what is looked at.

use std::ops::Range;
use std::path::{Path, PathBuf};

use parquet::file::page_index::offset_index::PageLocation;

use super::buffers::Buffers;
use super::codec::{Codec, Wanted, decode_plainly};
use super::feature_page;
use super::index::Shard;
use super::manifest::Manifest;
use super::page::PageHeader;
use super::parquet_file::ParquetFile;
use super::sample::FeatureDtype;
use super::schema::{FEATURES, KEY, NUM_CELLS, SAMPLE_XXH3, SHARD};
use super::source::FileBytes;

/// Values of a page at most: some blocks of each plane.
const MOST_VALUES: usize = 300_000;
/// Number types, as the first byte of an input counts them.
const DTYPES: [FeatureDtype; 3] = [FeatureDtype::F32, FeatureDtype::F16, FeatureDtype::Bf16];
/// Rows whose cells are read.
const MOST_ROWS: usize = 64;

/// For targets that call the `parquet` crate, of whose panics the reader makes errors: libFuzzer's own hook would abort before
/// it can. A panic that nothing catches still ends the run.
pub fn let_the_reader_catch_panics() {
    std::panic::set_hook(Box::new(|_| {}));
}

/// A feature page. The first 8 bytes say what is asked for: number type, codec, width, number of positions, and which values.
pub fn page(bytes: &[u8]) -> bool {
    let Some((&[dtype, codec, width, low, middle, high, start, end], page)) = bytes.split_first_chunk::<8>()
    else {
        return false;
    };
    let dtype = DTYPES[usize::from(dtype) % 3];
    let codec = [Codec::LOSSLESS, Codec::INT8, Codec::NONE][usize::from(codec) % 3];
    let width = usize::from(width).max(1);
    let rows = 1 + u32::from_le_bytes([low, middle, high, 0]) as usize % (MOST_VALUES / width);
    let total = rows * width;
    let part = total * usize::from(start) / 256..total - (total - 1) * usize::from(end) / 256;
    // Behind its header, and as if all of it were values.
    let opened = feature_page::open(codec.coding(), page, (rows, width), false);
    let is_sound = opened.is_ok_and(|body| values(codec, dtype, body, total, &part));
    values(codec, dtype, page, total, &part) || is_sound
}

/// The feature pages of a sound shard of `width`, as [`page`] takes them; `kind` is its first two bytes.
pub fn pages_of(shard: &[u8], kind: [u8; 2], width: u8) -> Vec<Vec<u8>> {
    let Some(file) = opened(shard) else { return Vec::new() };
    let pages = (0..file.groups().count()).flat_map(|group| file.pages(group, FEATURES));
    let input = |place: &PageLocation| {
        let page = &shard[place.offset as usize..][..place.compressed_page_size as usize];
        let rows = PageHeader::read(page)?.0.num_values / u32::from(width);
        let [low, middle, high, _] = (rows - 1).to_le_bytes();
        Some([&[kind[0], kind[1], width, low, middle, high, 85, 51], page].concat())
    };
    pages.filter_map(input).collect()
}

/// Values to be stored: the first 4 bytes are a number type and how many bytes they are, the others which bytes there are
/// and how often, mixed by a fixed rule. The page of them, as [`page`] takes it; none where that is no page.
///
/// It is decoded in every way, and by zstd as every other reader does.
pub fn encode(bytes: &[u8]) -> Option<Vec<u8>> {
    let (&[kind, low, middle, high], urn) = bytes.split_first_chunk::<4>()?;
    let (dtype, values) = (DTYPES[usize::from(kind) % 3], u32::from_le_bytes([low, middle, high, 0]));
    let values = 1 + values as usize % MOST_VALUES;
    if urn.is_empty() {
        return None;
    }
    let mut state = 0u64;
    let mut draw = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        urn[(state >> 33) as usize % urn.len()]
    };
    let raw: Vec<u8> = (0..values * dtype.size()).map(&mut draw).collect();
    let page = feature_page::make(Codec::LOSSLESS.coding(), dtype, 1, &raw, &Buffers::default()).ok()?;
    let body = feature_page::open(Codec::LOSSLESS.coding(), page.bytes(), (values, 1), true);
    let whole = Wanted { dtype, total: values, values: 0..values };
    let mut back = Vec::with_capacity(raw.len());
    let decode = body.is_ok_and(|body| {
        decode_plainly(body, &whole, &mut |piece| back.extend_from_slice(piece)).is_ok()
            && self::values(Codec::LOSSLESS, dtype, body, values, &(values / 3..values - values / 5))
    });
    assert!(decode && back == raw, "what is stored comes back");
    Some([&[kind, 0, 1, low, middle, high, 85, 51], page.bytes()].concat())
}

/// Decodes values whole, in part and plainly.
fn values(codec: Codec, dtype: FeatureDtype, body: &[u8], total: usize, part: &Range<usize>) -> bool {
    let wanted = |values: Range<usize>| Wanted { dtype, total, values };
    let decoded = |wanted: &Wanted| {
        let mut bytes = Vec::new();
        let decode = codec.coding().decode(body, wanted, &mut |piece| bytes.extend_from_slice(piece));
        decode.ok().map(|()| bytes)
    };
    let Some(whole) = decoded(&wanted(0..total)) else { return false };
    assert_eq!(whole.len(), total * dtype.size(), "fewer values than wanted");
    if part.start < part.end {
        let some = decoded(&wanted(part.clone()));
        let expected = &whole[part.start * dtype.size()..part.end * dtype.size()];
        assert!(some.as_deref() == Some(expected), "a part is a part of the whole");
    }
    if codec != Codec::NONE {
        let mut plain = Vec::new();
        let outcome =
            decode_plainly(body, &wanted(0..total), &mut |piece| plain.extend_from_slice(piece)).is_ok();
        assert!(outcome && plain == whole, "the fast way and the plain one agree");
    }
    true
}

/// A manifest: signed anew, read, written and read again.
pub fn manifest(bytes: &[u8]) -> bool {
    let path = Path::new("manifest.json");
    // As it is, for what comes before the digest; refused or not.
    let _ = Manifest::parse(path, bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(manifest) = Manifest::parse(path, Manifest::signed(text).as_bytes()) else { return false };
    let again = manifest.to_bytes().and_then(|bytes| Manifest::parse(path, &bytes));
    assert!(again.is_ok_and(|again| again == manifest), "a manifest comes back");
    true
}

/// A whole shard: footer, page index, the index of its samples and all of their cells.
pub fn shard(bytes: &[u8]) -> bool {
    let Some(file) = opened(bytes) else { return false };
    let mut bytes = bytes.to_vec();
    for (group, leaf) in
        (0..file.groups().count()).flat_map(|group| (0..=FEATURES).map(move |leaf| (group, leaf)))
    {
        for page in file.pages(group, leaf) {
            let start = page.offset as usize;
            sign_page(&mut bytes[start..start + page.compressed_page_size as usize]);
        }
    }
    let Some(shard) = opened(&bytes).map(Shard::of) else { return false };
    let entries = shard.index();
    let sound = shard.sound_index();
    // Fewer may be found row by row: the `parquet` crate also refuses what only its own way needs.
    if let Ok(entries) = &entries {
        let is_same = sound.iter().all(|entry| entries.get(entry.row as usize) == Some(entry));
        assert!(is_same, "a sound index is sound row by row");
    }
    let read = |row: usize| shard.cells(row, 0..NUM_CELLS).is_ok();
    let are_read = (0..shard.num_rows().min(MOST_ROWS)).filter(|&row| read(row)).count();
    entries.is_ok() && are_read > 0
}

/// The index of a sound `shard`, in whose pages of the index columns the bits of `mask` are flipped.
pub fn index(shard: &[u8], mask: &[u8]) -> bool {
    let Some(file) = opened(shard) else { return false };
    let (mut bytes, mut mask) = (shard.to_vec(), mask.iter());
    for leaf in KEY..SAMPLE_XXH3 {
        for page in file.pages(0, leaf) {
            let start = page.offset as usize;
            let page = &mut bytes[start..start + page.compressed_page_size as usize];
            let Some((_, header_bytes)) = PageHeader::read(page) else { continue };
            page[header_bytes..].iter_mut().zip(mask.by_ref()).for_each(|(byte, bits)| *byte ^= bits);
            sign_page(page);
        }
    }
    let Some(shard) = opened(&bytes).map(Shard::of) else { return false };
    let (packed, plain) = shard.index_both_ways();
    if let (Some(packed), Ok(plain)) = (&packed, &plain) {
        assert!(packed == plain, "the packed index and the plain one agree");
    }
    packed.is_some()
}

fn opened(bytes: &[u8]) -> Option<ParquetFile> {
    ParquetFile::open(PathBuf::from("fuzzed.parquet"), FileBytes::of(bytes).ok()?, &SHARD).ok()
}

/// Makes a page's checksum fit its content, where the header then has the length that it has.
fn sign_page(page: &mut [u8]) {
    let Some((header, header_bytes)) = PageHeader::read(page) else { return };
    let crc = crc32fast::hash(&page[header_bytes..]);
    let mut signed = Vec::with_capacity(header_bytes);
    PageHeader { crc, ..header }.write(&mut signed);
    if signed.len() == header_bytes {
        page[..header_bytes].copy_from_slice(&signed);
    }
}
