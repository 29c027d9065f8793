//! LLaVA's tiles for images of any resolution: the image at its own ratio in the best of a few canvases, cut into square
//! tiles, behind the whole image squeezed into one. Of the canvas, only the patches that show the image become tokens.
//!
//! Positions among patches follow transformers' floating-point steps exactly: one patch more or less shifts all text.

use super::{ImageError, ResizeFilter, RgbImage, crop, pad, resize};

/// The canvases and what becomes of their tiles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnyRes {
    /// (height, width) of each canvas in pixels, multiples of `tile_side`.
    pub canvases: Vec<[u32; 2]>,
    /// Side of a tile in pixels.
    pub tile_side: u32,
    /// Patches along a side of a tile, p.
    pub patches_per_side: usize,
    /// Images that would take more than 1.1 squared of this many tiles' patches are shrunk to that many, if set.
    pub max_tiles: Option<usize>,
}

/// How the patches of an image's tiles become tokens, row by row with one token at the end of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatchRows {
    /// Tiles across the canvas.
    pub tile_columns: usize,
    /// The first row of patches that shows the image.
    pub top: usize,
    /// The first column of patches that shows the image.
    pub left: usize,
    /// (rows, columns) of patches that show the image.
    pub shown: [usize; 2],
    /// (rows, columns) they are shrunk to; the same where nothing is shrunk.
    pub kept: [usize; 2],
}

impl PatchRows {
    /// Tokens, one at the end of each row included.
    pub fn num_tokens(&self) -> usize {
        self.kept[0] * (self.kept[1] + 1)
    }
}

impl AnyRes {
    /// The (height, width) of the canvas that shows most of an image, the smallest of equals.
    pub fn canvas(&self, width: u32, height: u32) -> [u32; 2] {
        let (mut best, mut best_shown, mut best_wasted) = ([self.tile_side; 2], 0, u64::MAX);
        let (w, h) = (f64::from(width), f64::from(height));
        for &[canvas_height, canvas_width] in &self.canvases {
            let scale = (f64::from(canvas_width) / w).min(f64::from(canvas_height) / h);
            let scaled = (w * scale) as u64 * (h * scale) as u64;
            let shown = scaled.min(u64::from(width) * u64::from(height));
            let wasted = u64::from(canvas_height) * u64::from(canvas_width) - shown;
            if shown > best_shown || (shown == best_shown && wasted < best_wasted) {
                (best, best_shown, best_wasted) = ([canvas_height, canvas_width], shown, wasted);
            }
        }
        best
    }

    /// The whole image squeezed into one tile, then the canvas' tiles row by row.
    ///
    /// # Errors
    /// When the image cannot be resized.
    pub fn cut(&self, image: &RgbImage, filter: ResizeFilter) -> Result<Vec<RgbImage>, ImageError> {
        let [height, width] = self.canvas(image.width, image.height);
        let (scaled_width, scaled_height) = fitted(image.width, image.height, [height, width]);
        let scaled = resize(image, scaled_width, scaled_height, filter)?;
        let corner = [(width - scaled_width) / 2, (height - scaled_height) / 2];
        let canvas = pad(&scaled, corner, [width, height], [0; 3]);
        let side = self.tile_side;
        let mut tiles = vec![resize(image, side, side, filter)?];
        for top in (0..height).step_by(side as usize) {
            tiles.extend((0..width).step_by(side as usize).map(|left| crop(&canvas, left, top, side, side)));
        }
        Ok(tiles)
    }

    /// Which patches of an image's canvas become tokens.
    pub fn patch_rows(&self, width: u32, height: u32) -> PatchRows {
        let tiles = self.canvas(width, height).map(|side| (side / self.tile_side) as usize);
        let full = tiles.map(|tiles| tiles * self.patches_per_side);
        let [top, left] = padding(full, f64::from(width), f64::from(height));
        let shown = [full[0] - 2 * top, full[1] - 2 * left];
        PatchRows { tile_columns: tiles[1], top, left, shown, kept: self.shrunk(shown) }
    }

    fn shrunk(&self, shown: [usize; 2]) -> [usize; 2] {
        let Some(max_tiles) = self.max_tiles else { return shown };
        let most = max_tiles * self.patches_per_side * self.patches_per_side;
        let ratio = ((shown[0] * shown[1]) as f64 / most as f64).sqrt();
        if ratio > 1.1 { shown.map(|side| floor_division(side as f64, ratio) as usize) } else { shown }
    }
}

/// The (width, height) of an image at its own ratio inside a canvas of (height, width).
pub(super) fn fitted(image_width: u32, image_height: u32, [height, width]: [u32; 2]) -> (u32, u32) {
    let (w, h) = (f64::from(image_width), f64::from(image_height));
    let (across, down) = (f64::from(width) / w, f64::from(height) / h);
    if across < down {
        (width, ((h * across).ceil() as u32).min(height))
    } else {
        (((w * down).ceil() as u32).min(width), height)
    }
}

/// (rows, columns) of patches on either side that show only padding.
fn padding([rows, columns]: [usize; 2], width: f64, height: f64) -> [usize; 2] {
    if width / height > columns as f64 / rows as f64 {
        let shown = truncated(height * (columns as f64 / width));
        [(rows - shown.min(rows)) / 2, 0]
    } else {
        let shown = truncated(width * (rows as f64 / height));
        [0, (columns - shown.min(columns)) / 2]
    }
}

/// Rounded to seven decimals, then cut: Python's `int(round(x, 7))`, which rounds the exact decimal value.
fn truncated(x: f64) -> usize {
    format!("{x:.7}").parse::<f64>().unwrap_or(x) as usize
}

/// Python's `x // y` of positive numbers: from the exact remainder, not from the rounded quotient.
fn floor_division(x: f64, y: f64) -> f64 {
    let quotient = (x - x % y) / y;
    let floor = quotient.floor();
    if quotient - floor > 0.5 { floor + 1.0 } else { floor }
}
