//! The lossless codec: byte planes of float32, entropy-coded by zstd without matches.
//!
//! Features never repeat, but their exponents are skewed; so the only gain is an order-0 entropy
//! code per byte plane. Values are widened to float32 (bf16 by appending zero bits, f16 bit by
//! bit), split into four planes, lowest byte first (Parquet's BYTE_STREAM_SPLIT), and compressed
//! as one ordinary zstd frame of literals only, with a block boundary at the end of each plane so
//! that no Huffman table serves two planes. The zero planes of bf16 cost a few bytes.
//!
//! `planes.rs` decodes.

use std::cell::RefCell;
use std::io;

use zstd_safe::zstd_sys::{ZSTD_EndDirective, ZSTD_strategy};
use zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer, ParamSwitch, ResetDirective};

use super::frame::{BLOCK, PLANES};
use super::planes::{self, checked};
use super::widen::f16_to_f32_bits;
use super::{Coding, Layout, Wanted};
use crate::cache::sample::FeatureDtype;

thread_local! {
    static ENCODER: RefCell<Encoder> = RefCell::default();
}

#[derive(Default)]
struct Encoder {
    context: CCtx<'static>,
    plane: Vec<u8>,
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

    fn decode(&self, body: &[u8], wanted: &Wanted, take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        planes::decode(body, wanted, take)
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
            out.reserve(remaining.max(BLOCK));
        }
    }
}

#[cfg(test)]
mod tests;
