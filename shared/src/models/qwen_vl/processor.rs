//! The image processor of the Qwen-VL families: any resolution, in patches, `<|image_pad|>` repeated for each merge
//! window. Defaults are those of transformers 5.23's `Qwen2VLImageProcessor`, which all of them use.

use serde_json::{Value, json};

use super::position::{ImageBox, positions};
use crate::image::{ImageError, ImageInput, Normalization, PatchLayout, RgbImage, SmartResize, resize};
use crate::models::fields::{count, word};
use crate::models::processor::{CLIP_MEAN, CLIP_STD, CommonSettings, FamilyProcessor, ProcessorFiles};
use crate::text::Prompt;

const DEFAULT_MIN_PIXELS: usize = 56 * 56;
const DEFAULT_MAX_PIXELS: usize = 28 * 28 * 1280;

struct QwenVlProcessor {
    common: CommonSettings,
    normalization: Normalization,
    bounds: SmartResize,
    patches: PatchLayout,
    image_token: String,
}

/// Reads the processor's files.
pub(in crate::models) fn parse(files: &ProcessorFiles<'_>) -> Result<Box<dyn FamilyProcessor>, String> {
    let json = files.image()?;
    let common = CommonSettings::parse(json, CLIP_MEAN, CLIP_STD)?;
    let patches = PatchLayout {
        patch_size: count(json, "patch_size", 14)?,
        merge_size: count(json, "merge_size", 2)?,
        temporal_patch_size: count(json, "temporal_patch_size", 2)?,
    };
    if patches.factor() == 0 || patches.temporal_patch_size == 0 {
        return Err("`patch_size`, `merge_size` and `temporal_patch_size` must not be 0".into());
    }
    let bounds = SmartResize {
        factor: patches.factor(),
        min_pixels: bound(json, "min_pixels", "shortest_edge", DEFAULT_MIN_PIXELS)?,
        max_pixels: bound(json, "max_pixels", "longest_edge", DEFAULT_MAX_PIXELS)?,
    };
    let image_token = word(files.tokenizer.config(), "image_token", "<|image_pad|>")?.to_owned();
    Ok(Box::new(QwenVlProcessor {
        normalization: common.normalization(),
        common,
        bounds,
        patches,
        image_token,
    }))
}

/// The hub's files have `min_pixels` at the top, newer ones `size.shortest_edge`, and some write both names under `size`.
fn bound(json: &Value, name: &str, edge: &str, default: usize) -> Result<usize, String> {
    let size = &json["size"];
    let nested = count(size, edge, count(size, name, default)?)?;
    count(json, name, nested)
}

impl FamilyProcessor for QwenVlProcessor {
    fn image_token(&self) -> Option<&str> {
        Some(&self.image_token)
    }

    fn expansion(&self, image: &ImageInput) -> String {
        self.image_token.repeat(image.num_tokens)
    }

    fn image(&self, image: &RgbImage) -> Result<ImageInput, ImageError> {
        let (width, height) = self.bounds.target(image.width, image.height)?;
        let resized = resize(image, width, height, self.common.filter)?;
        let [rows, columns] = self.patches.grid(&resized);
        let pixels = self.patches.cut(&resized, &self.normalization);
        let num_patches = rows * columns;
        Ok(ImageInput {
            shape: vec![num_patches, pixels.len() / num_patches],
            pixels,
            grid: [1, rows, columns],
            num_tokens: num_patches / (self.patches.merge_size * self.patches.merge_size),
        })
    }

    fn positions(&self, prompt: &Prompt) -> Vec<[u32; 3]> {
        let merge = self.patches.merge_size;
        let merged = prompt.images.iter().map(|image| {
            let [frames, rows, columns] = image.grid;
            ImageBox { tokens: image.tokens.clone(), grid: [frames, rows / merge, columns / merge] }
        });
        positions(prompt.input_ids.len(), &merged.collect::<Vec<_>>())
    }

    fn settings(&self) -> Value {
        json!({
            "type": "qwen2_vl",
            "common": self.common.settings(),
            "min_pixels": self.bounds.min_pixels,
            "max_pixels": self.bounds.max_pixels,
            "patch_size": self.patches.patch_size,
            "merge_size": self.patches.merge_size,
            "temporal_patch_size": self.patches.temporal_patch_size,
        })
    }
}
