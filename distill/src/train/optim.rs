//! AdamW on f32 masters, and the gradients it takes.
//!
//! On the CPU one pass over a parameter updates both moments and the weight; elsewhere tensor operations do
//! the same. The arithmetic is PyTorch's (decoupled decay, bias-corrected moments), so that a run can be
//! compared step by step. Moments may be stored in fewer bytes (`moments`): then they are widened, updated and
//! rounded block by block.

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, D, DType, InplaceOp2, Layout, Result, Tensor, Var, bail};
use rayon::prelude::*;
use shared::models::layers::Recomputed;
#[cfg(feature = "cuda")]
use shared::models::layers::{AdamWConstants, adamw};
use std::sync::Mutex;

use crate::config::{OptimizerStates, StageConfig};

mod moments;

use moments::{BLOCK, Moment, Order, Piece, random};

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
            add_one(sum, grad)?;
        }
        recomputed.clear();
        Ok(())
    }

    /// Adds what recomputed blocks have summed over all backward passes of a step.
    ///
    /// # Errors
    /// When the device fails.
    pub fn add_recomputed(&mut self, params: &[Param], recomputed: &Recomputed) -> Result<()> {
        for (sum, param) in self.0.iter_mut().zip(params) {
            if let Some(grad) = recomputed.take(param.var.as_tensor()) {
                add_one(sum, grad)?;
            }
        }
        recomputed.clear();
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
        let (host, device): (Vec<_>, Vec<_>) =
            self.0.iter().flatten().partition(|grad| grad.device().is_cpu());
        let mut total = sum_of_squares_on_device(&device)?;
        for grad in host {
            total += sum_of_squares(grad)?;
        }
        Ok(total.sqrt())
    }
}

fn add_one(sum: &mut Option<Tensor>, grad: Tensor) -> Result<()> {
    let grad = grad.to_dtype(DType::F32)?.contiguous()?;
    *sum = Some(match sum.take() {
        None => grad,
        Some(sum) => (sum + grad)?,
    });
    Ok(())
}

/// The sum over several tensors, which a device is waited for once. Each is summed row by row first: candle gives a sum over all
/// axes to one block of a GPU's threads.
fn sum_of_squares_on_device(grads: &[&Tensor]) -> Result<f64> {
    if grads.is_empty() {
        return Ok(0.0);
    }
    let sum = |grad: &&Tensor| {
        let squares = grad.sqr()?;
        if squares.rank() > 1 { squares.sum(D::Minus1)?.sum_all() } else { squares.sum_all() }
    };
    let sums = grads.iter().map(sum).collect::<Result<Vec<_>>>()?;
    Tensor::stack(&sums, 0)?.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>()
}

