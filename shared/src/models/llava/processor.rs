//! LLaVA 1.5's image processor: the shorter side to one size, a square from the middle.

use serde_json::{Value, json};

use crate::image::{ImageError, ImageInput, Normalization, RgbImage, centre_crop, resize, shorter_side};
use crate::models::fields::{count, flag, only, word};
use crate::models::processor::{
    CLIP_MEAN, CLIP_STD, CommonSettings, FamilyProcessor, ProcessorFiles, Size, named_token,
};

struct LlavaProcessor {
    common: CommonSettings,
    normalization: Normalization,
    size: Size,
    /// (height, width); none where the image stays as resized.
    crop: Option<[u32; 2]>,
    patch_size: usize,
    /// CLIP's class token, unless it is dropped.
    extra_tokens: usize,
    image_token: String,
}

/// Reads the processor's files.
pub(super) fn parse(files: &ProcessorFiles<'_>) -> Result<Box<dyn FamilyProcessor>, String> {
    let (json, processor) = (files.image()?, files.processor);
    let common = CommonSettings::parse(json, CLIP_MEAN, CLIP_STD)?;
    let size = Size::read(&json["size"], Size::ShortestEdge(224))?;
    let crop = match flag(json, "do_center_crop", true)? {
        true => Some(Size::read(&json["crop_size"], Size::Exact([224, 224]))?.sides()),
        false => None,
    };
    only(crop.is_some() || matches!(size, Size::Exact(_)), "`do_center_crop` false with `shortest_edge`")?;
    let (patch_size, extra_tokens) = patch_tokens(processor)?;
    Ok(Box::new(LlavaProcessor {
        normalization: common.normalization(),
        common,
        size,
        crop,
        patch_size,
        extra_tokens,
        image_token: named_token(files, "image_token", "<image>"),
    }))
}

/// The side of a patch and how many tokens a tile has beside those of its patches: processor_config.json says both.
pub(in crate::models) fn patch_tokens(processor: &Value) -> Result<(usize, usize), String> {
    let patch_size = count(processor, "patch_size", 0)?;
    if patch_size == 0 {
        return Err("processor_config.json has no `patch_size`".into());
    }
    let additional = count(processor, "num_additional_image_tokens", 0)?;
    let dropped = usize::from(word(processor, "vision_feature_select_strategy", "")? == "default");
    let extra = additional.checked_sub(dropped);
    Ok((patch_size, extra.ok_or("`num_additional_image_tokens` 0 leaves no class token to drop")?))
}

impl FamilyProcessor for LlavaProcessor {
    fn image_token(&self) -> Option<&str> {
        Some(&self.image_token)
    }

    fn expansion(&self, image: &ImageInput) -> String {
        self.image_token.repeat(image.num_tokens)
    }

    fn image(&self, image: &RgbImage) -> Result<ImageInput, ImageError> {
        let (width, height) = match self.size {
            Size::Exact([height, width]) => (width, height),
            Size::ShortestEdge(side) => shorter_side(image.width, image.height, side),
        };
        let resized = resize(image, width, height, self.common.filter)?;
        let tile = match self.crop {
            Some([height, width]) => centre_crop(&resized, width, height),
            None => resized,
        };
        let num_tokens = self.num_tokens(&tile);
        Ok(self.normalization.tiles(&[tile], [image.height, image.width], num_tokens))
    }

    fn settings(&self) -> Value {
        json!({
            "type": "llava",
            "common": self.common.settings(),
            "size": self.size.settings(),
            "crop": self.crop,
            "patch_size": self.patch_size,
            "extra_tokens": self.extra_tokens,
        })
    }
}

impl LlavaProcessor {
    fn num_tokens(&self, tile: &RgbImage) -> usize {
        let patches = |side: u32| side as usize / self.patch_size;
        patches(tile.height) * patches(tile.width) + self.extra_tokens
    }
}
