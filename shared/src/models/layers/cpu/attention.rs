//! Attention over packed segments: one task per (segment, key-value head), blocks of queries against all keys they
//! may see. Probabilities live for one block and are computed again in the backward; nothing of the size
//! queries x keys is kept.
//!
//! A segment's tasks see nothing of the others, and each product runs on one thread, so a segment's bits depend on
//! that segment alone.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::super::attention::{Mask, OwnedMask, Sight};
use super::math::{dot, softmax};
use super::matmul::raw;
use super::{Mat, MatMut, Product, matmul, slice, tensor, vectorised, with_slices};

/// Queries per block: its scores against 4,096 keys are 1 MiB.
const BLOCK: usize = 64;

/// Attention of q (Tq, H, K) over k and v (Tk, Hkv, K).
pub(in super::super) struct AttentionOp {
    pub(in super::super) cu_q: Vec<usize>,
    pub(in super::super) cu_kv: Vec<usize>,
    pub(in super::super) mask: OwnedMask,
    pub(in super::super) scale: f32,
}

/// The sizes of one call.
#[derive(Clone, Copy)]
struct Sizes {
    heads: usize,
    kv_heads: usize,
    width: usize,
}

/// One task: a segment's queries and keys, and the key-value head.
struct Task {
    queries: Range<usize>,
    keys: Range<usize>,
    kv_head: usize,
}

/// One block of a task's queries.
struct Block {
    /// In packed queries.
    rows: Range<usize>,
    /// How many of the segment's keys, from its first, any row sees.
    keys: usize,
}

impl Block {
    /// What row `i` of the block sees.
    fn sight(&self, mask: Mask, task: &Task, i: usize) -> Sight {
        let query = self.rows.start + i;
        mask.sight(query, query - task.queries.start, task.queries.len(), task.keys.len())
    }
}

/// A buffer whose tasks write disjoint parts.
#[derive(Clone, Copy)]
struct Shared(*mut f32);

// SAFETY: `Shared` is only a pointer; each use says why no two tasks write the same elements.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    fn at(self, offset: usize) -> *mut f32 {
        self.0.wrapping_add(offset)
    }
}

impl AttentionOp {
    fn tasks(&self, kv_heads: usize) -> Vec<Task> {
        let segments = self.cu_q.windows(2).zip(self.cu_kv.windows(2));
        segments
            .filter(|(q, _)| q[0] < q[1])
            .flat_map(|(q, kv)| {
                (0..kv_heads).map(move |kv_head| Task { queries: q[0]..q[1], keys: kv[0]..kv[1], kv_head })
            })
            .collect()
    }

