//! The image processor of Pixtral and Mistral3: images keep their ratio, are only ever shrunk, and end in whole patches;
//! a break token after each row of image tokens and an end token after the last. Defaults are those of transformers
//! 5.23's `PixtralProcessor` and `PixtralImageProcessor`.

use serde_json::{Value, json};

use crate::image::{ImageError, ImageInput, Normalization, RgbImage, resize};
use crate::models::fields::{count, word};
use crate::models::processor::{CLIP_MEAN, CLIP_STD, CommonSettings, FamilyProcessor, ProcessorFiles};

struct PixtralProcessor {
    common: CommonSettings,
    normalization: Normalization,
    /// (height, width) that no image exceeds, but for what is missing to a whole patch.
    max_size: [usize; 2],
    /// Side in pixels of what becomes one token.
    factor: usize,
    image_token: String,
    break_token: String,
    end_token: String,
}

/// Reads the processor's files.
pub(in crate::models) fn parse(files: &ProcessorFiles<'_>) -> Result<Box<dyn FamilyProcessor>, String> {
    let (image, processor) = (files.image()?, files.processor);
    let common = CommonSettings::parse(image, CLIP_MEAN, CLIP_STD)?;
    let factor = count(processor, "patch_size", 16)? * count(processor, "spatial_merge_size", 1)?;
    let size = &image["size"];
    let longest = match (&size["height"], &size["width"]) {
        (Value::Null, _) | (_, Value::Null) => Some(count(size, "longest_edge", 1024)?),
        _ if !size["longest_edge"].is_null() => Some(count(size, "longest_edge", 1024)?),
        _ => None,
    };
    let max_size = match longest {
        Some(edge) => [edge; 2],
        None => [count(size, "height", 0)?, count(size, "width", 0)?],
    };
    if factor == 0 || max_size.contains(&0) {
        return Err("`patch_size`, `spatial_merge_size` and `size` must not be 0".into());
    }
    Ok(Box::new(PixtralProcessor {
        normalization: common.normalization(),
        common,
        max_size,
        factor,
        image_token: word(processor, "image_token", "[IMG]")?.to_owned(),
        break_token: word(processor, "image_break_token", "[IMG_BREAK]")?.to_owned(),
        end_token: word(processor, "image_end_token", "[IMG_END]")?.to_owned(),
    }))
}

impl PixtralProcessor {
    /// (rows, columns) of tokens that an image takes; none where a side shrinks to nothing, which transformers refuses.
    fn grid(&self, image: &RgbImage) -> Result<[usize; 2], ImageError> {
        let (mut height, mut width) = (f64::from(image.height), f64::from(image.width));
        let ratio = (height / self.max_size[0] as f64).max(width / self.max_size[1] as f64);
        if ratio > 1.0 {
            (height, width) = ((height / ratio).floor(), (width / ratio).floor());
        }
        if height < 1.0 || width < 1.0 {
            let limit = if height < width { self.max_size[1] } else { self.max_size[0] };
            let (width, height) = (image.width, image.height);
            return Err(ImageError::AspectRatio { width, height, limit: limit as u32 });
        }
        Ok([height, width].map(|side| (side as usize).div_ceil(self.factor)))
    }
}

impl FamilyProcessor for PixtralProcessor {
    fn image_token(&self) -> Option<&str> {
        Some(&self.image_token)
    }

    fn expansion(&self, image: &ImageInput) -> String {
        let [_, rows, columns] = image.grid;
        let row = self.image_token.repeat(columns);
        let rows = vec![row; rows];
        rows.join(&self.break_token) + &self.end_token
    }

    fn image(&self, image: &RgbImage) -> Result<ImageInput, ImageError> {
        let [rows, columns] = self.grid(image)?;
        let (height, width) = (rows * self.factor, columns * self.factor);
        let resized = resize(image, width as u32, height as u32, self.common.filter)?;
        let mut pixels = Vec::with_capacity(3 * height * width);
        self.normalization.push_planes(&resized, &mut pixels);
        Ok(ImageInput {
            pixels,
            shape: vec![3, height, width],
            grid: [1, rows, columns],
            num_tokens: rows * columns,
        })
    }

    fn settings(&self) -> Value {
        json!({
            "type": "pixtral",
            "common": self.common.settings(),
            "max_size": self.max_size,
            "factor": self.factor,
        })
    }
}
