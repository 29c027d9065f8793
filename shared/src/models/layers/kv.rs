//! Keys and values of one block for the samples being generated. Each sample has room to grow, so that a step of generation
//! writes its own tokens and moves none of those before.

use candle_core::{Result, Tensor, bail};

use super::Segments;

/// Tokens by which a sample can grow before all are moved to where there is room again.
pub(super) const ROOM: usize = 64;

/// One block's keys and values, without gradients.
#[derive(Debug, Default)]
pub struct KvLayer {
    /// Keys and values, (rows, Hkv, K) each; none before the first pass.
    memory: Option<[Tensor; 2]>,
    samples: Vec<Kept>,
}

/// Which rows a sample has.
#[derive(Clone, Copy, Debug, Default)]
struct Kept {
    start: usize,
    len: usize,
    /// Rows from `start` that are its own.
    room: usize,
}

/// Keys and values of a pass's samples, those kept before included.
pub(super) struct Held {
    /// (rows, Hkv, K).
    pub(super) keys: Tensor,
    /// (rows, Hkv, K).
    pub(super) values: Tensor,
    cu_q: Vec<usize>,
    cu_kv: Vec<usize>,
}

impl Held {
    /// The samples' segments, and between them segments without queries, of rows that no sample has filled.
    pub(super) fn segments(&self) -> Segments<'_> {
        Segments { q: &self.cu_q, kv: &self.cu_kv }
    }
}

impl KvLayer {
    /// Keeps only these samples, in this order: what generation does with samples that ended.
    pub fn keep(&mut self, samples: &[usize]) {
        self.samples = samples.iter().filter_map(|&i| self.samples.get(i).copied()).collect();
    }

    /// How many tokens of each sample it holds; empty before the first pass.
    pub fn lengths(&self) -> Vec<usize> {
        self.samples.iter().map(|kept| kept.len).collect()
    }

    /// Adds new keys and values (T, Hkv, K) of samples that `cu_seqlens` divides.
    pub(super) fn append(&mut self, k: &Tensor, v: &Tensor, cu_seqlens: &[usize]) -> Result<Held> {
        let new: Vec<usize> = cu_seqlens.windows(2).map(|range| range[1] - range[0]).collect();
        if self.memory.is_none() {
            self.samples = vec![Kept::default(); new.len()];
        }
        if self.samples.len() != new.len() {
            bail!("a cache of {} samples was given {}", self.samples.len(), new.len())
        }
        let (k, v) = (k.detach().contiguous()?, v.detach().contiguous()?);
        let [keys, values] = match &self.memory {
            Some(memory) if self.has_room(&new) => memory.clone(),
            _ => self.moved(&new, &k)?,
        };
        for ((kept, from), count) in self.samples.iter_mut().zip(cu_seqlens).zip(&new) {
            if *count > 0 {
                keys.slice_set(&k.narrow(0, *from, *count)?, 0, kept.start + kept.len)?;
                values.slice_set(&v.narrow(0, *from, *count)?, 0, kept.start + kept.len)?;
                kept.len += count;
            }
        }
        let (cu_q, cu_kv) = self.boundaries(cu_seqlens, keys.dim(0)?);
        Ok(Held { keys, values, cu_q, cu_kv })
    }

    /// Whether so many tokens more of each sample have a place, and the samples lie in their order.
    fn has_room(&self, new: &[usize]) -> bool {
        self.samples.iter().zip(new).all(|(kept, new)| kept.len + new <= kept.room)
            && self.samples.is_sorted_by_key(|kept| kept.start)
    }

    /// Memory with room for these tokens and for [`ROOM`] after them, of the kind of `like`, with all that is kept.
    fn moved(&mut self, new: &[usize], like: &Tensor) -> Result<[Tensor; 2]> {
        let mut rows = 0;
        let place = |(kept, new): (&Kept, &usize)| {
            let start = rows;
            let room = kept.len + new + ROOM;
            rows += room;
            Kept { start, len: kept.len, room }
        };
        let places: Vec<Kept> = self.samples.iter().zip(new).map(place).collect();
        let (_, heads, width) = like.dims3()?;
        let empty = || Tensor::zeros((rows, heads, width), like.dtype(), like.device());
        let memory = [empty()?, empty()?];
        if let Some(old) = &self.memory {
            for (from, to) in self.samples.iter().zip(&places).filter(|(from, _)| from.len > 0) {
                for (old, new) in old.iter().zip(&memory) {
                    new.slice_set(&old.narrow(0, from.start, from.len)?, 0, to.start)?;
                }
            }
        }
        self.samples = places;
        self.memory = Some(memory.clone());
        Ok(memory)
    }

    /// Cumulative counts of queries and of keys, rows without a sample in segments of their own.
    fn boundaries(&self, cu_seqlens: &[usize], rows: usize) -> (Vec<usize>, Vec<usize>) {
        let (mut cu_q, mut cu_kv) = (vec![0], vec![0]);
        let mut push = |queries: usize, keys: usize| {
            if cu_kv.last() != Some(&keys) || cu_q.last() != Some(&queries) {
                cu_q.push(queries);
                cu_kv.push(keys);
            }
        };
        for (kept, range) in self.samples.iter().zip(cu_seqlens.windows(2)) {
            push(range[0], kept.start);
            push(range[1], kept.start + kept.len);
        }
        push(cu_seqlens.last().copied().unwrap_or_default(), rows);
        (cu_q, cu_kv)
    }
}
