//! The pre-norm block of vision encoders: attention that sees its whole segment (an image, a frame, a window), then a
//! feed-forward, each behind a norm and a residual.

use candle_core::{Result, Tensor};

use super::{Activation, Heads, Linear, Norm, Qkv, RmsNorm, Rope, Segments, attention, swiglu};

/// One block of a vision encoder: (P, E) -> (P, E).
#[derive(Clone, Debug)]
pub struct EncoderLayer {
    /// Before the attention.
    pub norm1: Norm,
    /// Queries, keys and values.
    pub qkv: Qkv,
    /// Norms of queries and keys over all heads together, (E) each.
    pub qk_norm: Option<[RmsNorm; 2]>,
    /// Out of the attention, (E, E).
    pub proj: Linear,
    /// Before the feed-forward.
    pub norm2: Norm,
    /// The feed-forward, (P, E) -> (P, E).
    pub mlp: Mlp,
    /// What the attention's and the feed-forward's outputs are multiplied by, (E) each (layer scale, arXiv 2103.17239).
    pub scales: Option<[Tensor; 2]>,
    /// H.
    pub num_heads: usize,
}

impl EncoderLayer {
    /// x (T, E) -> (T, E); `segments` divides the T patches (one number more than there are segments). Without a rotary
    /// embedding, attention does not know where patches are.
    ///
    /// # Errors
    /// When a shape does not fit or the device fails.
    pub fn forward(&self, x: &Tensor, rope: Option<&Rope>, segments: &[usize]) -> Result<Tensor> {
        let attended = self.attend(&self.norm1.forward(x)?, rope, segments)?;
        let x = (x + self.scaled(attended, 0)?)?;
        let y = self.mlp.forward(&self.norm2.forward(&x)?)?;
        x + self.scaled(y, 1)?
    }

    fn scaled(&self, y: Tensor, which: usize) -> Result<Tensor> {
        match &self.scales {
            Some(scales) => y.broadcast_mul(&scales[which].to_dtype(y.dtype())?),
            None => Ok(y),
        }
    }

    fn attend(&self, x: &Tensor, rope: Option<&Rope>, segments: &[usize]) -> Result<Tensor> {
        let (patches, width) = x.dims2()?;
        let head_width = width / self.num_heads;
        let heads = Heads { queries: self.num_heads, key_values: self.num_heads, width: head_width };
        let [mut q, mut k, v] = self.qkv.forward(x, heads)?;
        if let Some([q_norm, k_norm]) = &self.qk_norm {
            let normed = |norm: &RmsNorm, x: &Tensor| norm.forward(&x.flatten_from(1)?)?.reshape(x.dims());
            (q, k) = (normed(q_norm, &q)?, normed(k_norm, &k)?);
        }
        if let Some(rope) = rope {
            (q, k) = (rope.apply(&q)?, rope.apply(&k)?);
        }
        let scale = 1.0 / (head_width as f64).sqrt();
        let y = attention(&q, &k, &v, &Segments::same(segments), false, scale)?;
        self.proj.forward(&y.reshape((patches, width))?)
    }
}

/// A feed-forward.
#[derive(Clone, Debug)]
pub enum Mlp {
    /// down(activation(up(x))).
    Plain {
        /// (I, E).
        up: Linear,
        /// Between the two.
        activation: Activation,
        /// (E, I).
        down: Linear,
    },
    /// down(activation(gate(x)) * up(x)).
    Gated {
        /// (I, E).
        gate: Linear,
        /// On the gate.
        activation: Activation,
        /// (I, E).
        up: Linear,
        /// (E, I).
        down: Linear,
    },
}

impl Mlp {
    /// x (T, E) -> (T, E).
    ///
    /// # Errors
    /// When a shape does not fit or the device fails.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Plain { up, activation, down } => down.forward(&activation.apply(&up.forward(x)?)?),
            Self::Gated { gate, activation: Activation::Silu, up, down } => {
                down.forward(&swiglu(&gate.forward(x)?, &up.forward(x)?)?)
            }
            Self::Gated { gate, activation, up, down } => {
                let gate = activation.apply(&gate.forward(x)?)?;
                down.forward(&gate.mul(&up.forward(x)?)?)
            }
        }
    }
}
