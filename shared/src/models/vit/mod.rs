//! The vision transformers of CLIP (arXiv 2103.00020) and SigLIP (arXiv 2303.15343) over images of one size, as LLaVA,
//! Idefics3, PaliGemma and Gemma3 use them.
//!
//! Legend: N tiles, P patches of a tile, R rows of a tile (P, and one more for CLIP's class token), E vision width.
//! A tile attends to itself.

use candle_core::{DType, Result, Tensor};

use super::blocks::Blocks;
use super::layers::{EncoderLayer, LayerNorm, Linear};
use super::tower::Patches;
use super::weights::{PassedOver, WeightSource, layer_norm};
use crate::image::ImageInput;

mod config;
mod layer;
mod patches;

pub(super) use config::{VitConfig, VitKind};
pub(super) use patches::TileShape;

use layer::layer;

/// The encoder up to the layer that is asked for.
pub(super) struct Vit {
    config: VitConfig,
    /// CLIP's, (E).
    class_embedding: Option<Tensor>,
    /// A convolution whose stride is its kernel, (E, C, p, p): a linear layer over flattened patches.
    patch_weight: Tensor,
    patch_bias: Option<Tensor>,
    /// (R, E).
    positions: Tensor,
    /// CLIP's.
    pre_norm: Option<LayerNorm>,
    blocks: Blocks<EncoderLayer>,
    post_norm: Option<LayerNorm>,
}

impl Vit {
    /// Builds it from the weights under `prefix`. What lies behind the layer asked for is in checkpoints and of no
    /// use: its weights are named, not loaded.
    pub(super) fn build(
        config: &VitConfig,
        prefix: &'static str,
        source: &mut dyn WeightSource,
    ) -> Result<Self> {
        let width = config.width;
        let clip = config.kind == VitKind::Clip;
        let name = |part: &str| format!("{prefix}.{part}");
        let class = name("embeddings.class_embedding");
        let patch = name("embeddings.patch_embedding");
        let tile = config.tile();
        let kernel = [width, tile.channels, tile.patch, tile.patch];
        let class_embedding = clip.then(|| source.get(&class, &[width])).transpose()?;
        let patch_weight = source.get(&format!("{patch}.weight"), &kernel)?;
        let patch_bias = (!clip).then(|| source.get(&format!("{patch}.bias"), &[width])).transpose()?;
        let positions =
            source.get(&name("embeddings.position_embedding.weight"), &[config.rows_per_tile(), width])?;
        // The misspelling is the hub's.
        let pre_norm = name("pre_layrnorm");
        let pre_norm = clip.then(|| layer_norm(source, &pre_norm, width, config.norm_eps)).transpose()?;
        let of_block = config.clone();
        let blocks = Blocks::build(config.used_layers, source, move |i, source| {
            layer(&of_block, &format!("{prefix}.encoder.layers.{i}"), source)
        })?;
        for index in config.used_layers..config.num_layers {
            drop(layer(config, &name(&format!("encoder.layers.{index}")), &mut PassedOver(source))?);
        }
        let post_norm = name("post_layernorm");
        let post_norm = match config.post_norm {
            true => Some(layer_norm(source, &post_norm, width, config.norm_eps)?),
            false => {
                layer_norm(&mut PassedOver(source), &post_norm, width, config.norm_eps)?;
                None
            }
        };
        let config = config.clone();
        Ok(Self { config, class_embedding, patch_weight, patch_bias, positions, pre_norm, blocks, post_norm })
    }

    /// Between [`embed`](Self::embed) and what leaves the encoder.
    pub(super) fn blocks(&self) -> &Blocks<EncoderLayer> {
        &self.blocks
    }

    /// Patches of all tiles of all images, (N * R, E).
    pub(super) fn embed(&self, images: &[ImageInput], dtype: DType) -> Result<Patches> {
        let width = self.config.width;
        let patches = self.config.tile().flat_patches(images, self.patch_weight.device())?.to_dtype(dtype)?;
        let tiles = patches.dim(0)?;
        let linear = Linear::new(self.patch_weight.flatten_from(1)?, self.patch_bias.clone());
        let mut x = linear.forward(&patches)?;
        if let Some(class) = &self.class_embedding {
            let class = class.to_dtype(dtype)?.reshape((1, 1, width))?.broadcast_as((tiles, 1, width))?;
            x = Tensor::cat(&[&class, &x], 1)?;
        }
        let rows = self.config.rows_per_tile();
        let x = x.broadcast_add(&self.positions.to_dtype(dtype)?)?;
        let mut x = x.reshape((tiles * rows, width))?;
        if let Some(norm) = &self.pre_norm {
            x = norm.forward(&x)?;
        }
        let boundaries: Vec<usize> = (0..=tiles).map(|tile| tile * rows).collect();
        Ok(Patches::new(x, None, boundaries))
    }

    /// Patch features of the blocks' output, (N, R, E), or (N, P, E) without the class token.
    pub(super) fn finish(&self, mut x: Tensor) -> Result<Tensor> {
        if let Some(norm) = &self.post_norm {
            x = norm.forward(&x)?;
        }
        let rows = self.config.rows_per_tile();
        let x = x.reshape(((), rows, self.config.width))?;
        match self.config.drop_first {
            true => x.narrow(1, 1, rows - 1),
            false => Ok(x),
        }
    }
}
