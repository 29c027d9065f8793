//! Attention on a GPU: in one kernel where there is one for it, else in chunks; either way with the gradient of the chunks.

use candle_core::{Result, Tensor};

use super::super::Segments;
use super::super::attention::Mask;
use super::super::chunked::Chunked;
use super::flash;

/// See [`attention`](super::super::attention) for the shapes.
pub(in super::super) fn attention(
    [q, k, v]: [&Tensor; 3],
    segments: &Segments,
    mask: Mask,
    scale: f64,
) -> Result<Tensor> {
    let mask = flash::simplest(mask, segments);
    let [q, k, v] = [q.contiguous()?, k.contiguous()?, v.contiguous()?];
    let chunked = Chunked::new(segments, mask, scale);
    let [bare_q, bare_k, bare_v] = [q.detach(), k.detach(), v.detach()];
    let y = match flash::attention([&bare_q, &bare_k, &bare_v], segments, mask, scale)? {
        Some(y) => y,
        None => chunked.forward(&bare_q, &bare_k, &bare_v)?,
    };
    chunked.differentiable(&q, &k, &v, y)
}
