//! Buffers of pages, used again: the system clears fresh memory before it gives it, which takes longer than filling it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Buffers of this size and more are given back to the system: one long sample is no reason to hold on to its memory.
const LARGEST: usize = 16 << 20;
/// A buffer may be this much larger than what is asked for, and twice as large.
const SPARE: usize = 64 << 10;

/// Bytes that are held at most: the pages of some dozens of samples, which are made side by side.
const MOST: usize = 64 << 20;

/// Empty buffers, by capacity.
#[derive(Default)]
pub(super) struct Buffers {
    free: Mutex<Free>,
}

#[derive(Default)]
struct Free {
    by_capacity: BTreeMap<usize, Vec<Vec<u8>>>,
    bytes: usize,
}

impl Buffers {
    /// An empty buffer with room for `len` bytes.
    pub(super) fn take(&self, len: usize) -> Vec<u8> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let fit = free.by_capacity.range_mut(len..=len.saturating_mul(2).saturating_add(SPARE)).next();
        let Some((&capacity, buffers)) = fit else { return Vec::with_capacity(len) };
        let buffer = buffers.pop().unwrap_or_default();
        if buffers.is_empty() {
            free.by_capacity.remove(&capacity);
        }
        free.bytes -= capacity;
        buffer
    }

    /// Takes a buffer back, whose content is of no more use.
    pub(super) fn give_back(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let capacity = buffer.capacity();
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if capacity < LARGEST && free.bytes + capacity <= MOST {
            free.bytes += capacity;
            free.by_capacity.entry(capacity).or_default().push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_where_they_fit() {
        let buffers = Buffers::default();
        let mut first = buffers.take(1000);
        first.extend([1; 1000]);
        let place = first.as_ptr();
        buffers.give_back(first);
        let again = buffers.take(900);
        assert_eq!((again.as_ptr(), again.len()), (place, 0), "the same, and empty");
        buffers.give_back(again);
        let larger = buffers.take(2000);
        assert_ne!(larger.as_ptr(), place, "it is too small");
        buffers.give_back(Vec::with_capacity(600_000));
        assert!(buffers.take(1001).capacity() < 600_000, "it is far too large");
        (0..200).for_each(|_| buffers.give_back(Vec::with_capacity(600_000)));
        assert!(buffers.free.lock().is_ok_and(|free| free.bytes <= MOST), "not more than is allowed");
    }
}
