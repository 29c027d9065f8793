//! What the families are made of: a configuration, and a vision tower before a decoder. A family says how config.json
//! is read and what its tower is.

use candle_core::{DType, Result, Tensor, bail};
use serde::Serialize;
use serde_json::Value;

use super::blocks::BlockSize;
use super::fields::Parsed;
use super::layers::{Linear, Recomputed};
use super::pattern::Pattern;
use super::registry::FamilyConfig;
use super::rotary::Rotary;
use super::table::Table;
use super::text_config::TextConfig;
use super::text_model::{Embeds, KvCache, Pass, TextModel};
use super::tower::{ImageFeatures, Tower, TowerConfig, image_features};
use super::weights::WeightSource;
use super::{DecoderConfig, PackedBatch, VlmBody};
use crate::image::ImageInput;

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

    fn num_image_rows(&self, image: &ImageInput) -> Parsed<usize> {
        self.vision.num_rows(image)
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

    fn embedding(&self) -> &Table {
        self.text.embedding()
    }

    fn streamed(&self) -> [Option<BlockSize>; 2] {
        [self.text.streamed(), self.tower.blocks().streamed()]
    }

    fn num_taps(&self) -> usize {
        self.tower.num_taps()
    }

    fn recompute(&mut self, gradients: Recomputed) {
        self.text.recompute(gradients);
    }

    fn linears_mut(&mut self) -> Vec<(String, &mut Linear)> {
        self.text.linears_mut()
    }

    fn embed_all(&self, batches: &[PackedBatch]) -> Result<Vec<Embeds>> {
        let images = image_features(&*self.tower, batches, self.dtype)?;
        let embed = |(batch, images): (&PackedBatch, Option<ImageFeatures>)| {
            let rows = images.as_ref().map(|images| &images.rows);
            let tokens = self.text.embed(batch, rows, self.dtype)?;
            Ok(Embeds { tokens, deepstack: images.map(|images| images.deepstack).unwrap_or_default() })
        };
        batches.iter().zip(images).map(embed).collect()
    }

    fn decode_all(&self, embeds: Vec<Embeds>, batches: &[PackedBatch]) -> Result<Vec<Tensor>> {
        if embeds.len() != batches.len() {
            bail!("embeddings of {} batches for {}", embeds.len(), batches.len())
        }
        let pass = |(embeds, batch)| self.pass(embeds, batch, None);
        let passes = embeds.into_iter().zip(batches).map(pass).collect::<Result<Vec<_>>>()?;
        self.text.decode(passes)
    }

    fn decode_with(
        &self,
        embeds: &Embeds,
        batch: &PackedBatch,
        cache: Option<&mut KvCache>,
    ) -> Result<Tensor> {
        let pass = self.pass(embeds.clone(), batch, cache)?;
        match self.text.decode(vec![pass])?.pop() {
            Some(features) => Ok(features),
            None => bail!("a batch was lost"),
        }
    }
}

impl Vlm {
    /// A batch before the first of the decoder's blocks.
    fn pass<'a>(
        &'a self,
        embeds: Embeds,
        batch: &'a PackedBatch,
        cache: Option<&'a mut KvCache>,
    ) -> Result<Pass<'a>> {
        let device = embeds.tokens.device();
        let rope = self.rotary.rope(&batch.positions, &self.decoder, device)?;
        let cached = cache.as_deref().map(KvCache::lengths).unwrap_or_default();
        let views = self.pattern.views(rope, &self.decoder, batch, &cached, device)?;
        Pass::new(embeds, batch, views, cache)
    }
}
