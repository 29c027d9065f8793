//! Qwen3-VL's vision encoder: Qwen2-VL's with learned positions, and a merger for each block that DeepStack taps.

use candle_core::{DType, Result};

use super::config::VisionConfig;
use super::position_table::PositionTable;
use crate::image::ImageInput;
use crate::models::qwen_vl::{Encoder, Merger, Style, frame_boundaries, merger, patch_positions};
use crate::models::vlm::{ImageFeatures, Tower, TowerConfig};
use crate::models::weights::WeightSource;

const STYLE: Style = Style {
    rms_norms: false,
    patch_bias: true,
    plain_mlp: Some(["mlp.linear_fc1", "mlp.linear_fc2"]),
    merger_norm: "norm",
    merger: ["linear_fc1", "linear_fc2"],
};

struct VisionModel {
    encoder: Encoder,
    position_table: PositionTable,
    /// Each tapped block and its merger.
    taps: Vec<(usize, Merger)>,
}

impl TowerConfig for VisionConfig {
    fn build(&self, width: usize, source: &mut dyn WeightSource) -> Result<Box<dyn Tower>> {
        let mut tap = |(i, &block): (usize, &usize)| {
            let name = format!("visual.deepstack_merger_list.{i}");
            Ok((block, merger(&self.encoder, &STYLE, (&name, true), width, source)?))
        };
        Ok(Box::new(VisionModel {
            taps: self.deepstack.iter().enumerate().map(&mut tap).collect::<Result<_>>()?,
            encoder: Encoder::build(&self.encoder, &STYLE, width, source)?,
            position_table: PositionTable::build(self.table_side, self.encoder.width, source)?,
        }))
    }
}

impl Tower for VisionModel {
    fn forward(&self, images: &[ImageInput], dtype: DType) -> Result<ImageFeatures> {
        let encoder = &self.encoder;
        let positions = patch_positions(images, encoder.config.patch.merge_size);
        let (rope, frames) = (encoder.rope(&positions)?, frame_boundaries(images));
        let learned = self.position_table.forward(images, &positions, dtype)?;
        let mut x = (encoder.patch_embed.forward(images, dtype)? + learned)?;
        let mut deepstack = Vec::with_capacity(self.taps.len());
        for (i, layer) in encoder.layers.iter().enumerate() {
            x = layer.forward(&x, Some(&rope), &frames)?;
            if let Some((_, merger)) = self.taps.iter().find(|(block, _)| *block == i) {
                deepstack.push(merger.forward(&x)?);
            }
        }
        Ok(ImageFeatures { rows: encoder.merger.forward(&x)?, deepstack })
    }
}
