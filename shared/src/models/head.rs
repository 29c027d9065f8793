//! The language-model head: features to logits.

use candle_core::{Result, Tensor};

use super::table::Table;

/// The output projection. Its weight may be the body's input embedding (tied).
#[derive(Clone)]
pub struct Head {
    /// V x D.
    pub table: Table,
    /// Whether `table` is the body's input embedding.
    pub tied: bool,
}

impl Head {
    /// The weight, (V, D).
    ///
    /// # Errors
    /// When it is not in memory.
    pub fn weight(&self) -> Result<&Tensor> {
        self.table.tensor()
    }

    /// Logits (T, V) of features (T, D).
    ///
    /// # Errors
    /// When the width differs or the device fails.
    pub fn logits(&self, features: &Tensor) -> Result<Tensor> {
        self.table.product(features)
    }

    /// V.
    pub fn vocab_size(&self) -> usize {
        self.table.shape()[0]
    }
}
