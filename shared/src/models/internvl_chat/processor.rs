//! The image processor of the original InternVL checkpoints. Their preprocessor_config.json describes one tile; how an
//! image is tiled stands in config.json, with the model cards' values as defaults.

use super::config::tile_side;
use crate::image::Tiling;
use crate::models::fields::{count, flag, number, only};
use crate::models::internvl::TileProcessor;
use crate::models::processor::{
    CommonSettings, FamilyProcessor, IMAGENET_MEAN, IMAGENET_STD, ProcessorFiles,
};

/// What the conversations of all these checkpoints end a turn with; InternLM2's tokenizer names another token.
const TURN_END: &str = "<|im_end|>";

/// Reads the processor's files.
pub(super) fn parse(files: &ProcessorFiles<'_>) -> Result<Box<dyn FamilyProcessor>, String> {
    let config = files.config;
    let common = CommonSettings::parse(files.image, IMAGENET_MEAN, IMAGENET_STD)?;
    only(flag(config, "use_thumbnail", true)?, "`use_thumbnail` false")?;
    let side = tile_side(config)?;
    let patch = count(&config["vision_config"], "patch_size", 14)?.max(1);
    let rows = (side as f64 / patch as f64 * number(config, "downsample_ratio", 0.5)?) as usize;
    let max_tiles = count(config, "max_dynamic_patch", 12)?;
    let tiling = Tiling {
        tile_width: side as u32,
        tile_height: side as u32,
        min_tiles: count(config, "min_dynamic_patch", 1)?,
        max_tiles: if flag(config, "dynamic_image_size", true)? { max_tiles } else { 1 },
        filter: common.filter,
    };
    let processor = TileProcessor::new(common, tiling, rows * rows, files.tokenizer)?;
    Ok(Box::new(processor.with_turn_end(TURN_END)))
}
