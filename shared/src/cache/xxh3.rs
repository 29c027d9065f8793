//! XXH3-64 over what comes in pieces, at the speed of the processor that it runs on.
//!
//! The crate `xxhash-rust` chooses its instructions when it is compiled, and what is compiled for every x86-64 has
//! registers of 16 bytes. The loop over long inputs stands here again, compiled three times and chosen at run time; its
//! plain twin is the crate, which also hashes what is short. The algorithm is the one of the xxHash specification
//! (`doc/xxhash_spec.md` there, section "XXH3 Algorithm for Long Inputs"), with its own secret and without a seed.

use xxhash_rust::xxh3::xxh3_64;

/// Bytes that are mixed at a time, into eight sums.
const STRIPE: usize = 64;
/// Bytes between two scramblings: a stripe for each step of 8 bytes through the secret.
const BLOCK: usize = (SECRET.len() - STRIPE) / 8 * STRIPE;
/// Up to here the algorithm is another one.
const SHORT: usize = 240;

type Sums = [u64; 8];

/// The hash of all of `bytes`.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(bytes);
    hasher.digest()
}

/// The state of a hash.
pub(super) struct Xxh3 {
    sums: Sums,
    /// The last stripe before `held`, then what waits: never a whole block and more.
    buffer: [u8; STRIPE + BLOCK],
    held: usize,
    total: u64,
}

impl Xxh3 {
    /// Nothing hashed yet.
    pub(super) fn new() -> Self {
        Self { sums: START, buffer: [0; STRIPE + BLOCK], held: 0, total: 0 }
    }

    /// Goes on with `bytes`.
    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        self.total += bytes.len() as u64;
        if self.held > 0 && self.held + bytes.len() > BLOCK {
            let (first, rest) = bytes.split_at(BLOCK - self.held);
            self.hold(first);
            add_blocks(&mut self.sums, &self.buffer[STRIPE..]);
            self.buffer.copy_within(BLOCK.., 0);
            (self.held, bytes) = (0, rest);
        }
        // The last bytes wait, be they a whole block: the end is mixed in otherwise.
        if bytes.len() > BLOCK {
            let (blocks, rest) = bytes.split_at((bytes.len() - 1) / BLOCK * BLOCK);
            add_blocks(&mut self.sums, blocks);
            self.buffer[..STRIPE].copy_from_slice(&blocks[blocks.len() - STRIPE..]);
            bytes = rest;
        }
        self.hold(bytes);
    }

    fn hold(&mut self, bytes: &[u8]) {
        self.buffer[STRIPE + self.held..][..bytes.len()].copy_from_slice(bytes);
        self.held += bytes.len();
    }

    /// The hash of everything so far.
    pub(super) fn digest(&self) -> u64 {
        let held = &self.buffer[STRIPE..STRIPE + self.held];
        if self.total <= SHORT as u64 {
            return xxh3_64(held);
        }
        let mut sums = self.sums;
        let whole = (held.len() - 1) / STRIPE * STRIPE;
        for (at, stripe) in held[..whole].chunks_exact(STRIPE).enumerate() {
            add_stripe(&mut sums, stripe, &SECRET[8 * at..]);
        }
        add_stripe(&mut sums, &self.buffer[self.held..], &SECRET[SECRET.len() - STRIPE - 7..]);
        let folded = (0..4).map(|i| {
            let half = |at: usize| u128::from(sums[at] ^ word(&SECRET[11 + 8 * at..]));
            let product = half(2 * i) * half(2 * i + 1);
            product as u64 ^ (product >> 64) as u64
        });
        let mixed = folded.fold(self.total.wrapping_mul(PRIME64_1), u64::wrapping_add);
        let mixed = (mixed ^ (mixed >> 37)).wrapping_mul(0x1656_6791_9e37_79f9);
        mixed ^ (mixed >> 32)
    }
}

