//! Mistral3's way from patches to the decoder: a norm, a layer that merges m x m patches, and LLaVA's projector.

use candle_core::{DType, Result, Tensor};

use super::config::Mistral3Config;
use crate::image::ImageInput;
use crate::models::blocks::Blocks;
use crate::models::fields::Parsed;
use crate::models::layers::{EncoderLayer, Linear, RmsNorm};
use crate::models::pixtral::{Projector, VisionModel};
use crate::models::tower::{Patches, Tower, TowerConfig, unfit};
use crate::models::weights::{WeightSource, rms_norm};

struct MergingTower {
    vision: VisionModel,
    norm: RmsNorm,
    merge_size: usize,
    /// (E, E*m*m).
    merge: Linear,
    projector: Projector,
}

impl TowerConfig for Mistral3Config {
    fn build(&self, width: usize, source: &mut dyn WeightSource) -> Result<Box<dyn Tower>> {
        let from = self.vision.width;
        let merging = "multi_modal_projector.patch_merger.merging_layer";
        let merged = from * self.merge_size * self.merge_size;
        let activation = self.projector_activation;
        Ok(Box::new(MergingTower {
            vision: VisionModel::build(&self.vision, source)?,
            norm: rms_norm(source, "multi_modal_projector.norm", from, self.norm_eps)?,
            merge_size: self.merge_size,
            merge: source.linear(merging, [from, merged], false)?,
            projector: Projector::build([from, width], self.projector_bias, activation, source)?,
        }))
    }

    fn num_rows(&self, image: &ImageInput) -> Parsed<usize> {
        let [rows, columns] = merged(self.vision.grid(image)?, self.merge_size)?;
        Ok(rows * columns)
    }
}

/// (rows, columns) of windows of m x m patches.
fn merged([rows, columns]: [usize; 2], m: usize) -> Parsed<[usize; 2]> {
    match rows.is_multiple_of(m) && columns.is_multiple_of(m) {
        true => Ok([rows / m, columns / m]),
        false => Err(format!("{rows} x {columns} patches cannot be merged {m} x {m}")),
    }
}

impl Tower for MergingTower {
    fn embed(&self, images: &[ImageInput], dtype: DType) -> Result<Patches> {
        self.vision.embed(images, dtype)
    }

    fn blocks(&self) -> &Blocks<EncoderLayer> {
        self.vision.blocks()
    }

    fn project(&self, x: Tensor, images: &[ImageInput]) -> Result<Tensor> {
        let x = self.norm.forward(&x)?;
        let (patches, width) = x.dims2()?;
        let window = self.merge_size * self.merge_size;
        let order = Tensor::new(self.window_order(images)?, x.device())?;
        // (P, E) -> (P / m^2, m^2, E) -> (P / m^2, E * m^2): each channel's m x m patches lie together.
        let x = x.index_select(&order, 0)?.reshape((patches / window, window, width))?;
        let x = x.transpose(1, 2)?.contiguous()?.reshape((patches / window, width * window))?;
        self.projector.forward(&self.merge.forward(&x)?)
    }
}

impl MergingTower {
    /// The patches window by window, each row by row.
    fn window_order(&self, images: &[ImageInput]) -> Result<Vec<u32>> {
        let m = self.merge_size;
        let (mut order, mut start) = (Vec::new(), 0);
        for image in images {
            let [rows, columns] = self.vision.grid(image)?;
            let windows = merged([rows, columns], m).map_err(unfit)?;
            for (top, left) in (0..windows[0]).flat_map(|r| (0..windows[1]).map(move |c| (r * m, c * m))) {
                for row in top..top + m {
                    order.extend((left..left + m).map(|column| (start + row * columns + column) as u32));
                }
            }
            start += rows * columns;
        }
        Ok(order)
    }
}
