//! Tiles as rows of flattened patches: what makes a patch embedding a linear layer.

use candle_core::{Device, Result, Tensor};

use crate::image::ImageInput;
use crate::models::fields::Parsed;
use crate::models::tower::{num_tiles, unfit};
use crate::models::transfer::upload;

/// The one shape of square tile that an encoder takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::models) struct TileShape {
    /// Colour channels, C.
    pub channels: usize,
    /// Side in pixels.
    pub side: usize,
    /// Side of a patch in pixels, p; what is left over at the right and below is not seen.
    pub patch: usize,
}

impl TileShape {
    /// Patches along a side.
    pub(in crate::models) fn patches_per_side(&self) -> usize {
        self.side / self.patch
    }

    /// P.
    pub(in crate::models) fn num_patches(&self) -> usize {
        self.patches_per_side() * self.patches_per_side()
    }

    /// Of how many such tiles an image consists.
    pub(in crate::models) fn num_tiles(&self, image: &ImageInput) -> Parsed<usize> {
        num_tiles(image, [self.channels, self.side, self.side])
    }

    /// Flattened patches of all tiles of all images, row-major, (N, P, C*p*p).
    pub(super) fn flat_patches(&self, images: &[ImageInput], device: &Device) -> Result<Tensor> {
        let mut patches = Vec::with_capacity(images.iter().map(|image| image.pixels.len()).sum());
        let mut tiles = 0;
        for image in images {
            tiles += self.num_tiles(image).map_err(unfit)?;
            let tile_len = self.channels * self.side * self.side;
            image.pixels.chunks_exact(tile_len).for_each(|tile| self.append_patches(tile, &mut patches));
        }
        let patch_len = self.channels * self.patch * self.patch;
        upload(patches, (tiles, self.num_patches(), patch_len), device)
    }

    /// One tile (C, H, W) as patches (rows, columns, C, p, p), appended.
    fn append_patches(&self, tile: &[f32], patches: &mut Vec<f32>) {
        let (n, p) = (self.patches_per_side(), self.patch);
        for (row, column) in (0..n).flat_map(|row| (0..n).map(move |column| (row, column))) {
            for (channel, i) in (0..self.channels).flat_map(|channel| (0..p).map(move |i| (channel, i))) {
                let start = (channel * self.side + row * p + i) * self.side + column * p;
                patches.extend_from_slice(&tile[start..start + p]);
            }
        }
    }
}
