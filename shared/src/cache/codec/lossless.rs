//! The lossless codec: byte planes of float32, entropy-coded in a zstd frame without matches.
//!
//! Features never repeat, but their exponents are skewed; so the only gain is an order-0 entropy
//! code per byte plane. Values are widened to float32 (bf16 by appending zero bits, f16 bit by
//! bit), split into four planes, lowest byte first (Parquet's BYTE_STREAM_SPLIT), and written
//! as one ordinary zstd frame of literals only, with a block boundary at the end of each plane: a plane has one Huffman
//! code, which its first coded block describes. The zero planes of bf16 cost a few bytes.
//!
//! A plane is coded where that makes it a 64th smaller: a mantissa, which hardly gains, stays as it is and is read at
//! the speed of memory. `planes.rs` decodes.

use std::cell::RefCell;
use std::io;

use super::frame::{BLOCK, PLANES};
use super::huffman::{Code, Encoder, add_counts, looks_random};
use super::planes;
use super::widen::f16_to_f32_bits;
use super::{Coding, Layout, Wanted};
use crate::cache::sample::FeatureDtype;

/// Shorter planes are stored: no code is worth its description.
const CODED_FROM: usize = 64;
/// Blocks of one byte are told as such from this length on.
const RUN_FROM: usize = 7;
/// A frame says how much of it a decoder must remember, where that is not all of it.
const WINDOW: usize = 512 * 1024;
const WINDOW_CODE: u8 = (19 - 10) << 3;
/// Room for what is not a block's content: headers, and what a stream of literals could take at the longest.
const OVERHEAD: usize = 16 * 1024;

thread_local! {
    static PLANE: RefCell<Box<[u8]>> = RefCell::new(vec![0; BLOCK].into());
}

/// See the module.
pub(super) struct Lossless;

impl Coding for Lossless {
    fn name(&self) -> &'static str {
        "lossless"
    }

    fn about(&self) -> &'static str {
        "stored losslessly as float32"
    }

    fn layout(&self) -> Layout {
        Layout::Planes
    }

    fn room(&self, dtype: FeatureDtype, values: usize) -> usize {
        // What is zero in every value of a type takes a few bytes.
        let (planes, blocks) = (dtype.size().max(2), PLANES * values.div_ceil(BLOCK));
        let planes = if dtype == FeatureDtype::F16 { PLANES - 1 } else { planes };
        planes * values + 16 * blocks + OVERHEAD
    }

    fn encode(&self, dtype: FeatureDtype, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        encode(dtype, bytes, out)
    }

    fn decode(&self, body: &[u8], wanted: &Wanted, take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        planes::decode(body, wanted, take)
    }
}

/// Appends the zstd frame of `bytes`, little-endian values of `dtype`, to `out`.
fn encode(dtype: FeatureDtype, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let total = bytes.len() / dtype.size();
    out.reserve(Lossless.room(dtype, total));
    write_header(total * PLANES, out);
    PLANE.with_borrow_mut(|buffer| {
        for plane in 0..PLANES {
            let is_zero = dtype == FeatureDtype::Bf16 && plane < 2;
            let mut code = if is_zero { None } else { PlaneCode::of(dtype, bytes, plane, buffer) };
            for (number, values) in bytes.chunks(BLOCK * dtype.size()).enumerate() {
                let block = &mut buffer[..values.len() / dtype.size()];
                if is_zero {
                    block.fill(0)
                } else {
                    fill(dtype, values, plane, block)
                }
                let is_last = plane + 1 == PLANES && number * BLOCK + block.len() == total;
                write_block(block, code.as_mut(), Place { is_first: plane + number == 0, is_last }, out);
            }
        }
    });
    Ok(())
}

/// The code of a plane's bytes.
struct PlaneCode {
    description: Vec<u8>,
    encoder: Encoder,
    /// Whether a block has described it.
    is_told: bool,
}

impl PlaneCode {
    /// None where the bytes are better stored as they are, or all alike.
    fn of(dtype: FeatureDtype, bytes: &[u8], plane: usize, buffer: &mut [u8]) -> Option<Self> {
        let len = bytes.len() / dtype.size();
        if len < CODED_FROM {
            return None;
        }
        let mut counts = [0; 256];
        for (number, values) in bytes.chunks(BLOCK * dtype.size()).enumerate() {
            let block = &mut buffer[..values.len() / dtype.size()];
            fill(dtype, values, plane, block);
            if number == 0 && looks_random(block) {
                return None;
            }
            add_counts(block, &mut counts);
        }
        let code = Code::of(&counts)?;
        let is_worth_it = code.cost(&counts) / 8 + len / 64 + 2 < len;
        let description = code.description().filter(|_| is_worth_it)?;
        Some(Self { description, encoder: Encoder::new(&code), is_told: false })
    }
}

/// Where a block is in its frame.
#[derive(Clone, Copy)]
struct Place {
    is_first: bool,
    is_last: bool,
}

/// The header of a frame of `bytes` bytes, as zstd writes it (RFC 8878, section 3.1.1.1).
fn write_header(bytes: usize, out: &mut Vec<u8>) {
    let is_single = bytes <= WINDOW;
    let (flag, size) = match bytes {
        0..256 => (0, 1),
        256..65_792 => (1, 2),
        _ if bytes < u32::MAX as usize => (2, 4),
        _ => (3, 8),
    };
    out.extend([0x28, 0xb5, 0x2f, 0xfd, flag << 6 | u8::from(is_single) << 5]);
    if !is_single {
        out.push(WINDOW_CODE);
    }
    let told = if size == 2 { bytes - 256 } else { bytes };
    out.extend(&(told as u64).to_le_bytes()[..size]);
}

