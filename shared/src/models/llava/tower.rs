//! Vision encoder and two-layer projector, for tiles that do not know of each other.

use candle_core::{DType, Result, Tensor};
use serde::Serialize;
use serde_json::Value;

use crate::image::ImageInput;
use crate::models::blocks::Blocks;
use crate::models::fields::{Parsed, flag};
use crate::models::layers::{Activation, EncoderLayer, Linear};
use crate::models::llava_names::{PROJECTOR_PREFIX, VIT_PREFIX};
use crate::models::tower::{Patches, Tower, TowerConfig};
use crate::models::vit::{Vit, VitConfig};
use crate::models::weights::WeightSource;

/// What the tower is made from: the encoder, and the form of the projector.
#[derive(Clone, Debug, Serialize)]
pub(in crate::models) struct ProjectedVit {
    /// The encoder and which of its layers is used.
    pub vision: VitConfig,
    projector_activation: Activation,
    projector_bias: bool,
}

impl ProjectedVit {
    /// Reads the projector from config.json.
    pub(in crate::models) fn parse(json: &Value, vision: VitConfig) -> std::result::Result<Self, String> {
        Ok(Self {
            vision,
            projector_activation: Activation::read(json, "projector_hidden_act", "gelu")?,
            projector_bias: flag(json, "multimodal_projector_bias", true)?,
        })
    }

    /// Builds both for a decoder of `width`.
    pub(in crate::models) fn build_tower(
        &self,
        width: usize,
        source: &mut dyn WeightSource,
    ) -> Result<ProjectedTower> {
        let name = |layer: &str| format!("{PROJECTOR_PREFIX}.{layer}");
        let from = self.vision.width;
        Ok(ProjectedTower {
            vit: Vit::build(&self.vision, VIT_PREFIX, source)?,
            linear_1: source.linear(&name("linear_1"), [width, from], self.projector_bias)?,
            activation: self.projector_activation,
            linear_2: source.linear(&name("linear_2"), [width, width], self.projector_bias)?,
        })
    }
}

/// Encoder and projector.
pub(in crate::models) struct ProjectedTower {
    vit: Vit,
    linear_1: Linear,
    activation: Activation,
    linear_2: Linear,
}

impl ProjectedTower {
    /// The blocks' output projected, (N, P, D).
    pub(in crate::models) fn tiles(&self, x: Tensor) -> Result<Tensor> {
        let x = self.linear_1.forward(&self.vit.finish(x)?)?;
        self.linear_2.forward(&self.activation.apply(&x)?)
    }
}

impl TowerConfig for ProjectedVit {
    fn build(&self, width: usize, source: &mut dyn WeightSource) -> Result<Box<dyn Tower>> {
        Ok(Box::new(self.build_tower(width, source)?))
    }

    fn num_rows(&self, image: &ImageInput) -> Parsed<usize> {
        self.vision.num_rows(image)
    }
}

impl Tower for ProjectedTower {
    fn embed(&self, images: &[ImageInput], dtype: DType) -> Result<Patches> {
        self.vit.embed(images, dtype)
    }

    fn blocks(&self) -> &Blocks<EncoderLayer> {
        self.vit.blocks()
    }

    fn project(&self, x: Tensor, _images: &[ImageInput]) -> Result<Tensor> {
        self.tiles(x)?.flatten_to(1)
    }
}
