//! Images as a model sees them: decode, resize policies, patches. On the CPU, deterministic.

/// One image as one model takes it.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageInput {
    /// Normalised values, row-major over `shape`.
    pub pixels: Vec<f32>,
    /// Qwen-VL: `[patches, C*T*p*p]`; tiled families: `[tiles, C, H, W]`.
    pub shape: Vec<usize>,
    /// (temporal, height, width): Qwen-VL in patches; tiled families `[tiles, rows, columns]` of the tile grid.
    pub grid: [usize; 3],
    /// Placeholder tokens this image takes, which is also the number of rows the projector returns.
    pub num_tokens: usize,
}
