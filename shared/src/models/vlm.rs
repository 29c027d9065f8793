//! What most families are: a vision encoder and a projector before a decoder with one-dimensional positions. A family
//! of this kind says how its images become rows; the rest is here.

use candle_core::{DType, Result, Tensor};
use serde::Serialize;
use serde_json::Value;

use super::registry::FamilyConfig;
use super::text_config::TextConfig;
use super::text_model::{KvCache, TextModel};
use super::weights::WeightSource;
use super::{DecoderConfig, PackedBatch, VlmBody};
use crate::image::ImageInput;

/// The vision side of a configuration.
pub(super) trait ImageConfig: Serialize + Send + Sync + 'static {
    /// What it builds.
    type Tower: ImageTower + 'static;

    /// Builds vision encoder and projector for a decoder of `width`.
    fn build(&self, width: usize, source: &mut dyn WeightSource) -> Result<Self::Tower>;
}

/// A vision encoder and its projector.
pub(super) trait ImageTower: Send + Sync {
    /// The rows of all images that the decoder takes, in the order of their tokens: (rows, D) in `dtype`.
    fn rows(&self, images: &[ImageInput], dtype: DType) -> Result<Tensor>;
}

/// A resolved configuration.
#[derive(Debug, Serialize)]
pub(super) struct VlmConfig<I> {
    pub text: TextConfig,
    pub images: I,
    pub image_token_id: u32,
    /// The canonical prefix of the decoder's weights.
    #[serde(skip)]
    pub text_prefix: &'static str,
}

impl<I: ImageConfig> FamilyConfig for VlmConfig<I> {
    fn decoder(&self) -> &DecoderConfig {
        &self.text.decoder
    }

    fn build(&self, source: &mut dyn WeightSource) -> Result<Box<dyn VlmBody>> {
        Ok(Box::new(Vlm {
            tower: self.images.build(self.text.decoder.hidden_size, source)?,
            decoder: TextModel::build(&self.text.decoder, self.text_prefix, source)?,
            text: self.text.clone(),
            dtype: source.dtype(),
        }))
    }

    fn image_token_id(&self) -> u32 {
        self.image_token_id
    }

    fn max_positions(&self) -> usize {
        self.text.max_positions
    }

    fn canonical(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

struct Vlm<T> {
    text: TextConfig,
    tower: T,
    decoder: TextModel,
    dtype: DType,
}

impl<T: ImageTower> VlmBody for Vlm<T> {
    fn decoder(&self) -> &DecoderConfig {
        &self.text.decoder
    }

    fn embedding(&self) -> &Tensor {
        self.decoder.embedding()
    }

    fn embed(&self, batch: &PackedBatch) -> Result<Tensor> {
        let images = match batch.images.as_slice() {
            [] => None,
            images => Some(self.tower.rows(images, self.dtype)?),
        };
        self.decoder.embed(batch, images.as_ref(), self.dtype)
    }

    fn decode_with(
        &self,
        embeds: &Tensor,
        batch: &PackedBatch,
        cache: Option<&mut KvCache>,
    ) -> Result<Tensor> {
        let rope = self.text.rope(&batch.positions, embeds.device())?;
        self.decoder.decode(embeds, &rope, batch, cache)
    }
}