/// Mixes whole blocks into the sums, with the widest registers there are.
fn add_blocks(sums: &mut Sums, blocks: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor was just found to have these instructions.
            return unsafe { wide::add_blocks_512(sums, blocks) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            return unsafe { wide::add_blocks_256(sums, blocks) };
        }
    }
    add_blocks_plainly(sums, blocks);
}

/// [`add_blocks_plainly`] with all eight sums in one register, and in two.
#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::x86_64::*;

    use super::{BLOCK, PRIME32_1, SECRET, STRIPE, Sums};

    /// Where the secret of a scrambling begins.
    const LAST: usize = SECRET.len() - STRIPE;

    #[target_feature(enable = "avx512f")]
    pub(super) fn add_blocks_512(sums: &mut Sums, blocks: &[u8]) {
        // SAFETY: each read of 64 bytes lies within a slice of that length or the array of eight sums.
        let load = |bytes: &[u8]| unsafe { _mm512_loadu_si512(bytes[..STRIPE].as_ptr().cast()) };
        let prime = _mm512_set1_epi64(PRIME32_1 as i64);
        // SAFETY: as above.
        let mut sum = unsafe { _mm512_loadu_si512(sums.as_ptr().cast()) };
        for block in blocks.chunks_exact(BLOCK) {
            for (at, stripe) in block.chunks_exact(STRIPE).enumerate() {
                let value = load(stripe);
                let key = _mm512_xor_si512(value, load(&SECRET[8 * at..]));
                let product = _mm512_mul_epu32(key, _mm512_srli_epi64::<32>(key));
                let swapped = _mm512_shuffle_epi32::<0b01_00_11_10>(value);
                sum = _mm512_add_epi64(sum, _mm512_add_epi64(product, swapped));
            }
            let key = _mm512_xor_si512(sum, _mm512_srli_epi64::<47>(sum));
            let key = _mm512_xor_si512(key, load(&SECRET[LAST..]));
            let high = _mm512_mul_epu32(_mm512_srli_epi64::<32>(key), prime);
            sum = _mm512_add_epi64(_mm512_mul_epu32(key, prime), _mm512_slli_epi64::<32>(high));
        }
        // SAFETY: eight sums are 64 bytes.
        unsafe { _mm512_storeu_si512(sums.as_mut_ptr().cast(), sum) };
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn add_blocks_256(sums: &mut Sums, blocks: &[u8]) {
        // SAFETY: each read of 32 bytes lies within a slice of that length.
        let load =
            |bytes: &[u8], at: usize| unsafe { _mm256_loadu_si256(bytes[at..at + 32].as_ptr().cast()) };
        let prime = _mm256_set1_epi64x(PRIME32_1 as i64);
        let halves = [0, 32];
        let mut sum = halves.map(|at| load(bytemuck::cast_slice(sums), at));
        for block in blocks.chunks_exact(BLOCK) {
            for (at, stripe) in block.chunks_exact(STRIPE).enumerate() {
                for (sum, half) in sum.iter_mut().zip(halves) {
                    let value = load(stripe, half);
                    let key = _mm256_xor_si256(value, load(&SECRET, 8 * at + half));
                    let product = _mm256_mul_epu32(key, _mm256_srli_epi64::<32>(key));
                    let swapped = _mm256_shuffle_epi32::<0b01_00_11_10>(value);
                    *sum = _mm256_add_epi64(*sum, _mm256_add_epi64(product, swapped));
                }
            }
            for (sum, half) in sum.iter_mut().zip(halves) {
                let key = _mm256_xor_si256(*sum, _mm256_srli_epi64::<47>(*sum));
                let key = _mm256_xor_si256(key, load(&SECRET, LAST + half));
                let high = _mm256_mul_epu32(_mm256_srli_epi64::<32>(key), prime);
                *sum = _mm256_add_epi64(_mm256_mul_epu32(key, prime), _mm256_slli_epi64::<32>(high));
            }
        }
        for (half, sum) in sums.chunks_exact_mut(4).zip(sum) {
            // SAFETY: four sums are 32 bytes.
            unsafe { _mm256_storeu_si256(half.as_mut_ptr().cast(), sum) };
        }
    }
}

