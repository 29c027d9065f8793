//! InternVL's vision encoder: a ViT with a CLS token, learned positions and layer scale, over tiles of one size.
//!
//! Legend: N tiles, P patches of a tile, E vision width. A tile attends to itself.

use candle_core::{DType, Device, Result, Tensor, bail};

use super::config::VisionConfig;
use crate::image::ImageInput;
use crate::models::fields::Activation;
use crate::models::layers::{LayerNorm, Linear, RmsNorm, Segments, attention};
use crate::models::weights::WeightSource;

/// The norms on queries and keys keep their class default, whatever `layer_norm_eps` says.
const QK_NORM_EPS: f64 = 1e-6;

/// The encoder.
pub(super) struct VisionModel {
    config: VisionConfig,
    /// (1, 1, E).
    cls_token: Tensor,
    /// (1, P+1, E).
    positions: Option<Tensor>,
    /// A convolution whose stride is its kernel, (E, C, p, p): a linear layer over flattened patches.
    patch_weight: Tensor,
    patch_bias: Tensor,
    layers: Vec<Layer>,
    final_norm: Option<LayerNorm>,
}

enum Norm {
    Layer(LayerNorm),
    Rms(RmsNorm),
}

impl Norm {
    fn build(config: &VisionConfig, name: &str, source: &mut dyn WeightSource) -> Result<Self> {
        let weight = source.get(&format!("{name}.weight"), &[config.width])?;
        if config.rms_norm {
            return Ok(Self::Rms(RmsNorm::new(weight, config.norm_eps)));
        }
        let bias = source.get(&format!("{name}.bias"), &[config.width])?;
        Ok(Self::Layer(LayerNorm::new(weight, bias, config.norm_eps)))
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Layer(norm) => norm.forward(x),
            Self::Rms(norm) => norm.forward(x),
        }
    }
}

struct Layer {
    norm_before: Norm,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    q_norm: Option<RmsNorm>,
    k_norm: Option<RmsNorm>,
    out_proj: Linear,
    lambda_1: Tensor,
    norm_after: Norm,
    fc1: Linear,
    fc2: Linear,
    lambda_2: Tensor,
    num_heads: usize,
    activation: Activation,
}

impl VisionModel {
    pub(super) fn build(config: &VisionConfig, source: &mut dyn WeightSource) -> Result<Self> {
        let (width, [rows, columns]) = (config.width, config.grid());
        let kernel = [width, config.num_channels, config.patch_size[0], config.patch_size[1]];
        let embeddings = "vision_tower.embeddings";
        let projection = format!("{embeddings}.patch_embeddings.projection");
        let positions = [1, rows * columns + 1, width];
        Ok(Self {
            cls_token: source.get(&format!("{embeddings}.cls_token"), &[1, 1, width])?,
            positions: config
                .position_embeddings
                .then(|| source.get(&format!("{embeddings}.position_embeddings"), &positions))
                .transpose()?,
            patch_weight: source.get(&format!("{projection}.weight"), &kernel)?,
            patch_bias: source.get(&format!("{projection}.bias"), &[width])?,
            layers: (0..config.num_layers).map(|i| Layer::build(config, i, source)).collect::<Result<_>>()?,
            final_norm: config.final_norm.then(|| final_norm(config, source)).transpose()?,
            config: config.clone(),
        })
    }

    /// Patch features of all tiles, the CLS token dropped: (N, P, E) in the compute dtype.
    pub(super) fn forward(&self, images: &[ImageInput], dtype: DType) -> Result<Tensor> {
        let patches = self.patches(images, self.patch_weight.device())?.to_dtype(dtype)?;
        let (tiles, num_patches, _) = patches.dims3()?;
        let width = self.config.width;
        let linear = Linear::new(self.patch_weight.flatten_from(1)?, Some(self.patch_bias.clone()));
        let cls = self.cls_token.to_dtype(dtype)?.broadcast_as((tiles, 1, width))?;
        let mut x = Tensor::cat(&[&cls, &linear.forward(&patches)?], 1)?;
        if let Some(positions) = &self.positions {
            x = x.broadcast_add(&positions.to_dtype(dtype)?)?;
        }
        let mut x = x.reshape((tiles * (num_patches + 1), width))?;
        let boundaries: Vec<usize> = (0..=tiles).map(|tile| tile * (num_patches + 1)).collect();
        for layer in &self.layers {
            x = layer.forward(&x, &boundaries)?;
        }
        if let Some(norm) = &self.final_norm {
            x = norm.forward(&x)?;
        }
        x.reshape((tiles, num_patches + 1, width))?.narrow(1, 1, num_patches)
    }

