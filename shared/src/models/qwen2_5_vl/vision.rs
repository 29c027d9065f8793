//! Qwen2.5-VL's vision encoder. Patches are reordered so that each window is a run; a few blocks attend to the whole
//! frame, and the merger's rows go back to their places.

use candle_core::{DType, Result, Tensor};

use super::config::VisionConfig;
use super::window::Windows;
use crate::image::ImageInput;
use crate::models::blocks::Blocks;
use crate::models::fields::Parsed;
use crate::models::layers::EncoderLayer;
use crate::models::qwen_vl::{Encoder, Style, frame_boundaries, patch_positions};
use crate::models::tower::{Patches, Tower, TowerConfig};
use crate::models::weights::WeightSource;

static STYLE: Style = Style {
    rms_norms: true,
    patch_bias: false,
    plain_mlp: None,
    merger_norm: "ln_q",
    merger: ["mlp.0", "mlp.2"],
};

struct VisionModel {
    encoder: Encoder,
    config: VisionConfig,
}

impl TowerConfig for VisionConfig {
    fn build(&self, width: usize, source: &mut dyn WeightSource) -> Result<Box<dyn Tower>> {
        let encoder = Encoder::build(&self.encoder, &STYLE, width, source)?;
        Ok(Box::new(VisionModel { encoder, config: self.clone() }))
    }

    fn num_rows(&self, image: &ImageInput) -> Parsed<usize> {
        self.encoder.patch.num_rows(image)
    }
}

impl Tower for VisionModel {
    fn embed(&self, images: &[ImageInput], dtype: DType) -> Result<Patches> {
        let Self { encoder, config } = self;
        let merge = encoder.config.patch.merge_size;
        let windows = Windows::of(images, config.window, merge);
        // The patches of a merged one lie together and stay so.
        let unit = merge * merge;
        let patches_of = |&merged: &u32| (0..unit).map(move |i| merged * unit as u32 + i as u32);
        let order: Vec<u32> = windows.order.iter().flat_map(patches_of).collect();
        let positions = patch_positions(images, merge);
        let positions: Vec<[u32; 2]> = order.iter().map(|&patch| positions[patch as usize]).collect();
        let rope = encoder.rope(&positions)?;

        let x = encoder.patch_embed.forward(images, dtype)?;
        let x = x.index_select(&Tensor::new(order, x.device())?, 0)?;
        let windows = windows.boundaries.iter().map(|end| end * unit).collect();
        Ok(Patches { x, rope: Some(rope), segments: frame_boundaries(images), windows })
    }

    fn blocks(&self) -> &Blocks<EncoderLayer> {
        &self.encoder.blocks
    }

    fn segments<'a>(&self, patches: &'a Patches, block: usize) -> &'a [usize] {
        let is_full = self.config.full_attention.contains(&block);
        if is_full { &patches.segments } else { &patches.windows }
    }

    fn project(&self, x: Tensor, images: &[ImageInput]) -> Result<Tensor> {
        let rows = self.encoder.merger.forward(&x)?;
        let windows = Windows::of(images, self.config.window, self.encoder.config.patch.merge_size);
        rows.index_select(&Tensor::new(windows.places(), rows.device())?, 0)
    }
}
