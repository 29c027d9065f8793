//! Coded literals, read: each look into a table gives up to four bytes, and four streams are read in turn.
//!
//! zstd's own decoder makes a table for each block and gets at most two bytes of a look; for exponents, which take less than
//! three bits, this one needs two thirds of the time. It is bound by how many instructions a core starts in a cycle, no
//! longer by waiting for the table.

use super::read_weights::{Weights, read_weights};
use super::{MAX_BITS, bits_before_mark};

/// What the next [`MAX_BITS`] bits of a stream can be.
const CELLS: usize = 1 << MAX_BITS;
/// Bytes of a look, at the most.
const AT_ONCE: usize = 4;
/// Looks between two reads of a stream: their bits, and up to seven of the byte before, are in one word.
const LOOKS: usize = 5;
/// As many bytes as a stream moves in that time, at the most.
const READ: usize = (LOOKS * MAX_BITS).div_ceil(8);
/// Bytes of a word.
const WORD: usize = size_of::<u64>();

/// Reads by the code that it learnt last.
pub(in super::super) struct Decoder {
    has_learnt: bool,
    looks: Box<[Look; CELLS]>,
}

/// The next bytes, all of which lie in the bits that were looked at: four bytes, how many bits they take, how many they
/// are, how many bits the first one takes.
#[derive(Clone, Copy, Default)]
struct Look([u8; 8]);

impl Look {
    fn bytes(&self) -> [u8; AT_ONCE] {
        [self.0[0], self.0[1], self.0[2], self.0[3]]
    }

    fn bits(&self) -> u8 {
        self.0[4]
    }

    fn count(&self) -> usize {
        usize::from(self.0[5])
    }

    fn first_bits(&self) -> u8 {
        self.0[6]
    }

    /// This look of at most three bytes, after one more.
    #[inline(always)]
    fn after(self, byte: u8, bits: u8) -> Self {
        let (this, bits) = (u64::from_le_bytes(self.0), u64::from(bits));
        let (bytes, sums) = (this & 0xffff_ffff, this & 0xffff_0000_0000);
        Self((bytes << 8 | (sums + (bits << 32 | 1 << 40)) | bits << 48 | u64::from(byte)).to_le_bytes())
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self { has_learnt: false, looks: Box::new([Look::default(); CELLS]) }
    }
}

