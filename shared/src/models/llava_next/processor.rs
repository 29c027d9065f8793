//! LLaVA-NeXT's image processor: the whole image as one tile, then the tiles of the best canvas.

use serde_json::{Value, json};

use super::CANVASES;
use crate::image::{AnyRes, ImageError, ImageInput, Normalization, RgbImage};
use crate::models::anyres::{canvases, check_canvases};
use crate::models::fields::{flag, only};
use crate::models::llava::patch_tokens;
use crate::models::processor::{
    CLIP_MEAN, CLIP_STD, CommonSettings, FamilyProcessor, ProcessorFiles, Size, named_token,
};

struct LlavaNextProcessor {
    common: CommonSettings,
    normalization: Normalization,
    tiling: AnyRes,
    image_token: String,
}

/// Reads the processor's files.
pub(super) fn parse(files: &ProcessorFiles<'_>) -> Result<Box<dyn FamilyProcessor>, String> {
    let json = files.image()?;
    let common = CommonSettings::parse(json, CLIP_MEAN, CLIP_STD)?;
    let [height, width] = Size::read(&json["size"], Size::ShortestEdge(224))?.sides();
    let crop = Size::read(&json["crop_size"], Size::Exact([224, 224]))?.sides();
    only(
        flag(json, "do_center_crop", true)? && crop == [height, width] && height == width,
        format!("`size` {height} x {width} with `crop_size` {} x {}", crop[0], crop[1]),
    )?;
    let canvases = canvases(json, &CANVASES)?;
    check_canvases(&canvases, height)?;
    let (patch_size, extra) = patch_tokens(files.processor)?;
    only(extra == 0, "`vision_feature_select_strategy` full with a class token")?;
    let patches_per_side = height as usize / patch_size;
    Ok(Box::new(LlavaNextProcessor {
        normalization: common.normalization(),
        common,
        tiling: AnyRes { canvases, tile_side: height, patches_per_side, max_tiles: None },
        image_token: named_token(files, "image_token", "<image>"),
    }))
}

impl FamilyProcessor for LlavaNextProcessor {
    fn image_token(&self) -> Option<&str> {
        Some(&self.image_token)
    }

    fn expansion(&self, image: &ImageInput) -> String {
        self.image_token.repeat(image.num_tokens)
    }

    fn image(&self, image: &RgbImage) -> Result<ImageInput, ImageError> {
        let tiles = self.tiling.cut(image, self.common.filter)?;
        let patches = self.tiling.patches_per_side * self.tiling.patches_per_side;
        let num_tokens = patches + self.tiling.patch_rows(image.width, image.height).num_tokens();
        Ok(self.normalization.tiles(&tiles, [image.height, image.width], num_tokens))
    }

    fn settings(&self) -> Value {
        json!({
            "type": "llava_next",
            "common": self.common.settings(),
            "canvases": self.tiling.canvases,
            "tile": self.tiling.tile_side,
            "patches_per_side": self.tiling.patches_per_side,
        })
    }
}
