//! InternVL's projector: pixel shuffle, a norm and two layers.

use candle_core::{DType, Result, Tensor};

use super::config::TileTowerConfig;
use super::vision::VisionModel;
use crate::image::ImageInput;
use crate::models::blocks::Blocks;
use crate::models::fields::Parsed;
use crate::models::layers::{Activation, EncoderLayer, LayerNorm, Linear, pixel_shuffle};
use crate::models::tower::{Patches, Tower, TowerConfig};
use crate::models::weights::{WeightSource, layer_norm};

/// The norm keeps PyTorch's default.
const NORM_EPS: f64 = 1e-5;

/// The vision encoder with its projector.
struct TileTower {
    vision: VisionModel,
    shuffle: usize,
    norm: LayerNorm,
    linear_1: Linear,
    activation: Activation,
    linear_2: Linear,
}

impl TowerConfig for TileTowerConfig {
    fn build(&self, width: usize, source: &mut dyn WeightSource) -> Result<Box<dyn Tower>> {
        let shuffled = self.vision.width * self.shuffle * self.shuffle;
        let name = |part: &str| format!("multi_modal_projector.{part}");
        Ok(Box::new(TileTower {
            vision: VisionModel::build(&self.vision, source)?,
            shuffle: self.shuffle,
            norm: layer_norm(source, &name("layer_norm"), shuffled, NORM_EPS)?,
            linear_1: source.linear(&name("linear_1"), [width, shuffled], true)?,
            activation: self.projector_activation,
            linear_2: source.linear(&name("linear_2"), [width, width], true)?,
        }))
    }

    fn num_rows(&self, image: &ImageInput) -> Parsed<usize> {
        let [rows, columns] = self.vision.grid().map(|side| side / self.shuffle);
        Ok(self.vision.num_tiles(image)? * rows * columns)
    }
}

impl Tower for TileTower {
    fn embed(&self, images: &[ImageInput], dtype: DType) -> Result<Patches> {
        self.vision.embed(images, dtype)
    }

    fn blocks(&self) -> &Blocks<EncoderLayer> {
        self.vision.blocks()
    }

    fn project(&self, x: Tensor, _images: &[ImageInput]) -> Result<Tensor> {
        let x = pixel_shuffle(&self.vision.finish(x)?, self.shuffle)?;
        let x = self.linear_1.forward(&self.norm.forward(&x)?)?;
        self.linear_2.forward(&self.activation.apply(&x)?)
    }
}