    /// Flattened patches of all tiles, row-major, (N, P, C*p*p).
    fn patches(&self, images: &[ImageInput], device: &Device) -> Result<Tensor> {
        let config = &self.config;
        let ([height, width], channels) = (config.image_size, config.num_channels);
        let mut patches = Vec::with_capacity(images.iter().map(|image| image.pixels.len()).sum());
        let mut tiles = 0;
        for image in images {
            if image.shape.len() != 4 || image.shape[1..] != [channels, height, width] {
                bail!(
                    "tiles of shape {:?} for an encoder of {channels} x {height} x {width}\nhint: positions are not \
                     interpolated: the image processor's size must be vision_config.image_size",
                    image.shape
                )
            }
            tiles += image.shape[0];
            image
                .pixels
                .chunks_exact(channels * height * width)
                .for_each(|tile| self.append_patches(tile, &mut patches));
        }
        let [rows, columns] = config.grid();
        let patch = channels * config.patch_size[0] * config.patch_size[1];
        Tensor::from_vec(patches, (tiles, rows * columns, patch), device)
    }

    /// One tile (C, H, W) as patches (rows, columns, C, p, p), appended.
    fn append_patches(&self, tile: &[f32], patches: &mut Vec<f32>) {
        let ([height, width], [p, q]) = (self.config.image_size, self.config.patch_size);
        let [rows, columns] = self.config.grid();
        for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
            for (channel, i) in (0..self.config.num_channels).flat_map(|c| (0..p).map(move |i| (c, i))) {
                let start = (channel * height + row * p + i) * width + column * q;
                patches.extend_from_slice(&tile[start..start + q]);
            }
        }
    }
}

fn final_norm(config: &VisionConfig, source: &mut dyn WeightSource) -> Result<LayerNorm> {
    let weight = source.get("vision_tower.layernorm.weight", &[config.width])?;
    Ok(LayerNorm::new(weight, source.get("vision_tower.layernorm.bias", &[config.width])?, config.norm_eps))
}

impl Layer {
    fn build(config: &VisionConfig, index: usize, source: &mut dyn WeightSource) -> Result<Self> {
        let (width, mlp) = (config.width, config.mlp_width);
        let name = |part: &str| format!("vision_tower.encoder.layer.{index}.{part}");
        let mut linear = |part: &str, shape: [usize; 2], bias: bool| -> Result<Linear> {
            let weight = source.get(&name(&format!("{part}.weight")), &shape)?;
            let bias = bias.then(|| source.get(&name(&format!("{part}.bias")), &shape[..1])).transpose()?;
            Ok(Linear::new(weight, bias))
        };
        let q_proj = linear("attention.q_proj", [width, width], config.attention_bias)?;
        let k_proj = linear("attention.k_proj", [width, width], config.attention_bias)?;
        let v_proj = linear("attention.v_proj", [width, width], config.attention_bias)?;
        let out_proj = linear("attention.projection_layer", [width, width], true)?;
        let fc1 = linear("mlp.fc1", [mlp, width], true)?;
        let fc2 = linear("mlp.fc2", [width, mlp], true)?;
        let mut head_norm = |part: &str| -> Result<Option<RmsNorm>> {
            let weight =
                config.qk_norm.then(|| source.get(&name(&format!("{part}.weight")), &[width])).transpose()?;
            Ok(weight.map(|weight| RmsNorm::new(weight, QK_NORM_EPS)))
        };
        Ok(Self {
            q_norm: head_norm("attention.q_norm")?,
            k_norm: head_norm("attention.k_norm")?,
            norm_before: Norm::build(config, &name("layernorm_before"), source)?,
            norm_after: Norm::build(config, &name("layernorm_after"), source)?,
            lambda_1: source.get(&name("lambda_1"), &[width])?,
            lambda_2: source.get(&name("lambda_2"), &[width])?,
            q_proj,
            k_proj,
            v_proj,
            out_proj,
            fc1,
            fc2,
            num_heads: config.num_heads,
            activation: config.activation,
        })
    }

    /// x (N*(P+1), E) -> the same.
    fn forward(&self, x: &Tensor, tiles: &[usize]) -> Result<Tensor> {
        let attended = self.attend(&self.norm_before.forward(x)?, tiles)?;
        let x = (x + scaled(&attended, &self.lambda_1)?)?;
        let hidden = self.activation.apply(&self.fc1.forward(&self.norm_after.forward(&x)?)?)?;
        x + scaled(&self.fc2.forward(&hidden)?, &self.lambda_2)?
    }

    fn attend(&self, x: &Tensor, tiles: &[usize]) -> Result<Tensor> {
        let (tokens, width) = x.dims2()?;
        let heads = (tokens, self.num_heads, width / self.num_heads);
        let mut q = self.q_proj.forward(x)?;
        let mut k = self.k_proj.forward(x)?;
        if let (Some(q_norm), Some(k_norm)) = (&self.q_norm, &self.k_norm) {
            (q, k) = (q_norm.forward(&q)?, k_norm.forward(&k)?);
        }
        let v = self.v_proj.forward(x)?.reshape(heads)?;
        let scale = 1.0 / (heads.2 as f64).sqrt();
        let y = attention(&q.reshape(heads)?, &k.reshape(heads)?, &v, &Segments::same(tiles), false, scale)?;
        self.out_proj.forward(&y.reshape((tokens, width))?)
    }
}

/// x (.., E) times a vector (E).
fn scaled(x: &Tensor, scale: &Tensor) -> Result<Tensor> {
    x.broadcast_mul(&scale.to_dtype(x.dtype())?)
}
