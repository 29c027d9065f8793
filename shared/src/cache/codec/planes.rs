//! From a frame of byte planes to values: the planes side by side, block by block, in pieces that stay in the first caches.
//!
//! Whole pages go the fast way of `frame.rs`: a decoder for each plane, each value written once, and of a page that is wanted in
//! part only the blocks that hold it. The plain way, for any other frame and as the measure of the fast one, is zstd's
//! streaming decoder over all four planes.

use std::cell::RefCell;
use std::io;
use std::ops::Range;

use zstd_safe::{DCtx, InBuffer, OutBuffer, SafeResult};

use super::frame::{BLOCK, Block, Content, PLANES, Planes, take_apart};
use super::huffman::Decoder;
use super::widen::narrow;
use super::{PIECE, Wanted, damaged};
use crate::cache::sample::FeatureDtype;

thread_local! {
    static LANES: RefCell<[Lane; PLANES]> = RefCell::default();
}

/// Hands on the wanted values of a frame, as little-endian values of their own type.
pub(super) fn decode(frame: &[u8], wanted: &Wanted, take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
    match take_apart(frame, wanted.total) {
        Some(planes) if wanted.dtype == FeatureDtype::Bf16 => decode_bf16(&planes, wanted, take),
        Some(planes) => decode_words(&planes, wanted, take),
        None => decode_plainly(frame, wanted, take),
    }
}

/// Two planes are zero, two are the values.
fn decode_bf16(planes: &Planes<'_>, wanted: &Wanted, take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
    LANES.with_borrow_mut(|[first, second, ..]| {
        let [zero, also_zero, low, high] = planes;
        for blocks in [zero, also_zero] {
            first.decoder.forget();
            for block in blocks.iter().filter(|block| block.content != Content::Run(0)) {
                // Without an early end, so that the processor takes many at a time.
                if first.read(block)?.iter().fold(0, |any, byte| any | byte) != 0 {
                    return Err(damaged("low bytes of widened bf16 values are not zero"));
                }
            }
        }
        let mut piece = [0u16; PIECE];
        let cursors = [Cursor::new(low, first, wanted)?, Cursor::new(high, second, wanted)?];
        for_each_piece(cursors, &wanted.values, |[low, high]| {
            let piece = &mut piece[..low.len()];
            let halves = low.iter().zip(high).map(|(&low, &high)| u16::from(low) | u16::from(high) << 8);
            piece.iter_mut().zip(halves).for_each(|(to, half)| *to = half.to_le());
            take(bytemuck::cast_slice(piece));
            Ok(())
        })
    })
}

/// All four planes are values.
fn decode_words(planes: &Planes<'_>, wanted: &Wanted, take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
    LANES.with_borrow_mut(|[l0, l1, l2, l3]| {
        let mut piece = Vec::with_capacity(PIECE);
        let cursors = [
            Cursor::new(&planes[0], l0, wanted)?,
            Cursor::new(&planes[1], l1, wanted)?,
            Cursor::new(&planes[2], l2, wanted)?,
            Cursor::new(&planes[3], l3, wanted)?,
        ];
        for_each_piece(cursors, &wanted.values, |[b0, b1, b2, b3]| {
            let bytes = b0.iter().zip(b1).zip(b2.iter().zip(b3));
            piece.clear();
            piece.extend(bytes.map(|((&b0, &b1), (&b2, &b3))| u32::from_le_bytes([b0, b1, b2, b3])));
            take(&narrow(wanted.dtype, &piece).map_err(|reason| damaged(&reason))?);
            Ok(())
        })
    })
}

/// Any frame of four planes, through zstd's streaming decoder.
pub(in crate::cache) fn decode_plainly(
    frame: &[u8],
    wanted: &Wanted,
    take: &mut dyn FnMut(&[u8]),
) -> io::Result<()> {
    let mut words = vec![0u32; wanted.total];
    let (mut context, mut buffer) = (DCtx::create(), vec![0; BLOCK.min(wanted.total)]);
    let mut input = InBuffer::around(frame);
    let mut hint = 1;
    for plane in 0..PLANES {
        let mut at = 0;
        while at < words.len() {
            let room = buffer.len().min(words.len() - at);
            let mut output = OutBuffer::around(&mut buffer[..room]);
            hint = checked(context.decompress_stream(&mut output, &mut input))?;
            let filled = output.pos();
            if filled == 0 && input.pos() == frame.len() {
                return Err(damaged("the compressed frame ends too early"));
            }
            let (words, bytes) = (&mut words[at..at + filled], &buffer[..filled]);
            words.iter_mut().zip(bytes).for_each(|(word, &byte)| *word |= u32::from(byte) << (8 * plane));
            at += filled;
        }
    }
    // The frame's epilogue may still be unread once the last value is out.
    if hint != 0 {
        hint = checked(context.decompress_stream(&mut OutBuffer::around(&mut buffer[..0]), &mut input))?;
    }
    if hint != 0 || input.pos() != frame.len() {
        return Err(damaged("the compressed frame is longer than its values"));
    }
    for piece in words[wanted.values.clone()].chunks(PIECE) {
        take(&narrow(wanted.dtype, piece).map_err(|reason| damaged(&reason))?);
    }
    Ok(())
}

