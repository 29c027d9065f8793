//! How often each byte occurs in a block.

use super::{Counts, SYMBOLS};

/// Counts more bytes.
pub(in super::super) fn add_counts(bytes: &[u8], counts: &mut Counts) {
    count(bytes).iter().zip(counts).for_each(|(more, count)| *count += more);
}

/// Counts all bytes: in four tables, because one that is counted twice in a row waits for itself.
pub(super) fn count(bytes: &[u8]) -> Counts {
    let mut tables = [[0u32; SYMBOLS]; 4];
    let (eights, rest) = bytes.as_chunks::<8>();
    for eight in eights {
        let eight = u64::from_le_bytes(*eight);
        for lane in 0..8 {
            tables[lane % 4][(eight >> (8 * lane)) as u8 as usize] += 1;
        }
    }
    rest.iter().for_each(|&byte| tables[0][usize::from(byte)] += 1);
    std::array::from_fn(|symbol| tables.iter().map(|table| table[symbol]).sum())
}

/// Whether a code is not worth looking for: of a sample of the bytes, each takes nearly eight bits.
///
/// Mantissas are like this. What is missed is less than a block has to gain to be coded at all; short blocks are counted.
pub(in super::super) fn looks_random(bytes: &[u8]) -> bool {
    const SAMPLE: usize = 16;
    const RUN: usize = 512;
    if bytes.len() < 64 * 1024 {
        return false;
    }
    let step = bytes.len() / SAMPLE;
    let mut counts = [0u32; SYMBOLS];
    for run in bytes.chunks_exact(step) {
        add_counts(&run[..RUN], &mut counts);
    }
    // Shannon's entropy, in bits of all of the sample. A sample of few bytes looks less random than it is, never more.
    let total: u32 = counts.iter().sum();
    let bits = |&count: &u32| f64::from(count) * (f64::from(total) / f64::from(count.max(1))).log2();
    counts.iter().map(bits).sum::<f64>() > f64::from(total) * 7.9
}
