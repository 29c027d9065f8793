//! Qwen2-VL's vision encoder: a pre-norm ViT over patches of any resolution with a 2-D rotary embedding, then a
//! merger that turns 2x2 patches into one row of the decoder's width.
//!
//! Patches come in merge order, (rows/m, columns/m, m, m), so the merger is a reshape. Frames attend to themselves.

use candle_core::{Device, Result, Tensor, bail};

use super::config::VisionConfig;
use crate::image::ImageInput;
use crate::models::fields::Activation;
use crate::models::layers::{LayerNorm, Linear, Rope, Segments, attention, gelu};
use crate::models::weights::WeightSource;

/// Base of the rotary angles of rows and columns.
const ROPE_THETA: f64 = 10_000.0;
/// Epsilon of every norm here; no configuration changes it.
const NORM_EPS: f64 = 1e-6;

/// The encoder and its merger.
pub(super) struct VisionModel {
    config: VisionConfig,
    /// A convolution whose stride is its kernel, (E, C, T, p, p): a linear layer over flattened patches.
    patch_embed: Tensor,
    blocks: Vec<Block>,
    merger_norm: LayerNorm,
    merger_up: Linear,
    merger_down: Linear,
}

struct Block {
    norm1: LayerNorm,
    qkv: Linear,
    proj: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    num_heads: usize,
    activation: Activation,
}

fn linear(source: &mut dyn WeightSource, name: &str, shape: [usize; 2]) -> Result<Linear> {
    let weight = source.get(&format!("{name}.weight"), &shape)?;
    Ok(Linear::new(weight, Some(source.get(&format!("{name}.bias"), &shape[..1])?)))
}

fn norm(source: &mut dyn WeightSource, name: &str, width: usize) -> Result<LayerNorm> {
    let weight = source.get(&format!("{name}.weight"), &[width])?;
    Ok(LayerNorm::new(weight, source.get(&format!("{name}.bias"), &[width])?, NORM_EPS))
}

impl VisionModel {
    pub(super) fn build(
        config: &VisionConfig,
        out_width: usize,
        source: &mut dyn WeightSource,
    ) -> Result<Self> {
        let (width, p) = (config.width, config.patch_size);
        let merged = width * config.merge_size * config.merge_size;
        let kernel = [width, config.in_channels, config.temporal_patch_size, p, p];
        Ok(Self {
            patch_embed: source.get("visual.patch_embed.proj.weight", &kernel)?,
            blocks: (0..config.depth).map(|i| Block::build(config, i, source)).collect::<Result<_>>()?,
            merger_norm: norm(source, "visual.merger.ln_q", width)?,
            merger_up: linear(source, "visual.merger.mlp.0", [merged, merged])?,
            merger_down: linear(source, "visual.merger.mlp.2", [out_width, merged])?,
            config: config.clone(),
        })
    }

    /// Rows of the decoder's width for all images, in order: (sum of patches / m^2, D), in the compute dtype.
    pub(super) fn forward(&self, images: &[ImageInput], dtype: candle_core::DType) -> Result<Tensor> {
        let device = self.patch_embed.device();
        let pixels = self.pixels(images, device)?.to_dtype(dtype)?;
        let mut x = Linear::new(self.patch_embed.flatten_from(1)?, None).forward(&pixels)?;
        let rope = self.rope(images, device)?;
        let frames = frame_boundaries(images);
        for block in &self.blocks {
            x = block.forward(&x, &rope, &frames)?;
        }
        let merged = self.merger_norm.forward(&x)?.reshape(((), self.merger_up.weight().dims()[1]))?;
        self.merger_down.forward(&gelu(&self.merger_up.forward(&merged)?)?)
    }

    /// Patches of all images, (P, C*T*p*p).
    fn pixels(&self, images: &[ImageInput], device: &Device) -> Result<Tensor> {
        let config = &self.config;
        let patch = config.in_channels * config.temporal_patch_size * config.patch_size * config.patch_size;
        let mut pixels = Vec::with_capacity(images.iter().map(|image| image.pixels.len()).sum());
        for image in images {
            let patches: usize = image.grid.iter().product();
            if image.pixels.len() != patches * patch
                || !image.grid[1..].iter().all(|n| n % config.merge_size == 0)
            {
                bail!(
                    "an image of shape {:?} and grid {:?} does not fit patches of {patch}",
                    image.shape,
                    image.grid
                )
            }
            pixels.extend_from_slice(&image.pixels);
        }
        let rows = pixels.len() / patch;
        Tensor::from_vec(pixels, (rows, patch), device)
    }

    /// (row, column) of each patch, in merge order.
    fn rope(&self, images: &[ImageInput], device: &Device) -> Result<Rope> {
        let m = self.config.merge_size;
        let mut positions = Vec::new();
        for [frames, rows, columns] in images.iter().map(|image| image.grid) {
            for _ in 0..frames {
                for (row, column) in (0..rows / m).flat_map(|r| (0..columns / m).map(move |c| (r * m, c * m)))
                {
                    for (i, j) in (0..m).flat_map(|i| (0..m).map(move |j| (i, j))) {
                        positions.push([(row + i) as u32, (column + j) as u32]);
                    }
                }
            }
        }
        Rope::grid(&positions, self.config.width / self.config.num_heads, ROPE_THETA, device)
    }
}

/// Patches attend within their frame: its boundaries, F+1 numbers.
fn frame_boundaries(images: &[ImageInput]) -> Vec<usize> {
    let mut boundaries = vec![0];
    let mut end = 0;
    for [frames, rows, columns] in images.iter().map(|image| image.grid) {
        for _ in 0..frames {
            end += rows * columns;
            boundaries.push(end);
        }
    }
    boundaries
}

impl Block {
    fn build(config: &VisionConfig, index: usize, source: &mut dyn WeightSource) -> Result<Self> {
        let (width, mlp) = (config.width, config.mlp_width);
        let name = |part: &str| format!("visual.blocks.{index}.{part}");
        Ok(Self {
            norm1: norm(source, &name("norm1"), width)?,
            qkv: linear(source, &name("attn.qkv"), [3 * width, width])?,
            proj: linear(source, &name("attn.proj"), [width, width])?,
            norm2: norm(source, &name("norm2"), width)?,
            fc1: linear(source, &name("mlp.fc1"), [mlp, width])?,
            fc2: linear(source, &name("mlp.fc2"), [width, mlp])?,
            num_heads: config.num_heads,
            activation: config.activation,
        })
    }

    /// x (P, E) -> (P, E).
    fn forward(&self, x: &Tensor, rope: &Rope, frames: &[usize]) -> Result<Tensor> {
        let x = (x + self.attend(&self.norm1.forward(x)?, rope, frames)?)?;
        let hidden = self.activation.apply(&self.fc1.forward(&self.norm2.forward(&x)?)?)?;
        x + self.fc2.forward(&hidden)?
    }

    fn attend(&self, x: &Tensor, rope: &Rope, frames: &[usize]) -> Result<Tensor> {
        let (patches, width) = x.dims2()?;
        let heads = (patches, self.num_heads, width / self.num_heads);
        let qkv = self.qkv.forward(x)?;
        let part = |i: usize| qkv.narrow(1, i * width, width)?.contiguous()?.reshape(heads);
        let (q, k, v) = (rope.apply(&part(0)?)?, rope.apply(&part(1)?)?, part(2)?);
        let scale = 1.0 / (heads.2 as f64).sqrt();
        let y = attention(&q, &k, &v, &Segments::same(frames), false, scale)?;
        self.proj.forward(&y.reshape((patches, width))?)
    }
}
