//! Images cut into patches: row by row, or in Qwen-VL's order, where patches of one merge window lie together. Each
//! patch goes channel by channel.

use super::{Normalization, RgbImage};

/// How an image is cut into patches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatchLayout {
    /// Side of a patch in pixels, p.
    pub patch_size: usize,
    /// Side of a merge window in patches, m.
    pub merge_size: usize,
    /// Frames a patch spans, T; a still image is repeated.
    pub temporal_patch_size: usize,
}

impl PatchLayout {
    /// Side of a merge window in pixels: both sides of an image are multiples of it.
    pub fn factor(&self) -> usize {
        self.patch_size * self.merge_size
    }

    /// Patches down and across.
    pub fn grid(&self, image: &RgbImage) -> [usize; 2] {
        [image.height as usize / self.patch_size, image.width as usize / self.patch_size]
    }

    /// Normalised patches, `[gh/m, gw/m, m, m, C, T, p, p]` in row-major order; the sides are multiples of
    /// [`factor`](Self::factor).
    pub fn cut(&self, image: &RgbImage, normalization: &Normalization) -> Vec<f32> {
        let merge = self.merge_size;
        let [rows, columns] = self.grid(image);
        let per_patch = 3 * self.temporal_patch_size * self.patch_size * self.patch_size;
        let mut pixels = Vec::with_capacity(rows * columns * per_patch);
        for window_row in (0..rows).step_by(merge) {
            for window_column in (0..columns).step_by(merge) {
                for row in window_row..window_row + merge {
                    for column in window_column..window_column + merge {
                        self.cut_patch(image, normalization, [row, column], &mut pixels);
                    }
                }
            }
        }
        pixels
    }

    /// Appends one patch, `[C, T, p, p]`.
    fn cut_patch(
        &self,
        image: &RgbImage,
        normalization: &Normalization,
        [row, column]: [usize; 2],
        pixels: &mut Vec<f32>,
    ) {
        let side = self.patch_size;
        for channel in 0..3 {
            let table = normalization.channel(channel);
            let frame = pixels.len();
            for y in row * side..(row + 1) * side {
                let start = 3 * (y * image.width as usize + column * side);
                let line = &image.data[start..start + 3 * side];
                pixels.extend(line.iter().skip(channel).step_by(3).map(|&value| table[usize::from(value)]));
            }
            for _ in 1..self.temporal_patch_size {
                pixels.extend_from_within(frame..frame + side * side);
            }
        }
    }
}

/// Cuts the planes of an image, `[C, H, W]` in row-major order, into patches of `[p, q]` (height, width) and appends
/// them as `[H/p, W/q, C, p, q]`.
pub fn cut_planes(
    planes: &[f32],
    [channels, height, width]: [usize; 3],
    [p, q]: [usize; 2],
    patches: &mut Vec<f32>,
) {
    for (row, column) in (0..height / p).flat_map(|row| (0..width / q).map(move |column| (row, column))) {
        for (channel, i) in (0..channels).flat_map(|channel| (0..p).map(move |i| (channel, i))) {
            let start = (channel * height + row * p + i) * width + column * q;
            patches.extend_from_slice(&planes[start..start + q]);
        }
    }
}
