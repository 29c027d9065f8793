//! The tower of LLaVA-NeXT and LLaVA-OneVision: the tiles of an image back in one grid, the patches of its padding left
//! out, and a learned row at the end of each line.
//!
//! Legend: N tiles of all images, P patches of a tile, D the decoder's width.

use candle_core::{DType, Result, Tensor, bail};
use serde::Serialize;
use serde_json::Value;

use super::blocks::Blocks;
use super::fields::{Parsed, only};
use super::layers::EncoderLayer;
use super::llava::{ProjectedTower, ProjectedVit};
use super::tower::{Patches, Tower, TowerConfig, unfit};
use super::weights::WeightSource;
use crate::image::{AnyRes, ImageInput, PatchRows};

/// A tower's configuration.
#[derive(Clone, Debug, Serialize)]
pub(super) struct AnyResConfig {
    #[serde(flatten)]
    projected: ProjectedVit,
    canvases: Vec<[u32; 2]>,
    max_tiles: Option<usize>,
}

impl AnyResConfig {
    /// An encoder that gives one row for each patch, and the canvases of config.json.
    pub(super) fn new(
        projected: ProjectedVit,
        canvases: Vec<[u32; 2]>,
        max_tiles: Option<usize>,
    ) -> Parsed<Self> {
        let (rows, patches) = (projected.vision.selected_rows(), projected.vision.tile().num_patches());
        only(
            rows == patches,
            "a `vision_feature_select_strategy` that does not leave one row for each patch",
        )?;
        check_canvases(&canvases, projected.vision.image_size as u32)?;
        Ok(Self { projected, canvases, max_tiles })
    }

    fn tiling(&self) -> AnyRes {
        let tile = self.projected.vision.tile();
        AnyRes {
            canvases: self.canvases.clone(),
            tile_side: tile.side as u32,
            patches_per_side: tile.patches_per_side(),
            max_tiles: self.max_tiles,
        }
    }
}

/// Reads `image_grid_pinpoints`, (height, width) each.
pub(super) fn canvases(json: &Value, default: &[[u32; 2]]) -> Parsed<Vec<[u32; 2]>> {
    match &json["image_grid_pinpoints"] {
        Value::Null => Ok(default.to_vec()),
        value => serde_json::from_value(value.clone())
            .map_err(|_| format!("`image_grid_pinpoints` is {value}, not a list of (height, width)")),
    }
}

/// Refuses canvases that are not made of whole tiles.
pub(super) fn check_canvases(canvases: &[[u32; 2]], side: u32) -> Parsed<()> {
    let whole = |canvas: &[u32; 2]| canvas.iter().all(|&n| n > 0 && side > 0 && n.is_multiple_of(side));
    match canvases.iter().find(|canvas| !whole(canvas)) {
        None if !canvases.is_empty() => Ok(()),
        None => Err("`image_grid_pinpoints` is empty".into()),
        Some([height, width]) => {
            Err(format!("`image_grid_pinpoints`: {height} x {width} is not made of tiles of {side} pixels"))
        }
    }
}

struct AnyResTower {
    projected: ProjectedTower,
    /// (D).
    newline: Tensor,
    tiling: AnyRes,
}

impl TowerConfig for AnyResConfig {
    fn build(&self, width: usize, source: &mut dyn WeightSource) -> Result<Box<dyn Tower>> {
        Ok(Box::new(AnyResTower {
            projected: self.projected.build_tower(width, source)?,
            newline: source.get("image_newline", &[width])?,
            tiling: self.tiling(),
        }))
    }

    fn num_rows(&self, image: &ImageInput) -> Parsed<usize> {
        let tile = self.projected.vision.tile();
        let patches = tile.num_patches();
        match tile.num_tiles(image)? {
            1 => Ok(patches + 1),
            _ => Ok(patches + patch_rows(&self.tiling(), image)?.num_tokens()),
        }
    }
}

/// The patches that stay of an image's canvas.
fn patch_rows(tiling: &AnyRes, image: &ImageInput) -> Parsed<PatchRows> {
    let [tiles, height, width] = image.grid;
    let canvas = tiling.canvas(width as u32, height as u32);
    let expected = 1 + canvas.iter().map(|side| (side / tiling.tile_side) as usize).product::<usize>();
    match tiles == expected {
        true => Ok(tiling.patch_rows(width as u32, height as u32)),
        false => Err(format!(
            "an image of {width} x {height} pixels in {tiles} tiles, where `image_grid_pinpoints` of config.json want \
             {expected}"
        )),
    }
}

impl Tower for AnyResTower {
    fn embed(&self, images: &[ImageInput], dtype: DType) -> Result<Patches> {
        self.projected.embed(images, dtype)
    }

    fn blocks(&self) -> &Blocks<EncoderLayer> {
        self.projected.blocks()
    }

