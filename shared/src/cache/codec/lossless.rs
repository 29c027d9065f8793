//! The lossless codec: byte planes of float32, entropy-coded by zstd without matches.
//!
//! Features never repeat, but their exponents are skewed; so the only gain is an order-0 entropy
//! code per byte plane. Values are widened to float32 (bf16 by appending zero bits, f16 bit by
//! bit), split into four planes, lowest byte first (Parquet's BYTE_STREAM_SPLIT), and compressed
//! as one ordinary zstd frame of literals only, with a block boundary at the end of each plane so
//! that no Huffman table serves two planes. The zero planes of bf16 cost a few bytes.
//!
//! Decoding streams plane after plane through a small buffer and ORs each byte into its place in
//! the caller's words: no scratch grows with the sample.

use std::cell::RefCell;
use std::io;

use zstd_safe::zstd_sys::{ZSTD_EndDirective, ZSTD_strategy};
use zstd_safe::{CCtx, CParameter, DCtx, InBuffer, OutBuffer, ParamSwitch, ResetDirective, SafeResult};

use super::widen::f16_to_f32_bits;
use super::{Coding, Layout, damaged};
use crate::cache::sample::FeatureDtype;

/// Planes of a float32.
const PLANES: usize = 4;
/// Decoded bytes handled at a time: small enough to stay in the first cache levels.
const CHUNK: usize = 64 * 1024;

thread_local! {
    static ENCODER: RefCell<Encoder> = RefCell::default();
    static DECODER: RefCell<Decoder> = RefCell::default();
}

#[derive(Default)]
struct Encoder {
    context: CCtx<'static>,
    plane: Vec<u8>,
}

struct Decoder {
    context: DCtx<'static>,
    chunk: Box<[u8]>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { context: DCtx::default(), chunk: vec![0; CHUNK].into() }
    }
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

    fn encode(&self, dtype: FeatureDtype, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        encode(dtype, bytes, out)
    }

    fn decode_words(&self, body: &[u8], out: &mut [u32]) -> io::Result<()> {
        decode_words(body, out)
    }

    fn decode_bf16(&self, body: &[u8], out: &mut [u16]) -> io::Result<()> {
        decode_bf16(body, out)
    }
}

/// Appends the zstd frame of `bytes`, little-endian values of `dtype`, to `out`.
fn encode(dtype: FeatureDtype, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    ENCODER.with_borrow_mut(|encoder| {
        let values = bytes.len() / dtype.size();
        out.reserve(zstd_safe::compress_bound(values * dtype.size()) + 1024);
        encoder.start(values * PLANES)?;
        for plane in 0..PLANES {
            encoder.fill_plane(dtype, bytes, plane);
            encoder.compress_plane(out, plane + 1 == PLANES)?;
        }
        Ok(())
    })
}

impl Encoder {
    /// Literals only: a match finder that finds nothing (shortest match 7 in a table of 64, long
    /// strides) and literals that are always Huffman-coded.
    fn start(&mut self, total: usize) -> io::Result<()> {
        checked(self.context.reset(ResetDirective::SessionAndParameters))?;
        for parameter in [
            CParameter::CompressionLevel(1),
            CParameter::Strategy(ZSTD_strategy::ZSTD_fast),
            CParameter::MinMatch(7),
            CParameter::HashLog(6),
            CParameter::TargetLength(131_072),
            CParameter::LiteralCompressionMode(ParamSwitch::Enable),
        ] {
            checked(self.context.set_parameter(parameter))?;
        }
        checked(self.context.set_pledged_src_size(Some(total as u64))).map(drop)
    }

