//! LLaVA-OneVision's image processor: a single image in tiles, several images padded to squares of one tile each.

use serde_json::{Value, json};

use super::{default_canvases, max_tiles};
use crate::image::{AnyRes, ImageError, ImageInput, Normalization, RgbImage, pad, resize};
use crate::models::anyres::{canvases, check_canvases};
use crate::models::fields::{count, only, word};
use crate::models::processor::{
    CLIP_MEAN, CLIP_STD, CommonSettings, FamilyProcessor, ProcessorFiles, Size, named_token,
};

struct LlavaOnevisionProcessor {
    common: CommonSettings,
    normalization: Normalization,
    tiling: AnyRes,
    image_token: String,
}

/// Reads the processor's files.
pub(super) fn parse(files: &ProcessorFiles<'_>) -> Result<Box<dyn FamilyProcessor>, String> {
    let (json, processor) = (files.image()?, files.processor);
    let common = CommonSettings::parse(json, CLIP_MEAN, CLIP_STD)?;
    let [height, width] = Size::read(&json["size"], Size::Exact([384, 384]))?.sides();
    only(height == width, format!("`size` {height} x {width}"))?;
    only(json["do_center_crop"] != true, "`do_center_crop`")?;
    let canvases = canvases(json, &default_canvases())?;
    check_canvases(&canvases, height)?;
    let patches = count(processor, "num_image_tokens", 0)?;
    let patches_per_side = patches.isqrt();
    if patches == 0 || patches_per_side * patches_per_side != patches {
        return Err(format!("`num_image_tokens` of processor_config.json is {patches}, not a square"));
    }
    only(
        word(processor, "vision_feature_select_strategy", "full")? == "full",
        "a `vision_feature_select_strategy` other than full",
    )?;
    let max_tiles = Some(max_tiles(processor)?);
    Ok(Box::new(LlavaOnevisionProcessor {
        normalization: common.normalization(),
        common,
        tiling: AnyRes { canvases, tile_side: height, patches_per_side, max_tiles },
        image_token: named_token(files, "image_token", "<image>"),
    }))
}

impl LlavaOnevisionProcessor {
    /// The image in the middle of a square of the mean colour.
    fn squared(&self, image: &RgbImage) -> RgbImage {
        let side = image.width.max(image.height);
        let corner = [(side - image.width) / 2, (side - image.height) / 2];
        pad(image, corner, [side; 2], self.common.mean.map(|mean| (mean * 255.0) as u8))
    }
}

impl FamilyProcessor for LlavaOnevisionProcessor {
    fn image_token(&self) -> Option<&str> {
        Some(&self.image_token)
    }

    fn expansion(&self, image: &ImageInput) -> String {
        self.image_token.repeat(image.num_tokens)
    }

    fn image(&self, image: &RgbImage) -> Result<ImageInput, ImageError> {
        self.image_among(image, 1)
    }

    fn image_among(&self, image: &RgbImage, num_images: usize) -> Result<ImageInput, ImageError> {
        let (side, filter) = (self.tiling.tile_side, self.common.filter);
        let patches = self.tiling.patches_per_side * self.tiling.patches_per_side;
        let size = [image.height, image.width];
        if num_images > 1 {
            let tile = resize(&self.squared(image), side, side, filter)?;
            return Ok(self.normalization.tiles(&[tile], size, patches + 1));
        }
        let tiles = self.tiling.cut(image, filter)?;
        let num_tokens = patches + self.tiling.patch_rows(image.width, image.height).num_tokens();
        Ok(self.normalization.tiles(&tiles, size, num_tokens))
    }

    fn settings(&self) -> Value {
        json!({
            "type": "llava_onevision",
            "common": self.common.settings(),
            "canvases": self.tiling.canvases,
            "tile": self.tiling.tile_side,
            "patches_per_side": self.tiling.patches_per_side,
            "max_tiles": self.tiling.max_tiles,
        })
    }
}