impl Decoder {
    /// Learns the code that `bytes` begin with, and returns what comes after its description.
    pub(in super::super) fn learn<'a>(&mut self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let (weights, size) = read_weights(bytes)?;
        let words = words(&weights);
        // What shorter stretches of bits can be, those of n bits from place 2^n on: of one byte, of two, of three.
        let mut shorter = [Look::default(); CELLS];
        for _ in 1..AT_ONCE {
            for bits in (0..MAX_BITS as u8).rev() {
                let (shorter, looks) = shorter.split_at_mut(1 << bits);
                put_first(&words, shorter, &mut looks[..1 << bits], bits);
            }
        }
        put_first(&words, &shorter, &mut self.looks[..], MAX_BITS as u8);
        self.has_learnt = true;
        Some(&bytes[size..])
    }

    /// Forgets the code.
    pub(in super::super) fn forget(&mut self) {
        self.has_learnt = false;
    }

    /// Fills `out` with literals, coded as one stream or as four; none where there is no code, or another number of literals.
    pub(in super::super) fn decode(&self, streams: &[u8], is_one: bool, out: &mut [u8]) -> Option<()> {
        if !self.has_learnt {
            return None;
        }
        if is_one {
            return self.finish(Stream::new(streams, out)?);
        }
        let (lengths, rest) = streams.split_first_chunk::<6>()?;
        let length = |at: usize| usize::from(u16::from_le_bytes([lengths[2 * at], lengths[2 * at + 1]]));
        let (a, rest) = rest.split_at_checked(length(0))?;
        let (b, rest) = rest.split_at_checked(length(1))?;
        let (c, d) = rest.split_at_checked(length(2))?;
        let part = out.len().div_ceil(4);
        let (out_a, rest) = out.split_at_mut_checked(part)?;
        let (out_b, rest) = rest.split_at_mut_checked(part)?;
        let (out_c, out_d) = rest.split_at_mut_checked(part).filter(|(_, last)| !last.is_empty())?;
        let mut streams =
            [Stream::new(a, out_a)?, Stream::new(b, out_b)?, Stream::new(c, out_c)?, Stream::new(d, out_d)?];
        self.read_four(&mut streams);
        streams.into_iter().try_for_each(|stream| self.finish(stream))
    }

    /// What is common to four streams, but for their ends.
    fn read_four(&self, streams: &mut [Stream<'_>; 4]) {
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "bmi1,bmi2")]
            fn with_shifts(looks: &[Look; CELLS], streams: &mut [Stream<'_>; 4]) {
                read_side_by_side(looks, streams);
            }
            if is_x86_feature_detected!("bmi1") && is_x86_feature_detected!("bmi2") {
                // SAFETY: the processor was just found to have both.
                return unsafe { with_shifts(&self.looks, streams) };
            }
        }
        read_side_by_side(&self.looks, streams);
    }

    /// What is left of a stream, which must end where its bytes do.
    fn finish(&self, mut stream: Stream<'_>) -> Option<()> {
        while stream.at < stream.out.len() {
            let cell = (stream.next_bits() >> (u64::BITS - MAX_BITS as u32)) as usize;
            let look = &self.looks[cell];
            match stream.out[stream.at..].first_chunk_mut::<AT_ONCE>() {
                Some(place) if stream.left >= MAX_BITS => {
                    *place = look.bytes();
                    stream.at += look.count();
                    stream.left -= usize::from(look.bits());
                }
                _ => {
                    stream.out[stream.at] = look.0[0];
                    stream.at += 1;
                    stream.left = stream.left.checked_sub(usize::from(look.first_bits()))?;
                }
            }
        }
        (stream.left == 0).then_some(())
    }
}

/// The bytes that occur and how many bits each takes: the shortest words first, as they lie from the end of a table.
fn words(weights: &Weights) -> Vec<(u8, u8)> {
    let longest = weights.iter().fold(0, |cells, &weight| cells + (1usize << weight >> 1)).ilog2() as u8;
    let mut words: Vec<(u8, u8)> = (0..=u8::MAX)
        .zip(weights)
        .filter(|(_, weight)| **weight > 0)
        .map(|(byte, weight)| (byte, longest + 1 - weight))
        .collect();
    words.reverse();
    words.sort_by_key(|(_, bits)| *bits);
    words
}

/// Fills what `bits` bits can be: each word that is not longer, before what the bits after it can be.
fn put_first(words: &[(u8, u8)], shorter: &[Look], looks: &mut [Look], bits: u8) {
    let mut end = looks.len();
    for &(byte, length) in words.iter().take_while(|(_, length)| *length <= bits) {
        let rest = 1 << (bits - length);
        let places = looks[end - rest..end].iter_mut().zip(&shorter[rest..2 * rest]);
        places.for_each(|(look, rest)| *look = rest.after(byte, length));
        end -= rest;
    }
}

/// A stream, read from its end, and the bytes it becomes.
struct Stream<'a> {
    bytes: &'a [u8],
    /// Bits that have not been read.
    left: usize,
    out: &'a mut [u8],
    /// Bytes that have been written.
    at: usize,
}

impl<'a> Stream<'a> {
    fn new(bytes: &'a [u8], out: &'a mut [u8]) -> Option<Self> {
        Some(Self { left: bits_before_mark(bytes)?, bytes, out, at: 0 })
    }