    fn fill_plane(&mut self, dtype: FeatureDtype, bytes: &[u8], plane: usize) {
        self.plane.clear();
        match (dtype, plane) {
            (FeatureDtype::Bf16, 0 | 1) => self.plane.resize(bytes.len() / 2, 0),
            (FeatureDtype::Bf16, _) => self.plane.extend(bytes.chunks_exact(2).map(|value| value[plane - 2])),
            (FeatureDtype::F32, _) => self.plane.extend(bytes.chunks_exact(4).map(|value| value[plane])),
            (FeatureDtype::F16, _) => {
                let widen = |value: &[u8]| f16_to_f32_bits(u16::from_le_bytes([value[0], value[1]]));
                self.plane.extend(bytes.chunks_exact(2).map(|value| widen(value).to_le_bytes()[plane]));
            }
        }
    }

    fn compress_plane(&mut self, out: &mut Vec<u8>, last: bool) -> io::Result<()> {
        let directive = if last { ZSTD_EndDirective::ZSTD_e_end } else { ZSTD_EndDirective::ZSTD_e_flush };
        let mut input = InBuffer::around(&self.plane);
        loop {
            let written = out.len();
            let mut output = OutBuffer::around_pos(out, written);
            let remaining = checked(self.context.compress_stream2(&mut output, &mut input, directive))?;
            if remaining == 0 {
                return Ok(());
            }
            out.reserve(remaining.max(CHUNK));
        }
    }
}

/// Decodes a frame of `out.len()` values into float32 bit patterns.
fn decode_words(frame: &[u8], out: &mut [u32]) -> io::Result<()> {
    out.fill(0);
    for_each_chunk(frame, out.len(), |plane, at, bytes| {
        let words = &mut out[at..at + bytes.len()];
        let shift = 8 * plane;
        words.iter_mut().zip(bytes).for_each(|(word, &byte)| *word |= u32::from(byte) << shift);
        true
    })
}

/// Decodes a frame of widened bf16 values into their 16-bit patterns; the low planes must be zero.
fn decode_bf16(frame: &[u8], out: &mut [u16]) -> io::Result<()> {
    for_each_chunk(frame, out.len(), |plane, at, bytes| {
        let words = &mut out[at..at + bytes.len()];
        match plane {
            0 | 1 => return bytes.iter().fold(0, |any, byte| any | byte) == 0,
            2 => words.iter_mut().zip(bytes).for_each(|(word, &byte)| *word = u16::from(byte)),
            _ => words.iter_mut().zip(bytes).for_each(|(word, &byte)| *word |= u16::from(byte) << 8),
        }
        true
    })
}

/// Decompresses plane after plane in chunks that never cross a plane's end: (plane, first value, bytes).
fn for_each_chunk(
    frame: &[u8],
    values: usize,
    mut visit: impl FnMut(usize, usize, &[u8]) -> bool,
) -> io::Result<()> {
    DECODER.with_borrow_mut(|Decoder { context, chunk }| {
        checked(context.reset(ResetDirective::SessionOnly))?;
        let mut input = InBuffer::around(frame);
        let mut hint = 1;
        for plane in 0..PLANES {
            let mut at = 0;
            while at < values {
                let room = CHUNK.min(values - at);
                let mut output = OutBuffer::around(&mut chunk[..room]);
                hint = checked(context.decompress_stream(&mut output, &mut input))?;
                let filled = output.pos();
                if filled == 0 && input.pos() == frame.len() {
                    return Err(damaged("the compressed frame ends too early"));
                }
                if !visit(plane, at, &chunk[..filled]) {
                    return Err(damaged("low bytes of widened bf16 values are not zero"));
                }
                at += filled;
            }
        }
        // The frame's epilogue may still be unread once the last value is out.
        if hint != 0 {
            hint = checked(context.decompress_stream(&mut OutBuffer::around(&mut chunk[..0]), &mut input))?;
        }
        let whole = hint == 0 && input.pos() == frame.len();
        if whole { Ok(()) } else { Err(damaged("the compressed frame is longer than its values")) }
    })
}

fn checked(result: SafeResult) -> io::Result<usize> {
    result.map_err(|code| damaged(zstd_safe::get_error_name(code)))
}

#[cfg(test)]
mod tests;