fn sum_of_squares(grad: &Tensor) -> Result<f64> {
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
    Host { m: Moment, v: Moment },
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
    /// When a parameter is not f32, the moments cannot be stored so on its device, or the device fails.
    pub fn new(config: AdamConfig, states: OptimizerStates, params: Vec<Param>) -> Result<Self> {
        let moments = params.iter().map(|param| fresh_moments(param, states)).collect::<Result<_>>()?;
        Ok(Self { config, params, moments, num_updates: 0 })
    }

    /// The parameters, in the order gradients come.
    #[must_use]
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// One update at rate `lr` with gradients multiplied by `scale`. A parameter without a gradient stays. Each gradient
    /// is dropped once it is used.
    ///
    /// # Errors
    /// When the device fails.
    pub fn step(&mut self, gradients: Gradients, lr: f64, scale: f64) -> Result<()> {
        self.num_updates += 1;
        let decay = 1.0 - lr * self.config.weight_decay;
        let update = Update::new(&self.config, self.num_updates, lr, scale);
        for ((param, moments), grad) in self.params.iter().zip(&mut self.moments).zip(gradients.0) {
            let Some(grad) = grad else { continue };
            // Norm weights and biases are not decayed.
            let update = Update { decay: if param.var.rank() > 1 { decay as f32 } else { 1.0 }, ..update };
            match moments {
                Moments::Host { m, v } => {
                    let op = HostUpdate { update, moments: Mutex::new((m, v)) };
                    param.var.inplace_op2(&grad, &op)?;
                }
                Moments::Device { m, v } => update.on_device(&param.var, &grad, m, v)?,
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
            let (shape, name) = (param.var.shape(), &param.name);
            let pair = match moments {
                Moments::Host { m, v } => [m.tensors(shape)?, v.tensors(shape)?],
                Moments::Device { m, v } => [vec![("", m.clone())], vec![("", v.clone())]],
            };
            for (kind, moment) in ["m", "v"].into_iter().zip(pair) {
                tensors
                    .extend(moment.into_iter().map(|(end, tensor)| (format!("{kind}.{name}{end}"), tensor)));
            }
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
            let (shape, name) = (param.var.shape(), &param.name);
            let read = |kind: &str, end: &str| find(&format!("{kind}.{name}{end}"));
            match moments {
                Moments::Host { m, v } => {
                    m.fill(shape, |end| read("m", end))?;
                    v.fill(shape, |end| read("v", end))?;
                }
                Moments::Device { m, v } => {
                    for (kind, moment) in [("m", m), ("v", v)] {
                        let tensor = read(kind, "")?.to_device(param.var.device())?;
                        if tensor.shape() != shape {
                            bail!("optimizer state of `{name}` has another shape");
                        }
                        *moment = tensor;
                    }
                }
            }
        }
        Ok(())
    }
}

fn fresh_moments(param: &Param, states: OptimizerStates) -> Result<Moments> {
    if param.var.dtype() != DType::F32 {
        bail!("`{}` trains in {:?}, masters are f32", param.name, param.var.dtype());
    }
    let len = param.var.elem_count();
    match (param.var.device().is_cpu(), states) {
        (true, _) => Ok(Moments::Host {
            m: Moment::zeros(states, Order::First, len),
            v: Moment::zeros(states, Order::Second, len),
        }),
        (false, OptimizerStates::F32) => {
            Ok(Moments::Device { m: param.var.zeros_like()?, v: param.var.zeros_like()? })
        }
        (false, _) => bail!("only a CPU stores moments in fewer bytes\nhint: `memory.optimizer=f32`"),
    }
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
    /// Counted from 1: the seed of rounding.
    number: u64,
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
            number: num_updates,
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

    /// The same on moments stored in fewer bytes, for values from `first` on.
    fn on_pieces(&self, first: usize, weights: &mut [f32], grads: &[f32], m: &mut Piece, v: &mut Piece) {
        if let (Piece::F32(m), Piece::F32(v)) = (&mut *m, &mut *v) {
            return self.on_host(weights, grads, m, v);
        }
        let tables = [Order::First.table(), Order::Second.table()];
        let blocks = weights.chunks_mut(BLOCK).zip(grads.chunks(BLOCK)).enumerate();
        for (block, (weights, grads)) in blocks {
            let (mut wide_m, mut wide_v) = ([0f32; BLOCK], [0f32; BLOCK]);
            let (wide_m, wide_v) = (&mut wide_m[..grads.len()], &mut wide_v[..grads.len()]);
            m.load(block, &tables, wide_m);
            v.load(block, &tables, wide_v);
            self.on_host(weights, grads, wide_m, wide_v);
            let bits = |i: usize| random(self.number, first + block * BLOCK + i);
            m.store(block, wide_m, |i| bits(i) as u16);
            v.store(block, wide_v, |i| (bits(i) >> 16) as u16);
        }
    }

    fn on_device(&self, weight: &Var, grad: &Tensor, m: &mut Tensor, v: &mut Tensor) -> Result<()> {
        #[cfg(feature = "cuda")]
        if weight.device().is_cuda() {
            return self.in_one_kernel(weight, grad, m, v);
        }
        let f = f64::from;
        let grad = (grad * f(self.scale))?;
        *m = ((&*m * f(self.beta1))? + (&grad * f(1.0 - self.beta1))?)?;
        *v = ((&*v * f(self.beta2))? + (grad.sqr()? * f(1.0 - self.beta2))?)?;
        let root = ((v.sqrt()? / f(self.root_correction))? + f(self.epsilon))?;
        let next = ((weight.as_tensor() * f(self.decay))? - ((&*m / root)? * f(self.rate))?)?;
        weight.set(&next.detach())
    }

    /// The same by a kernel of ours, which reads and writes each value once.
    #[cfg(feature = "cuda")]
    fn in_one_kernel(&self, weight: &Var, grad: &Tensor, m: &mut Tensor, v: &mut Tensor) -> Result<()> {
        let &Self { beta1, beta2, epsilon, root_correction, rate, decay, scale, .. } = self;
        let constants = AdamWConstants { beta1, beta2, epsilon, root_correction, rate, decay, scale };
        let [next, next_m, next_v] = adamw([weight.as_tensor(), grad, m, v], constants)?;
        (*m, *v) = (next_m, next_v);
        weight.set(&next)
    }
}

/// One update as candle takes it: the weight in place, the moments borrowed. The lock is never contended.
struct HostUpdate<'a> {
    update: Update,
    moments: Mutex<(&'a mut Moment, &'a mut Moment)>,
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
        let moments = m.pieces(CHUNK).into_par_iter().zip(v.pieces(CHUNK));
        weights.zip(moments).enumerate().for_each(|(i, ((w, g), (mut m, mut v)))| {
            self.update.on_pieces(i * CHUNK, w, g, &mut m, &mut v);
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