    fn mask(&self) -> Mask<'_> {
        self.mask.as_mask()
    }

    fn blocks<'a>(&'a self, task: &'a Task) -> impl Iterator<Item = Block> + 'a {
        task.queries.clone().step_by(BLOCK).map(move |first| {
            let rows = first..(first + BLOCK).min(task.queries.end);
            let mut block = Block { rows, keys: task.keys.len() };
            let furthest = (0..block.rows.len()).map(|i| block.sight(self.mask(), task, i)[1]).max();
            block.keys = furthest.unwrap_or(block.keys);
            block
        })
    }

    /// Probabilities of one head and block, (rows, block.keys), in the front of `p`.
    fn probabilities(&self, q: Mat, kt: Mat, task: &Task, block: &Block, p: &mut [f32]) {
        let (n, m) = (block.rows.len(), block.keys);
        matmul(MatMut::new(p, n, m, m), Product { by: self.scale, ..Product::of(q, kt) });
        for (i, row) in p[..n * m].chunks_exact_mut(m).enumerate() {
            let [from, to] = block.sight(self.mask(), task, i);
            softmax(&mut row[from..to]);
            row[..from].fill(0.0);
            row[to..].fill(0.0);
        }
    }

    fn forward(&self, q: &[f32], k: &[f32], v: &[f32], s: Sizes) -> Vec<f32> {
        let mut out = vec![0f32; q.len()];
        let shared = Shared(out.as_mut_ptr());
        self.tasks(s.kv_heads).par_iter().for_each_init(Scratch::default, |scratch, task| {
            let v = s.keys(v, task);
            let Scratch { kt, p, .. } = scratch;
            s.transpose_keys(k, task, kt);
            for block in self.blocks(task) {
                grow(p, block.rows.len() * block.keys);
                for head in s.heads_of(task) {
                    let kt = s.transposed(kt, task, block.keys);
                    self.probabilities(s.queries(q, &block, head), kt, task, &block, p);
                    let weights = Mat::new(p, block.rows.len(), block.keys, block.keys);
                    let out = shared.at(s.query_offset(&block, head));
                    // SAFETY: only this task writes these rows of this head, and `out` outlives the tasks.
                    unsafe { raw(out, s.query_stride(), Product::of(weights, v.rows(block.keys))) };
                }
            }
        });
        out
    }

    fn backward(&self, q: &[f32], k: &[f32], v: &[f32], go: &[f32], s: Sizes) -> [Vec<f32>; 3] {
        let (mut gq, mut gk, mut gv) = (vec![0f32; q.len()], vec![0f32; k.len()], vec![0f32; v.len()]);
        let out = [Shared(gq.as_mut_ptr()), Shared(gk.as_mut_ptr()), Shared(gv.as_mut_ptr())];
        self.tasks(s.kv_heads).par_iter().for_each_init(Scratch::default, |scratch, task| {
            s.transpose_keys(k, task, &mut scratch.kt);
            s.transpose_keys(v, task, &mut scratch.vt);
            for block in self.blocks(task) {
                grow(&mut scratch.p, block.rows.len() * block.keys);
                grow(&mut scratch.gp, block.rows.len() * block.keys);
                for head in s.heads_of(task) {
                    let [q, go] = [q, go].map(|rows| s.queries(rows, &block, head));
                    let of = BlockRows { q, go, k: s.keys(k, task), task, block: &block, head, sizes: s };
                    self.backward_block(&of, scratch, out);
                }
            }
        });
        [gq, gk, gv]
    }

    /// Adds one block's gradients.
    fn backward_block(&self, of: &BlockRows, scratch: &mut Scratch, [gq, gk, gv]: [Shared; 3]) {
        let BlockRows { q, go, k, task, block, head, sizes: s } = *of;
        let (n, m) = (block.rows.len(), block.keys);
        let Scratch { kt, vt, p, gp } = scratch;
        let (kt, vt) = (s.transposed(kt, task, m), s.transposed(vt, task, m));
        let (key, query) = (s.key_offset(task), s.query_offset(block, head));
        self.probabilities(q, kt, task, block, p);
        // SAFETY: only this task writes these keys of this key-value head, and the buffer outlives the tasks.
        unsafe { raw(gv.at(key), s.key_stride(), Product::of(Mat::new(p, n, m, m).t(), go).added()) };
        matmul(MatMut::new(gp, n, m, m), Product::of(go, vt));
        score_gradient(&p[..n * m], &mut gp[..n * m], m, self.scale);
        let gs = Mat::new(gp, n, m, m);
        // SAFETY: only this task writes these rows of this head.
        unsafe { raw(gq.at(query), s.query_stride(), Product::of(gs, k.rows(m))) };
        // SAFETY: as for `gv`.
        unsafe { raw(gk.at(key), s.key_stride(), Product::of(gs.t(), q).added()) };
    }
}

/// What one head of a block's gradients are made of, and where they go.
struct BlockRows<'a> {
    /// The block's rows of the queries and of the output's gradient, (rows, K).
    q: Mat<'a>,
    go: Mat<'a>,
    /// The task's keys, (m, K).
    k: Mat<'a>,
    task: &'a Task,
    block: &'a Block,
    head: usize,
    sizes: Sizes,
}

