//! InternVL's tiling: the image squeezed onto the grid of square tiles nearest to its own ratio, and a thumbnail of the whole.

use super::{ImageError, ResizeFilter, RgbImage, crop, resize};

/// How an image is cut into tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// Columns of a tile in pixels.
    pub tile_width: u32,
    /// Rows of a tile in pixels.
    pub tile_height: u32,
    /// Fewest tiles, the thumbnail not counted.
    pub min_tiles: usize,
    /// Most tiles, the thumbnail not counted.
    pub max_tiles: usize,
    /// The filter that resizes.
    pub filter: ResizeFilter,
}

impl Tiling {
    /// The tiles, row by row, the thumbnail last unless there is only one tile; and the (rows, columns) of the grid.
    ///
    /// # Errors
    /// When the image cannot be resized.
    pub fn cut(&self, image: &RgbImage) -> Result<(Vec<RgbImage>, [usize; 2]), ImageError> {
        let (tile_width, tile_height) = (self.tile_width, self.tile_height);
        let [rows, columns] = tile_grid(image.width, image.height, self);
        let width = tile_width * columns as u32;
        let canvas = resize(image, width, tile_height * rows as u32, self.filter)?;
        let corner = |index: usize| {
            let (row, column) = ((index / columns) as u32, (index % columns) as u32);
            (column * tile_width, row * tile_height)
        };
        let tile = |index: usize| {
            let (left, top) = corner(index);
            crop(&canvas, left, top, tile_width, tile_height)
        };
        let mut tiles: Vec<_> = (0..rows * columns).map(tile).collect();
        if tiles.len() > 1 {
            tiles.push(resize(image, tile_width, tile_height, self.filter)?);
        }
        Ok((tiles, [rows, columns]))
    }
}

/// The (rows, columns) of the grid whose ratio is nearest to the image's. Of equally near ones the larger wins,
/// unless that would more than double the image's area.
pub fn tile_grid(width: u32, height: u32, tiling: &Tiling) -> [usize; 2] {
    let ratio = f64::from(width) / f64::from(height);
    let area = f64::from(width) * f64::from(height);
    let tile_area = f64::from(tiling.tile_width) * f64::from(tiling.tile_height);
    let (mut best, mut best_difference) = ([1, 1], f64::INFINITY);
    for [rows, columns] in grids(tiling) {
        let difference = (ratio - columns as f64 / rows as f64).abs();
        let is_worth_it = area > 0.5 * tile_area * columns as f64 * rows as f64;
        if difference < best_difference || (difference == best_difference && is_worth_it) {
            (best, best_difference) = ([rows, columns], difference);
        }
    }
    best
}

/// All grids of allowed size, small ones first, and narrow ones first among equals.
fn grids(tiling: &Tiling) -> Vec<[usize; 2]> {
    let most = tiling.max_tiles;
    let all = (1..=most).flat_map(|columns| (1..=most).map(move |rows| [rows, columns]));
    let allowed = |[rows, columns]: &[usize; 2]| (tiling.min_tiles..=most).contains(&(rows * columns));
    let mut grids: Vec<_> = all.filter(allowed).collect();
    // A stable sort, as in Python: equal sizes keep the order of their columns.
    grids.sort_by_key(|[rows, columns]| rows * columns);
    grids
}
