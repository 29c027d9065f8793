//! Huffman codes of bytes as zstd has them (RFC 8878, section 4.2): made here, since features want nothing else of zstd.
//!
//! zstd's own encoder looks for matches, copies what it is given and decides for itself when a table serves twice. Features
//! have no matches, and what is left is small: [`Code`] is the code, `weights.rs` how it is told, `encoder.rs` the bits, and
//! `read_weights.rs` and `decoder.rs` the way back.

mod count;
mod decoder;
mod encoder;
mod read_weights;
mod weights;

pub(super) use count::{add_counts, looks_random};
pub(super) use decoder::Decoder;
pub(super) use encoder::Encoder;

/// The longest code word: zstd's decoder takes no more for literals.
const MAX_BITS: usize = 11;
/// Different bytes.
const SYMBOLS: usize = 256;

/// How often each byte occurs.
pub(super) type Counts = [u32; SYMBOLS];

/// A code word for each byte that occurs.
pub(super) struct Code {
    /// Length in bits; 0 for a byte that does not occur.
    bits: [u8; SYMBOLS],
    /// The word, in the lowest bits.
    words: [u16; SYMBOLS],
    /// The length of the longest word.
    longest: usize,
}

impl Code {
    /// The code for these counts; none where fewer than two different bytes occur.
    pub(super) fn of(counts: &Counts) -> Option<Self> {
        let mut order: Vec<u64> = (0..SYMBOLS as u64)
            .filter(|&symbol| counts[symbol as usize] > 0)
            .map(|symbol| u64::from(counts[symbol as usize]) << 8 | symbol)
            .collect();
        if order.len() < 2 {
            return None;
        }
        order.sort_unstable();
        let with_length = limited(&depths(&order));
        let longest = (1..=MAX_BITS).rev().find(|&length| with_length[length] > 0).unwrap_or(1);
        let mut code = Self { bits: [0; SYMBOLS], words: [0; SYMBOLS], longest };
        // The rarest get the longest words.
        let lengths = (1..=longest).rev().flat_map(|length| std::iter::repeat_n(length, with_length[length]));
        order.iter().zip(lengths).for_each(|(&entry, length)| code.bits[entry as u8 as usize] = length as u8);
        code.number();
        Some(code)
    }

    /// Gives out the words: the longest first, from zero up, equal lengths in the bytes' own order.
    fn number(&mut self) {
        let mut next = 0;
        for length in (1..=self.longest).rev() {
            let spare = self.longest - length;
            for symbol in (0..SYMBOLS).filter(|&symbol| usize::from(self.bits[symbol]) == length) {
                self.words[symbol] = (next >> spare) as u16;
                next += 1 << spare;
            }
        }
    }

    /// How many bits these counts take.
    pub(super) fn cost(&self, counts: &Counts) -> usize {
        counts.iter().zip(&self.bits).map(|(&count, &bits)| count as usize * usize::from(bits)).sum()
    }
}

/// How many bits a stream has below the one that marks its end; none where there is no such mark.
fn bits_before_mark(bytes: &[u8]) -> Option<usize> {
    let (last, others) = bytes.split_last()?;
    Some(8 * others.len() + last.checked_ilog2()? as usize)
}

/// How many leaves of the Huffman tree have each depth, of counts in ascending order.
fn depths(order: &[u64]) -> [usize; SYMBOLS] {
    let leaves = order.len();
    let mut weights: Vec<u64> = order.iter().map(|entry| entry >> 8).collect();
    let mut parents = vec![0; 2 * leaves - 1];
    // Inner nodes come into being in ascending order too, so that two queues are a heap.
    let (mut leaf, mut inner) = (0, leaves);
    for node in leaves..2 * leaves - 1 {
        let mut weight = 0;
        for _ in 0..2 {
            let is_leaf = leaf < leaves && (inner == node || weights[leaf] <= weights[inner]);
            let next = if is_leaf { &mut leaf } else { &mut inner };
            parents[*next] = node;
            weight += weights[*next];
            *next += 1;
        }
        weights.push(weight);
    }
    let mut depth = vec![0; 2 * leaves - 1];
    for node in (0..2 * leaves - 2).rev() {
        depth[node] = depth[parents[node]] + 1;
    }
    let mut with_depth = [0; SYMBOLS];
    depth[..leaves].iter().for_each(|&depth| with_depth[depth] += 1);
    with_depth
}

/// The same number of words, none longer than [`MAX_BITS`]: two of the longest become one a bit shorter, and a short one
/// is split to make room for the other (ITU-T T.81, K.3). The code stays complete.
fn limited(with_depth: &[usize; SYMBOLS]) -> [usize; SYMBOLS] {
    let mut with_length = *with_depth;
    for length in (MAX_BITS + 1..SYMBOLS).rev() {
        while with_length[length] > 0 {
            let Some(split) = (1..length - 1).rev().find(|&shorter| with_length[shorter] > 0) else { break };
            with_length[length] -= 2;
            with_length[length - 1] += 1;
            with_length[split + 1] += 2;
            with_length[split] -= 1;
        }
    }
    with_length
}

#[cfg(test)]
mod tests;
