//! Pixel shuffle: fewer, wider patches.

use candle_core::{Result, Tensor};

/// Patch features (N, P, E) of square tiles -> (N * P/r^2, r^2 * E): each r x r block of patches is one row.
///
/// # Errors
/// When the side of a tile is no multiple of r.
pub fn pixel_shuffle(x: &Tensor, r: usize) -> Result<Tensor> {
    let (tiles, patches, width) = x.dims3()?;
    let side = patches.isqrt();
    let x = x.reshape(&[tiles, side / r, r, side / r, r, width][..])?;
    x.permute([0, 1, 3, 2, 4, 5])?.reshape((patches * tiles / (r * r), r * r * width))
}
