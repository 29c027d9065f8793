//! The description of a code at the front of a block: the weights of all bytes but the last that occurs.
//!
//! ```text
//! 127 + n | n weights of 4 bits                       n at most 128
//! bytes   | a table of FSE | the weights, coded       else, or where it is shorter (RFC 8878, section 4.2.1)
//! ```
//! A weight is 0 for a byte that does not occur, else the length of the longest word less its own, plus one.

use super::{Code, MAX_BITS, SYMBOLS};

/// Weights there are.
const KINDS: usize = MAX_BITS + 1;
/// The logarithm of the states of a weights' table: zstd takes at most this.
pub(super) const LOG: u32 = 6;
const STATES: usize = 1 << LOG;

impl Code {
    /// The description; none where there is no way to write it, which is so where hardly anything is gained.
    pub(in super::super) fn description(&self) -> Option<Vec<u8>> {
        let last = (0..SYMBOLS).rev().find(|&symbol| self.bits[symbol] > 0)?;
        let weight = |&bits: &u8| if bits == 0 { 0 } else { (self.longest + 1) as u8 - bits };
        let weights: Vec<u8> = self.bits[..last].iter().map(weight).collect();
        let direct = (weights.len() <= 128).then(|| {
            let pairs = weights.chunks(2).map(|pair| pair[0] << 4 | pair.get(1).unwrap_or(&0));
            std::iter::once(127 + weights.len() as u8).chain(pairs).collect::<Vec<u8>>()
        });
        let coded = coded(&weights)
            .filter(|coded| coded.len() < 128)
            .map(|coded| std::iter::once(coded.len() as u8).chain(coded).collect::<Vec<u8>>());
        direct.into_iter().chain(coded).min_by_key(Vec::len)
    }
}

/// The weights in FSE; none where one kind of weight is all there is.
fn coded(weights: &[u8]) -> Option<Vec<u8>> {
    let mut counts = [0; KINDS];
    weights.iter().for_each(|&weight| counts[usize::from(weight)] += 1);
    if counts.iter().filter(|&&count| count > 0).count() < 2 {
        return None;
    }
    let shares = shares(&counts, weights.len());
    let table = Table::new(&shares);
    let mut bits = Bits::default();
    write_shares(&shares, &mut bits);
    let mut out = bits.bytes();
    // Two states take turns, from the last weight to the first.
    let (mut bits, mut states) = (Bits::default(), [None, None]);
    for (at, &weight) in weights.iter().enumerate().rev() {
        let state = &mut states[at % 2];
        *state = Some(match *state {
            None => table.first(weight),
            Some(state) => table.next(state, weight, &mut bits),
        });
    }
    for state in states.into_iter().rev() {
        bits.put(state? - STATES as u32, LOG);
    }
    bits.put(1, 1);
    out.extend(bits.bytes());
    Some(out)
}

/// Shares of [`STATES`] in proportion to the counts, at least one where there is any.
fn shares(counts: &[usize; KINDS], total: usize) -> [u32; KINDS] {
    let mut shares = counts.map(|count| (count * STATES).div_ceil(total) as u32);
    // Rounded up, they are too many: the largest give, where it costs least.
    while shares.iter().sum::<u32>() > STATES as u32 {
        if let Some(largest) = shares.iter_mut().max() {
            *largest -= 1;
        }
    }
    shares
}

/// The shares as a table of FSE is told (RFC 8878, section 4.1.1): in as many bits as what is left needs.
fn write_shares(shares: &[u32; KINDS], bits: &mut Bits) {
    bits.put(LOG - 5, 4);
    let mut left = STATES as u32 + 1;
    let mut kind = 0;
    while left > 1 {
        let width = left.ilog2() + 1;
        let small = (2 << (width - 1)) - 1 - left;
        let value = shares[kind] + 1;
        // The lowest values take one bit less; those above half of the range move up to make room.
        match value < small {
            true => bits.put(value, width - 1),
            false => bits.put(if value < 1 << (width - 1) { value } else { value + small }, width),
        }
        left -= shares[kind];
        kind += 1;
        if shares[kind - 1] == 0 {
            let mut zeros = shares[kind..].iter().take_while(|&&share| share == 0).count() as u32;
            kind += zeros as usize;
            while zeros >= 3 {
                bits.put(3, 2);
                zeros -= 3;
            }
            bits.put(zeros, 2);
        }
    }
}

/// A table of FSE, for encoding.
struct Table {
    /// The state after a weight, the states of each weight one after the other.
    states: [u32; STATES],
    /// Where the states of a weight begin, and how many they are.
    of_kind: [(usize, u32); KINDS],
}

impl Table {
    fn new(shares: &[u32; KINDS]) -> Self {
        let mut of_kind = [(0, 0); KINDS];
        let mut start = 0;
        for (kind, &share) in shares.iter().enumerate() {
            of_kind[kind] = (start, share);
            start += share as usize;
        }
        // Weights are spread over the table in steps that meet every place.
        const STEP: usize = (STATES >> 1) + (STATES >> 3) + 3;
        let mut spread = [0; STATES];
        let kinds =
            shares.iter().enumerate().flat_map(|(kind, &share)| std::iter::repeat_n(kind, share as usize));
        kinds.enumerate().for_each(|(turn, kind)| spread[turn * STEP % STATES] = kind);
        let mut next = of_kind.map(|(start, _)| start);
        let mut states = [0; STATES];
        for (place, &kind) in spread.iter().enumerate() {
            states[next[kind]] = (STATES + place) as u32;
            next[kind] += 1;
        }
        Self { states, of_kind }
    }

    /// The state that the last weight begins with.
    fn first(&self, weight: u8) -> u32 {
        self.states[self.of_kind[usize::from(weight)].0]
    }

    /// Goes from a state to one that means `weight`, putting out what the decoder needs to come back.
    fn next(&self, state: u32, weight: u8, bits: &mut Bits) -> u32 {
        let (start, share) = self.of_kind[usize::from(weight)];
        // As many low bits as take the state into the range of the share.
        let width = (0..=LOG).find(|width| (state >> width) < 2 * share).unwrap_or(LOG);
        bits.put(state & ((1 << width) - 1), width);
        self.states[start + ((state >> width) - share) as usize]
    }
}

/// Bits, the first in the lowest place.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    waiting: u32,
    count: u32,
}

impl Bits {
    fn put(&mut self, value: u32, width: u32) {
        self.waiting |= value << self.count;
        self.count += width;
        while self.count >= 8 {
            self.bytes.push(self.waiting as u8);
            self.waiting >>= 8;
            self.count -= 8;
        }
    }

    fn bytes(mut self) -> Vec<u8> {
        if self.count > 0 {
            self.bytes.push(self.waiting as u8);
        }
        self.bytes
    }
}
