//! From bytes to the floats a vision encoder takes.

use super::{ImageInput, RgbImage};

/// Rescaling and normalising as transformers fuses them: `(x - mean * 255) / (std * 255)` in single precision.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalization {
    /// What each of the 256 values becomes, by channel.
    table: [Vec<f32>; 3],
}

impl Normalization {
    /// From the statistics of a processor; `rescale_factor` is 1/255 everywhere so far.
    pub fn new(mean: [f64; 3], std: [f64; 3], rescale_factor: f64) -> Self {
        // Each step rounds to f32, in the order in which torch does it.
        let scale = (1.0 / rescale_factor) as f32;
        let table = [0, 1, 2].map(|channel| {
            let (mean, std) = (mean[channel] as f32 * scale, std[channel] as f32 * scale);
            (0..=255_u8).map(|value| (f32::from(value) - mean) / std).collect()
        });
        Self { table }
    }

    /// What each byte value becomes in a channel (0 red, 1 green, 2 blue): 256 floats.
    pub fn channel(&self, channel: usize) -> &[f32] {
        &self.table[channel]
    }

    /// Appends an image channel by channel, `[C, H, W]`.
    pub fn push_planes(&self, image: &RgbImage, pixels: &mut Vec<f32>) {
        for (channel, table) in self.table.iter().enumerate() {
            pixels.extend(image.data.iter().skip(channel).step_by(3).map(|&value| table[usize::from(value)]));
        }
    }

    /// Tiles of one shape as a model takes them, `[tiles, C, H, W]`; `size` is the (height, width) of the image they are
    /// made from, `num_tokens` how many tokens they become.
    pub fn tiles(&self, tiles: &[RgbImage], [height, width]: [u32; 2], num_tokens: usize) -> ImageInput {
        let (rows, columns) =
            tiles.first().map_or((0, 0), |tile| (tile.height as usize, tile.width as usize));
        let mut pixels = Vec::with_capacity(tiles.len() * 3 * rows * columns);
        tiles.iter().for_each(|tile| self.push_planes(tile, &mut pixels));
        ImageInput {
            pixels,
            shape: vec![tiles.len(), 3, rows, columns],
            grid: [tiles.len(), height as usize, width as usize],
            num_tokens,
        }
    }
}
