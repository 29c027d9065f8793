//! The blocks of a stack: all in memory, or read from the checkpoint one after the other each time they are needed.
//!
//! Reading is ahead by one: while a block computes, a thread builds the next, so that two of them are in memory at most. A GPU
//! computes later than it is asked, so it is waited for before a block goes: else more and more would have been asked for, and
//! been given memory, than it is done with.

use std::sync::mpsc::sync_channel;
use std::thread;

use candle_core::{Device, Result};

use super::weights::{Recorder, WeightSource};

/// A model's blocks, in memory or read one by one as they are needed.
pub(super) enum Blocks<B> {
    /// In memory.
    Resident(Vec<B>),
    /// In the checkpoint.
    Streamed {
        /// How many blocks there are.
        count: usize,
        /// The largest of them.
        size: BlockSize,
        /// What computes.
        device: Device,
        /// Reads the block of an index.
        read: Box<dyn Fn(usize) -> Result<B> + Send + Sync>,
    },
}

/// How large a block is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockSize {
    /// Numbers in its weights.
    pub elements: usize,
    /// Numbers in its largest weight.
    pub largest: usize,
    /// Numbers that its linear layers make of one row of input, added up.
    pub outputs: usize,
}

impl BlockSize {
    fn of(recorder: &Recorder) -> BlockSize {
        let elements = || recorder.shapes.values().map(|shape| shape.iter().product::<usize>());
        let outputs = recorder.shapes.values().filter(|shape| shape.len() == 2).map(|shape| shape[0]);
        BlockSize {
            elements: elements().sum(),
            largest: elements().max().unwrap_or(0),
            outputs: outputs.sum(),
        }
    }
}

impl<B: Send> Blocks<B> {
    /// `count` blocks that `block` builds, at once or whenever they are needed, as the source has it.
    ///
    /// # Errors
    /// Those of the source.
    pub(super) fn build(
        count: usize,
        source: &mut dyn WeightSource,
        block: impl Fn(usize, &mut dyn WeightSource) -> Result<B> + Send + Sync + 'static,
    ) -> Result<Self> {
        let Some(stored) = source.stored() else {
            return Ok(Self::Resident((0..count).map(|i| block(i, source)).collect::<Result<_>>()?));
        };
        let mut size = BlockSize::default();
        for i in 0..count {
            let mut recorder = Recorder::default();
            drop(block(i, &mut recorder)?);
            let other = BlockSize::of(&recorder);
            size = if other.elements > size.elements { other } else { size };
        }
        let device = source.device().clone();
        Ok(Self::Streamed { count, size, device, read: Box::new(move |i| block(i, &mut stored.clone())) })
    }

    /// How many blocks there are.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Resident(blocks) => blocks.len(),
            Self::Streamed { count, .. } => *count,
        }
    }

    /// The blocks in memory: all, or none where they are read when they are needed.
    pub(super) fn resident_mut(&mut self) -> &mut [B] {
        match self {
            Self::Resident(blocks) => blocks,
            Self::Streamed { .. } => &mut [],
        }
    }

    /// The largest block that is read when it is needed; none where all are in memory.
    pub(super) fn streamed(&self) -> Option<BlockSize> {
        match self {
            Self::Resident(_) => None,
            Self::Streamed { size, .. } => Some(*size),
        }
    }

    /// Calls `run` with each block and its number, in order.
    ///
    /// # Errors
    /// The first of `run`, or of reading a block; nothing is run after it.
    pub(super) fn try_for_each(&self, mut run: impl FnMut(usize, &B) -> Result<()>) -> Result<()> {
        let (count, device, read) = match self {
            Self::Resident(blocks) => {
                return blocks.iter().enumerate().try_for_each(|(i, block)| run(i, block));
            }
            Self::Streamed { count, device, read, .. } => (*count, device, read),
        };
        thread::scope(|scope| {
            // A channel without room: the reader waits with a block in hand until the one before has been dropped.
            let (blocks, ready) = sync_channel(0);
            scope.spawn(move || {
                for i in 0..count {
                    let block = read(i);
                    let is_last = block.is_err();
                    // The other end is gone when `run` failed, and nobody wants more.
                    if blocks.send(block).is_err() || is_last {
                        break;
                    }
                }
            });
            ready.into_iter().enumerate().try_for_each(|(i, block)| {
                let block = block?;
                run(i, &block)?;
                device.synchronize()
            })
        })
    }
}

#[cfg(test)]
mod tests {
    // A failed unwrap is a failed test.
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use candle_core::bail;

    use super::*;

    /// Counts how many of it exist.
    struct Counted(Arc<AtomicUsize>);

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn streamed<B>(count: usize, read: impl Fn(usize) -> Result<B> + Send + Sync + 'static) -> Blocks<B> {
        Blocks::Streamed { count, size: BlockSize::default(), device: Device::Cpu, read: Box::new(read) }
    }

    #[test]
    fn blocks_come_in_order_and_two_exist_at_most() {
        let (existing, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counter, peak) = (existing.clone(), most.clone());
        let blocks = streamed(50, move |_| {
            let now = counter.fetch_add(1, Ordering::SeqCst) + 1;
            peak.fetch_max(now, Ordering::SeqCst);
            Ok(Counted(counter.clone()))
        });
        let mut seen = Vec::new();
        let run = |i, _: &Counted| {
            seen.push(i);
            Ok(())
        };
        blocks.try_for_each(run).unwrap();
        assert_eq!(seen, (0..50).collect::<Vec<_>>());
        assert_eq!((most.load(Ordering::SeqCst), existing.load(Ordering::SeqCst)), (2, 0));
    }

    #[test]
    fn a_block_that_cannot_be_read_ends_the_sweep_after_those_before_it() {
        let blocks = streamed(9, |i| if i == 3 { bail!("block 3 is gone") } else { Ok(i) });
        let mut seen = Vec::new();
        let run = |_, block: &usize| {
            seen.push(*block);
            Ok(())
        };
        let error = blocks.try_for_each(run).unwrap_err().to_string();
        assert!(error.contains("block 3 is gone"), "{error}");
        assert_eq!(seen, [0, 1, 2]);
    }

    #[test]
    fn a_failure_of_the_work_ends_the_reading() {
        let read = Arc::new(AtomicUsize::new(0));
        let counter = read.clone();
        let blocks = streamed(1000, move |_| Ok(counter.fetch_add(1, Ordering::SeqCst)));
        let error = blocks.try_for_each(|i, _| if i == 4 { bail!("too large") } else { Ok(()) }).unwrap_err();
        assert!(error.to_string().contains("too large"), "{error}");
        assert!(read.load(Ordering::SeqCst) <= 7, "{read:?} blocks were read for 5");
    }
}
