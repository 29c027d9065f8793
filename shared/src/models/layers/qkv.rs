//! Queries, keys and values of one input, however a checkpoint lays out their weights.

use candle_core::{Result, Tensor};

use super::Linear;
#[cfg(feature = "cuda")]
use super::{Kernels, kernels};

/// H, Hkv and K.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Query heads, H.
    pub queries: usize,
    /// Key-value heads, Hkv; H is a multiple of it.
    pub key_values: usize,
    /// Width of a head, K.
    pub width: usize,
}

/// The projections to queries, keys and values.
#[derive(Clone, Debug)]
pub enum Qkv {
    /// One layer each: queries, keys, values.
    Separate([Linear; 3]),
    /// All queries, then all keys, then all values, of as many heads each.
    Stacked(Linear),
    /// For each key-value head its group's queries, its key and its value, as InternLM2 has it.
    Grouped(Linear),
}

impl Qkv {
    /// The layers by the names of their weights in a decoder block.
    pub(super) fn linears_mut(&mut self) -> Vec<(&'static str, &mut Linear)> {
        match self {
            Self::Separate([q, k, v]) => {
                vec![("self_attn.q_proj", q), ("self_attn.k_proj", k), ("self_attn.v_proj", v)]
            }
            Self::Stacked(qkv) | Self::Grouped(qkv) => vec![("self_attn.qkv_proj", qkv)],
        }
    }

    /// x (T, D) -> q (T, H, K), k and v (T, Hkv, K).
    ///
    /// # Errors
    /// When a shape does not fit or the device fails.
    pub fn forward(&self, x: &Tensor, heads: Heads) -> Result<[Tensor; 3]> {
        let tokens = x.dim(0)?;
        let Heads { queries, key_values, width } = heads;
        // Three products of a GPU's cost less than one product and three copies out of its rows.
        #[cfg(feature = "cuda")]
        if let Self::Stacked(qkv) = self
            && kernels(&[x]) == Kernels::Gpu
            && let Some(parts) = qkv.apart()?
        {
            return Self::Separate(parts).forward(x, heads);
        }
        match self {
            Self::Separate([q, k, v]) => Ok([
                q.forward(x)?.reshape((tokens, queries, width))?,
                k.forward(x)?.reshape((tokens, key_values, width))?,
                v.forward(x)?.reshape((tokens, key_values, width))?,
            ]),
            Self::Stacked(qkv) => {
                let y = qkv.forward(x)?.reshape((tokens, 3, queries, width))?;
                let part = |i: usize| y.narrow(1, i, 1)?.contiguous()?.reshape((tokens, queries, width));
                Ok([part(0)?, part(1)?, part(2)?])
            }
            Self::Grouped(qkv) => {
                let group = queries / key_values;
                let y = qkv.forward(x)?.reshape((tokens, key_values, group + 2, width))?;
                let part = |from: usize, count: usize| {
                    y.narrow(2, from, count)?.contiguous()?.reshape((tokens, key_values * count, width))
                };
                Ok([part(0, group)?, part(group, 1)?, part(group + 1, 1)?])
            }
        }
    }
}
