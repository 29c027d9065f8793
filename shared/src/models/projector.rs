//! The two-layer projector of LLaVA (arXiv 2310.03744), which most families took over.

use candle_core::{Result, Tensor};

use super::fields::Activation;
use super::layers::Linear;
use super::weights::WeightSource;

/// Linear, activation, linear.
pub(super) struct TwoLayerProjector {
    linear_1: Linear,
    activation: Activation,
    linear_2: Linear,
}

impl TwoLayerProjector {
    /// From `from` to `to` columns, by the weights `linear_1` and `linear_2` under `prefix`.
    pub(super) fn build(
        prefix: &str,
        [from, to]: [usize; 2],
        bias: bool,
        activation: Activation,
        source: &mut dyn WeightSource,
    ) -> Result<Self> {
        let mut linear = |name: &str, from: usize| -> Result<Linear> {
            let weight = source.get(&format!("{prefix}.{name}.weight"), &[to, from])?;
            let bias = bias.then(|| source.get(&format!("{prefix}.{name}.bias"), &[to])).transpose()?;
            Ok(Linear::new(weight, bias))
        };
        Ok(Self { linear_1: linear("linear_1", from)?, activation, linear_2: linear("linear_2", to)? })
    }

    /// (.., from) -> (.., to).
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.linear_2.forward(&self.activation.apply(&self.linear_1.forward(x)?)?)
    }
}
