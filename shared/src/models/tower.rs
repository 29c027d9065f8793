//! A vision tower: patch embeddings, blocks, and what makes rows for the decoder of them.

use candle_core::{DType, Error, Result, Tensor};
use serde::Serialize;

use super::PackedBatch;
use super::blocks::Blocks;
use super::fields::Parsed;
use super::layers::{EncoderLayer, Rope};
use super::weights::WeightSource;
use crate::image::ImageInput;

/// A vision encoder and its projector.
pub(super) trait Tower: Send + Sync {
    /// What the blocks take, of all images in order, in the compute dtype.
    fn embed(&self, images: &[ImageInput], dtype: DType) -> Result<Patches>;

    /// What runs between [`embed`](Self::embed) and the projector, in order.
    fn blocks(&self) -> &Blocks<EncoderLayer>;

    /// Which patches attend to each other in a block: where each segment begins and the last one ends.
    fn segments<'a>(&self, patches: &'a Patches, _block: usize) -> &'a [usize] {
        &patches.segments
    }

    /// What of a block's output goes to the decoder apart from the last one's; see
    /// [`Embeds::deepstack`](super::Embeds::deepstack).
    fn tap(&self, _block: usize, _x: &Tensor) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// How many blocks have something for [`tap`](Self::tap).
    fn num_taps(&self) -> usize {
        0
    }

    /// What replaces the image tokens, (image rows, D), of the last block's output.
    fn project(&self, x: Tensor, images: &[ImageInput]) -> Result<Tensor>;
}

/// Patches on their way through the blocks.
pub(super) struct Patches {
    /// (P, E).
    pub x: Tensor,
    /// Where they are, for blocks that want to know.
    pub rope: Option<Rope>,
    /// Which attend to each other: where each segment begins and the last one ends.
    pub segments: Vec<usize>,
    /// The same in blocks that see less.
    pub windows: Vec<usize>,
}

impl Patches {
    /// Patches of which those of a segment attend to each other.
    pub(super) fn new(x: Tensor, rope: Option<Rope>, segments: Vec<usize>) -> Self {
        Self { x, rope, segments, windows: Vec::new() }
    }
}

/// What a tower makes of images.
pub(super) struct ImageFeatures {
    /// What replaces the image tokens, (image rows, D).
    pub rows: Tensor,
    /// See [`Embeds::deepstack`](super::Embeds::deepstack).
    pub deepstack: Vec<Tensor>,
}

impl ImageFeatures {
    /// The rows of the distinct images, repeated for each time one is used.
    pub(super) fn for_each_use(self, batch: &PackedBatch) -> Result<Self> {
        let Some(rows) = batch.repeated_rows() else { return Ok(self) };
        let rows = Tensor::new(rows, self.rows.device())?;
        let deepstack = self.deepstack.iter().map(|features| features.index_select(&rows, 0));
        Ok(Self { rows: self.rows.index_select(&rows, 0)?, deepstack: deepstack.collect::<Result<_>>()? })
    }
}

/// Features of the images of each batch; none where a batch has no image. Each block runs over all batches before the next.
pub(super) fn image_features(
    tower: &dyn Tower,
    batches: &[PackedBatch],
    dtype: DType,
) -> Result<Vec<Option<ImageFeatures>>> {
    let seen = |batch: &PackedBatch| match batch.images.as_slice() {
        [] => Ok(None),
        images => Ok(Some((tower.embed(images, dtype)?, Vec::new()))),
    };
    let mut seen = batches.iter().map(seen).collect::<Result<Vec<_>>>()?;
    if seen.iter().any(Option::is_some) {
        tower.blocks().try_for_each(|i, block| {
            seen.iter_mut().flatten().try_for_each(|(patches, deepstack)| {
                let segments = tower.segments(patches, i);
                patches.x = block.forward(&patches.x, patches.rope.as_ref(), segments)?;
                deepstack.extend(tower.tap(i, &patches.x)?);
                Ok(())
            })
        })?;
    }
    let project = |(seen, batch): (Option<(Patches, Vec<Tensor>)>, &PackedBatch)| {
        let Some((patches, deepstack)) = seen else { return Ok(None) };
        let rows = tower.project(patches.x, &batch.images)?;
        ImageFeatures { rows, deepstack }.for_each_use(batch).map(Some)
    };
    seen.into_iter().zip(batches).map(project).collect()
}

/// A tower's configuration.
pub(super) trait TowerConfig: Serialize + Send + Sync {
    /// Builds a tower whose rows have `width` numbers.
    fn build(&self, width: usize, source: &mut dyn WeightSource) -> Result<Box<dyn Tower>>;

    /// How many rows such a tower makes of an image, or why it takes none like it.
    fn num_rows(&self, image: &ImageInput) -> Parsed<usize>;
}

/// Of how many tiles of `shape` (C, height, width) an image consists, whose positions are learned for that size alone.
pub(super) fn num_tiles(image: &ImageInput, shape: [usize; 3]) -> Parsed<usize> {
    match image.shape[..] {
        [tiles, ref tile @ ..] if *tile == shape => Ok(tiles),
        _ => Err(format!("an image of shape {:?} is not made of tiles of {shape:?}", image.shape)),
    }
}

/// The error of a forward pass that was given an image for another model.
pub(super) fn unfit(reason: String) -> Error {
    Error::msg(format!("{reason}\nhint: the processor and the model must come from one checkpoint"))
}
