//! Gemma 3's image processor: the image squeezed into one tile, its tokens between two marks on lines of their own.

use serde_json::Value;

use crate::image::{ImageError, ImageInput, RgbImage};
use crate::models::fields::{count, flag, only};
use crate::models::processor::{
    FamilyProcessor, HALF, ProcessorFiles, SquareTile, named_token, with_default_filter,
};

const BILINEAR: u64 = 2;

struct Gemma3Processor {
    tile: SquareTile,
    start: String,
    end: String,
    image_token: String,
}

/// Reads the processor's files.
pub(super) fn parse(files: &ProcessorFiles<'_>) -> Result<Box<dyn FamilyProcessor>, String> {
    let json = &with_default_filter(files.image()?, BILINEAR);
    only(!flag(json, "do_pan_and_scan", false)?, "`do_pan_and_scan`")?;
    let num_tokens = count(files.processor, "image_seq_length", 256)?;
    Ok(Box::new(Gemma3Processor {
        tile: SquareTile::parse(json, HALF, num_tokens)?,
        start: named_token(files, "boi_token", "<start_of_image>"),
        end: named_token(files, "eoi_token", "<end_of_image>"),
        image_token: named_token(files, "image_token", "<image_soft_token>"),
    }))
}

impl FamilyProcessor for Gemma3Processor {
    fn image_token(&self) -> Option<&str> {
        Some(&self.image_token)
    }

    fn placeholder(&self) -> Option<&str> {
        Some(&self.start)
    }

    fn expansion(&self, image: &ImageInput) -> String {
        format!("\n\n{}{}{}\n\n", self.start, self.image_token.repeat(image.num_tokens), self.end)
    }

    fn image(&self, image: &RgbImage) -> Result<ImageInput, ImageError> {
        self.tile.image(image)
    }

    fn settings(&self) -> Value {
        self.tile.settings("gemma3")
    }
}
