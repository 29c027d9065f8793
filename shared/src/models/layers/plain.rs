//! Plain twins: each layer as a composite of candle operations that are differentiable on every device.
//!
//! They are what the tests hold the kernels to, gradients included, and what runs where no kernel serves. Norms and
//! softmax compute in float32 whatever the input's type: candle accumulates bfloat16 sums in bfloat16.

use candle_core::{D, DType, Device, Result, Tensor};

use super::attention::{Mask, Sight};
use super::{Rope, Segments};

/// At least float32: candle accumulates sums of half precision in half precision.
pub(super) fn wide(x: &Tensor) -> Result<Tensor> {
    if x.dtype() == DType::F64 { Ok(x.clone()) } else { x.to_dtype(DType::F32) }
}

/// Whether `x` is in 16 bits on a CPU, where candle rounds after each operation inside a kernel too.
fn rounds_inside(x: &Tensor) -> bool {
    matches!((x.device(), x.dtype()), (Device::Cpu, DType::BF16 | DType::F16))
}

/// a b, its sums formed in float32: a GPU does so for 16-bit types by itself, candle on a CPU does not.
pub(super) fn product(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if rounds_inside(a) { wide(a)?.matmul(&wide(b)?)?.to_dtype(a.dtype()) } else { a.matmul(b) }
}

/// An activation of x, rounded once.
fn activation(x: &Tensor, apply: fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    if rounds_inside(x) { apply(&wide(x)?)?.to_dtype(x.dtype()) } else { apply(x) }
}

/// x (.., I) times the transpose of `weight` (O, I), plus `bias` (O).
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let width = x.dim(D::Minus1)?;
    let mut dims = x.dims().to_vec();
    let rows = x.elem_count() / width.max(1);
    let y = product(&x.reshape((rows, width))?, &weight.t()?)?;
    let y = match bias {
        Some(bias) => y.broadcast_add(bias)?,
        None => y,
    };
    if let Some(last) = dims.last_mut() {
        *last = weight.dim(0)?;
    }
    y.reshape(dims)
}

/// A linear layer of (weight, bias) and what the thin matrices A (R, I) and B (O, R) add: x W^T + b + scale (x A^T) B^T.
pub fn adapted(
    x: &Tensor,
    (weight, bias): (&Tensor, Option<&Tensor>),
    [a, b]: [&Tensor; 2],
    scale: f64,
) -> Result<Tensor> {
    let added = linear(&(linear(x, a, None)? * scale)?, b, None)?;
    linear(x, weight, bias)? + added
}

/// x / sqrt(mean(x^2) + eps) * weight over the last axis.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let x32 = wide(x)?;
    let mean = (x32.sqr()?.mean_keepdim(D::Minus1)? + eps)?;
    x32.broadcast_div(&mean.sqrt()?)?.to_dtype(x.dtype())?.broadcast_mul(weight)
}

/// (x - mean) / sqrt(variance + eps) * weight + bias over the last axis.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let x32 = wide(x)?;
    let centred = x32.broadcast_sub(&x32.mean_keepdim(D::Minus1)?)?;
    let variance = (centred.sqr()?.mean_keepdim(D::Minus1)? + eps)?;
    let y = centred.broadcast_div(&variance.sqrt()?)?.to_dtype(x.dtype())?;
    y.broadcast_mul(weight)?.broadcast_add(bias)
}

/// x * sigmoid(x).
pub fn silu(x: &Tensor) -> Result<Tensor> {
    activation(x, Tensor::silu)
}

/// silu(gate) * up, the gate of Llama-style feed-forwards.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    silu(gate)?.mul(up)
}

/// x * Phi(x), the exact form with the error function.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    activation(x, Tensor::gelu_erf)
}

/// The tanh approximation of [`gelu`].
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    activation(x, Tensor::gelu)
}

/// x * sigmoid(1.702 x), as OpenAI's CLIP and Qwen2-VL's vision encoder have it.
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    // sigmoid(z) = (1 + tanh(z / 2)) / 2 keeps to operations with a checked gradient.
    let sigmoid = (((x * 0.851)?.tanh()? + 1.0)? * 0.5)?;
    x.mul(&sigmoid)
}