/// What the header of a block says of its content.
#[derive(Clone, Copy)]
enum Kind {
    Raw = 0,
    Run = 1,
    Coded = 2,
}

fn write_block_header(kind: Kind, place: Place, size: usize, out: &mut Vec<u8>) {
    let header = (size as u32) << 3 | (kind as u32) << 1 | u32::from(place.is_last);
    out.extend(&header.to_le_bytes()[..3]);
}

/// A block that is one byte repeated, coded, or stored.
fn write_block(block: &[u8], code: Option<&mut PlaneCode>, place: Place, out: &mut Vec<u8>) {
    // Each byte is the next one: a comparison that the processor makes many bytes at a time.
    if block[1..] == block[..block.len() - 1] {
        return write_run(block, place, out);
    }
    let is_coded = code.is_some_and(|code| write_coded(block, code, place, out));
    if !is_coded {
        write_raw(block, place, out);
    }
}

fn write_raw(block: &[u8], place: Place, out: &mut Vec<u8>) {
    write_block_header(Kind::Raw, place, block.len(), out);
    out.extend_from_slice(block);
}

/// A block of one byte, repeated.
fn write_run(block: &[u8], place: Place, out: &mut Vec<u8>) {
    if block.len() < RUN_FROM {
        return write_raw(block, place, out);
    }
    if !place.is_first {
        write_block_header(Kind::Run, place, block.len(), out);
        out.push(block[0]);
        return;
    }
    // zstd up to 1.4.3 refuses a frame that begins with a run: there it is a coded block, of literals that are one.
    let header = literals_header(REPEATED, 3, block.len(), 0);
    write_block_header(Kind::Coded, place, 3 + 1 + 1, out);
    out.extend(&header.to_le_bytes()[..3]);
    out.extend([block[0], 0]);
}

/// Literals and no sequences; false, with nothing written, where that takes as much as the bytes.
fn write_coded(block: &[u8], code: &mut PlaneCode, place: Place, out: &mut Vec<u8>) -> bool {
    let (format, header_bytes, size_bits) = match block.len() {
        0..256 => (0, 3, 10),
        256..1024 => (1, 3, 10),
        1024..16_384 => (2, 4, 14),
        _ => (3, 5, 18),
    };
    let start = out.len();
    out.extend([0; 8][..3 + header_bytes].iter());
    if !code.is_told {
        out.extend(&code.description);
    }
    code.encoder.append(block, out);
    let size = out.len() - start - 3 - header_bytes;
    // No sequences.
    out.push(0);
    if header_bytes + size + 1 >= block.len() {
        out.truncate(start);
        return false;
    }
    let kind = if code.is_told { CODED_AS_BEFORE } else { CODED };
    let header = literals_header(kind, format, block.len(), (size as u64) << size_bits);
    out[start + 3..start + 3 + header_bytes].copy_from_slice(&header.to_le_bytes()[..header_bytes]);
    let mut block_header = Vec::with_capacity(3);
    write_block_header(Kind::Coded, place, header_bytes + size + 1, &mut block_header);
    out[start..start + 3].copy_from_slice(&block_header);
    code.is_told = true;
    true
}

/// Kinds of literals: one that is repeated, coded after the code's description, coded without it.
const REPEATED: u64 = 1;
const CODED: u64 = 2;
const CODED_AS_BEFORE: u64 = 3;

/// RFC 8878, section 3.1.1.3.1.1: two bits of type, two of format, the sizes.
fn literals_header(kind: u64, format: u64, len: usize, size: u64) -> u64 {
    kind | format << 2 | (len as u64 | size) << 4
}

/// One plane of some values.
fn fill(dtype: FeatureDtype, bytes: &[u8], plane: usize, out: &mut [u8]) {
    match dtype {
        FeatureDtype::Bf16 => every_second(bytes, plane - 2, out),
        FeatureDtype::F32 => every_fourth(bytes, plane, out),
        FeatureDtype::F16 => {
            let widen = |value: &[u8]| f16_to_f32_bits(u16::from_le_bytes([value[0], value[1]]));
            let bytes = bytes.chunks_exact(2).map(|value| widen(value).to_le_bytes()[plane]);
            out.iter_mut().zip(bytes).for_each(|(out, byte)| *out = byte);
        }
    }
}

crate::vectorised! {
    /// Byte `at` of each two.
    fn every_second(bytes: &[u8], at: usize, out: &mut [u8]) {
        let (pairs, shift) = (bytes.as_chunks::<2>().0, 8 * at);
        out.iter_mut().zip(pairs).for_each(|(out, pair)| *out = (u16::from_le_bytes(*pair) >> shift) as u8);
    }
}

crate::vectorised! {
    /// Byte `at` of each four.
    fn every_fourth(bytes: &[u8], at: usize, out: &mut [u8]) {
        let (fours, shift) = (bytes.as_chunks::<4>().0, 8 * at);
        out.iter_mut().zip(fours).for_each(|(out, four)| *out = (u32::from_le_bytes(*four) >> shift) as u8);
    }
}

#[cfg(test)]
mod tests;
