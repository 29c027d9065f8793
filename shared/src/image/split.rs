//! Idefics3's tiles: the longer side always to one length, both sides up to multiples of a tile, and the whole image
//! squeezed into one more tile at the end.

use super::{ImageError, ResizeFilter, RgbImage, crop, resize};

/// No side is made longer.
const MAX_SIDE: u32 = 4096;

/// How an image is cut into tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Splitting {
    /// The longer side in pixels.
    pub longest_edge: u32,
    /// Side of a tile in pixels.
    pub tile_side: u32,
    /// Whether images are cut at all; if not, each is one tile.
    pub is_on: bool,
    /// The filter that resizes.
    pub filter: ResizeFilter,
}

impl Splitting {
    /// The tiles, row by row, then the whole image, and the (rows, columns) of the grid; a single tile has no grid,
    /// (0, 0).
    ///
    /// # Errors
    /// When the image cannot be resized.
    pub fn cut(&self, image: &RgbImage) -> Result<(Vec<RgbImage>, [usize; 2]), ImageError> {
        let side = self.tile_side;
        let (width, height) = longest(image.width, image.height, self.longest_edge);
        let scaled = resize(image, width, height, self.filter)?;
        let [rows, columns] = self.grid(image.width, image.height);
        if rows == 0 {
            return Ok((vec![resize(&scaled, side, side, self.filter)?], [0, 0]));
        }
        let canvas = resize(&scaled, columns * side, rows * side, self.filter)?;
        let corners = (0..rows).flat_map(|row| (0..columns).map(move |column| (column * side, row * side)));
        let mut tiles: Vec<_> = corners.map(|(left, top)| crop(&canvas, left, top, side, side)).collect();
        tiles.push(resize(&canvas, side, side, self.filter)?);
        Ok((tiles, [rows as usize, columns as usize]))
    }

    /// The (rows, columns) of the grid; a single tile has none, (0, 0).
    pub fn grid(&self, width: u32, height: u32) -> [u32; 2] {
        let (width, height) = longest(width, height, self.longest_edge);
        let (width, height) = whole_tiles(width, height, self.tile_side);
        match [height / self.tile_side, width / self.tile_side] {
            grid if self.is_on && grid != [1, 1] => grid,
            _ => [0, 0],
        }
    }
}

/// The (width, height) whose longer side is `edge`; the shorter one is made even, and neither exceeds [`MAX_SIDE`].
fn longest(width: u32, height: u32, edge: u32) -> (u32, u32) {
    let ratio = f64::from(width) / f64::from(height);
    let even = |side: f64| (side as u32).next_multiple_of(2).max(1);
    let (width, height) = if width >= height {
        (edge, even(f64::from(edge) / ratio))
    } else {
        (even(f64::from(edge) * ratio), edge)
    };
    let ratio = f64::from(width) / f64::from(height);
    let (width, height) = if width >= height && width > MAX_SIDE {
        (MAX_SIDE, (f64::from(MAX_SIDE) / ratio) as u32)
    } else if height > width && height > MAX_SIDE {
        ((f64::from(MAX_SIDE) * ratio) as u32, MAX_SIDE)
    } else {
        (width, height)
    };
    (width.max(1), height.max(1))
}

/// The (width, height) in whole tiles: first the longer side, then the other as the ratio has it.
fn whole_tiles(width: u32, height: u32, side: u32) -> (u32, u32) {
    let ratio = f64::from(width) / f64::from(height);
    if width >= height {
        let width = width.next_multiple_of(side);
        (width, ((f64::from(width) / ratio) as u32).next_multiple_of(side))
    } else {
        let height = height.next_multiple_of(side);
        (((f64::from(height) * ratio) as u32).next_multiple_of(side), height)
    }
}
