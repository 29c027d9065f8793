//! The decoder stack that the families share: input embeddings, blocks, final norm. What differs is the rotary
//! embedding, which the family builds.

use std::collections::VecDeque;

use candle_core::{Result, Tensor, bail};

use super::blocks::{BlockSize, Blocks};
use super::layers::{DecoderLayer, KvLayer, Linear, Recomputed, RmsNorm, recomputed};
use super::pattern::{View, Views};
use super::table::Table;
use super::weights::{Under, WeightSource};
use super::{DecoderConfig, PackedBatch};

/// Keys and values of the samples being generated, a layer each.
#[derive(Debug, Default)]
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
    prefix: &'static str,
    embedding: Table,
    /// What embeddings of text are multiplied by.
    scale: Option<f64>,
    blocks: Blocks<DecoderLayer>,
    norm: RmsNorm,
    recompute: Option<Recomputed>,
}

/// A batch on its way through the blocks.
pub(super) struct Pass<'a> {
    /// (T, D).
    x: Tensor,
    /// What is still to be added to the image rows.
    deepstack: VecDeque<Tensor>,
    batch: &'a PackedBatch,
    /// The rows of x that are wanted, while x still has others.
    wanted: Option<Tensor>,
    views: Views<'a>,
    cache: Option<&'a mut KvCache>,
}

impl<'a> Pass<'a> {
    /// Embedded tokens before the first block. With a cache, they come after those that it already holds.
    pub(super) fn new(
        embeds: Embeds,
        batch: &'a PackedBatch,
        views: Views<'a>,
        cache: Option<&'a mut KvCache>,
    ) -> Result<Self> {
        let rows = batch.wanted.as_deref().map(|rows| Tensor::new(rows, embeds.tokens.device()));
        let wanted = rows.transpose()?;
        Ok(Self { x: embeds.tokens, deepstack: embeds.deepstack.into(), batch, wanted, views, cache })
    }
}

impl TextModel {
    /// Builds it from the weights under `prefix` (`model` or `language_model.model`).
    pub(super) fn build(
        config: &DecoderConfig,
        prefix: &'static str,
        source: &mut dyn WeightSource,
    ) -> Result<Self> {
        let width = config.hidden_size;
        let table = [config.vocab_size, width];
        let embedding = Table::build(&format!("{prefix}.embed_tokens.weight"), table, source)?;
        let of_block = config.clone();
        let blocks = Blocks::build(config.num_layers, source, move |i, source| {
            DecoderLayer::new(&of_block, &mut Under::new(source, format!("{prefix}.layers.{i}")))
        })?;
        let norm = config.rms_norm(source.get(&format!("{prefix}.norm.weight"), &[width])?);
        let scale = config.gemma.map(|_| (width as f64).sqrt());
        Ok(Self { prefix, embedding, scale, blocks, norm, recompute: None })
    }

    /// From now on blocks keep their input alone and run again in the backward pass.
    pub(super) fn recompute(&mut self, gradients: Recomputed) {
        self.recompute = Some(gradients);
    }

    /// The blocks' linear layers by the names of their weights, without `.weight`; none
    /// where blocks are read when they are needed.
    pub(super) fn linears_mut(&mut self) -> Vec<(String, &mut Linear)> {
        let prefix = self.prefix;
        let blocks = self.blocks.resident_mut().iter_mut().enumerate();
        let named = blocks.flat_map(|(block, layer)| {
            let linears = layer.linears_mut().into_iter();
            linears.map(move |(name, linear)| (format!("{prefix}.layers.{block}.{name}"), linear))
        });
        named.collect()
    }

    /// V x D.
    pub(super) fn embedding(&self) -> &Table {
        &self.embedding
    }

    /// The largest block that is read when it is needed; none where all are in memory.
    pub(super) fn streamed(&self) -> Option<BlockSize> {
        self.blocks.streamed()
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
        let rows = self.embedding.rows(ids)?.to_dtype(dtype)?;
        match self.scale {
            Some(scale) => rows * scale,
            None => Ok(rows),
        }
    }

    /// Features (T, D) of each pass, or of the wanted rows of its batch: blocks and final norm. Each block runs over all
    /// passes before the next one does.
    pub(super) fn decode(&self, mut passes: Vec<Pass<'_>>) -> Result<Vec<Tensor>> {
        for cache in passes.iter_mut().filter_map(|pass| pass.cache.as_deref_mut()) {
            cache.layers.resize_with(self.blocks.len(), KvLayer::default);
        }
        self.blocks.try_for_each(|i, block| {
            passes.iter_mut().try_for_each(|pass| {
                pass.x = self.run(i, block, pass)?;
                Ok(())
            })
        })?;
        let features = |pass: Pass<'_>| match pass.wanted {
            None => self.norm.forward(&pass.x),
            Some(rows) => self.norm.forward(&pass.x.index_select(&rows, 0)?),
        };
        passes.into_iter().map(features).collect()
    }

    /// The output (T, D) of the block number `i`.
    fn run(&self, i: usize, block: &DecoderLayer, pass: &mut Pass) -> Result<Tensor> {
        let kept = pass.cache.as_deref_mut().map(|cache| &mut cache.layers[i]);
        let View { rope, sights } = pass.views.of(i);
        let cu_seqlens = &pass.batch.cu_seqlens;
        let is_last = i + 1 == self.blocks.len() && pass.deepstack.is_empty();
        let trims = is_last && kept.is_none() && self.recompute.is_none();
        if let Some(rows) = pass.wanted.take_if(|_| trims) {
            return block.forward_at(&pass.x, rope, sights, cu_seqlens, &rows);
        }
        let x = match (&self.recompute, kept) {
            (Some(gradients), None) => recomputed(block, &pass.x, rope, sights, cu_seqlens, gradients)?,
            (_, kept) => block.forward_within(&pass.x, rope, sights, cu_seqlens, kept)?,
        };
        match pass.deepstack.pop_front() {
            Some(again) => {
                let image_rows = Tensor::new(pass.batch.image_rows.as_slice(), x.device())?;
                x.index_add(&image_rows, &again, 0)
            }
            None => Ok(x),
        }
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
