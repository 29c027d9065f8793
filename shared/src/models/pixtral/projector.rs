//! LLaVA's projector: two layers.

use candle_core::{Result, Tensor};

use crate::models::layers::{Activation, Linear};
use crate::models::weights::WeightSource;

/// Two layers with an activation between them.
pub(in crate::models) struct Projector {
    linear_1: Linear,
    activation: Activation,
    linear_2: Linear,
}

impl Projector {
    /// From a vision encoder of width E to a decoder of width D.
    pub(in crate::models) fn build(
        [from, to]: [usize; 2],
        bias: bool,
        activation: Activation,
        source: &mut dyn WeightSource,
    ) -> Result<Self> {
        Ok(Self {
            linear_1: source.linear("multi_modal_projector.linear_1", [to, from], bias)?,
            activation,
            linear_2: source.linear("multi_modal_projector.linear_2", [to, to], bias)?,
        })
    }

    /// x (.., E) -> (.., D).
    pub(in crate::models) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.linear_2.forward(&self.activation.apply(&self.linear_1.forward(x)?)?)
    }
}
