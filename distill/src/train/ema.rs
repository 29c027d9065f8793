//! An exponential moving average of the weights that train.
//!
//! After each update: average = decay * average + (1 - decay) * weight, from the weights that the stage began with.

use anyhow::Result;
use candle_core::{CpuStorage, InplaceOp2, Layout, Var, bail};

use super::optim::Param;

/// The averages, in the order of the parameters.
pub struct Ema {
    decay: f64,
    averages: Vec<Var>,
}

impl Ema {
    /// Averages that are the weights as they are now.
    ///
    /// # Errors
    /// When the device fails.
    pub fn new(decay: f64, params: &[Param]) -> Result<Self> {
        let copies = params.iter().map(|param| Var::from_tensor(&param.var.as_detached_tensor().copy()?));
        Ok(Self { decay, averages: copies.collect::<candle_core::Result<_>>()? })
    }

    /// Takes in the weights after an update.
    ///
    /// # Errors
    /// When the device fails.
    pub fn update(&mut self, params: &[Param]) -> Result<()> {
        for (average, param) in self.averages.iter().zip(params) {
            let weight = param.var.as_detached_tensor();
            if weight.device().is_cpu() {
                average.inplace_op2(&weight, &Blend { rest: (1.0 - self.decay) as f32 })?;
            } else {
                let kept = (average.as_detached_tensor() * self.decay)?;
                average.set(&(kept + (weight * (1.0 - self.decay))?)?)?;
            }
        }
        Ok(())
    }

    /// Exchanges weights and averages: a second call undoes it, to the bit.
    ///
    /// # Errors
    /// When the device fails.
    pub fn swap(&mut self, params: &[Param]) -> Result<()> {
        for (average, param) in self.averages.iter().zip(params) {
            let weight = param.var.as_detached_tensor().copy()?;
            param.var.set(&average.as_detached_tensor())?;
            average.set(&weight)?;
        }
        Ok(())
    }

    /// The averages by the parameters' names: what a checkpoint keeps.
    pub fn named<'a>(&'a self, params: &'a [Param]) -> impl Iterator<Item = (&'a str, &'a Var)> {
        params.iter().map(|param| param.name.as_str()).zip(&self.averages)
    }
}

/// average += (weight - average) * rest, in place.
struct Blend {
    rest: f32,
}

impl InplaceOp2 for Blend {
    fn name(&self) -> &'static str {
        "ema"
    }

    fn cpu_fwd(
        &self,
        s1: &mut CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> candle_core::Result<()> {
        let (CpuStorage::F32(averages), CpuStorage::F32(weights)) = (s1, s2) else { bail!("ema takes f32") };
        let (Some(ours), Some(theirs)) = (l1.contiguous_offsets(), l2.contiguous_offsets()) else {
            bail!("a weight is not contiguous")
        };
        let pairs = averages[ours.0..ours.1].iter_mut().zip(&weights[theirs.0..theirs.1]);
        pairs.for_each(|(average, weight)| *average += (weight - *average) * self.rest);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use candle_core::{Device, Tensor};

    use super::*;

    fn values(var: &Tensor) -> Vec<f32> {
        var.to_vec1().unwrap()
    }

    #[test]
    fn averages_as_the_formula_says_and_swaps_back() {
        let var = Var::new(&[1.0f32, -2.0], &Device::Cpu).unwrap();
        let params = [Param { name: "w".into(), var: var.clone() }];
        let mut ema = Ema::new(0.75, &params).unwrap();
        for weights in [[5.0f32, -2.0], [0.0, 2.0]] {
            var.set(&Tensor::new(&weights, &Device::Cpu).unwrap()).unwrap();
            ema.update(&params).unwrap();
        }
        // By hand: 1, then 0.75 * 1 + 0.25 * 5 = 2, then 0.75 * 2 + 0; -2, -2, then -1.5 + 0.5.
        ema.swap(&params).unwrap();
        assert_eq!(values(&var), [1.5, -1.0]);
        assert_eq!(
            ema.named(&params).map(|(name, var)| (name, values(var))).next(),
            Some(("w", vec![0.0, 2.0]))
        );
        ema.swap(&params).unwrap();
        assert_eq!(values(&var), [0.0, 2.0]);
    }
}
