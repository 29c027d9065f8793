//! The merger: m x m patches become one row of the decoder's width.

use candle_core::{Result, Tensor};

use crate::models::layers::{Linear, Norm, gelu};

/// A norm and two layers.
pub(in crate::models) struct Merger {
    /// Over each patch, or over the merged ones together.
    pub norm: Norm,
    /// Which of the two.
    pub is_norm_merged: bool,
    /// (m*m*E, m*m*E).
    pub up: Linear,
    /// (D, m*m*E).
    pub down: Linear,
}

impl Merger {
    /// Patches in merge order, (P, E) -> (P / m^2, D).
    pub(in crate::models) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let merged = self.up.weight().dims()[1];
        let x = match self.is_norm_merged {
            true => self.norm.forward(&x.reshape(((), merged))?)?,
            false => self.norm.forward(x)?.reshape(((), merged))?,
        };
        self.down.forward(&gelu(&self.up.forward(&x)?)?)
    }
}
