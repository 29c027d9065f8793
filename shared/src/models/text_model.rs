//! The decoder stack that the families share: input embeddings, blocks, final norm. What differs is the rotary
//! embedding, which the family builds.

use candle_core::{Result, Tensor, bail};

use super::layers::{DecoderLayer, KvLayer, Recomputed, RmsNorm, Rope, recomputed};
use super::weights::{WeightSource, under};
use super::{DecoderConfig, PackedBatch};

/// Keys and values of the samples being generated, a layer each.
#[derive(Clone, Debug, Default)]
pub struct KvCache {
    /// Filled by the first pass.
    pub layers: Vec<KvLayer>,
}

impl KvCache {
    /// Keeps only these samples, in this order.
    pub fn keep(&mut self, samples: &[usize]) {
        self.layers.iter_mut().for_each(|layer| layer.keep(samples));
    }
}

/// Input embeddings, blocks and final norm.
pub(super) struct TextModel {
    embedding: Tensor,
    layers: Vec<DecoderLayer>,
    norm: RmsNorm,
    recompute: Option<Recomputed>,
}

impl TextModel {
    /// Builds it from the weights under `prefix` (`model` or `language_model.model`).
    pub(super) fn build(config: &DecoderConfig, prefix: &str, source: &mut dyn WeightSource) -> Result<Self> {
        let width = config.hidden_size;
        let embedding = source.get(&format!("{prefix}.embed_tokens.weight"), &[config.vocab_size, width])?;
        let layers = (0..config.num_layers)
            .map(|layer| DecoderLayer::new(config, &mut under(source, &format!("{prefix}.layers.{layer}"))))
            .collect::<Result<_>>()?;
        let norm = RmsNorm::new(source.get(&format!("{prefix}.norm.weight"), &[width])?, config.rms_norm_eps);
        Ok(Self { embedding, layers, norm, recompute: None })
    }

    /// From now on blocks keep their input alone and run again in the backward pass.
    pub(super) fn recompute(&mut self, gradients: Recomputed) {
        self.recompute = Some(gradients);
    }

    /// (V, D).
    pub(super) fn embedding(&self) -> &Tensor {
        &self.embedding
    }

    /// Token embeddings with `images` (rows, D) in the image rows: (T, D) in `images`' type, or the embedding's.
    ///
    /// Placeholder tokens are not looked up, so their embedding gets no gradient from image rows.
    pub(super) fn embed(
        &self,
        batch: &PackedBatch,
        images: Option<&Tensor>,
        dtype: candle_core::DType,
    ) -> Result<Tensor> {
        let device = self.embedding.device();
        let num_image_rows = images.map_or(0, |images| images.dims()[0]);
        if num_image_rows != batch.image_rows.len() {
            bail!(
                "{num_image_rows} rows of image features for {} image tokens\nhint: the processor and the model \
                 must come from one checkpoint",
                batch.image_rows.len()
            )
        }
        let Some(images) = images else {
            let ids = Tensor::new(batch.input_ids.as_slice(), device)?;
            return self.embedding.index_select(&ids, 0)?.to_dtype(dtype);
        };
        let (ids, order) = text_ids_and_order(batch);
        let images = images.to_dtype(dtype)?;
        if ids.is_empty() {
            return images.index_select(&Tensor::new(order, device)?, 0);
        }
        let text = self.embedding.index_select(&Tensor::new(ids, device)?, 0)?.to_dtype(dtype)?;
        Tensor::cat(&[&text, &images], 0)?.index_select(&Tensor::new(order, device)?, 0)
    }

    /// Features (T, D) of embedded tokens: blocks and final norm.
    pub(super) fn decode(
        &self,
        embeds: &Tensor,
        rope: &Rope,
        batch: &PackedBatch,
        mut cache: Option<&mut KvCache>,
    ) -> Result<Tensor> {
        if let Some(cache) = cache.as_deref_mut() {
            cache.layers.resize_with(self.layers.len(), KvLayer::default);
        }
        let mut x = embeds.clone();
        for (i, layer) in self.layers.iter().enumerate() {
            let kept = cache.as_deref_mut().map(|cache| &mut cache.layers[i]);
            x = match (&self.recompute, kept) {
                (Some(gradients), None) => recomputed(layer, &x, rope, &batch.cu_seqlens, gradients)?,
                (_, kept) => layer.forward(&x, rope, &batch.cu_seqlens, kept)?,
            };
        }
        self.norm.forward(&x)
    }
}

/// The ids of the text tokens, and for each packed position its row in (text rows, then image rows).
fn text_ids_and_order(batch: &PackedBatch) -> (Vec<u32>, Vec<u32>) {
    let mut image_of = vec![None; batch.num_tokens()];
    for (image, &row) in batch.image_rows.iter().enumerate() {
        image_of[row as usize] = Some(image as u32);
    }
    let num_text = (batch.num_tokens() - batch.image_rows.len()) as u32;
    let mut ids = Vec::with_capacity(num_text as usize);
    let order = image_of.iter().zip(&batch.input_ids).map(|(image, &id)| match image {
        Some(image) => num_text + image,
        None => {
            ids.push(id);
            ids.len() as u32 - 1
        }
    });
    let order = order.collect();
    (ids, order)
}
