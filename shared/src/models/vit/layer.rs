//! One block's weights.

use candle_core::Result;

use super::VitConfig;
use crate::models::layers::{EncoderLayer, Mlp, Norm, Qkv};
use crate::models::weights::{WeightSource, layer_norm};

/// The block whose weights lie under `prefix`.
pub(super) fn layer(config: &VitConfig, prefix: &str, source: &mut dyn WeightSource) -> Result<EncoderLayer> {
    let (width, mlp, eps) = (config.width, config.mlp_width, config.norm_eps);
    let name = |part: &str| format!("{prefix}.{part}");
    let square = [width, width];
    Ok(EncoderLayer {
        norm1: Norm::Layer(layer_norm(source, &name("layer_norm1"), width, eps)?),
        qkv: Qkv::Separate([
            source.linear(&name("self_attn.q_proj"), square, true)?,
            source.linear(&name("self_attn.k_proj"), square, true)?,
            source.linear(&name("self_attn.v_proj"), square, true)?,
        ]),
        qk_norm: None,
        proj: source.linear(&name("self_attn.out_proj"), square, true)?,
        norm2: Norm::Layer(layer_norm(source, &name("layer_norm2"), width, eps)?),
        mlp: Mlp::Plain {
            up: source.linear(&name("mlp.fc1"), [mlp, width], true)?,
            activation: config.activation,
            down: source.linear(&name("mlp.fc2"), [width, mlp], true)?,
        },
        scales: None,
        num_heads: config.num_heads,
    })
}
