//! Qwen2-VL's vision encoder: a pre-norm ViT over patches of any resolution with a 2-D rotary embedding. Frames attend
//! to themselves.

use candle_core::{DType, Result, Tensor};
use serde::Serialize;

use crate::image::ImageInput;
use crate::models::blocks::Blocks;
use crate::models::fields::Parsed;
use crate::models::layers::EncoderLayer;
use crate::models::qwen_vl::{Encoder, EncoderConfig, Style, frame_boundaries, patch_positions};
use crate::models::tower::{Patches, Tower, TowerConfig};
use crate::models::weights::WeightSource;

static STYLE: Style = Style {
    rms_norms: false,
    patch_bias: false,
    plain_mlp: Some(["mlp.fc1", "mlp.fc2"]),
    merger_norm: "ln_q",
    merger: ["mlp.0", "mlp.2"],
};

/// The encoder's sizes.
#[derive(Clone, Debug, Serialize)]
pub(super) struct VisionConfig(pub(super) EncoderConfig);

struct VisionModel(Encoder);

impl TowerConfig for VisionConfig {
    fn build(&self, width: usize, source: &mut dyn WeightSource) -> Result<Box<dyn Tower>> {
        Ok(Box::new(VisionModel(Encoder::build(&self.0, &STYLE, width, source)?)))
    }

    fn num_rows(&self, image: &ImageInput) -> Parsed<usize> {
        self.0.patch.num_rows(image)
    }
}

impl Tower for VisionModel {
    fn embed(&self, images: &[ImageInput], dtype: DType) -> Result<Patches> {
        let encoder = &self.0;
        let rope = encoder.rope(&patch_positions(images, encoder.config.patch.merge_size))?;
        let x = encoder.patch_embed.forward(images, dtype)?;
        Ok(Patches::new(x, Some(rope), frame_boundaries(images)))
    }

    fn blocks(&self) -> &Blocks<EncoderLayer> {
        &self.0.blocks
    }

    fn project(&self, x: Tensor, _images: &[ImageInput]) -> Result<Tensor> {
        self.0.merger.forward(&x)
    }
}