/// What a thread reuses between tasks.
#[derive(Default)]
struct Scratch {
    /// The task's keys and values transposed, (K, m): each block's product with them then needs no repacking.
    kt: Vec<f32>,
    vt: Vec<f32>,
    /// A block's probabilities and their gradients, (rows, keys).
    p: Vec<f32>,
    gp: Vec<f32>,
}

/// At least `len` values.
fn grow(buffer: &mut Vec<f32>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
}

vectorised! {
    /// Turns the gradient of the probabilities into that of the products q k: p (gp - sum(p gp)) scale, row by row.
    fn score_gradient(p: &[f32], gp: &mut [f32], m: usize, scale: f32) {
        for (p, gp) in p.chunks_exact(m).zip(gp.chunks_exact_mut(m)) {
            let mean = dot(p, gp);
            for (gp, &p) in gp.iter_mut().zip(p) {
                *gp = p * (*gp - mean) * scale;
            }
        }
    }
}

impl Sizes {
    fn of(q: &Shape, k: &Shape) -> Result<Sizes> {
        let ((_, heads, width), (_, kv_heads, _)) = (q.dims3()?, k.dims3()?);
        Ok(Sizes { heads, kv_heads, width })
    }

    /// Distance of a head's rows in q.
    fn query_stride(self) -> usize {
        self.heads * self.width
    }

    /// Distance of a head's rows in k and v.
    fn key_stride(self) -> usize {
        self.kv_heads * self.width
    }

    /// The query heads that read the task's key-value head.
    fn heads_of(self, task: &Task) -> Range<usize> {
        let group = self.heads / self.kv_heads;
        task.kv_head * group..(task.kv_head + 1) * group
    }

    fn query_offset(self, block: &Block, head: usize) -> usize {
        block.rows.start * self.query_stride() + head * self.width
    }

    fn key_offset(self, task: &Task) -> usize {
        task.keys.start * self.key_stride() + task.kv_head * self.width
    }

    /// The block's rows of one head, (rows, K).
    fn queries<'a>(self, q: &'a [f32], block: &Block, head: usize) -> Mat<'a> {
        Mat::new(&q[self.query_offset(block, head)..], block.rows.len(), self.width, self.query_stride())
    }

    /// The task's keys or values into the front of `out`, (K, m).
    fn transpose_keys(self, k: &[f32], task: &Task, out: &mut Vec<f32>) {
        let m = task.keys.len();
        grow(out, m * self.width);
        for (j, key) in k[self.key_offset(task)..].chunks(self.key_stride()).take(m).enumerate() {
            for (i, &x) in key[..self.width].iter().enumerate() {
                out[i * m + j] = x;
            }
        }
    }

    /// The first `keys` columns of what [`transpose_keys`](Self::transpose_keys) wrote.
    fn transposed<'a>(self, kt: &'a [f32], task: &Task, keys: usize) -> Mat<'a> {
        Mat::new(kt, self.width, keys, task.keys.len())
    }

    /// The task's keys or values, (m, K).
    fn keys<'a>(self, k: &'a [f32], task: &Task) -> Mat<'a> {
        Mat::new(&k[self.key_offset(task)..], task.keys.len(), self.width, self.key_stride())
    }
}

impl CustomOp3 for AttentionOp {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        lq: &Layout,
        k: &CpuStorage,
        lk: &Layout,
        v: &CpuStorage,
        lv: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let sizes = Sizes::of(lq.shape(), lk.shape())?;
        let out = self.forward(slice(q, lq)?, slice(k, lk)?, slice(v, lv)?, sizes);
        Ok((CpuStorage::F32(out), lq.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _o: &Tensor,
        go: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let go = go.contiguous()?;
        let sizes = Sizes::of(q.shape(), k.shape())?;
        let [gq, gk, gv] =
            with_slices([q, k, v, &go], |[q, k, v, go]| Ok(self.backward(q, k, v, go, sizes)))?;
        Ok((Some(tensor(gq, q.shape())?), Some(tensor(gk, k.shape())?), Some(tensor(gv, v.shape())?)))
    }
}