    /// How often [`LOOKS`] looks are possible whatever they find.
    fn rounds(&self) -> usize {
        let room = (self.out.len() - self.at) / (LOOKS * AT_ONCE);
        room.min(self.left.div_ceil(8).saturating_sub(WORD) / READ)
    }

    /// The next bits, from the highest down; below those that are left there are zeros.
    fn next_bits(&self) -> u64 {
        let end = self.left.div_ceil(8);
        let last = &self.bytes[end.saturating_sub(WORD)..end];
        let mut word = [0; WORD];
        word[WORD - last.len()..].copy_from_slice(last);
        u64::from_le_bytes(word) << (8 * end - self.left)
    }
}

/// A stream while four are read: where its word lies, the bits of it that are left, from the highest down, and a one below
/// them, which tells how many have gone.
#[derive(Clone, Copy)]
struct Window {
    word: *const u8,
    bits: u64,
    out: *mut u8,
}

impl Window {
    /// # Safety
    /// There are eight bytes at `word`.
    #[inline(always)]
    unsafe fn load(&mut self, gone: u32) {
        // SAFETY: the caller's.
        let word = unsafe { self.word.cast::<u64>().read_unaligned() };
        self.bits = (u64::from_le(word) | 1) << gone;
    }

    /// # Safety
    /// There is room for four bytes at `out`.
    #[inline(always)]
    unsafe fn look(&mut self, looks: &[Look; CELLS]) {
        let look = &looks[(self.bits >> (u64::BITS - MAX_BITS as u32)) as usize];
        // SAFETY: the caller's; a look counts at most four bytes.
        unsafe {
            self.out.cast::<[u8; AT_ONCE]>().write_unaligned(look.bytes());
            self.out = self.out.add(look.count());
        }
        self.bits <<= look.bits() & 63;
    }

    /// # Safety
    /// There are [`READ`] bytes before `word`.
    #[inline(always)]
    unsafe fn go_on(&mut self) {
        let gone = self.bits.trailing_zeros();
        // SAFETY: fewer than 63 bits have gone since the last time, which are at most seven bytes.
        unsafe {
            self.word = self.word.sub(gone as usize / 8);
            self.load(gone % 8);
        }
    }
}

/// Reads as long as no stream may come to an end.
#[inline(always)]
fn read_side_by_side(looks: &[Look; CELLS], streams: &mut [Stream<'_>; 4]) {
    loop {
        let rounds = streams.iter().map(Stream::rounds).min().unwrap_or(0);
        if rounds == 0 {
            return;
        }
        let mut windows = streams.each_mut().map(|stream| {
            let end = stream.left.div_ceil(8);
            // SAFETY: a round is only possible where there are eight bytes before the end, and room in `out` after `at`.
            unsafe {
                let mut window = Window {
                    word: stream.bytes.as_ptr().add(end - WORD),
                    bits: 0,
                    out: stream.out.as_mut_ptr().add(stream.at),
                };
                window.load((8 * end - stream.left) as u32);
                window
            }
        });
        for _ in 0..rounds {
            // Two streams are as many as the registers hold.
            let [a, b, c, d] = &mut windows;
            for [a, b] in [[a, b], [c, d]] {
                let (mut first, mut second) = (*a, *b);
                // SAFETY: `rounds` says that each of these looks has room and each move has bytes before it.
                unsafe {
                    for _ in 0..LOOKS {
                        first.look(looks);
                        second.look(looks);
                    }
                    first.go_on();
                    second.go_on();
                }
                (*a, *b) = (first, second);
            }
        }
        for (stream, window) in streams.iter_mut().zip(windows) {
            // SAFETY: both pointers are within the slices that they were made from.
            let (out, word) = unsafe {
                (window.out.offset_from(stream.out.as_ptr()), window.word.offset_from(stream.bytes.as_ptr()))
            };
            stream.at = out as usize;
            stream.left = 8 * (word as usize + WORD) - window.bits.trailing_zeros() as usize;
        }
    }
}
