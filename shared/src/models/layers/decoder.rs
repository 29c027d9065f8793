//! The decoder block of Qwen, Llama, Mistral and Gemma: attention with grouped key-value heads, then a gated feed-forward,
//! each behind an RMS norm and a residual. All families and the Recalibrator are made of it.

use candle_core::{Result, Tensor};

use super::{
    BlockWeights, Heads, KvLayer, Linear, Qkv, RmsNorm, Rope, Segments, Sight, attention, attention_within,
    gelu_tanh, swiglu,
};
use crate::models::{DecoderConfig, GemmaBlocks};

/// One block of a decoder: (T, D) -> (T, D).
#[derive(Clone, Debug)]
pub struct DecoderLayer {
    input_norm: RmsNorm,
    qkv: Qkv,
    /// Norms of each head's queries and keys, (K) each.
    qk_norm: Option<[RmsNorm; 2]>,
    o_proj: Linear,
    post_norm: RmsNorm,
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
    heads: Heads,
    /// Norms of what attention and feed-forward add to the residual.
    added_norms: Option<[RmsNorm; 2]>,
    gemma: Option<GemmaBlocks>,
}

impl DecoderLayer {
    /// A block of `weights`, whose names are those under `model.layers.N.` on the hub.
    ///
    /// # Errors
    /// Those of `weights`.
    pub fn new(cfg: &DecoderConfig, weights: &mut impl BlockWeights) -> Result<DecoderLayer> {
        let (d, i) = (cfg.hidden_size, cfg.intermediate_size);
        let (q, kv) = (cfg.num_heads * cfg.head_dim, cfg.num_kv_heads * cfg.head_dim);
        let mut norm = |name: &str, width: usize| -> Result<RmsNorm> {
            Ok(cfg.rms_norm(weights.get(&format!("{name}.weight"), &[width])?))
        };
        let qk_norm = match cfg.qk_norm {
            true => Some([norm("self_attn.q_norm", cfg.head_dim)?, norm("self_attn.k_norm", cfg.head_dim)?]),
            false => None,
        };
        let input_norm = norm("input_layernorm", d)?;
        // Gemma 3's names: what others call the norm after attention stands before the feed-forward there.
        let (post_norm, added_norms) = match cfg.gemma {
            Some(GemmaBlocks { added_norms: true, .. }) => {
                let added = [norm("post_attention_layernorm", d)?, norm("post_feedforward_layernorm", d)?];
                (norm("pre_feedforward_layernorm", d)?, Some(added))
            }
            _ => (norm("post_attention_layernorm", d)?, None),
        };
        let qkv = match cfg.fused_qkv && !weights.has_qkv_apart() {
            true => Qkv::Grouped(weights.linear("self_attn.qkv_proj", [q + 2 * kv, d], cfg.qkv_bias)?),
            false => Qkv::Separate([
                weights.linear("self_attn.q_proj", [q, d], cfg.qkv_bias)?,
                weights.linear("self_attn.k_proj", [kv, d], cfg.qkv_bias)?,
                weights.linear("self_attn.v_proj", [kv, d], cfg.qkv_bias)?,
            ]),
        };
        Ok(DecoderLayer {
            input_norm,
            qkv,
            qk_norm,
            o_proj: weights.linear("self_attn.o_proj", [d, q], false)?,
            post_norm,
            gate_proj: weights.linear("mlp.gate_proj", [i, d], false)?,
            up_proj: weights.linear("mlp.up_proj", [i, d], false)?,
            down_proj: weights.linear("mlp.down_proj", [d, i], false)?,
            heads: Heads { queries: cfg.num_heads, key_values: cfg.num_kv_heads, width: cfg.head_dim },
            added_norms,
            gemma: cfg.gemma,
        })
    }

    /// The linear layers by their names under the block.
    pub fn linears_mut(&mut self) -> Vec<(&'static str, &mut Linear)> {
        let mut linears = self.qkv.linears_mut();
        linears.extend([
            ("self_attn.o_proj", &mut self.o_proj),
            ("mlp.gate_proj", &mut self.gate_proj),
            ("mlp.up_proj", &mut self.up_proj),
            ("mlp.down_proj", &mut self.down_proj),
        ]);
        linears
    }

