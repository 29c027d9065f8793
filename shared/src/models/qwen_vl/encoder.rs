//! The vision encoder of the Qwen-VL families: patches, blocks and a merger. Families differ in norms, feed-forwards and
//! names, and in what they do around the blocks.

use candle_core::Result;
use serde::Serialize;
use serde_json::Value;

use super::merger::Merger;
use super::patches::{PatchEmbed, PatchShape};
use crate::models::blocks::Blocks;
use crate::models::fields::{Parsed, count, only};
use crate::models::layers::{Activation, EncoderLayer, Mlp, Norm, Qkv, Rope};
use crate::models::weights::{WeightSource, layer_norm, rms_norm};

/// Epsilon of every norm; no configuration changes it.
const NORM_EPS: f64 = 1e-6;

/// Sizes of a vision encoder.
#[derive(Clone, Debug, Serialize)]
pub(in crate::models) struct EncoderConfig {
    /// Number of blocks.
    pub depth: usize,
    /// E.
    pub width: usize,
    /// I of the feed-forwards.
    pub mlp_width: usize,
    /// H.
    pub num_heads: usize,
    /// Pixels of a patch, and patches that are merged.
    pub patch: PatchShape,
    /// The function in the feed-forwards.
    pub activation: Activation,
}

/// Heads of an encoder of `width`.
pub(in crate::models) fn num_heads(json: &Value, width: usize) -> Parsed<usize> {
    let heads = count(json, "num_heads", 16)?;
    // The rotary embedding splits a head between rows and columns, and each of these in halves.
    let divides = heads > 0 && width.is_multiple_of(4 * heads);
    only(divides, format!("{heads} vision heads of a width of {width}"))?;
    Ok(heads)
}

/// What a family's encoder is made of, and its names.
pub(in crate::models) struct Style {
    /// RMS norms, not layer norms.
    pub rms_norms: bool,
    /// The convolution over patches has a bias.
    pub patch_bias: bool,
    /// The two layers of a plain feed-forward; a gated one always has the same names.
    pub plain_mlp: Option<[&'static str; 2]>,
    /// The norm before the merger's layers.
    pub merger_norm: &'static str,
    /// The merger's two layers.
    pub merger: [&'static str; 2],
}

/// Patches, blocks and merger.
pub(in crate::models) struct Encoder {
    /// Its sizes.
    pub config: EncoderConfig,
    /// From pixels to rows of width E.
    pub patch_embed: PatchEmbed,
    /// The attention blocks, in order.
    pub blocks: Blocks<EncoderLayer>,
    /// From rows of width E to the decoder's.
    pub merger: Merger,
}

impl Encoder {
    /// An encoder whose rows have `width` numbers.
    pub(in crate::models) fn build(
        config: &EncoderConfig,
        style: &'static Style,
        width: usize,
        source: &mut dyn WeightSource,
    ) -> Result<Self> {
        let of_block = config.clone();
        Ok(Self {
            patch_embed: PatchEmbed::build(config.patch, config.width, style.patch_bias, source)?,
            blocks: Blocks::build(config.depth, source, move |i, source| layer(&of_block, style, i, source))?,
            merger: merger(config, style, ("visual.merger", false), width, source)?,
            config: config.clone(),
        })
    }

    /// The rotary embedding of patches at these (row, column).
    pub(in crate::models) fn rope(&self, positions: &[[u32; 2]]) -> Result<Rope> {
        self.patch_embed.rope(positions, self.config.width / self.config.num_heads)
    }
}

/// The merger under `name`; its norm is over each patch, or over the merged ones together.
pub(in crate::models) fn merger(
    config: &EncoderConfig,
    style: &Style,
    (name, is_norm_merged): (&str, bool),
    width: usize,
    source: &mut dyn WeightSource,
) -> Result<Merger> {
    let merged = config.width * config.patch.merge_size.pow(2);
    let norm_width = if is_norm_merged { merged } else { config.width };
    let norm = norm(style, &format!("{name}.{}", style.merger_norm), norm_width, source)?;
    let [up, down] = style.merger.map(|layer| format!("{name}.{layer}"));
    Ok(Merger {
        norm,
        is_norm_merged,
        up: source.linear(&up, [merged, merged], true)?,
        down: source.linear(&down, [width, merged], true)?,
    })
}

fn norm(style: &Style, name: &str, width: usize, source: &mut dyn WeightSource) -> Result<Norm> {
    Ok(match style.rms_norms {
        true => Norm::Rms(rms_norm(source, name, width, NORM_EPS)?),
        false => Norm::Layer(layer_norm(source, name, width, NORM_EPS)?),
    })
}

fn layer(
    config: &EncoderConfig,
    style: &Style,
    index: usize,
    source: &mut dyn WeightSource,
) -> Result<EncoderLayer> {
    let (width, mlp_width, activation) = (config.width, config.mlp_width, config.activation);
    let name = |part: &str| format!("visual.blocks.{index}.{part}");
    let norms = [norm(style, &name("norm1"), width, source)?, norm(style, &name("norm2"), width, source)?];
    let mut layer = |part: &str, shape: [usize; 2]| source.linear(&name(part), shape, true);
    let mlp = match style.plain_mlp {
        Some([up, down]) => Mlp::Plain {
            up: layer(up, [mlp_width, width])?,
            activation,
            down: layer(down, [width, mlp_width])?,
        },
        None => Mlp::Gated {
            gate: layer("mlp.gate_proj", [mlp_width, width])?,
            activation,
            up: layer("mlp.up_proj", [mlp_width, width])?,
            down: layer("mlp.down_proj", [width, mlp_width])?,
        },
    };
    let [norm1, norm2] = norms;
    Ok(EncoderLayer {
        norm1,
        qkv: Qkv::Stacked(layer("attn.qkv", [3 * width, width])?),
        qk_norm: None,
        proj: layer("attn.proj", [width, width])?,
        norm2,
        mlp,
        scales: None,
        num_heads: config.num_heads,
    })
}
