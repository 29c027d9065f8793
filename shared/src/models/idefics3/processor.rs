//! Idefics3's image processor: tiles with their row and column written before each, and the whole image at the end.

use serde_json::{Value, json};

use crate::image::{ImageError, ImageInput, Normalization, RgbImage, Splitting};
use crate::models::fields::{count, flag};
use crate::models::processor::{
    CommonSettings, FamilyProcessor, HALF, ProcessorFiles, named_token, with_default_filter,
};

const LANCZOS: u64 = 1;
/// What the class calls the whole image.
const GLOBAL_IMAGE: &str = "<global-img>";

struct Idefics3Processor {
    common: CommonSettings,
    normalization: Normalization,
    splitting: Splitting,
    tokens_per_tile: usize,
    around: String,
    image_token: String,
}

/// Reads the processor's files.
pub(super) fn parse(files: &ProcessorFiles<'_>) -> Result<Box<dyn FamilyProcessor>, String> {
    let json = &with_default_filter(files.image()?, LANCZOS);
    let common = CommonSettings::parse(json, HALF, HALF)?;
    let edge = |key: &str, default| -> Result<u32, String> {
        let edge = count(&json[key], "longest_edge", default)?;
        u32::try_from(edge).ok().filter(|edge| *edge > 0).ok_or_else(|| format!("`{key}` is {}", json[key]))
    };
    let splitting = Splitting {
        longest_edge: edge("size", 4 * 364)?,
        tile_side: edge("max_image_size", 364)?,
        is_on: flag(json, "do_image_splitting", true)?,
        filter: common.filter,
    };
    Ok(Box::new(Idefics3Processor {
        normalization: common.normalization(),
        common,
        splitting,
        tokens_per_tile: count(files.processor, "image_seq_len", 169)?,
        around: named_token(files, "fake_image_token", "<fake_token_around_image>"),
        image_token: named_token(files, "image_token", "<image>"),
    }))
}

impl Idefics3Processor {
    /// One tile's tokens behind what it is.
    fn tile(&self, name: &str) -> String {
        format!("{}{name}{}", self.around, self.image_token.repeat(self.tokens_per_tile))
    }
}

impl FamilyProcessor for Idefics3Processor {
    fn image_token(&self) -> Option<&str> {
        Some(&self.image_token)
    }

    fn expansion(&self, image: &ImageInput) -> String {
        let [_, rows, columns] = image.grid;
        let row = |row: usize| -> String {
            let tile = |column: usize| self.tile(&format!("<row_{}_col_{}>", row + 1, column + 1));
            (0..columns).map(tile).collect::<String>() + "\n"
        };
        let mut text: String = (0..rows).map(row).collect();
        if !text.is_empty() {
            text.push('\n');
        }
        text + &self.tile(GLOBAL_IMAGE) + &self.around
    }

    fn image(&self, image: &RgbImage) -> Result<ImageInput, ImageError> {
        let (tiles, [rows, columns]) = self.splitting.cut(image)?;
        let num_tokens = tiles.len() * self.tokens_per_tile;
        let input = self.normalization.tiles(&tiles, [image.height, image.width], num_tokens);
        Ok(ImageInput { grid: [tiles.len(), rows, columns], ..input })
    }

    fn settings(&self) -> Value {
        json!({
            "type": "idefics3",
            "common": self.common.settings(),
            "longest_edge": self.splitting.longest_edge,
            "tile": self.splitting.tile_side,
            "splitting": self.splitting.is_on,
            "tokens_per_tile": self.tokens_per_tile,
        })
    }
}
