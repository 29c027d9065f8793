//! Attention inside packed segments: never padded, never across samples.

use std::ops::Range;

use candle_core::{Result, Tensor, bail};

use super::cpu::attention::AttentionOp;
#[cfg(feature = "cuda")]
use super::cuda;
use super::{Kernels, kernels, plain};

/// Boundaries of the segments in packed queries and keys: each list has one number more than there are segments,
/// from 0 to Tq or Tk.
#[derive(Clone, Copy, Debug)]
pub struct Segments<'a> {
    /// Cumulative query counts.
    pub q: &'a [usize],
    /// Cumulative key counts.
    pub kv: &'a [usize],
}

impl<'a> Segments<'a> {
    /// The same tokens are queries and keys.
    pub fn same(cu_seqlens: &'a [usize]) -> Segments<'a> {
        Segments { q: cu_seqlens, kv: cu_seqlens }
    }

    /// Number of segments.
    pub fn len(&self) -> usize {
        self.q.len().saturating_sub(1)
    }

    /// Whether there is no segment.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// (queries, keys) of each segment.
    pub fn ranges(&self) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        self.q.windows(2).zip(self.kv.windows(2)).map(|(q, kv)| (q[0]..q[1], kv[0]..kv[1]))
    }

    /// Checks that both lists grow and end at `queries` and `keys`, and, if causal, that no query lacks a key.
    fn check(&self, queries: usize, keys: usize, causal: bool) -> Result<()> {
        let grows = |cu: &[usize], end: usize| {
            cu.first() == Some(&0) && cu.last() == Some(&end) && cu.windows(2).all(|w| w[0] <= w[1])
        };
        if self.q.len() != self.kv.len() || !grows(self.q, queries) || !grows(self.kv, keys) {
            bail!("segments {self:?} do not divide {queries} queries and {keys} keys")
        }
        for (q, kv) in self.ranges() {
            if (causal && q.len() > kv.len()) || (kv.is_empty() && !q.is_empty()) {
                bail!("a segment of {} queries has only {} keys", q.len(), kv.len())
            }
        }
        Ok(())
    }
}

/// The keys that one query sees, counted in its segment: from the first to before the second.
pub type Sight = [usize; 2];

/// Which of its segment's keys a query sees.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mask<'a> {
    /// All of them.
    Full,
    /// Those up to itself, a segment's queries being the last of its keys.
    Causal,
    /// A range for each packed query.
    Sights(&'a [Sight]),
}

impl Mask<'_> {
    /// What query `query` of all, which is `index` of `n` in its segment of `m` keys, sees.
    pub(super) fn sight(self, query: usize, index: usize, n: usize, m: usize) -> Sight {
        match self {
            Self::Full => [0, m],
            Self::Causal => [0, index + 1 + m - n],
            Self::Sights(sights) => sights[query],
        }
    }
}

/// [`Mask`], kept for the backward.
#[derive(Clone, Debug)]
pub(super) enum OwnedMask {
    Full,
    Causal,
    Sights(Vec<Sight>),
}

impl From<Mask<'_>> for OwnedMask {
    fn from(mask: Mask<'_>) -> Self {
        match mask {
            Mask::Full => Self::Full,
            Mask::Causal => Self::Causal,
            Mask::Sights(sights) => Self::Sights(sights.to_vec()),
        }
    }
}

impl OwnedMask {
    pub(super) fn as_mask(&self) -> Mask<'_> {
        match self {
            Self::Full => Mask::Full,
            Self::Causal => Mask::Causal,
            Self::Sights(sights) => Mask::Sights(sights),
        }
    }
}

/// As [`attention`], where query t of all sees the keys `sights[t]` of its segment: sliding windows, images and prefixes
/// that see all of themselves.
///
/// # Errors
/// As [`attention`], and when a query sees nothing or keys that are not there.
pub fn attention_within(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    segments: &Segments,
    sights: &[Sight],
    scale: f64,
) -> Result<Tensor> {
    if sights.len() != q.dim(0)? {
        bail!("{} queries see {} ranges of keys", q.dim(0)?, sights.len())
    }
    for (queries, keys) in segments.ranges() {
        let seen = sights.get(queries.clone()).unwrap_or_default();
        if let Some([from, to]) = seen.iter().find(|[from, to]| from >= to || *to > keys.len()) {
            bail!("a query sees keys {from}..{to} of {}", keys.len())
        }
    }
    masked(q, k, v, segments, Mask::Sights(sights), scale)
}

/// softmax(q k^T * scale) v inside each segment: q (Tq, H, K), k and v (Tk, Hkv, K) -> (Tq, H, K).
///
/// H is a multiple of Hkv; head h reads key-value head h / (H / Hkv). If causal, a segment's queries are the last
/// of its keys.
///
/// # Errors
/// When the shapes or the segments do not fit each other.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    segments: &Segments,
    causal: bool,
    scale: f64,
) -> Result<Tensor> {
    masked(q, k, v, segments, if causal { Mask::Causal } else { Mask::Full }, scale)
}

fn masked(q: &Tensor, k: &Tensor, v: &Tensor, segments: &Segments, mask: Mask, scale: f64) -> Result<Tensor> {
    let (tq, heads, width) = q.dims3()?;
    let (tk, kv_heads, _) = k.dims3()?;
    if k.dims() != v.dims() || k.dim(2)? != width || kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
        bail!("attention of q {:?}, k {:?}, v {:?}", q.dims(), k.dims(), v.dims())
    }
    segments.check(tq, tk, matches!(mask, Mask::Causal))?;
    match kernels(&[q, k, v]) {
        Kernels::Cpu => {
            let op = AttentionOp {
                cu_q: segments.q.to_vec(),
                cu_kv: segments.kv.to_vec(),
                mask: mask.into(),
                scale: scale as f32,
            };
            q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, op)
        }
        #[cfg(feature = "cuda")]
        Kernels::Gpu => cuda::attention::attention([q, k, v], segments, mask, scale),
        Kernels::None => plain::masked_attention(q, k, v, segments, mask, scale),
    }
}
