//! Reads back what `weights.rs` writes, and every other description of a code that zstd may write.
//!
//! Whatever is wrong with a description, zstd's own decoder refuses it as well: `planes/tests.rs` and the fuzz target `page`
//! hold the two together.

use super::weights::LOG;
use super::{MAX_BITS, SYMBOLS, bits_before_mark};

/// The weight of each byte: 0 where it does not occur, else the length of the longest word less its own, plus one.
pub(super) type Weights = [u8; SYMBOLS];

/// The weights that `bytes` begin with, and how many bytes tell them; none where they make no complete code.
pub(super) fn read_weights(bytes: &[u8]) -> Option<(Weights, usize)> {
    let (&head, rest) = bytes.split_first()?;
    let mut weights = [0; SYMBOLS];
    // The weight of the last byte that occurs is not told: it is what the code lacks.
    let told = &mut weights[..SYMBOLS - 1];
    let (count, size) = match usize::from(head) {
        size @ ..128 => (coded(rest.get(..size)?, told)?, size),
        head => {
            let (count, size) = (head - 127, (head - 126) / 2);
            let nibbles = rest.get(..size)?.iter().flat_map(|pair| [pair >> 4, pair & 15]);
            told.iter_mut().take(count).zip(nibbles).for_each(|(weight, nibble)| *weight = nibble);
            (count, size)
        }
    };
    weights[count] = last_weight(&weights[..count])?;
    Some((weights, 1 + size))
}

/// What makes a code of these weights complete. Of the longest words there are at least two.
fn last_weight(weights: &[u8]) -> Option<u8> {
    let mut cells = 0u32;
    for &weight in weights.iter().filter(|&&weight| weight > 0) {
        cells += 1 << (u32::from(weight).min(MAX_BITS as u32 + 1) - 1);
    }
    let all = (cells + 1).next_power_of_two();
    let rest = all - cells;
    let last = rest.ilog2() as u8 + 1;
    let has_longest = last == 1 || weights.contains(&1);
    (cells > 0 && all <= 1 << MAX_BITS && rest.is_power_of_two() && has_longest).then_some(last)
}

/// Weights in FSE; returns how many there are.
fn coded(bytes: &[u8], weights: &mut [u8]) -> Option<usize> {
    let mut shares = Forwards { bytes, at: 0 };
    let table = Table::read(&mut shares)?;
    let mut bits = Backwards::new(bytes.get(shares.at.div_ceil(8)..)?)?;
    // Two states take turns, until the bits do not suffice for the next.
    let mut states = [bits.take(table.log)?, bits.take(table.log)?];
    let mut count = 0;
    loop {
        let state = &mut states[count % 2];
        let cell = table.cells[*state as usize];
        *weights.get_mut(count)? = cell.weight;
        count += 1;
        let Some(low) = bits.take(cell.bits) else { break };
        *state = cell.base + low;
    }
    *weights.get_mut(count)? = table.cells[states[count % 2] as usize].weight;
    Some(count + 1)
}

/// A state of FSE: the weight that it means, and how the next one is found.
#[derive(Clone, Copy, Default)]
struct Cell {
    weight: u8,
    bits: u32,
    base: u32,
}

/// A table of FSE, for decoding.
struct Table {
    cells: [Cell; 1 << LOG],
    log: u32,
}

impl Table {
    /// The shares of the weights (RFC 8878, section 4.1.1), spread over the states.
    fn read(bits: &mut Forwards<'_>) -> Option<Self> {
        let log = bits.take(4) + 5;
        if log > LOG {
            return None;
        }
        let states = 1 << log;
        let mut cells = [Cell::default(); 1 << LOG];
        let mut shares = [0u32; SYMBOLS];
        let mut spread = Vec::with_capacity(states);
        // Weights with less than one share have one state, from the end.
        let mut end = states;
        let (mut left, mut weight) = (states as u32 + 1, 0);
        while left > 1 {
            let share = shares.get_mut(weight)?;
            match bits.value(left) {
                0 => {
                    (*share, left, end) = (1, left - 1, end - 1);
                    cells[end].weight = weight as u8;
                }
                1 => weight += bits.zeros(),
                value => {
                    (*share, left) = (value - 1, left - (value - 1));
                    spread.extend(std::iter::repeat_n(weight as u8, *share as usize));
                }
            }
            weight += 1;
        }
        let step = (states >> 1) + (states >> 3) + 3;
        let places = (0..states).map(|turn| turn * step % states).filter(|&place| place < end);
        places.zip(spread).for_each(|(place, weight)| cells[place].weight = weight);
        for cell in &mut cells[..states] {
            let number = &mut shares[usize::from(cell.weight)];
            cell.bits = log - number.ilog2();
            cell.base = (*number << cell.bits) - states as u32;
            *number += 1;
        }
        Some(Self { cells, log })
    }
}

/// Bits from the lowest of the first byte up; beyond the end there are zeros.
struct Forwards<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Forwards<'_> {
    fn take(&mut self, width: u32) -> u32 {
        let bits = word_at(self.bytes, self.at) & ((1 << width) - 1);
        self.at += width as usize;
        bits
    }

    /// A number up to `left`: the lowest take one bit less than the others, of which those above half of the range come
    /// after what was saved.
    fn value(&mut self, left: u32) -> u32 {
        let half = 1 << left.ilog2();
        let small = 2 * half - 1 - left;
        let value = word_at(self.bytes, self.at) & (2 * half - 1);
        if value & (half - 1) < small {
            return self.take(left.ilog2());
        }
        self.take(left.ilog2() + 1);
        if value < half { value } else { value - small }
    }

    /// How many more weights have no share.
    fn zeros(&mut self) -> usize {
        let mut zeros = 0;
        loop {
            let more = self.take(2);
            zeros += more as usize;
            if more < 3 {
                return zeros;
            }
        }
    }
}

/// Bits from the end, below the one that marks it.
struct Backwards<'a> {
    bytes: &'a [u8],
    left: usize,
}

impl<'a> Backwards<'a> {
    fn new(bytes: &'a [u8]) -> Option<Self> {
        Some(Self { bytes, left: bits_before_mark(bytes)? })
    }

    /// None where there are not as many.
    fn take(&mut self, width: u32) -> Option<u32> {
        self.left = self.left.checked_sub(width as usize)?;
        Some(word_at(self.bytes, self.left) & ((1 << width) - 1))
    }
}

/// 25 bits or more from this one on.
fn word_at(bytes: &[u8], bit: usize) -> u32 {
    let byte = |at: usize| u32::from(bytes.get(bit / 8 + at).copied().unwrap_or(0));
    (byte(0) | byte(1) << 8 | byte(2) << 16 | byte(3) << 24) >> (bit % 8)
}
