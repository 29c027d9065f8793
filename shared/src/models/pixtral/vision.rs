//! Pixtral's vision encoder: a pre-norm ViT of RMS norms and gated feed-forwards without biases over patches of any
//! resolution, row by row. An image attends to itself.

use candle_core::{DType, Result, Tensor};

use super::config::VisionConfig;
use crate::image::{ImageInput, cut_planes};
use crate::models::blocks::Blocks;
use crate::models::layers::{EncoderLayer, Linear, Mlp, Norm, Qkv, RmsNorm, Rope};
use crate::models::tower::{Patches, unfit};
use crate::models::transfer::upload;
use crate::models::weights::{WeightSource, rms_norm};

/// Epsilon of every norm; no configuration changes it.
const NORM_EPS: f64 = 1e-5;

/// Pixtral's vision encoder.
pub(in crate::models) struct VisionModel {
    config: VisionConfig,
    /// A convolution whose stride is its kernel, (E, C, p, p): a linear layer over flattened patches.
    patch_weight: Tensor,
    pre_norm: RmsNorm,
    blocks: Blocks<EncoderLayer>,
}

impl VisionModel {
    pub(in crate::models) fn build(config: &VisionConfig, source: &mut dyn WeightSource) -> Result<Self> {
        let p = config.patch_size;
        let kernel = [config.width, config.num_channels, p, p];
        let of_block = config.clone();
        Ok(Self {
            patch_weight: source.get("vision_tower.patch_conv.weight", &kernel)?,
            pre_norm: rms_norm(source, "vision_tower.ln_pre", config.width, NORM_EPS)?,
            blocks: Blocks::build(config.num_layers, source, move |i, source| layer(&of_block, i, source))?,
            config: config.clone(),
        })
    }

    /// (rows, columns) of an image's patches.
    pub(in crate::models) fn grid(&self, image: &ImageInput) -> Result<[usize; 2]> {
        self.config.grid(image).map_err(unfit)
    }

    /// Between [`embed`](Self::embed) and the projector.
    pub(in crate::models) fn blocks(&self) -> &Blocks<EncoderLayer> {
        &self.blocks
    }

    /// Patches of all images, row by row, (P, E), in the compute dtype.
    pub(in crate::models) fn embed(&self, images: &[ImageInput], dtype: DType) -> Result<Patches> {
        let (p, channels) = (self.config.patch_size, self.config.num_channels);
        let (mut patches, mut positions, mut boundaries) = (Vec::new(), Vec::new(), vec![0]);
        for image in images {
            let [rows, columns] = self.grid(image)?;
            cut_planes(&image.pixels, [channels, rows * p, columns * p], [p, p], &mut patches);
            let columns = columns as u32;
            positions.extend((0..rows as u32).flat_map(|row| (0..columns).map(move |column| [row, column])));
            boundaries.push(positions.len());
        }
        let device = self.patch_weight.device();
        let patches = upload(patches, (positions.len(), channels * p * p), device)?.to_dtype(dtype)?;
        let x = Linear::new(self.patch_weight.flatten_from(1)?, None).forward(&patches)?;
        let x = self.pre_norm.forward(&x)?;
        let head_width = self.config.width / self.config.num_heads;
        let rope = Rope::dealt_grid(&positions, head_width, self.config.rope_theta, device)?;
        Ok(Patches::new(x, Some(rope), boundaries))
    }
}

fn layer(config: &VisionConfig, index: usize, source: &mut dyn WeightSource) -> Result<EncoderLayer> {
    let (width, mlp) = (config.width, config.mlp_width);
    let name = |part: &str| format!("vision_tower.transformer.layers.{index}.{part}");
    let norm1 = Norm::Rms(rms_norm(source, &name("attention_norm"), width, NORM_EPS)?);
    let norm2 = Norm::Rms(rms_norm(source, &name("ffn_norm"), width, NORM_EPS)?);
    let mut layer = |part: &str, shape: [usize; 2]| source.linear(&name(part), shape, false);
    Ok(EncoderLayer {
        norm1,
        qkv: Qkv::Separate([
            layer("attention.q_proj", [width, width])?,
            layer("attention.k_proj", [width, width])?,
            layer("attention.v_proj", [width, width])?,
        ]),
        qk_norm: None,
        proj: layer("attention.o_proj", [width, width])?,
        norm2,
        mlp: Mlp::Gated {
            gate: layer("feed_forward.gate_proj", [mlp, width])?,
            activation: config.activation,
            up: layer("feed_forward.up_proj", [mlp, width])?,
            down: layer("feed_forward.down_proj", [width, mlp])?,
        },
        scales: None,
        num_heads: config.num_heads,
    })
}
