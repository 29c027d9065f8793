//! The decoder stack that the families share: input embeddings, blocks, final norm. What differs is the rotary
//! embedding, which the family builds.

use candle_core::{Result, Tensor, bail};

use super::layers::{DecoderLayer, KvLayer, Linear, Recomputed, RmsNorm, Rope, Sight, recomputed};
use super::weights::{Under, WeightSource};
use super::{DecoderConfig, PackedBatch};

/// Keys and values of the samples being generated, a layer each.
#[derive(Clone, Debug, Default)]
pub struct KvCache {
    /// Filled by the first pass.
    pub layers: Vec<KvLayer>,
}

impl KvCache {
    /// How many tokens of each sample it holds; empty before the first pass.
    pub fn lengths(&self) -> Vec<usize> {
        self.layers.first().map(KvLayer::lengths).unwrap_or_default()
    }

    /// Keeps only these samples, in this order.
    pub fn keep(&mut self, samples: &[usize]) {
        self.layers.iter_mut().for_each(|layer| layer.keep(samples));
    }
}

/// What a decoder takes.
#[derive(Clone, Debug)]
pub struct Embeds {
    /// Token embeddings with image features in their rows, (T, D).
    pub tokens: Tensor,
    /// What is added to the image rows once more after each of the first blocks, (image rows, D) each; most families
    /// have none (DeepStack, arXiv 2406.04334).
    pub deepstack: Vec<Tensor>,
}

impl Embeds {
    /// The same without gradients.
    pub fn detach(&self) -> Embeds {
        Embeds {
            tokens: self.tokens.detach(),
            deepstack: self.deepstack.iter().map(Tensor::detach).collect(),
        }
    }
}

/// Input embeddings, blocks and final norm.
pub(super) struct TextModel {
    /// What the weights' names begin with.
    prefix: String,
    embedding: Tensor,
    /// What embeddings of text are multiplied by.
    scale: Option<f64>,
    layers: Vec<DecoderLayer>,
    norm: RmsNorm,
    recompute: Option<Recomputed>,
}

/// How one block sees the tokens.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    /// Its rotary embedding.
    pub rope: &'a Rope,
    /// Which tokens each token sees; those before it if nothing is said.
    pub sights: Option<&'a [Sight]>,
}

impl TextModel {
    /// Builds it from the weights under `prefix` (`model` or `language_model.model`).
    pub(super) fn build(config: &DecoderConfig, prefix: &str, source: &mut dyn WeightSource) -> Result<Self> {
        let width = config.hidden_size;
        let embedding = source.get(&format!("{prefix}.embed_tokens.weight"), &[config.vocab_size, width])?;
        let layers = (0..config.num_layers)
            .map(|layer| {
                DecoderLayer::new(config, &mut Under::new(source, format!("{prefix}.layers.{layer}")))
            })
            .collect::<Result<_>>()?;
        let norm = config.rms_norm(source.get(&format!("{prefix}.norm.weight"), &[width])?);
        let scale = config.gemma.map(|_| (width as f64).sqrt());
        let prefix = prefix.to_owned();
        Ok(Self { prefix, embedding, scale, layers, norm, recompute: None })
    }

    /// From now on blocks keep their input alone and run again in the backward pass.
    pub(super) fn recompute(&mut self, gradients: Recomputed) {
        self.recompute = Some(gradients);
    }

    /// The blocks' linear layers by the names of their weights, without `.weight`.
    pub(super) fn linears_mut(&mut self) -> Vec<(String, &mut Linear)> {
        let prefix = &self.prefix;
        let blocks = self.layers.iter_mut().enumerate();
        let named = blocks.flat_map(|(block, layer)| {
            let linears = layer.linears_mut().into_iter();
            linears.map(move |(name, linear)| (format!("{prefix}.layers.{block}.{name}"), linear))
        });
        named.collect()
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
            return self.look_up(&batch.input_ids, dtype);
        };
        let (ids, order) = text_ids_and_order(batch);
        let images = images.to_dtype(dtype)?;
        if ids.is_empty() {
            return images.index_select(&Tensor::new(order, device)?, 0);
        }
        let text = self.look_up(&ids, dtype)?;
        Tensor::cat(&[&text, &images], 0)?.index_select(&Tensor::new(order, device)?, 0)
    }

    /// Embeddings of text tokens, (ids, D).
    fn look_up(&self, ids: &[u32], dtype: candle_core::DType) -> Result<Tensor> {
        let ids = Tensor::new(ids, self.embedding.device())?;
        let rows = self.embedding.index_select(&ids, 0)?.to_dtype(dtype)?;
        match self.scale {
            Some(scale) => rows * scale,
            None => Ok(rows),
        }
    }

    /// Features (T, D) of embedded tokens: blocks and final norm.
    pub(super) fn decode(
        &self,
        embeds: &Embeds,
        rope: &Rope,
        batch: &PackedBatch,
        cache: Option<&mut KvCache>,
    ) -> Result<Tensor> {
        self.decode_with(embeds, |_| View { rope, sights: None }, batch, cache)
    }

    /// The same, each block with a view of its own.
    pub(super) fn decode_with<'a>(
        &self,
        embeds: &Embeds,
        view: impl Fn(usize) -> View<'a>,
        batch: &PackedBatch,
        mut cache: Option<&mut KvCache>,
    ) -> Result<Tensor> {
        if let Some(cache) = cache.as_deref_mut() {
            cache.layers.resize_with(self.layers.len(), KvLayer::default);
        }
        let image_rows = Tensor::new(batch.image_rows.as_slice(), self.embedding.device())?;
        let mut x = embeds.tokens.clone();
        for (i, layer) in self.layers.iter().enumerate() {
            let kept = cache.as_deref_mut().map(|cache| &mut cache.layers[i]);
            let View { rope, sights } = view(i);
            x = match (&self.recompute, kept) {
                (Some(gradients), None) => recomputed(layer, &x, rope, sights, &batch.cu_seqlens, gradients)?,
                (_, kept) => layer.forward_within(&x, rope, sights, &batch.cu_seqlens, kept)?,
            };
            if let Some(again) = embeds.deepstack.get(i) {
                x = x.index_add(&image_rows, again, 0)?;
            }
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