    fn project(&self, x: Tensor, images: &[ImageInput]) -> Result<Tensor> {
        let tiles = self.projected.tiles(x)?; // (N, P, D)
        let (num_tiles, patches, width) = tiles.dims3()?;
        let newline = self.newline.to_dtype(tiles.dtype())?.reshape((1, width))?;
        let tiles = Tensor::cat(&[&tiles.reshape((num_tiles * patches, width))?, &newline], 0)?;
        // Shrunk grids lie behind the tiles and the newline; the order then picks from all of them.
        let mut order = Order { newline: (num_tiles * patches) as u32, rows: Vec::new() };
        let mut tables = vec![tiles.clone()];
        let mut behind = num_tiles * patches + 1;
        let mut first_tile = 0;
        for image in images {
            let first = first_tile * patches;
            first_tile += image.grid[0];
            if image.grid[0] != image.shape[0] || first_tile > num_tiles {
                bail!("an image of {} tiles was given {}", image.grid[0], image.shape[0])
            }
            order.rows.extend((first..first + patches).map(|row| row as u32));
            if image.grid[0] == 1 {
                order.rows.push(order.newline);
                continue;
            }
            let grid = self.grid(image, first + patches)?;
            if grid.is_shrunk() {
                let shrunk = grid.shrunk(&tiles)?;
                let [rows, columns] = grid.rows.kept;
                order.push_grid([rows, columns], |row, column| (behind + row * columns + column) as u32);
                behind += shrunk.dim(0)?;
                tables.push(shrunk);
            } else {
                order.push_grid(grid.rows.shown, |row, column| grid.patch(row, column));
            }
        }
        let order = Tensor::new(order.rows, tiles.device())?;
        Tensor::cat(&tables, 0)?.index_select(&order, 0)
    }
}

impl AnyResTower {
    fn grid(&self, image: &ImageInput, first: usize) -> Result<Grid> {
        let rows = patch_rows(&self.tiling, image).map_err(unfit)?;
        Ok(Grid { first, patches_per_side: self.tiling.patches_per_side, rows })
    }
}

/// Which rows of the table become image tokens.
struct Order {
    newline: u32,
    rows: Vec<u32>,
}

impl Order {
    fn push_grid(&mut self, [rows, columns]: [usize; 2], place: impl Fn(usize, usize) -> u32) {
        for row in 0..rows {
            self.rows.extend((0..columns).map(|column| place(row, column)));
            self.rows.push(self.newline);
        }
    }
}

/// The patches of one image's canvas among all tiles' patches.
struct Grid {
    /// The first patch of the canvas' first tile.
    first: usize,
    patches_per_side: usize,
    rows: PatchRows,
}

impl Grid {
    fn is_shrunk(&self) -> bool {
        self.rows.kept != self.rows.shown
    }

    /// Where the patch at a place of the shown part lies.
    fn patch(&self, row: usize, column: usize) -> u32 {
        let (side, rows) = (self.patches_per_side, self.rows);
        let (row, column) = (row + rows.top, column + rows.left);
        let tile = row / side * rows.tile_columns + column / side;
        (self.first + tile * side * side + row % side * side + column % side) as u32
    }

    /// The shown part shrunk to (kept rows * kept columns, D), each the bilinear mean of its four neighbours, edges not
    /// aligned and not antialiased, as PyTorch's `interpolate` has it.
    fn shrunk(&self, table: &Tensor) -> Result<Tensor> {
        let [rows, columns] = [0, 1].map(|axis| neighbours(self.rows.shown[axis], self.rows.kept[axis]));
        let weighted = |i: usize, j: usize| -> Result<Tensor> {
            let cells = || rows.iter().flat_map(|row| columns.iter().map(move |column| (row[i], column[j])));
            let places: Vec<u32> = cells().map(|((row, _), (column, _))| self.patch(row, column)).collect();
            let weights: Vec<f32> = cells().map(|((_, down), (_, across))| down * across).collect();
            let weights = Tensor::from_vec(weights, (places.len(), 1), table.device())?;
            let picked = table.index_select(&Tensor::new(places, table.device())?, 0)?;
            picked.broadcast_mul(&weights.to_dtype(table.dtype())?)
        };
        (weighted(0, 0)? + weighted(0, 1)?)? + (weighted(1, 0)? + weighted(1, 1)?)?
    }
}

/// For each of `to` places, the two of `from` places around it and their weights.
fn neighbours(from: usize, to: usize) -> Vec<[(usize, f32); 2]> {
    let scale = from as f32 / to as f32;
    let pair = |place: usize| {
        let at = (scale * (place as f32 + 0.5) - 0.5).max(0.0);
        let low = (at as usize).min(from - 1);
        let weight = at - low as f32;
        [(low, 1.0 - weight), ((low + 1).min(from - 1), weight)]
    };
    (0..to).map(pair).collect()
}