/// A decoder of one plane, and where its blocks go.
struct Lane {
    decoder: Decoder,
    buffer: Box<[u8]>,
}

impl Default for Lane {
    fn default() -> Self {
        Self { decoder: Decoder::default(), buffer: vec![0; BLOCK].into() }
    }
}

impl Lane {
    /// Learns the code of a block that has one.
    fn learn<'a>(&mut self, block: &Block<'a>) -> io::Result<&'a [u8]> {
        match block.content {
            Content::Coded(coded) if coded.has_code => {
                self.decoder.learn(coded.bytes).ok_or_else(|| damaged("a block's code is not one"))
            }
            Content::Coded(coded) => Ok(coded.bytes),
            _ => Ok(&[]),
        }
    }

    /// The bytes of a block.
    fn read<'a>(&'a mut self, block: &Block<'a>) -> io::Result<&'a [u8]> {
        match block.content {
            Content::Raw(bytes) => return Ok(bytes),
            Content::Run(byte) => self.buffer[..block.len].fill(byte),
            Content::Coded(coded) => {
                let streams = self.learn(block)?;
                let decoded =
                    self.decoder.decode(streams, coded.is_one_stream, &mut self.buffer[..block.len]);
                decoded.ok_or_else(|| damaged("a compressed block has another length than it says"))?;
            }
        }
        Ok(&self.buffer[..block.len])
    }
}

/// A place in a plane.
struct Cursor<'a> {
    blocks: std::slice::Iter<'a, Block<'a>>,
    lane: &'a mut Lane,
    /// The block that is open: what of it has not been handed on, within the lane's buffer or where it lies raw.
    rest: Range<usize>,
    raw: Option<&'a [u8]>,
}

impl<'a> Cursor<'a> {
    /// At the first wanted value.
    fn new(blocks: &'a [Block<'a>], lane: &'a mut Lane, wanted: &Wanted) -> io::Result<Self> {
        lane.decoder.forget();
        let first = blocks.partition_point(|block| block.start + block.len <= wanted.values.start);
        // The code that this block, or one after it, may go on using.
        if let Some(block) = blocks[..first].iter().rev().find(|block| block.has_code()) {
            lane.learn(block)?;
        }
        let mut cursor = Self { blocks: blocks[first..].iter(), lane, rest: 0..0, raw: None };
        cursor.open_next()?;
        cursor.rest.start = wanted.values.start - blocks.get(first).map_or(0, |block| block.start);
        Ok(cursor)
    }

    fn open_next(&mut self) -> io::Result<()> {
        let block = self.blocks.next().ok_or_else(|| damaged("the compressed frame ends too early"))?;
        self.raw = match block.content {
            Content::Raw(bytes) => Some(bytes),
            _ => {
                self.lane.read(block)?;
                None
            }
        };
        self.rest = 0..block.len;
        Ok(())
    }

    fn rest(&self) -> &[u8] {
        &self.raw.unwrap_or(&self.lane.buffer)[self.rest.clone()]
    }
}

/// Walks planes side by side over `values`: as many bytes of each at a time.
fn for_each_piece<const N: usize>(
    mut cursors: [Cursor<'_>; N],
    values: &Range<usize>,
    mut visit: impl FnMut([&[u8]; N]) -> io::Result<()>,
) -> io::Result<()> {
    let mut left = values.len();
    while left > 0 {
        let mut len = left.min(PIECE);
        for cursor in &mut cursors {
            if cursor.rest.is_empty() {
                cursor.open_next()?;
            }
            len = len.min(cursor.rest.len());
        }
        visit(cursors.each_ref().map(|cursor| &cursor.rest()[..len]))?;
        cursors.iter_mut().for_each(|cursor| cursor.rest.start += len);
        left -= len;
    }
    Ok(())
}

pub(super) fn checked(result: SafeResult) -> io::Result<usize> {
    result.map_err(|code| damaged(zstd_safe::get_error_name(code)))
}

#[cfg(test)]
mod tests;
