//! The language-model head: features to logits.

use candle_core::{Result, Tensor};

use super::layers::Linear;

/// The output projection. Its weight may be the body's input embedding (tied).
#[derive(Clone, Debug)]
pub struct Head {
    /// (V, D).
    pub weight: Tensor,
    /// Whether `weight` is the body's input embedding.
    pub tied: bool,
}

impl Head {
    /// Logits (T, V) of features (T, D).
    ///
    /// # Errors
    /// When the width differs or the device fails.
    pub fn logits(&self, features: &Tensor) -> Result<Tensor> {
        Linear::new(self.weight.clone(), None).forward(features)
    }

    /// V.
    pub fn vocab_size(&self) -> usize {
        self.weight.dims()[0]
    }
}