fn add_blocks_plainly(sums: &mut Sums, blocks: &[u8]) {
    for block in blocks.chunks_exact(BLOCK) {
        for (at, stripe) in block.chunks_exact(STRIPE).enumerate() {
            add_stripe(sums, stripe, &SECRET[8 * at..]);
        }
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = (*sum ^ (*sum >> 47) ^ word(&SECRET[SECRET.len() - STRIPE + 8 * i..]))
                .wrapping_mul(PRIME32_1);
        }
    }
}

fn add_stripe(sums: &mut Sums, stripe: &[u8], secret: &[u8]) {
    let (mut swapped, mut products) = ([0; 8], [0; 8]);
    for i in 0..8 {
        let value = word(&stripe[8 * i..]);
        let key = value ^ word(&secret[8 * i..]);
        swapped[i ^ 1] = value;
        products[i] = (key & 0xffff_ffff) * (key >> 32);
    }
    for i in 0..8 {
        sums[i] = sums[i].wrapping_add(swapped[i]).wrapping_add(products[i]);
    }
}

#[inline]
fn word(bytes: &[u8]) -> u64 {
    u64::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]])
}

const PRIME32_1: u64 = 0x9e37_79b1;
const PRIME64_1: u64 = 0x9e37_79b1_85eb_ca87;
const START: Sums = [
    0xc2b2_ae3d,
    PRIME64_1,
    0xc2b2_ae3d_27d4_eb4f,
    0x1656_67b1_9e37_79f9,
    0x85eb_ca77_c2b2_ae63,
    0x85eb_ca77,
    0x27d4_eb2f_1656_67c5,
    PRIME32_1,
];
/// The specification's.
const SECRET: [u8; 192] = [
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c, 0xde,
    0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f, 0xcb, 0x79,
    0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21, 0xb8, 0x08, 0x46,
    0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c, 0x3c, 0x28, 0x52, 0xbb,
    0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3, 0x71, 0x64, 0x48, 0x97, 0xa2,
    0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8, 0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c,
    0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d, 0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59,
    0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64, 0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3,
    0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb, 0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3,
    0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e, 0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8,
    0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce, 0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb,
    0xca, 0xbb, 0x4b, 0x40, 0x7e,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Every length around stripes and blocks, whole and in pieces of every kind, beside the crate.
    #[test]
    fn hashes_are_those_of_the_crate() {
        let bytes: Vec<u8> = (0..41_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let around =
            [1, 2, 3, 10, 39].into_iter().flat_map(|blocks: usize| blocks * BLOCK - 70..blocks * BLOCK + 70);
        for len in (0..400).chain(around) {
            let expected = xxh3_64(&bytes[..len]);
            assert_eq!(hash(&bytes[..len]), expected, "{len} bytes");
            for piece in [1, 63, 64, 65, 240, 241, 1000, 1024, 1025, 5000] {
                let mut hasher = Xxh3::new();
                bytes[..len].chunks(piece).for_each(|piece| hasher.update(piece));
                assert_eq!(hasher.digest(), expected, "{len} bytes in pieces of {piece}");
            }
            let (mut wide, mut plain) = (START, START);
            add_blocks(&mut wide, &bytes[..len / BLOCK * BLOCK]);
            add_blocks_plainly(&mut plain, &bytes[..len / BLOCK * BLOCK]);
            assert_eq!(wide, plain);
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") {
                let mut wide = START;
                // SAFETY: the processor was just found to have these instructions.
                unsafe { wide::add_blocks_256(&mut wide, &bytes[..len / BLOCK * BLOCK]) };
                assert_eq!(wide, plain);
            }
        }
    }
}
