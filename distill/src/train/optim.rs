//! AdamW on f32 masters, and the gradients it takes.
//!
//! On the CPU one pass over a parameter updates both moments and the weight; elsewhere tensor operations do
//! the same. The arithmetic is PyTorch's (decoupled decay, bias-corrected moments), so that a run can be
//! compared step by step.

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, DType, InplaceOp2, Layout, Result, Tensor, Var, bail};
use rayon::prelude::*;
use shared::models::layers::Recomputed;
use std::sync::Mutex;

use crate::config::StageConfig;

/// Values handled by one task. Also the unit of the norm's sums, so that it does not depend on thread count.
const CHUNK: usize = 1 << 15;

/// A named trainable tensor.
#[derive(Clone, Debug)]
pub struct Param {
    /// Unique in the run: `student.<hub name>` or `recalibrator.<name>`.
    pub name: String,
    /// The f32 master.
    pub var: Var,
}

/// The optimizer's constants of a stage.
#[derive(Clone, Copy, Debug)]
pub struct AdamConfig {
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    weight_decay: f64,
}

impl From<&StageConfig> for AdamConfig {
    fn from(stage: &StageConfig) -> Self {
        Self {
            beta1: stage.beta1,
            beta2: stage.beta2,
            epsilon: stage.epsilon,
            weight_decay: stage.weight_decay,
        }
    }
}

/// Gradients summed over microbatches, in the order of the parameters; `None` where no loss reached.
#[derive(Debug)]
pub struct Gradients(Vec<Option<Tensor>>);

impl Gradients {
    /// No gradient yet.
    #[must_use]
    pub fn none(num_params: usize) -> Self {
        Self(vec![None; num_params])
    }

    /// Adds what one backward pass left for these parameters, in its store and in recomputed blocks.
    ///
    /// # Errors
    /// When the device fails.
    pub fn add(&mut self, params: &[Param], mut store: GradStore, recomputed: &Recomputed) -> Result<()> {
        for (sum, param) in self.0.iter_mut().zip(params) {
            let weight = param.var.as_tensor();
            let grad = match (store.remove(weight), recomputed.take(weight)) {
                (Some(a), Some(b)) => (a + b)?,
                (Some(grad), None) | (None, Some(grad)) => grad,
                (None, None) => continue,
            };
            let grad = grad.to_dtype(DType::F32)?.contiguous()?;
            *sum = Some(match sum.take() {
                None => grad,
                Some(sum) => (sum + grad)?,
            });
        }
        Ok(())
    }

    /// The gradient of a parameter by its place.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&Tensor> {
        self.0.get(index)?.as_ref()
    }

    /// The Euclidean norm of all gradients together; not finite when one of them is not.
    ///
    /// # Errors
    /// When the device fails.
    pub fn norm(&self) -> Result<f64> {
        let mut total = 0.0;
        for grad in self.0.iter().flatten() {
            total += sum_of_squares(grad)?;
        }
        Ok(total.sqrt())
    }
}

fn sum_of_squares(grad: &Tensor) -> Result<f64> {
    if !grad.device().is_cpu() {
        return grad.sqr()?.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>();
    }
    let (storage, layout) = grad.storage_and_layout();
    let candle_core::Storage::Cpu(CpuStorage::F32(values)) = &*storage else { bail!("gradients are f32") };
    let values = contiguous(values, layout)?;
    let square = |chunk: &[f32]| chunk.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>();
    let parts: Vec<f64> = values.par_chunks(CHUNK).map(square).collect();
    Ok(parts.iter().sum())
}

fn contiguous<'a>(values: &'a [f32], layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => bail!("a gradient or weight is not contiguous"),
    }
}

/// First and second moments of one parameter.
#[derive(Debug)]
enum Moments {
    Host { m: Vec<f32>, v: Vec<f32> },
    Device { m: Tensor, v: Tensor },
}

/// The optimizer: its parameters and their moments.
#[derive(Debug)]
pub struct AdamW {
    config: AdamConfig,
    params: Vec<Param>,
    moments: Vec<Moments>,
    num_updates: u64,
}

impl AdamW {
    /// An optimizer that has not stepped.
    ///
    /// # Errors
    /// When a parameter is not f32 or the device fails.
    pub fn new(config: AdamConfig, params: Vec<Param>) -> Result<Self> {
        let moments = params.iter().map(fresh_moments).collect::<Result<_>>()?;
        Ok(Self { config, params, moments, num_updates: 0 })
    }

    /// The parameters, in the order gradients come.
    #[must_use]
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// One update at rate `lr` with gradients multiplied by `scale`. A parameter without a gradient stays.
    ///
    /// # Errors
    /// When the device fails.
    pub fn step(&mut self, gradients: &Gradients, lr: f64, scale: f64) -> Result<()> {
        self.num_updates += 1;
        let decay = 1.0 - lr * self.config.weight_decay;
        let update = Update::new(&self.config, self.num_updates, lr, scale);
        for ((param, moments), grad) in self.params.iter().zip(&mut self.moments).zip(&gradients.0) {
            let Some(grad) = grad else { continue };
            // Norm weights and biases are not decayed.
            let update = Update { decay: if param.var.rank() > 1 { decay as f32 } else { 1.0 }, ..update };
            match moments {
                Moments::Host { m, v } => {
                    let op = HostUpdate { update, moments: Mutex::new((m, v)) };
                    param.var.inplace_op2(grad, &op)?;
                }
                Moments::Device { m, v } => update.on_device(&param.var, grad, m, v)?,
            }
        }
        Ok(())
    }

