//! `vision_config` of the CLIP and SigLIP classes; defaults are those of transformers 5.23's `CLIPVisionConfig` and
//! `SiglipVisionConfig`.

use serde::Serialize;
use serde_json::Value;

use super::TileShape;
use crate::image::ImageInput;
use crate::models::fields::{Parsed, count, number, only, pair, word};
use crate::models::layers::Activation;

/// Whose embeddings and norms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::models) enum VitKind {
    /// A class token and a norm before the layers; no bias on patches.
    Clip,
    /// Patches with a bias, and nothing else.
    Siglip,
}

/// Sizes, and which of the encoder's layers are used.
#[derive(Clone, Debug, Serialize)]
pub(in crate::models) struct VitConfig {
    pub kind: VitKind,
    pub width: usize,
    pub mlp_width: usize,
    pub num_layers: usize,
    pub num_heads: usize,
    pub num_channels: usize,
    /// Side of a tile in pixels.
    pub image_size: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    pub norm_eps: f64,
    pub activation: Activation,
    /// How many layers run.
    pub used_layers: usize,
    /// Whether the norm after the last layer is applied.
    pub post_norm: bool,
    /// Whether the first row of a tile, CLIP's class token, is dropped at the end.
    pub drop_first: bool,
}

impl VitConfig {
    /// What `CLIPVisionConfig` assumes.
    pub(in crate::models) fn clip() -> Self {
        let activation = Activation::QuickGelu;
        Self { kind: VitKind::Clip, patch_size: 32, norm_eps: 1e-5, activation, ..Self::siglip() }
    }

    /// What `SiglipVisionConfig` assumes.
    pub(in crate::models) fn siglip() -> Self {
        Self {
            kind: VitKind::Siglip,
            width: 768,
            mlp_width: 3072,
            num_layers: 12,
            num_heads: 12,
            num_channels: 3,
            image_size: 224,
            patch_size: 16,
            norm_eps: 1e-6,
            activation: Activation::GeluTanh,
            used_layers: 12,
            post_norm: true,
            drop_first: false,
        }
    }

    /// Reads a `vision_config` of either class, `default_type` where none is named; `absent` is what its absence means.
    pub(in crate::models) fn parse(json: &Value, default_type: &str, absent: Self) -> Parsed<Self> {
        match (json, word(json, "model_type", default_type)?) {
            (Value::Null, _) => Self::read(json, absent),
            (_, "clip_vision_model") => Self::read(json, Self::clip()),
            (_, "siglip_vision_model") => Self::read(json, Self::siglip()),
            (_, other) => Err(format!(
                "a vision model of type `{other}` is not supported (clip_vision_model and siglip_vision_model are)"
            )),
        }
    }

    /// Reads a `vision_config` whose class assumes `class`; all layers and the norm after them are used.
    pub(in crate::models) fn read(json: &Value, class: Self) -> Parsed<Self> {
        let square = |key: &str, default| {
            let [height, width] = pair(json, key, default)?;
            only(height == width && height > 0, format!("`{key}` {height} x {width}"))?;
            Ok::<_, String>(height)
        };
        let num_layers = count(json, "num_hidden_layers", class.num_layers)?;
        let activation = match &json["hidden_act"] {
            Value::Null => class.activation,
            _ => Activation::read(json, "hidden_act", "")?,
        };
        let config = Self {
            kind: class.kind,
            width: count(json, "hidden_size", class.width)?,
            mlp_width: count(json, "intermediate_size", class.mlp_width)?,
            num_layers,
            num_heads: count(json, "num_attention_heads", class.num_heads)?,
            num_channels: count(json, "num_channels", class.num_channels)?,
            image_size: square("image_size", class.image_size)?,
            patch_size: square("patch_size", class.patch_size)?,
            norm_eps: number(json, "layer_norm_eps", class.norm_eps)?,
            activation,
            used_layers: num_layers,
            post_norm: true,
            drop_first: false,
        };
        only(
            config.width.is_multiple_of(config.num_heads.max(1)),
            format!("{} vision heads of a width of {}", config.num_heads, config.width),
        )?;
        Ok(config)
    }

    /// The encoder as LLaVA's families use it: `vision_feature_layer` of `json` counts the states before and after each
    /// layer, negative from the end, without the norm that follows; the strategy `default` drops the first row.
    pub(in crate::models) fn selected(
        self,
        json: &Value,
        default_layer: i64,
        strategy: &str,
    ) -> Parsed<Self> {
        let layer = match &json["vision_feature_layer"] {
            Value::Null => default_layer,
            value => value
                .as_i64()
                .ok_or_else(|| format!("`vision_feature_layer` {value} is not supported: one layer is"))?,
        };
        let states = self.num_layers as i64 + 1;
        let used = if layer < 0 { states + layer } else { layer };
        only((0..states).contains(&used), format!("`vision_feature_layer` {layer} of {states} states"))?;
        let strategy = word(json, "vision_feature_select_strategy", strategy)?;
        only(matches!(strategy, "default" | "full"), format!("`vision_feature_select_strategy` {strategy}"))?;
        let drop_first = strategy == "default";
        Ok(Self { used_layers: used as usize, post_norm: false, drop_first, ..self })
    }

    /// The shape of a tile.
    pub(in crate::models) fn tile(&self) -> TileShape {
        let [patch, side] = [self.patch_size, self.image_size];
        TileShape { channels: self.num_channels, side, patch }
    }

    /// Patches of a tile, and CLIP's class token.
    pub(super) fn rows_per_tile(&self) -> usize {
        self.tile().num_patches() + usize::from(self.kind == VitKind::Clip)
    }

    /// Rows of a tile that come out.
    pub(in crate::models) fn selected_rows(&self) -> usize {
        self.rows_per_tile() - usize::from(self.drop_first)
    }

    /// Rows of an image that come out.
    pub(in crate::models) fn num_rows(&self, image: &ImageInput) -> Parsed<usize> {
        Ok(self.tile().num_tiles(image)? * self.selected_rows())
    }

    /// Rows that an image becomes where `side` x `side` patches become one.
    pub(in crate::models) fn num_merged_rows(&self, image: &ImageInput, side: usize) -> Parsed<usize> {
        let tile = self.tile();
        Ok(tile.num_tiles(image)? * (tile.patches_per_side() / side).pow(2))
    }
}
