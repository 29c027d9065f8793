//! The bits of coded literals: one stream, or four that a decoder reads side by side.
//!
//! A stream is written from its last byte to its first, lowest bits first, and ends in a one: a decoder begins at its end.
//! Four code words are at most 44 bits, so that they go out together. Where the processor has AVX-512 with byte permutes, 64
//! words are looked up at a time and joined to eights, which usually are few enough; the bits are the same.

use std::mem::MaybeUninit;

use super::{Code, MAX_BITS, SYMBOLS};

/// Words that go out together.
const JOINED: usize = 4;
/// Literals of fewer bytes are one stream, as zstd has it.
const ONE_STREAM: usize = 256;
/// Beyond the end of a stream, a write of 8 bytes may reach here.
const SLACK: usize = 16;

/// A code, ready to write.
pub(in super::super) struct Encoder {
    /// The word, and its length in the topmost four bits.
    words: [u16; SYMBOLS],
    #[cfg(target_arch = "x86_64")]
    wide: Option<wide::Tables>,
}

impl Encoder {
    /// For a code.
    pub(in super::super) fn new(code: &Code) -> Self {
        let words = std::array::from_fn(|symbol| code.words[symbol] | u16::from(code.bits[symbol]) << 12);
        Self {
            #[cfg(target_arch = "x86_64")]
            wide: wide::Tables::new(&words),
            words,
        }
    }

    /// The same, as it would be without AVX-512.
    #[cfg(test)]
    pub(super) fn plain(code: &Code) -> Self {
        Self {
            #[cfg(target_arch = "x86_64")]
            wide: None,
            ..Self::new(code)
        }
    }

    /// Appends the streams of `literals`, whose lengths stand before them where they are four.
    pub(in super::super) fn append(&self, literals: &[u8], out: &mut Vec<u8>) {
        if literals.len() < ONE_STREAM {
            self.append_stream(literals, out);
            return;
        }
        let lengths_at = out.len();
        out.extend([0; 6]);
        for (number, part) in literals.chunks(literals.len().div_ceil(4)).enumerate() {
            let length = self.append_stream(part, out);
            // Not more than 11 bits for each of 32 Ki bytes, which fits.
            if let Some(place) = out.get_mut(lengths_at + 2 * number..lengths_at + 2 * number + 2)
                && number < 3
            {
                place.copy_from_slice(&(length as u16).to_le_bytes());
            }
        }
    }

    fn append_stream(&self, literals: &[u8], out: &mut Vec<u8>) -> usize {
        let start = out.len();
        out.reserve(literals.len() * MAX_BITS / 8 + SLACK);
        let mut bits =
            self.write(literals, Bits { out: out.spare_capacity_mut(), at: 0, waiting: 0, count: 0 });
        bits.put(1, 1);
        let length = bits.at + usize::from(bits.count > 0);
        // SAFETY: every byte before `at` has been written, and so have the eight from there on.
        unsafe { out.set_len(start + length) };
        length
    }

    fn write<'a>(&self, literals: &[u8], bits: Bits<'a>) -> Bits<'a> {
        #[cfg(target_arch = "x86_64")]
        if let Some(tables) = &self.wide {
            let (whole, rest) = literals.split_at(literals.len() / wide::LANES * wide::LANES);
            let bits = self.write_plainly(rest, bits);
            // SAFETY: there are tables only where the processor has the instructions.
            return unsafe { tables.write(whole, bits) };
        }
        self.write_plainly(literals, bits)
    }

    fn write_plainly<'a>(&self, literals: &[u8], mut bits: Bits<'a>) -> Bits<'a> {
        for some in literals.rchunks(JOINED) {
            let join = |(joined, count): (u64, u32), &byte: &u8| {
                let word = self.words[usize::from(byte)];
                (joined | u64::from(word & 0xfff) << count, count + u32::from(word >> 12))
            };
            let (joined, count) = some.iter().rev().fold((0, 0), join);
            bits.put(joined, count);
        }
        bits
    }
}

/// A stream as it grows.
struct Bits<'a> {
    out: &'a mut [MaybeUninit<u8>],
    at: usize,
    waiting: u64,
    /// How many bits wait: fewer than 8 between two writes.
    count: u32,
}