    /// Moments by parameter name, and the number of updates: what a checkpoint keeps.
    ///
    /// # Errors
    /// When the device fails.
    pub fn state(&self) -> Result<(u64, Vec<(String, Tensor)>)> {
        let mut tensors = Vec::with_capacity(2 * self.params.len());
        for (param, moments) in self.params.iter().zip(&self.moments) {
            let shape = param.var.shape();
            let (m, v) = match moments {
                Moments::Host { m, v } => (
                    Tensor::from_slice(m, shape, param.var.device())?,
                    Tensor::from_slice(v, shape, param.var.device())?,
                ),
                Moments::Device { m, v } => (m.clone(), v.clone()),
            };
            tensors.push((format!("m.{}", param.name), m));
            tensors.push((format!("v.{}", param.name), v));
        }
        Ok((self.num_updates, tensors))
    }

    /// Takes back what [`state`](Self::state) gave; `find` looks a tensor up by name.
    ///
    /// # Errors
    /// When a tensor is missing or of another shape.
    pub fn restore(&mut self, num_updates: u64, find: impl Fn(&str) -> Result<Tensor>) -> Result<()> {
        self.num_updates = num_updates;
        for (param, moments) in self.params.iter().zip(&mut self.moments) {
            let read = |kind: &str| -> Result<Tensor> {
                let tensor = find(&format!("{kind}.{}", param.name))?.to_device(param.var.device())?;
                if tensor.shape() != param.var.shape() {
                    bail!("optimizer state of `{}` has another shape", param.name);
                }
                Ok(tensor)
            };
            let (new_m, new_v) = (read("m")?, read("v")?);
            *moments = match moments {
                Moments::Host { .. } => {
                    Moments::Host { m: new_m.flatten_all()?.to_vec1()?, v: new_v.flatten_all()?.to_vec1()? }
                }
                Moments::Device { .. } => Moments::Device { m: new_m, v: new_v },
            };
        }
        Ok(())
    }
}

fn fresh_moments(param: &Param) -> Result<Moments> {
    if param.var.dtype() != DType::F32 {
        bail!("`{}` trains in {:?}, masters are f32", param.name, param.var.dtype());
    }
    if param.var.device().is_cpu() {
        let zeros = vec![0f32; param.var.elem_count()];
        return Ok(Moments::Host { m: zeros.clone(), v: zeros });
    }
    Ok(Moments::Device { m: param.var.zeros_like()?, v: param.var.zeros_like()? })
}

/// The constants of one update.
#[derive(Clone, Copy)]
struct Update {
    beta1: f32,
    beta2: f32,
    epsilon: f32,
    /// Root of the second moment's bias correction.
    root_correction: f32,
    /// Rate over the first moment's bias correction.
    rate: f32,
    /// What the weight is multiplied by first.
    decay: f32,
    /// What the gradient is multiplied by first.
    scale: f32,
}

impl Update {
    fn new(config: &AdamConfig, num_updates: u64, lr: f64, scale: f64) -> Self {
        let power = i32::try_from(num_updates).unwrap_or(i32::MAX);
        Self {
            beta1: config.beta1 as f32,
            beta2: config.beta2 as f32,
            epsilon: config.epsilon as f32,
            root_correction: (1.0 - config.beta2.powi(power)).sqrt() as f32,
            rate: (lr / (1.0 - config.beta1.powi(power))) as f32,
            decay: 1.0,
            scale: scale as f32,
        }
    }

    fn on_host(&self, weights: &mut [f32], grads: &[f32], m: &mut [f32], v: &mut [f32]) {
        let rows = weights.iter_mut().zip(grads).zip(m.iter_mut().zip(v.iter_mut()));
        for ((weight, grad), (m, v)) in rows {
            let grad = grad * self.scale;
            *m += (grad - *m) * (1.0 - self.beta1);
            *v = *v * self.beta2 + grad * grad * (1.0 - self.beta2);
            let root = v.sqrt() / self.root_correction + self.epsilon;
            *weight = *weight * self.decay - self.rate * (*m / root);
        }
    }

    fn on_device(&self, weight: &Var, grad: &Tensor, m: &mut Tensor, v: &mut Tensor) -> Result<()> {
        let f = f64::from;
        let grad = (grad * f(self.scale))?;
        *m = ((&*m * f(self.beta1))? + (&grad * f(1.0 - self.beta1))?)?;
        *v = ((&*v * f(self.beta2))? + (grad.sqr()? * f(1.0 - self.beta2))?)?;
        let root = ((v.sqrt()? / f(self.root_correction))? + f(self.epsilon))?;
        let next = ((weight.as_tensor() * f(self.decay))? - ((&*m / root)? * f(self.rate))?)?;
        weight.set(&next.detach())
    }
}

/// One update as candle takes it: the weight in place, the moments borrowed. The lock is never contended.
struct HostUpdate<'a> {
    update: Update,
    moments: Mutex<(&'a mut Vec<f32>, &'a mut Vec<f32>)>,
}

impl InplaceOp2 for HostUpdate<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(&self, s1: &mut CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<()> {
        let (CpuStorage::F32(weights), CpuStorage::F32(grads)) = (s1, s2) else { bail!("adamw takes f32") };
        let grads = contiguous(grads, l2)?;
        let Some((start, end)) = l1.contiguous_offsets() else { bail!("a weight is not contiguous") };
        let Ok(mut moments) = self.moments.lock() else { bail!("another update of this weight failed") };
        let (m, v) = &mut *moments;
        let weights = weights[start..end].par_chunks_mut(CHUNK).zip(grads.par_chunks(CHUNK));
        let moments = m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK));
        weights.zip(moments).for_each(|((w, g), (m, v))| self.update.on_host(w, g, m, v));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
