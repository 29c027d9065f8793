//! Qwen2-VL's vision encoder: a pre-norm ViT over patches of any resolution with a 2-D rotary embedding. Frames attend
//! to themselves.

use candle_core::{DType, Result};
use serde::Serialize;

use crate::image::ImageInput;
use crate::models::qwen_vl::{Encoder, EncoderConfig, Style, frame_boundaries, patch_positions};
use crate::models::vlm::{ImageFeatures, Tower, TowerConfig};
use crate::models::weights::WeightSource;

const STYLE: Style = Style {
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
}

impl Tower for VisionModel {
    fn forward(&self, images: &[ImageInput], dtype: DType) -> Result<ImageFeatures> {
        let encoder = &self.0;
        let rope = encoder.rope(&patch_positions(images, encoder.config.patch.merge_size))?;
        let frames = frame_boundaries(images);
        let mut x = encoder.patch_embed.forward(images, dtype)?;
        for layer in &encoder.layers {
            x = layer.forward(&x, Some(&rope), &frames)?;
        }
        Ok(encoder.merger.forward(&x)?.into())
    }
}
