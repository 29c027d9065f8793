//! Weights that stay in their files until a block asks for them: the source of a model larger than memory.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};

use super::blocks::BlockSize;
use super::checkpoint::Checkpoint;
use super::gguf::Gguf;
use super::layers::{BlockWeights, Weight};
use super::weights::WeightSource;

/// Reads frozen weights from a checkpoint that it keeps mapped.
#[derive(Clone)]
pub struct Stored {
    /// The mapped files.
    pub(super) checkpoint: Arc<Checkpoint>,
    /// Quantised matrices that take the place of the checkpoint's.
    gguf: Option<Arc<Gguf>>,
    /// Where the weights go.
    pub(super) device: Device,
    /// The compute dtype.
    pub(super) dtype: DType,
    /// Numbers read so far.
    loaded: usize,
}

impl Stored {
    /// Weights of `checkpoint`, or of a GGUF file that has some of them, for a device, in a compute dtype.
    pub(super) fn new(checkpoint: Checkpoint, gguf: Option<Gguf>, device: Device, dtype: DType) -> Self {
        Self { checkpoint: Arc::new(checkpoint), gguf: gguf.map(Arc::new), device, dtype, loaded: 0 }
    }

    /// Bytes of the weights read so far.
    pub(super) fn loaded_bytes(&self) -> usize {
        self.loaded * self.dtype.size_in_bytes()
    }
}

impl BlockWeights for Stored {
    fn get(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let entry = self.checkpoint.find(name, shape)?;
        self.loaded += shape.iter().product::<usize>();
        self.checkpoint.tensor(entry, self.dtype, &self.device)
    }

    fn matrix(&mut self, name: &str, shape: [usize; 2]) -> Result<Weight> {
        let matrix = self.gguf.as_ref().map(|gguf| gguf.matrix(name, shape, &self.device));
        match matrix.transpose()?.flatten() {
            Some(matrix) => Ok(matrix),
            None => self.get(name, &shape).map(Weight::from),
        }
    }

    fn has_qkv_apart(&self) -> bool {
        self.gguf.is_some()
    }
}

impl WeightSource for Stored {
    fn pass_over(&mut self, name: &str, shape: &[usize]) -> Result<()> {
        self.checkpoint.find(name, shape).map(|_| ())
    }

    fn stored(&self) -> Option<Stored> {
        Some(self.clone())
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn dtype(&self) -> DType {
        self.dtype
    }
}

/// What a model whose blocks are streamed takes, for those who divide memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Bytes of all weights in the compute dtype, in memory or not.
    pub total_bytes: usize,
    /// Bytes of those that are always in memory.
    pub resident_bytes: usize,
    /// Bytes of a number in the compute dtype.
    pub number_bytes: usize,
    /// D, the width of a feature.
    pub width: usize,
    /// K, the width of the decoder's heads.
    pub head_dim: usize,
    /// Numbers that a token has between blocks at most: its vector, and what is still to be added to it.
    pub token_width: usize,
    /// Largest of the decoder's blocks.
    pub text: BlockSize,
    /// Largest of the vision encoder's blocks.
    pub vision: BlockSize,
    /// Pixel values of a patch; 0 without a vision encoder.
    pub patch_pixels: usize,
    /// Numbers that the vision encoder makes of a patch.
    pub patch_width: usize,
}

impl Footprint {
    /// Bytes of the weights while blocks are streamed, beside the resident ones: two blocks, and one weight once more as it
    /// is stored.
    pub fn streaming_bytes(&self) -> usize {
        let largest = |pick: fn(&BlockSize) -> usize| pick(&self.text).max(pick(&self.vision));
        self.number_bytes * (2 * largest(|size| size.elements) + largest(|size| size.largest))
    }
}
