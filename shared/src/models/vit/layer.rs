//! One block: attention and a feed-forward, each behind a layer norm.

use candle_core::{Result, Tensor};

use super::VitConfig;
use crate::models::fields::Activation;
use crate::models::layers::{LayerNorm, Linear, Segments, attention};
use crate::models::weights::WeightSource;

pub(super) struct Layer {
    norm_1: LayerNorm,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    norm_2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    num_heads: usize,
    activation: Activation,
}

/// A layer norm of the encoder's width.
pub(super) fn norm(config: &VitConfig, name: &str, source: &mut dyn WeightSource) -> Result<LayerNorm> {
    let weight = source.get(&format!("{name}.weight"), &[config.width])?;
    Ok(LayerNorm::new(weight, source.get(&format!("{name}.bias"), &[config.width])?, config.norm_eps))
}

/// The linear layers of a block, (name, [to, from]).
fn linears(config: &VitConfig) -> [(&'static str, [usize; 2]); 6] {
    let (width, mlp) = (config.width, config.mlp_width);
    [
        ("self_attn.q_proj", [width, width]),
        ("self_attn.k_proj", [width, width]),
        ("self_attn.v_proj", [width, width]),
        ("self_attn.out_proj", [width, width]),
        ("mlp.fc1", [mlp, width]),
        ("mlp.fc2", [width, mlp]),
    ]
}

impl Layer {
    pub(super) fn build(config: &VitConfig, prefix: &str, source: &mut dyn WeightSource) -> Result<Self> {
        let mut linear = |(name, shape): (&str, [usize; 2])| -> Result<Linear> {
            let weight = source.get(&format!("{prefix}.{name}.weight"), &shape)?;
            Ok(Linear::new(weight, Some(source.get(&format!("{prefix}.{name}.bias"), &shape[..1])?)))
        };
        let [q, k, v, out, fc1, fc2] = linears(config);
        Ok(Self {
            q_proj: linear(q)?,
            k_proj: linear(k)?,
            v_proj: linear(v)?,
            out_proj: linear(out)?,
            fc1: linear(fc1)?,
            fc2: linear(fc2)?,
            norm_1: norm(config, &format!("{prefix}.layer_norm1"), source)?,
            norm_2: norm(config, &format!("{prefix}.layer_norm2"), source)?,
            num_heads: config.num_heads,
            activation: config.activation,
        })
    }

    /// Names the weights of a block that does not run.
    pub(super) fn pass_over(config: &VitConfig, prefix: &str, source: &mut dyn WeightSource) -> Result<()> {
        for (name, shape) in linears(config) {
            source.pass_over(&format!("{prefix}.{name}.weight"), &shape)?;
            source.pass_over(&format!("{prefix}.{name}.bias"), &shape[..1])?;
        }
        for name in ["layer_norm1.weight", "layer_norm1.bias", "layer_norm2.weight", "layer_norm2.bias"] {
            source.pass_over(&format!("{prefix}.{name}"), &[config.width])?;
        }
        Ok(())
    }

    /// x (N*R, E) -> the same; `tiles` divides it.
    pub(super) fn forward(&self, x: &Tensor, tiles: &[usize]) -> Result<Tensor> {
        let x = (x + self.attend(&self.norm_1.forward(x)?, tiles)?)?;
        let y = self.activation.apply(&self.fc1.forward(&self.norm_2.forward(&x)?)?)?;
        x + self.fc2.forward(&y)?
    }

    fn attend(&self, x: &Tensor, tiles: &[usize]) -> Result<Tensor> {
        let (rows, width) = x.dims2()?;
        let heads = (rows, self.num_heads, width / self.num_heads);
        let q = self.q_proj.forward(x)?.reshape(heads)?;
        let k = self.k_proj.forward(x)?.reshape(heads)?;
        let v = self.v_proj.forward(x)?.reshape(heads)?;
        let scale = 1.0 / (heads.2 as f64).sqrt();
        let y = attention(&q, &k, &v, &Segments::same(tiles), false, scale)?;
        self.out_proj.forward(&y.reshape((rows, width))?)
    }
}
