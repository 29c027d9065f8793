//! Patches of images of any resolution: their embedding, and where each one lies.
//!
//! Patches come in merge order, (rows/m, columns/m, m, m), so that merging m x m of them is a reshape.

use candle_core::{DType, Result, Tensor};
use serde::Serialize;
use serde_json::Value;

use crate::image::ImageInput;
use crate::models::fields::{Parsed, count};
use crate::models::layers::{Linear, Rope};
use crate::models::tower::unfit;
use crate::models::transfer::upload;
use crate::models::weights::WeightSource;

/// Base of the rotary angles of rows and columns.
const ROPE_THETA: f64 = 10_000.0;

/// The sizes of a patch.
#[derive(Clone, Copy, Debug, Serialize)]
pub(in crate::models) struct PatchShape {
    /// C.
    pub in_channels: usize,
    /// Side in pixels, p.
    pub patch_size: usize,
    /// Frames, T.
    pub temporal_patch_size: usize,
    /// Side of a merge window in patches, m.
    pub merge_size: usize,
}

impl PatchShape {
    /// Reads it from `vision_config`; `patch_size` is the class default.
    pub(in crate::models) fn parse(json: &Value, patch_size: usize) -> Parsed<Self> {
        let shape = Self {
            in_channels: count(json, "in_channels", 3)?,
            patch_size: count(json, "patch_size", patch_size)?,
            temporal_patch_size: count(json, "temporal_patch_size", 2)?,
            merge_size: count(json, "spatial_merge_size", 2)?,
        };
        let sizes = [shape.in_channels, shape.patch_size, shape.temporal_patch_size, shape.merge_size];
        if sizes.contains(&0) { Err(format!("a size of 0 in {shape:?}")) } else { Ok(shape) }
    }

    /// C*T*p*p.
    fn patch_len(&self) -> usize {
        self.in_channels * self.temporal_patch_size * self.patch_size * self.patch_size
    }

    /// How many rows come of an image: one for each m x m patches.
    pub(in crate::models) fn num_rows(&self, image: &ImageInput) -> Parsed<usize> {
        let (ImageInput { shape, grid, .. }, merge) = (image, self.merge_size);
        let patches: usize = grid.iter().product();
        let is_whole = grid[1..].iter().all(|side| side.is_multiple_of(merge));
        if image.pixels.len() != patches * self.patch_len() || !is_whole {
            return Err(format!(
                "an image of shape {shape:?} and grid {grid:?} does not fit patches of {} numbers, {merge} x {merge} \
                 merged",
                self.patch_len()
            ));
        }
        Ok(patches / (merge * merge))
    }
}

/// Turns patches into vectors: a convolution whose stride is its kernel, (E, C, T, p, p), which is a linear layer.
pub(in crate::models) struct PatchEmbed {
    shape: PatchShape,
    weight: Tensor,
    bias: Option<Tensor>,
}

impl PatchEmbed {
    /// Of `width` E.
    pub(in crate::models) fn build(
        shape: PatchShape,
        width: usize,
        bias: bool,
        source: &mut dyn WeightSource,
    ) -> Result<Self> {
        let (name, p) = ("visual.patch_embed.proj", shape.patch_size);
        let kernel = [width, shape.in_channels, shape.temporal_patch_size, p, p];
        let weight = source.get(&format!("{name}.weight"), &kernel)?;
        let bias = bias.then(|| source.get(&format!("{name}.bias"), &[width])).transpose()?;
        Ok(Self { shape, weight, bias })
    }

    /// Patches of all images, (P, E).
    pub(in crate::models) fn forward(&self, images: &[ImageInput], dtype: DType) -> Result<Tensor> {
        let pixels = self.pixels(images)?.to_dtype(dtype)?;
        Linear::new(self.weight.flatten_from(1)?, self.bias.clone()).forward(&pixels)
    }

    /// The rotary embedding of patches at these (row, column), for heads of `head_width`.
    pub(in crate::models) fn rope(&self, positions: &[[u32; 2]], head_width: usize) -> Result<Rope> {
        Rope::grid(positions, head_width, ROPE_THETA, self.weight.device())
    }

    /// (P, C*T*p*p).
    fn pixels(&self, images: &[ImageInput]) -> Result<Tensor> {
        let mut pixels = Vec::with_capacity(images.iter().map(|image| image.pixels.len()).sum());
        for image in images {
            self.shape.num_rows(image).map_err(unfit)?;
            pixels.extend_from_slice(&image.pixels);
        }
        let shape = (pixels.len() / self.shape.patch_len(), self.shape.patch_len());
        upload(pixels, shape, self.weight.device())
    }
}

/// (row, column) of each patch of all images, in merge order; each frame begins anew.
pub(in crate::models) fn patch_positions(images: &[ImageInput], merge: usize) -> Vec<[u32; 2]> {
    let of_image = |[frames, rows, columns]: [usize; 3]| {
        let windows = (0..rows / merge).flat_map(move |r| (0..columns / merge).map(move |c| (r, c)));
        let frame = windows.flat_map(move |(r, c)| {
            let inside = (0..merge).flat_map(move |i| (0..merge).map(move |j| (i, j)));
            inside.map(move |(i, j)| [(r * merge + i) as u32, (c * merge + j) as u32])
        });
        (0..frames).flat_map(move |_| frame.clone())
    };
    images.iter().flat_map(|image| of_image(image.grid)).collect()
}

/// Where each frame begins and the last one ends, in patches.
pub(in crate::models) fn frame_boundaries(images: &[ImageInput]) -> Vec<usize> {
    let frames = images.iter().map(|image| image.grid);
    boundaries(frames.flat_map(|[frames, rows, columns]| std::iter::repeat_n(rows * columns, frames)))
}

/// Running totals of `lengths`, from 0.
pub(in crate::models) fn boundaries(lengths: impl IntoIterator<Item = usize>) -> Vec<usize> {
    let mut end = 0;
    let ends = lengths.into_iter().map(|length| {
        end += length;
        end
    });
    std::iter::once(0).chain(ends).collect()
}