impl Bits<'_> {
    /// At most 56 bits.
    #[inline(always)]
    fn put(&mut self, bits: u64, count: u32) {
        self.waiting |= bits << self.count;
        self.count += count;
        let place = self.out[self.at..].first_chunk_mut::<8>();
        // There is always room: it is made before, for the longest words there are.
        let Some(place) = place else { return };
        *place = self.waiting.to_le_bytes().map(MaybeUninit::new);
        self.at += (self.count >> 3) as usize;
        self.waiting >>= self.count & !7;
        self.count &= 7;
    }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::x86_64::*;

    use super::{Bits, SYMBOLS};

    /// Bytes at a time.
    pub(super) const LANES: usize = 64;
    /// Bits that go out at once: with up to 7 that wait they are a register.
    const AT_ONCE: i64 = 56;

    /// The words by byte, as four registers of lower halves and four of upper halves.
    pub(super) struct Tables {
        lower: [[u8; LANES]; 4],
        upper: [[u8; LANES]; 4],
    }

    impl Tables {
        /// None where the processor has not what it takes.
        pub(super) fn new(words: &[u16; SYMBOLS]) -> Option<Self> {
            let has_all = is_x86_feature_detected!("avx512vbmi")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("bmi2");
            let part = |shift: usize| {
                std::array::from_fn(|table| {
                    std::array::from_fn(|at| (words[table * LANES + at] >> shift) as u8)
                })
            };
            has_all.then(|| Self { lower: part(0), upper: part(8) })
        }

        /// Writes whole lanes.
        #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,bmi2")]
        pub(super) fn write<'a>(&self, literals: &[u8], mut bits: Bits<'a>) -> Bits<'a> {
            // SAFETY: each read is of an array of 64 bytes.
            let load = |bytes: &[u8; LANES]| unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) };
            let (lower, upper) = (self.lower.each_ref().map(load), self.upper.each_ref().map(load));
            let (lanes, _) = literals.as_chunks::<LANES>();
            for lane in lanes.iter().rev() {
                let bytes = load(lane);
                let is_high = _mm512_movepi8_mask(bytes);
                let look = |table: &[__m512i; 4]| {
                    let low = _mm512_permutex2var_epi8(table[0], bytes, table[1]);
                    let high = _mm512_permutex2var_epi8(table[2], bytes, table[3]);
                    _mm512_mask_blend_epi8(is_high, low, high)
                };
                let (lower, upper) = (look(&lower), look(&upper));
                // Words of 16 bits; the first half of each quarter of the register, and the second.
                let [low, high] = [_mm512_unpacklo_epi8(lower, upper), _mm512_unpackhi_epi8(lower, upper)];
                let ((low, low_counts), (high, high_counts)) = (fours(low), fours(high));
                let first = _mm512_unpacklo_epi64(low, high);
                let first_counts = _mm512_unpacklo_epi64(low_counts, high_counts);
                let second = _mm512_unpackhi_epi64(low, high);
                let second_counts = _mm512_unpackhi_epi64(low_counts, high_counts);
                let counts = _mm512_add_epi64(first_counts, second_counts);
                if _mm512_cmpgt_epi64_mask(counts, _mm512_set1_epi64(AT_ONCE)) == 0 {
                    let eights = _mm512_or_si512(second, _mm512_sllv_epi64(first, second_counts));
                    let (eights, counts) = (stored(eights), stored(counts));
                    (0..8).rev().for_each(|at| bits.put(eights[at], counts[at] as u32));
                } else {
                    let (first, first_counts) = (stored(first), stored(first_counts));
                    let (second, second_counts) = (stored(second), stored(second_counts));
                    for at in (0..8).rev() {
                        bits.put(second[at], second_counts[at] as u32);
                        bits.put(first[at], first_counts[at] as u32);
                    }
                }
            }
            bits
        }
    }

    /// Joins each four words, the last lowest: the bits, and how many they are.
    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    fn fours(words: __m512i) -> (__m512i, __m512i) {
        let (bits_of_16, count_of_16) = (_mm512_set1_epi32(0xfff), _mm512_set1_epi32(0xf));
        let first = _mm512_and_si512(words, bits_of_16);
        let first_count = _mm512_and_si512(_mm512_srli_epi32::<12>(words), count_of_16);
        let second = _mm512_and_si512(_mm512_srli_epi32::<16>(words), bits_of_16);
        let second_count = _mm512_srli_epi32::<28>(words);
        let pairs = _mm512_or_si512(second, _mm512_sllv_epi32(first, second_count));
        let pair_counts = _mm512_add_epi32(first_count, second_count);
        // And once more: the lower 32 bits come first, the upper ones second.
        let low = _mm512_set1_epi64(0xffff_ffff);
        let (first, first_count) = (_mm512_and_si512(pairs, low), _mm512_and_si512(pair_counts, low));
        let (second, second_count) = (_mm512_srli_epi64::<32>(pairs), _mm512_srli_epi64::<32>(pair_counts));
        let joined = _mm512_or_si512(second, _mm512_sllv_epi64(first, second_count));
        (joined, _mm512_add_epi64(first_count, second_count))
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn stored(register: __m512i) -> [u64; 8] {
        let mut out = [0; 8];
        // SAFETY: the array has 64 bytes.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), register) };
        out
    }
}
