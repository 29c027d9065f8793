//! Qwen3-VL's vision encoder: Qwen2-VL's with learned positions, and a merger for each block that DeepStack taps.

use candle_core::{DType, Result, Tensor};

use super::config::VisionConfig;
use super::position_table::PositionTable;
use crate::image::ImageInput;
use crate::models::blocks::Blocks;
use crate::models::fields::Parsed;
use crate::models::layers::EncoderLayer;
use crate::models::qwen_vl::{Encoder, Merger, Style, frame_boundaries, merger, patch_positions};
use crate::models::tower::{Patches, Tower, TowerConfig};
use crate::models::weights::WeightSource;

static STYLE: Style = Style {
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

    fn num_rows(&self, image: &ImageInput) -> Parsed<usize> {
        self.encoder.patch.num_rows(image)
    }
}

impl Tower for VisionModel {
    fn embed(&self, images: &[ImageInput], dtype: DType) -> Result<Patches> {
        let encoder = &self.encoder;
        let positions = patch_positions(images, encoder.config.patch.merge_size);
        let rope = encoder.rope(&positions)?;
        let learned = self.position_table.forward(images, &positions, dtype)?;
        let x = (encoder.patch_embed.forward(images, dtype)? + learned)?;
        Ok(Patches::new(x, Some(rope), frame_boundaries(images)))
    }

    fn blocks(&self) -> &Blocks<EncoderLayer> {
        &self.encoder.blocks
    }

    fn tap(&self, block: usize, x: &Tensor) -> Result<Option<Tensor>> {
        let tapped = self.taps.iter().find(|(tapped, _)| *tapped == block);
        tapped.map(|(_, merger)| merger.forward(x)).transpose()
    }

    fn num_taps(&self) -> usize {
        self.taps.len()
    }

    fn project(&self, x: Tensor, _images: &[ImageInput]) -> Result<Tensor> {
        self.encoder.merger.forward(&x)
    }
}
