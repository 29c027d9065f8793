//! Images as a model sees them: decode, resize policies, patches. On the CPU, deterministic.
//!
//! The rule of this module is bit equality with what transformers does in Python (Pillow decodes,
//! torchvision resizes and normalises): a model answers to the pixels it was trained on, and a difference of
//! one grey level already moves its features by more than single precision does.

mod anyres;
mod crop;
mod decode;
mod gif;
mod jpeg;
mod normalize;
mod orientation;
mod patches;
mod resize;
mod smart_resize;
mod split;
mod tiles;

pub use anyres::{AnyRes, PatchRows};
pub use crop::{centre_crop, crop, pad, shorter_side};
pub use decode::{MAX_PIXELS, decode};
pub use normalize::Normalization;
pub use patches::{PatchLayout, cut_planes};
pub use resize::{ResizeFilter, resize};
pub use smart_resize::SmartResize;
pub use split::Splitting;
pub use tiles::{Tiling, tile_grid};

#[cfg(test)]
mod tests;

/// One image as one model takes it.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageInput {
    /// Normalised values, row-major over `shape`.
    pub pixels: Vec<f32>,
    /// Qwen-VL: `[patches, C*T*p*p]`; tiled families: `[tiles, C, H, W]`.
    pub shape: Vec<usize>,
    /// (temporal, height, width): Qwen-VL in patches; InternVL `[tiles, rows, columns]` of the tile grid; the others
    /// `[tiles, height, width]` with the sides of the image in pixels as it was before it was resized.
    pub grid: [usize; 3],
    /// Placeholder tokens this image takes, which is also the number of rows the projector returns.
    pub num_tokens: usize,
}

/// A decoded image: three bytes a pixel, rows from the top.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `height * width * 3` values.
    pub data: Vec<u8>,
}

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The bytes are no image, or a broken one.
    #[error("the image cannot be decoded: {0}")]
    Decode(String),
    /// The image breaks off.
    #[error("the image is cut off: decoded {0}")]
    Truncated(String),
    /// More pixels than anybody means to have.
    #[error("the image has {width} x {height} pixels, more than {MAX_PIXELS} in all")]
    TooLarge {
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// A shape that the family's processor refuses.
    #[error(
        "the image of {width} x {height} pixels is too long and thin: the ratio of its sides is over {limit}"
    )]
    AspectRatio {
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
        /// The largest ratio.
        limit: u32,
    },
    /// The model has no vision encoder.
    #[error("the model takes no images\nhint: it is a text model; leave its samples without images")]
    NotTaken,
    /// The image cannot be resized.
    #[error("the image cannot be resized: {0}")]
    Resize(String),
}
