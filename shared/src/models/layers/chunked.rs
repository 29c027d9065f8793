//! Attention that never holds all its scores: some queries at a time against the keys that they see, and once more in the
//! backward pass. What a GPU does where no single kernel does everything, and the gradient of the one that does.
//!
//! It is made of products and of a softmax with its gradient, which are kernels on a GPU; [`plain`](super::plain) holds all
//! scores of a segment and is its twin.

use std::ops::Range;

use candle_core::{CpuStorage, CudaStorage, CustomOp3, D, Layout, Result, Shape, Tensor};

use super::attention::{Mask, OwnedMask};
use super::plain::{additive_mask, heads_first, heads_last, product, wide};
use super::recompute::Premade;
#[cfg(feature = "cuda")]
use super::{Kernels, kernels};
use super::{Segments, Sight};

/// Most scores at a time: 128 MiB in bfloat16.
const SCORES: usize = 64 << 20;

/// What [`attention`](super::attention) computes, its gradient included.
pub(super) struct Chunked {
    cu_q: Vec<usize>,
    cu_kv: Vec<usize>,
    mask: OwnedMask,
    scale: f64,
    /// Most scores at a time.
    scores: usize,
}

/// Some of a segment's queries.
struct Chunk {
    /// In packed queries.
    queries: Range<usize>,
    /// The keys that any of them sees, in the segment.
    keys: Range<usize>,
    /// What each of them sees, counted from the first of these keys.
    sights: Vec<Sight>,
}

impl Chunked {
    pub(super) fn new(segments: &Segments, mask: Mask, scale: f64) -> Chunked {
        let (cu_q, cu_kv) = (segments.q.to_vec(), segments.kv.to_vec());
        Chunked { cu_q, cu_kv, mask: mask.into(), scale, scores: SCORES }
    }

    /// The same with at most so many scores at a time.
    #[cfg(test)]
    pub(super) fn within(self, scores: usize) -> Chunked {
        Chunked { scores, ..self }
    }

    fn segments(&self) -> Segments<'_> {
        Segments { q: &self.cu_q, kv: &self.cu_kv }
    }

    /// Chunks of the segment of these queries and keys.
    fn chunks(&self, queries: &Range<usize>, keys: &Range<usize>, heads: usize) -> Vec<Chunk> {
        let (n, m) = (queries.len(), keys.len());
        let step = (self.scores / (heads * m).max(1)).max(1);
        let chunk = |first: usize| {
            let rows = first..(first + step).min(n);
            let sight = |row: usize| self.mask.as_mask().sight(queries.start + row, row, n, m);
            let sights: Vec<Sight> = rows.clone().map(sight).collect();
            let begin = sights.iter().map(|[from, _]| *from).min().unwrap_or(0);
            let end = sights.iter().map(|[_, to]| *to).max().unwrap_or(0);
            Chunk {
                queries: queries.start + rows.start..queries.start + rows.end,
                keys: begin..end,
                sights: sights.into_iter().map(|[from, to]| [from - begin, to - begin]).collect(),
            }
        };
        (0..n).step_by(step).map(chunk).collect()
    }

    /// q (Tq, H, K), k and v (Tk, Hkv, K) -> (Tq, H, K), without a graph.
    pub(super) fn forward(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let (heads, kv_heads) = (q.dim(1)?, k.dim(1)?);
        let mut parts = Vec::new();
        for (queries, keys) in self.segments().ranges().filter(|(queries, _)| !queries.is_empty()) {
            let [k, v] = [segment_of(k, &keys)?, segment_of(v, &keys)?];
            for chunk in self.chunks(&queries, &keys, heads) {
                let q = rows_of(q, &chunk.queries, kv_heads)?;
                let weights = self.weights(&q, &keys_of(&k, &chunk.keys)?, &chunk.sights)?;
                let y = product(&weights, &keys_of(&v, &chunk.keys)?)?;
                parts.push(heads_last(&y, chunk.queries.len())?);
            }
        }
        if parts.is_empty() { q.zeros_like() } else { Tensor::cat(&parts, 0) }
    }

    /// Gradients of q, k and v.
    fn gradients(&self, [q, k, v, gy]: [&Tensor; 4]) -> Result<[Tensor; 3]> {
        let (heads, kv_heads) = (q.dim(1)?, k.dim(1)?);
        let (mut by_q, mut by_k, mut by_v) = (Vec::new(), Vec::new(), Vec::new());
        for (queries, keys) in self.segments().ranges().filter(|(_, keys)| !keys.is_empty()) {
            let m = keys.len();
            let [k, v] = [segment_of(k, &keys)?, segment_of(v, &keys)?];
            // Sums over chunks in at least float32.
            let (mut sum_k, mut sum_v) = (wide(&k)?.zeros_like()?, wide(&v)?.zeros_like()?);
            for chunk in self.chunks(&queries, &keys, heads) {
                let [q, gy] = [rows_of(q, &chunk.queries, kv_heads)?, rows_of(gy, &chunk.queries, kv_heads)?];
                let [k, v] = [keys_of(&k, &chunk.keys)?, keys_of(&v, &chunk.keys)?];
                let weights = self.weights(&q, &k, &chunk.sights)?;
                let by_weights = product(&gy, &v.t()?)?;
                let by_scores = slopes(&weights, &by_weights, self.scale)?;
                by_q.push(heads_last(&product(&by_scores, &k)?, chunk.queries.len())?);
                let whole =
                    |part: Tensor| wide(&part)?.pad_with_zeros(1, chunk.keys.start, m - chunk.keys.end);
                sum_k = (sum_k + whole(product(&by_scores.t()?, &q)?)?)?;
                sum_v = (sum_v + whole(product(&weights.t()?, &gy)?)?)?;
            }
            by_k.push(heads_last(&sum_k.to_dtype(k.dtype())?, m)?);
            by_v.push(heads_last(&sum_v.to_dtype(v.dtype())?, m)?);
        }
        let all = |parts: Vec<Tensor>, of: &Tensor| {
            if parts.is_empty() { of.zeros_like() } else { Tensor::cat(&parts, 0) }
        };
        Ok([all(by_q, q)?, all(by_k, k)?, all(by_v, v)?])
    }

    /// Softmax weights of a chunk: q (Hkv, G*n, K) and k (Hkv, m, K) -> (Hkv, G*n, m), in their type.
    fn weights(&self, q: &Tensor, k: &Tensor, sights: &[Sight]) -> Result<Tensor> {
        let scores = product(q, &k.t()?)?;
        #[cfg(feature = "cuda")]
        if kernels(&[&scores]) == Kernels::Gpu {
            return super::cuda::ops::softmax(&scores, sights, self.scale as f32);
        }
        plain_weights(&scores, sights, self.scale)
    }

    /// As an operation on q, k and v whose result has been `made`, for what will ask for gradients.
    pub(super) fn differentiable(self, q: &Tensor, k: &Tensor, v: &Tensor, made: Tensor) -> Result<Tensor> {
        if ![q, k, v].iter().any(|x| x.track_op()) {
            return Ok(made);
        }
        q.apply_op3(k, v, Attended { chunked: self, output: Premade::new(made)? })
    }
}

