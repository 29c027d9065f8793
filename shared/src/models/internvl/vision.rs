//! InternVL's vision encoder: a ViT with a CLS token, learned positions and layer scale, over tiles of one size.
//!
//! Legend: N tiles, P patches of a tile, E vision width. A tile attends to itself.

use candle_core::{DType, Device, Result, Tensor};

use super::config::VisionConfig;
use crate::image::{ImageInput, cut_planes};
use crate::models::blocks::Blocks;
use crate::models::layers::{EncoderLayer, LayerNorm, Linear, Mlp, Norm, Qkv};
use crate::models::tower::{Patches, unfit};
use crate::models::transfer::upload;
use crate::models::weights::{WeightSource, layer_norm, rms_norm};

/// The norms on queries and keys keep their class default, whatever `layer_norm_eps` says.
const QK_NORM_EPS: f64 = 1e-6;

/// InternVL's vision encoder.
pub(super) struct VisionModel {
    config: VisionConfig,
    /// (1, 1, E).
    cls_token: Tensor,
    /// (1, P+1, E).
    positions: Option<Tensor>,
    /// A convolution whose stride is its kernel, (E, C, p, p): a linear layer over flattened patches.
    patch_weight: Tensor,
    patch_bias: Tensor,
    blocks: Blocks<EncoderLayer>,
    final_norm: Option<LayerNorm>,
}

impl VisionModel {
    pub(super) fn build(config: &VisionConfig, source: &mut dyn WeightSource) -> Result<Self> {
        let (width, [rows, columns]) = (config.width, config.grid());
        let kernel = [width, config.num_channels, config.patch_size[0], config.patch_size[1]];
        let embeddings = "vision_tower.embeddings";
        let projection = format!("{embeddings}.patch_embeddings.projection");
        let positions = [1, rows * columns + 1, width];
        let of_block = config.clone();
        Ok(Self {
            cls_token: source.get(&format!("{embeddings}.cls_token"), &[1, 1, width])?,
            positions: config
                .position_embeddings
                .then(|| source.get(&format!("{embeddings}.position_embeddings"), &positions))
                .transpose()?,
            patch_weight: source.get(&format!("{projection}.weight"), &kernel)?,
            patch_bias: source.get(&format!("{projection}.bias"), &[width])?,
            blocks: Blocks::build(config.num_layers, source, move |i, source| layer(&of_block, i, source))?,
            final_norm: config
                .final_norm
                .then(|| layer_norm(source, "vision_tower.layernorm", width, config.norm_eps))
                .transpose()?,
            config: config.clone(),
        })
    }

    /// Between [`embed`](Self::embed) and what leaves the encoder.
    pub(super) fn blocks(&self) -> &Blocks<EncoderLayer> {
        &self.blocks
    }

    /// Patches of all tiles, each after its CLS token: (N * (P+1), E) in the compute dtype.
    pub(super) fn embed(&self, images: &[ImageInput], dtype: DType) -> Result<Patches> {
        let patches = self.patches(images, self.patch_weight.device())?.to_dtype(dtype)?;
        let (tiles, num_patches, _) = patches.dims3()?;
        let width = self.config.width;
        let embed = Linear::new(self.patch_weight.flatten_from(1)?, Some(self.patch_bias.clone()));
        let cls = self.cls_token.to_dtype(dtype)?.broadcast_as((tiles, 1, width))?;
        let mut x = Tensor::cat(&[&cls, &embed.forward(&patches)?], 1)?;
        if let Some(positions) = &self.positions {
            x = x.broadcast_add(&positions.to_dtype(dtype)?)?;
        }
        let x = x.reshape((tiles * (num_patches + 1), width))?;
        let boundaries: Vec<usize> = (0..=tiles).map(|tile| tile * (num_patches + 1)).collect();
        Ok(Patches::new(x, None, boundaries))
    }

    /// Patch features of the blocks' output, the CLS token dropped: (N, P, E).
    pub(super) fn finish(&self, mut x: Tensor) -> Result<Tensor> {
        if let Some(norm) = &self.final_norm {
            x = norm.forward(&x)?;
        }
        let [rows, columns] = self.config.grid();
        let num_patches = rows * columns;
        x.reshape(((), num_patches + 1, self.config.width))?.narrow(1, 1, num_patches)
    }

    /// Flattened patches of all tiles, row-major, (N, P, C*p*p).
    fn patches(&self, images: &[ImageInput], device: &Device) -> Result<Tensor> {
        let config = &self.config;
        let ([height, width], channels) = (config.image_size, config.num_channels);
        let mut patches = Vec::with_capacity(images.iter().map(|image| image.pixels.len()).sum());
        let mut tiles = 0;
        for image in images {
            tiles += config.num_tiles(image).map_err(unfit)?;
            for tile in image.pixels.chunks_exact(channels * height * width) {
                cut_planes(tile, [channels, height, width], config.patch_size, &mut patches);
            }
        }
        let [rows, columns] = config.grid();
        let patch = channels * config.patch_size[0] * config.patch_size[1];
        upload(patches, (tiles, rows * columns, patch), device)
    }
}

fn norm(config: &VisionConfig, name: &str, source: &mut dyn WeightSource) -> Result<Norm> {
    Ok(match config.rms_norm {
        true => Norm::Rms(rms_norm(source, name, config.width, config.norm_eps)?),
        false => Norm::Layer(layer_norm(source, name, config.width, config.norm_eps)?),
    })
}

fn layer(config: &VisionConfig, index: usize, source: &mut dyn WeightSource) -> Result<EncoderLayer> {
    let (width, mlp, bias) = (config.width, config.mlp_width, config.attention_bias);
    let name = |part: &str| format!("vision_tower.encoder.layer.{index}.{part}");
    let qkv = match config.fused_qkv {
        true => Qkv::Stacked(source.linear(&name("attention.qkv"), [3 * width, width], bias)?),
        false => Qkv::Separate([
            source.linear(&name("attention.q_proj"), [width, width], bias)?,
            source.linear(&name("attention.k_proj"), [width, width], bias)?,
            source.linear(&name("attention.v_proj"), [width, width], bias)?,
        ]),
    };
    let qk_norm = match config.qk_norm {
        true => Some([
            rms_norm(source, &name("attention.q_norm"), width, QK_NORM_EPS)?,
            rms_norm(source, &name("attention.k_norm"), width, QK_NORM_EPS)?,
        ]),
        false => None,
    };
    Ok(EncoderLayer {
        norm1: norm(config, &name("layernorm_before"), source)?,
        qkv,
        qk_norm,
        proj: source.linear(&name("attention.projection_layer"), [width, width], true)?,
        norm2: norm(config, &name("layernorm_after"), source)?,
        mlp: Mlp::Plain {
            up: source.linear(&name("mlp.fc1"), [mlp, width], true)?,
            activation: config.activation,
            down: source.linear(&name("mlp.fc2"), [width, mlp], true)?,
        },
        scales: Some([source.get(&name("lambda_1"), &[width])?, source.get(&name("lambda_2"), &[width])?]),
        num_heads: config.num_heads,
    })
}
