//! The plainest image processor: the image squeezed into one tile, whatever that does to the ratio of its sides.

use serde_json::{Value, json};

use super::common::{CommonSettings, Size};
use crate::image::{ImageError, ImageInput, Normalization, RgbImage, resize};

/// One tile for each image.
pub(in crate::models) struct SquareTile {
    common: CommonSettings,
    normalization: Normalization,
    /// (height, width) in pixels.
    size: [u32; 2],
    num_tokens: usize,
}

impl SquareTile {
    /// Reads it; `mean` is the class default of mean and standard deviation, `num_tokens` what an image becomes.
    pub(in crate::models) fn parse(json: &Value, mean: [f64; 3], num_tokens: usize) -> Result<Self, String> {
        let common = CommonSettings::parse(json, mean, mean)?;
        let size = Size::read(&json["size"], Size::Exact([224, 224]))?.sides();
        Ok(Self { normalization: common.normalization(), common, size, num_tokens })
    }

    /// The pixels of an image.
    pub(in crate::models) fn image(&self, image: &RgbImage) -> Result<ImageInput, ImageError> {
        let [height, width] = self.size;
        let tile = resize(image, width, height, self.common.filter)?;
        Ok(self.normalization.tiles(&[tile], [image.height, image.width], self.num_tokens))
    }

    /// For the fingerprint.
    pub(in crate::models) fn settings(&self, family: &str) -> Value {
        json!({
            "type": family,
            "common": self.common.settings(),
            "size": self.size,
            "num_tokens": self.num_tokens,
        })
    }
}