/// A segment's keys or values, heads first: (Hkv, m, K).
fn segment_of(x: &Tensor, keys: &Range<usize>) -> Result<Tensor> {
    x.narrow(0, keys.start, keys.len())?.transpose(0, 1)?.contiguous()
}

/// Some of them, (Hkv, fewer, K).
fn keys_of(x: &Tensor, keys: &Range<usize>) -> Result<Tensor> {
    x.narrow(1, keys.start, keys.len())?.contiguous()
}

/// Some of the queries, or what belongs to them: (Hkv, G*n, K).
fn rows_of(x: &Tensor, queries: &Range<usize>, kv_heads: usize) -> Result<Tensor> {
    heads_first(&x.narrow(0, queries.start, queries.len())?, kv_heads)
}

/// Softmax over the last axis of `scores` (.., m), rows of as many heads as there are times queries, over what each query sees;
/// the softmax kernel's twin.
pub(super) fn plain_weights(scores: &Tensor, sights: &[Sight], scale: f64) -> Result<Tensor> {
    let (n, m) = (sights.len(), scores.dim(D::Minus1)?);
    let mask = additive_mask(sights, m, scores.device())?;
    let wide = (wide(scores)? * scale)?.reshape((scores.elem_count() / (n * m), n, m))?;
    let wide = wide.broadcast_add(&mask.to_dtype(wide.dtype())?)?;
    candle_nn::ops::softmax(&wide, D::Minus1)?.reshape(scores.shape())?.to_dtype(scores.dtype())
}

/// The gradient of the scores; the kernel's twin.
pub(super) fn plain_slopes(weights: &Tensor, by_weights: &Tensor, scale: f64) -> Result<Tensor> {
    let (p, g) = (wide(weights)?, wide(by_weights)?);
    let products = (&p * &g)?.sum_keepdim(D::Minus1)?;
    ((p * g.broadcast_sub(&products)?)? * scale)?.to_dtype(weights.dtype())
}

fn slopes(weights: &Tensor, by_weights: &Tensor, scale: f64) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if kernels(&[weights, by_weights]) == Kernels::Gpu {
        return super::cuda::ops::softmax_gradient(weights, by_weights, scale as f32);
    }
    plain_slopes(weights, by_weights, scale)
}

/// Attention that was made before, with its gradient.
struct Attended {
    chunked: Chunked,
    output: Premade,
}

impl CustomOp3 for Attended {
    fn name(&self) -> &'static str {
        "attention-in-chunks"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.output.take_cpu()
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.output.take_cuda()
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _y: &Tensor,
        gy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let gy = gy.to_dtype(q.dtype())?.contiguous()?;
        let [q, k, v] = [q, k, v].map(Tensor::detach);
        let [by_q, by_k, by_v] = self.chunked.gradients([&q, &k, &v, &gy.detach()])?;
        Ok((Some(by_q), Some(by_k), Some(by_v)))
    }
}