/// Rotates the halves of each head of x (T, H, K) by the angles of `rope`.
pub fn rope(x: &Tensor, rope: &Rope) -> Result<Tensor> {
    let half = x.dim(D::Minus1)? / 2;
    // (T, K/2) -> (T, 1, K/2): the same angles for every head.
    let cos = rope.cos().to_dtype(x.dtype())?.unsqueeze(1)?;
    let sin = rope.sin().to_dtype(x.dtype())?.unsqueeze(1)?;
    let (a, b) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    Tensor::cat(&[first, second], D::Minus1)
}

/// Softmax attention inside each segment; see [`super::attention`] for the shapes.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    segments: &Segments,
    causal: bool,
    scale: f64,
) -> Result<Tensor> {
    masked_attention(q, k, v, segments, if causal { Mask::Causal } else { Mask::Full }, scale)
}

/// Softmax attention over a range of keys for each query; see [`super::attention_within`].
pub fn attention_within(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    segments: &Segments,
    sights: &[Sight],
    scale: f64,
) -> Result<Tensor> {
    masked_attention(q, k, v, segments, Mask::Sights(sights), scale)
}

/// The same under any mask.
pub(super) fn masked_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    segments: &Segments,
    mask: Mask,
    scale: f64,
) -> Result<Tensor> {
    let mut parts = Vec::with_capacity(segments.len());
    for (queries, keys) in segments.ranges() {
        if queries.is_empty() {
            continue;
        }
        let (n, m) = (queries.len(), keys.len());
        let sights = match mask {
            Mask::Full => None,
            _ => Some(queries.clone().enumerate().map(|(i, query)| mask.sight(query, i, n, m)).collect()),
        };
        let q = q.narrow(0, queries.start, queries.len())?;
        let k = k.narrow(0, keys.start, keys.len())?;
        let v = v.narrow(0, keys.start, keys.len())?;
        parts.push(one_segment(&q, &k, &v, sights, scale)?);
    }
    if parts.is_empty() { q.zeros_like() } else { Tensor::cat(&parts, 0) }
}

/// Attention of n queries (n, H, K) over m keys (m, Hkv, K).
fn one_segment(q: &Tensor, k: &Tensor, v: &Tensor, sights: Option<Vec<Sight>>, scale: f64) -> Result<Tensor> {
    let (n, heads, _) = q.dims3()?;
    let (m, kv_heads, _) = k.dims3()?;
    let group = heads / kv_heads;
    let (q, k, v) = (heads_first(q, kv_heads)?, heads_first(k, kv_heads)?, heads_first(v, kv_heads)?);
    let scores = (wide(&product(&q, &k.t()?)?)? * scale)?;
    let scores = match sights {
        Some(sights) => {
            let mask = additive_mask(&sights, m, q.device())?.to_dtype(scores.dtype())?;
            scores.reshape((kv_heads * group, n, m))?.broadcast_add(&mask)?.reshape((
                kv_heads,
                group * n,
                m,
            ))?
        }
        None => scores,
    };
    let weights = candle_nn::ops::softmax(&scores, D::Minus1)?.to_dtype(v.dtype())?;
    heads_last(&product(&weights, &v)?, n)
}

/// x (n, H, K) -> (Hkv, G*n, K): the heads of a group share their keys in one product.
pub(super) fn heads_first(x: &Tensor, kv_heads: usize) -> Result<Tensor> {
    let (n, heads, width) = x.dims3()?;
    let group = heads / kv_heads;
    let x = x.reshape((n, kv_heads, group, width))?.permute((1, 2, 0, 3))?;
    x.contiguous()?.reshape((kv_heads, group * n, width))
}

/// x (Hkv, G*n, K) -> (n, H, K).
pub(super) fn heads_last(x: &Tensor, n: usize) -> Result<Tensor> {
    let (kv_heads, rows, width) = x.dims3()?;
    let group = rows / n.max(1);
    let x = x.reshape((kv_heads, group, n, width))?.permute((2, 0, 1, 3))?;
    x.contiguous()?.reshape((n, kv_heads * group, width))
}

/// 0 where a query sees key j of m, -inf elsewhere, (n, m).
pub(super) fn additive_mask(sights: &[Sight], m: usize, device: &Device) -> Result<Tensor> {
    let mut mask = vec![f32::NEG_INFINITY; sights.len() * m];
    for (&[from, to], row) in sights.iter().zip(mask.chunks_exact_mut(m.max(1))) {
        row[from..to].fill(0.0);
    }
    Tensor::from_vec(mask, (sights.len(), m), device)
}
