//! What the families are made of: a configuration, and a vision tower before a decoder. A family says how config.json
//! is read and what its tower is.

use candle_core::{DType, Result, Tensor};
use serde::Serialize;
use serde_json::Value;

use super::layers::{Linear, Recomputed};
use super::pattern::Pattern;
use super::registry::FamilyConfig;
use super::rotary::Rotary;
use super::text_config::TextConfig;
use super::text_model::{Embeds, KvCache, TextModel};
use super::weights::WeightSource;
use super::{DecoderConfig, PackedBatch, VlmBody};
use crate::image::ImageInput;

/// A vision encoder and its projector.
pub(super) trait Tower: Send + Sync {
    /// Features of all images in order, in the compute dtype.
    fn forward(&self, images: &[ImageInput], dtype: DType) -> Result<ImageFeatures>;
}

/// What a tower makes of images.
pub(super) struct ImageFeatures {
    /// What replaces the image tokens, (image rows, D).
    pub rows: Tensor,
    /// See [`Embeds::deepstack`].
    pub deepstack: Vec<Tensor>,
}

impl From<Tensor> for ImageFeatures {
    fn from(rows: Tensor) -> Self {
        Self { rows, deepstack: Vec::new() }
    }
}

impl ImageFeatures {
    /// The rows of the distinct images, repeated for each time one is used.
    fn for_each_use(self, batch: &PackedBatch) -> Result<Self> {
        let Some(rows) = batch.repeated_rows() else { return Ok(self) };
        let rows = Tensor::new(rows, self.rows.device())?;
        let deepstack = self.deepstack.iter().map(|features| features.index_select(&rows, 0));
        Ok(Self { rows: self.rows.index_select(&rows, 0)?, deepstack: deepstack.collect::<Result<_>>()? })
    }
}

/// A tower's configuration.
pub(super) trait TowerConfig: Serialize + Send + Sync {
    /// Builds a tower whose rows have `width` numbers.
    fn build(&self, width: usize, source: &mut dyn WeightSource) -> Result<Box<dyn Tower>>;
}

/// A resolved configuration.
#[derive(Serialize)]
pub(super) struct VlmConfig<V> {
    decoder: DecoderConfig,
    rotary: Rotary,
    #[serde(skip_serializing_if = "Pattern::is_causal")]
    pattern: Pattern,
    vision: V,
    image_token_id: Option<u32>,
    #[serde(skip)]
    text_prefix: &'static str,
    #[serde(skip)]
    max_positions: usize,
}

impl<V> VlmConfig<V> {
    /// A decoder whose weights lie under `text_prefix`, and a tower.
    pub(super) fn new(text: TextConfig, text_prefix: &'static str, vision: V, image_token_id: usize) -> Self {
        let config = Self::without_image_token(text, text_prefix, vision);
        Self { image_token_id: Some(image_token_id as u32), ..config }
    }

    /// The same where config.json does not say which token image features replace.
    pub(super) fn without_image_token(text: TextConfig, text_prefix: &'static str, vision: V) -> Self {
        let TextConfig { decoder, rotary, pattern, max_positions } = text;
        Self { decoder, rotary, pattern, vision, image_token_id: None, text_prefix, max_positions }
    }
}

impl<V: TowerConfig> FamilyConfig for VlmConfig<V> {
    fn decoder(&self) -> &DecoderConfig {
        &self.decoder
    }

    fn build(&self, source: &mut dyn WeightSource) -> Result<Box<dyn VlmBody>> {
        Ok(Box::new(Vlm {
            tower: self.vision.build(self.decoder.hidden_size, source)?,
            text: TextModel::build(&self.decoder, self.text_prefix, source)?,
            decoder: self.decoder.clone(),
            rotary: self.rotary.clone(),
            pattern: self.pattern.clone(),
            dtype: source.dtype(),
        }))
    }

    fn image_token_id(&self) -> Option<u32> {
        self.image_token_id
    }

    fn max_positions(&self) -> usize {
        self.max_positions
    }

    fn canonical(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// A vision tower and a decoder.
struct Vlm {
    tower: Box<dyn Tower>,
    text: TextModel,
    decoder: DecoderConfig,
    rotary: Rotary,
    pattern: Pattern,
    dtype: DType,
}

impl VlmBody for Vlm {
    fn decoder(&self) -> &DecoderConfig {
        &self.decoder
    }

    fn embedding(&self) -> &Tensor {
        self.text.embedding()
    }

    fn recompute(&mut self, gradients: Recomputed) {
        self.text.recompute(gradients);
    }

    fn linears_mut(&mut self) -> Vec<(String, &mut Linear)> {
        self.text.linears_mut()
    }

    fn embed(&self, batch: &PackedBatch) -> Result<Embeds> {
        let images = match batch.images.as_slice() {
            [] => None,
            images => Some(self.tower.forward(images, self.dtype)?.for_each_use(batch)?),
        };
        let tokens = self.text.embed(batch, images.as_ref().map(|images| &images.rows), self.dtype)?;
        Ok(Embeds { tokens, deepstack: images.map(|images| images.deepstack).unwrap_or_default() })
    }

    fn decode_with(
        &self,
        embeds: &Embeds,
        batch: &PackedBatch,
        cache: Option<&mut KvCache>,
    ) -> Result<Tensor> {
        let rope = self.rotary.rope(&batch.positions, &self.decoder, embeds.tokens.device())?;
        self.pattern.decode(&self.text, embeds, &rope, &self.decoder, batch, cache)
    }
}
