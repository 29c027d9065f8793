//! InternVL's image processor: tiles of one size and a thumbnail, `<img>`, image tokens for each tile, `</img>`.

use serde_json::{Value, json};

use crate::image::{ImageError, ImageInput, Normalization, RgbImage, Tiling};
use crate::models::fields::count;
use crate::models::processor::{CLIP_MEAN, CLIP_STD, CommonSettings, FamilyProcessor, ProcessorFiles};
use crate::text::TextTokenizer;

/// Tiles of one size and a thumbnail.
pub(in crate::models) struct TileProcessor {
    common: CommonSettings,
    normalization: Normalization,
    tiling: Tiling,
    tokens_per_tile: usize,
    turn_end: Option<&'static str>,
    start: String,
    end: String,
    image_token: String,
}

/// Reads the processor's files. What they say of `crop_to_patches` does not count: transformers' InternVL processor
/// turns it on in every call, and the hub's files say false.
pub(super) fn parse(files: &ProcessorFiles<'_>) -> Result<Box<dyn FamilyProcessor>, String> {
    let json = files.image()?;
    let common = CommonSettings::parse(json, CLIP_MEAN, CLIP_STD)?;
    let side = |key| {
        let side = count(&json["size"], key, 384)?;
        u32::try_from(side).ok().filter(|side| *side > 0).ok_or_else(|| format!("`size.{key}` is {side}"))
    };
    let tiling = Tiling {
        tile_width: side("width")?,
        tile_height: side("height")?,
        min_tiles: count(json, "min_patches", 1)?,
        max_tiles: count(json, "max_patches", 12)?,
        filter: common.filter,
    };
    let tokens_per_tile = count(files.processor, "image_seq_length", 256)?;
    Ok(Box::new(TileProcessor::new(common, tiling, tokens_per_tile, files.tokenizer)?))
}

impl TileProcessor {
    /// With the tokens that the tokenizer names.
    pub(in crate::models) fn new(
        common: CommonSettings,
        tiling: Tiling,
        tokens_per_tile: usize,
        tokenizer: &TextTokenizer,
    ) -> Result<Self, String> {
        if tokens_per_tile == 0 || tiling.max_tiles == 0 {
            return Err("the tokens of a tile and the largest number of tiles must not be 0".into());
        }
        Ok(Self {
            normalization: common.normalization(),
            common,
            tiling,
            tokens_per_tile,
            turn_end: None,
            start: tokenizer.named("start_image_token").unwrap_or("<img>").to_owned(),
            end: tokenizer.named("end_image_token").unwrap_or("</img>").to_owned(),
            image_token: tokenizer.named("context_image_token").unwrap_or("<IMG_CONTEXT>").to_owned(),
        })
    }

    /// With a token that ends a turn.
    pub(in crate::models) fn with_turn_end(self, turn_end: &'static str) -> Self {
        Self { turn_end: Some(turn_end), ..self }
    }
}

impl FamilyProcessor for TileProcessor {
    fn image_token(&self) -> Option<&str> {
        Some(&self.image_token)
    }

    fn turn_end(&self) -> Option<&str> {
        self.turn_end
    }

    fn expansion(&self, image: &ImageInput) -> String {
        format!("{}{}{}", self.start, self.image_token.repeat(image.num_tokens), self.end)
    }

    fn image(&self, image: &RgbImage) -> Result<ImageInput, ImageError> {
        let (tiles, [rows, columns]) = self.tiling.cut(image)?;
        let (width, height) = (self.tiling.tile_width as usize, self.tiling.tile_height as usize);
        let mut pixels = Vec::with_capacity(tiles.len() * 3 * height * width);
        for tile in &tiles {
            self.normalization.push_planes(tile, &mut pixels);
        }
        Ok(ImageInput {
            pixels,
            shape: vec![tiles.len(), 3, height, width],
            grid: [tiles.len(), rows, columns],
            num_tokens: tiles.len() * self.tokens_per_tile,
        })
    }

    fn settings(&self) -> Value {
        json!({
            "type": "internvl",
            "common": self.common.settings(),
            "tile": [self.tiling.tile_height, self.tiling.tile_width],
            "min_tiles": self.tiling.min_tiles,
            "max_tiles": self.tiling.max_tiles,
            "tokens_per_tile": self.tokens_per_tile,
        })
    }
}