    /// x (T, D) -> (T, D). `cu_seqlens` divides the T tokens into samples (S+1 numbers); with a cache, they are the
    /// tokens after those that it already holds, and it grows by them.
    ///
    /// # Errors
    /// When a shape does not fit or the device fails.
    pub fn forward(
        &self,
        x: &Tensor,
        rope: &Rope,
        cu_seqlens: &[usize],
        cache: Option<&mut KvLayer>,
    ) -> Result<Tensor> {
        self.forward_within(x, rope, None, cu_seqlens, cache)
    }

    /// As [`forward`](Self::forward), where token t sees the tokens `sights[t]` of its sample, those in the cache
    /// counted; without `sights`, those before it.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and when a token sees nothing or tokens that are not there.
    pub fn forward_within(
        &self,
        x: &Tensor,
        rope: &Rope,
        sights: Option<&[Sight]>,
        cu_seqlens: &[usize],
        cache: Option<&mut KvLayer>,
    ) -> Result<Tensor> {
        let attended = self.attend(&self.input_norm.forward(x)?, rope, sights, cu_seqlens, cache)?;
        self.after_attention(x, &attended)
    }

    /// As [`forward_within`](Self::forward_within) without a cache, for some `rows` (R) of x alone: (R, D).
    ///
    /// # Errors
    /// As [`forward_within`](Self::forward_within), and when there is no such row.
    pub fn forward_at(
        &self,
        x: &Tensor,
        rope: &Rope,
        sights: Option<&[Sight]>,
        cu_seqlens: &[usize],
        rows: &Tensor,
    ) -> Result<Tensor> {
        let attended = self.attend(&self.input_norm.forward(x)?, rope, sights, cu_seqlens, None)?;
        self.after_attention(&x.index_select(rows, 0)?, &attended.index_select(rows, 0)?)
    }

    /// From x and what each row of it attended to, (T, H K), to the block's output.
    fn after_attention(&self, x: &Tensor, attended: &Tensor) -> Result<Tensor> {
        let x = (x + self.added(self.o_proj.forward(attended)?, 0)?)?;
        let y = self.post_norm.forward(&x)?;
        let (gate, up) = (self.gate_proj.forward(&y)?, self.up_proj.forward(&y)?);
        let y = if self.gemma.is_some() { gelu_tanh(&gate)?.mul(&up)? } else { swiglu(&gate, &up)? };
        x + self.added(self.down_proj.forward(&y)?, 1)?
    }

    fn added(&self, y: Tensor, which: usize) -> Result<Tensor> {
        match &self.added_norms {
            Some(norms) => norms[which].forward(&y),
            None => Ok(y),
        }
    }

    /// What each token takes of those it sees, (T, H K).
    fn attend(
        &self,
        x: &Tensor,
        rope: &Rope,
        sights: Option<&[Sight]>,
        cu_seqlens: &[usize],
        cache: Option<&mut KvLayer>,
    ) -> Result<Tensor> {
        let (tokens, width) = (x.dim(0)?, self.heads.width);
        let [mut q, mut k, v] = self.qkv.forward(x, self.heads)?;
        if let Some([q_norm, k_norm]) = &self.qk_norm {
            (q, k) = (q_norm.forward(&q)?, k_norm.forward(&k)?);
        }
        let (q, k) = (rope.apply(&q)?, rope.apply(&k)?);
        let held = cache.map(|cache| cache.append(&k, &v, cu_seqlens)).transpose()?;
        let (k, v, segments) = match &held {
            None => (&k, &v, Segments::same(cu_seqlens)),
            Some(held) => (&held.keys, &held.values, held.segments()),
        };
        let scale = 1.0 / self.gemma.map_or(width as f64, |gemma| gemma.query_scalar).sqrt();
        let y = match sights {
            None => attention(&q, k, v, &segments, true, scale)?,
            Some(sights) => attention_within(&q, k, v, &segments, sights, scale)?,
        };
        y.reshape((tokens, self.heads.queries * width))
    }
}
