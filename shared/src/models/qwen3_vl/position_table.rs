//! A square table of learned positions, resampled to the grid of each image: bilinear, corners on corners.

use candle_core::{DType, Result, Tensor};

use crate::image::ImageInput;
use crate::models::weights::WeightSource;

/// Learned positions on a square grid.
pub(super) struct PositionTable {
    /// (side^2, E).
    weight: Tensor,
    side: usize,
}

impl PositionTable {
    pub(super) fn build(side: usize, width: usize, source: &mut dyn WeightSource) -> Result<Self> {
        Ok(Self { weight: source.get("visual.pos_embed.weight", &[side * side, width])?, side })
    }

    /// The positions of all patches, (P, E), in `dtype`; `positions` has (row, column) of each within its image.
    pub(super) fn forward(
        &self,
        images: &[ImageInput],
        positions: &[[u32; 2]],
        dtype: DType,
    ) -> Result<Tensor> {
        let (mut indices, mut weights) = (Vec::new(), Vec::new());
        let grids = images.iter().flat_map(|image| {
            let [frames, rows, columns] = image.grid;
            std::iter::repeat_n([rows, columns], frames * rows * columns)
        });
        for (&[row, column], [rows, columns]) in positions.iter().zip(grids) {
            let (row, column) = (self.tap(row, rows), self.tap(column, columns));
            for (r, row_weight) in row {
                for (c, column_weight) in column {
                    indices.push((r * self.side + c) as u32);
                    weights.push(row_weight * column_weight);
                }
            }
        }
        let device = self.weight.device();
        let width = self.weight.dim(1)?;
        let weights = Tensor::from_vec(weights, (positions.len(), 4, 1), device)?;
        // In float32 whatever the compute type, as transformers does it.
        let corners = self.weight.index_select(&Tensor::new(indices, device)?, 0)?.to_dtype(DType::F32)?;
        corners.reshape((positions.len(), 4, width))?.broadcast_mul(&weights)?.sum(1)?.to_dtype(dtype)
    }

    /// The two entries of an axis between which the `index`th of `size` patches lies, with their weights.
    fn tap(&self, index: u32, size: usize) -> [(usize, f32); 2] {
        let last = self.side - 1;
        let at = index as f32 * last as f32 / size.saturating_sub(1).max(1) as f32;
        let below = at.floor();
        let share = at - below;
        let below = (below as usize).min(last);
        [(below, 1.0 - share), ((below + 1).min(last), share)]
    }
}
