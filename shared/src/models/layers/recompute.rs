//! Activation checkpointing: a decoder block that keeps its input alone and runs again in the backward pass.
//!
//! A block's forward pass makes dozens of tensors that its gradient needs. Here they are dropped at once; when the
//! gradient of the block's output arrives, the block is run once more from its input, and the gradients of that small
//! graph are exactly those of the whole one. The cost is one more forward pass of the blocks.
//!
//! candle hands a custom operation's gradients back for its inputs only. The weights' gradients therefore go to a
//! [`Recomputed`], where the caller of `backward` collects them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, Layout, Result, Shape, Storage, Tensor, TensorId, Var, bail,
};

use super::{DecoderLayer, Rope, Sight};

/// Gradients of weights that recomputed blocks have found since they were last taken.
#[derive(Clone, Debug, Default)]
pub struct Recomputed(Arc<Mutex<HashMap<TensorId, Tensor>>>);

impl Recomputed {
    /// Takes a weight's gradient, summed over all blocks and samples that used it.
    #[must_use]
    pub fn take(&self, weight: &Tensor) -> Option<Tensor> {
        self.lock().remove(&weight.id())
    }

    /// Whether nothing is left to take.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Drops what nobody took: gradients of frozen weights, which candle makes as well.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn add(&self, id: TensorId, gradient: Tensor) -> Result<()> {
        let mut gradients = self.lock();
        let sum = match gradients.remove(&id) {
            Some(sum) => (sum + gradient)?,
            None => gradient,
        };
        gradients.insert(id, sum.detach());
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<TensorId, Tensor>> {
        // A panic while holding it leaves a valid map: take it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `layer.forward_within(x, rope, sights, cu_seqlens, None)`, keeping `x` alone.
///
/// # Errors
/// Those of the block.
pub fn recomputed(
    layer: &DecoderLayer,
    x: &Tensor,
    rope: &Rope,
    sights: Option<&[Sight]>,
    cu_seqlens: &[usize],
    gradients: &Recomputed,
) -> Result<Tensor> {
    let output = layer.forward_within(&x.detach(), rope, sights, cu_seqlens, None)?;
    if !x.track_op() && !output.track_op() {
        return Ok(output);
    }
    let block = Block {
        layer: layer.clone(),
        rope: rope.clone(),
        sights: sights.map(<[Sight]>::to_vec),
        cu_seqlens: cu_seqlens.to_vec(),
        gradients: gradients.clone(),
        output: Premade::new(output.detach())?,
    };
    drop(output);
    // A frozen input would end the graph here, and the block's weights would get no gradient.
    let x = if x.track_op() { x.clone() } else { Var::from_tensor(x)?.into_inner() };
    x.apply_op1(block)
}

/// One use of a block: its output, made before, and what makes it again.
struct Block {
    layer: DecoderLayer,
    rope: Rope,
    sights: Option<Vec<Sight>>,
    cu_seqlens: Vec<usize>,
    gradients: Recomputed,
    output: Premade,
}

/// The output of an operation that was made before the operation became part of a graph: its forward pass hands it out, once.
pub(super) struct Premade(Mutex<Option<Tensor>>);

impl Premade {
    /// Keeps `output`, which has no graph of its own.
    pub(super) fn new(output: Tensor) -> Result<Premade> {
        // What is handed out is the storage: it must begin where the output does.
        let is_whole = output.is_contiguous() && output.layout().start_offset() == 0;
        let output = if is_whole { output } else { output.force_contiguous()? };
        Ok(Premade(Mutex::new(Some(output))))
    }

    fn take(&self) -> Result<Tensor> {
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(output) => Ok(output),
            None => bail!("an operation whose output was made before was run forward twice"),
        }
    }

    /// What `cpu_fwd` gives back.
    pub(super) fn take_cpu(&self) -> Result<(CpuStorage, Shape)> {
        let output = self.take()?;
        let (storage, layout) = output.storage_and_layout();
        match &*storage {
            Storage::Cpu(storage) => Ok((storage.try_clone(layout)?, output.shape().clone())),
            _ => bail!("an output left the CPU"),
        }
    }

    /// What `cuda_fwd` gives back.
    pub(super) fn take_cuda(&self) -> Result<(CudaStorage, Shape)> {
        let output = self.take()?;
        let (storage, layout) = output.storage_and_layout();
        match &*storage {
            Storage::Cuda(storage) => Ok((storage.try_clone(layout)?, output.shape().clone())),
            _ => bail!("an output left the GPU"),
        }
    }
}

impl CustomOp1 for Block {
    fn name(&self) -> &'static str {
        "recomputed-block"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.output.take_cpu()
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.output.take_cuda()
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, by_output: &Tensor) -> Result<Option<Tensor>> {
        let x = Var::from_tensor(&x.detach())?;
        let sights = self.sights.as_deref();
        let output = self.layer.forward_within(&x, &self.rope, sights, &self.cu_seqlens, None)?;
        let by_output = by_output.detach();
        let mut found = (output * &by_output)?.sum_all()?.backward()?;
        let by_input = found.remove(&x);
        // It is a factor as well, with an id that never comes again: kept, each step would leave one a block behind.
        found.remove(&by_output);
        let weights: Vec<TensorId> = found.get_ids().copied().collect();
        for id in weights {
            if let Some(gradient) = found.get_id(id) {
                self.gradients.add(id, gradient.clone())?;
            }
        }
        Ok(by_input.map(|gradient| gradient.detach()))
    }
}
