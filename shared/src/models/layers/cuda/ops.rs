//! The kernels as operations that candle differentiates.

use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, D, DType, Layout, Result, Shape, Storage,
    Tensor, bail,
};

use super::super::{Activation, AdamWConstants, Sight};
use super::machine::{Buffer, Gpu};
use super::plan::{self, NormKind, Rows};

/// Calls `f` with the storages and layouts of tensors on a GPU.
fn with_buffers<const N: usize, R>(
    tensors: [&Tensor; N],
    f: impl for<'a> FnOnce(&Gpu<'a>, [&Buffer<'a>; N]) -> Result<R>,
) -> Result<R> {
    let guards = tensors.map(Tensor::storage_and_layout);
    let mut buffers = Vec::with_capacity(N);
    for (storage, layout) in &guards {
        let Storage::Cuda(storage) = &**storage else {
            bail!("a GPU's kernel got a tensor of another device")
        };
        buffers.push((storage, Buffer::Given(storage, layout)));
    }
    let Some(gpu) = buffers.first().map(|(storage, _)| Gpu::of(storage)) else {
        bail!("a kernel without operands")
    };
    f(&gpu, std::array::from_fn(|i| &buffers[i].1))
}

fn not_on_a_cpu(what: &str) -> Result<(CpuStorage, Shape)> {
    bail!("`{what}` for a GPU was given a CPU's tensor")
}

impl NormKind {
    fn forward<'a>(
        self,
        (x, layout): (&'a CudaStorage, &'a Layout),
        parameters: &[Buffer<'a>],
    ) -> Result<(CudaStorage, Shape)> {
        let width = layout.shape().dims().last().copied().unwrap_or(0);
        let rows = Rows::of(layout.shape().elem_count(), width);
        let parameters: Vec<&Buffer> = parameters.iter().collect();
        let y = plan::norm(&Gpu::of(x), self, rows, &Buffer::Given(x, layout), &parameters)?;
        Ok((y.into_storage()?, layout.shape().clone()))
    }

    /// Gradients of x, and (2, width) of weight and bias where they are wanted.
    fn gradients(
        self,
        x: &Tensor,
        w: &Tensor,
        gy: &Tensor,
        wanted: bool,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let rows = Rows::of(x.elem_count(), w.elem_count());
        with_buffers([x, w, &gy.contiguous()?], |gpu, buffers| {
            let (by_x, by_weight) = plan::norm_gradients(gpu, self, rows, buffers, wanted)?;
            let by_weight = by_weight.map(|buffer| buffer.into_tensor(&Shape::from((2, rows.width))));
            Ok((by_x.into_tensor(x.shape())?, by_weight.transpose()?))
        })
    }
}

/// x / sqrt(mean(x^2) + eps) * weight.
pub(in super::super) struct RmsNormOp {
    pub(in super::super) eps: f32,
}

impl CustomOp2 for RmsNormOp {
    fn name(&self) -> &'static str {
        "rms-norm-gpu"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        not_on_a_cpu(self.name())
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        lx: &Layout,
        w: &CudaStorage,
        lw: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        NormKind::Rms(self.eps).forward((x, lx), &[Buffer::Given(w, lw)])
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        gy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (by_x, by_weight) = NormKind::Rms(self.eps).gradients(x, w, gy, w.track_op())?;
        Ok((Some(by_x), by_weight.map(|both| both.get(0)).transpose()?))
    }
}

/// (x - mean) / sqrt(variance + eps) * weight + bias.
pub(in super::super) struct LayerNormOp {
    pub(in super::super) eps: f32,
}

impl CustomOp3 for LayerNormOp {
    fn name(&self) -> &'static str {
        "layer-norm-gpu"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        not_on_a_cpu(self.name())
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        lx: &Layout,
        w: &CudaStorage,
        lw: &Layout,
        b: &CudaStorage,
        lb: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        NormKind::Layer(self.eps).forward((x, lx), &[Buffer::Given(w, lw), Buffer::Given(b, lb)])
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        gy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let wanted = w.track_op() || b.track_op();
        let (by_x, both) = NormKind::Layer(self.eps).gradients(x, w, gy, wanted)?;
        let part = |i: usize| both.as_ref().map(|both| both.get(i)).transpose();
        Ok((Some(by_x), part(0)?, part(1)?))
    }
}

/// Softmax over the last axis of `scores` (.., m) times `scale`, rows of as many heads as there are times queries, over the keys
/// that each query sees. Without a graph.
pub(in super::super) fn softmax(scores: &Tensor, sights: &[Sight], scale: f32) -> Result<Tensor> {
    let numbers: Vec<u32> = sights.iter().flatten().map(|&key| key as u32).collect();
    let rows = Rows::of(scores.elem_count(), scores.dim(D::Minus1)?);
    let table = Tensor::new(numbers, scores.device())?;
    with_buffers([&scores.contiguous()?, &table], |gpu, buffers| {
        plan::softmax(gpu, rows, sights.len(), scale, buffers)?.into_tensor(scores.shape())
    })
}

/// The gradient of such scores, from weights and their gradient. Without a graph.
pub(in super::super) fn softmax_gradient(
    weights: &Tensor,
    by_weights: &Tensor,
    scale: f32,
) -> Result<Tensor> {
    let rows = Rows::of(weights.elem_count(), weights.dim(D::Minus1)?);
    with_buffers([&weights.contiguous()?, &by_weights.contiguous()?], |gpu, buffers| {
        plan::softmax_gradient(gpu, rows, scale, buffers)?.into_tensor(weights.shape())
    })
}

/// x (.., O) plus `bias` (O) on each row. Without a graph.
pub(in super::super) fn add_bias(x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let sizes = [x.elem_count(), bias.elem_count()];
    with_buffers([&x.contiguous()?, &bias.contiguous()?], |gpu, buffers| {
        plan::add_bias(gpu, sizes, buffers)?.into_tensor(x.shape())
    })
}

/// A float32 weight and its two moments after an update by AdamW, from them and the weight's gradient; all of one shape and on a
/// GPU. Without a graph.
///
/// # Errors
/// When one of them is of another shape or type, or the device fails.
pub fn adamw(tensors: [&Tensor; 4], constants: AdamWConstants) -> Result<[Tensor; 3]> {
    let shape = tensors[0].shape();
    if tensors.iter().any(|tensor| tensor.shape() != shape || tensor.dtype() != DType::F32) {
        bail!("an update of tensors that are not float32 of one shape")
    }
    with_buffers(tensors, |gpu, buffers| {
        let made = plan::adamw(gpu, shape.elem_count(), constants, buffers)?;
        let made = made.into_iter().map(|buffer| buffer.into_tensor(shape)).collect::<Result<Vec<_>>>()?;
        match <[Tensor; 3]>::try_from(made) {
            Ok(made) => Ok(made),
            Err(made) => bail!("an update gave {} tensors", made.len()),
        }
    })
}

/// Rotates x (T, H, K) by the tables (T, K/2), which are float32.
pub(in super::super) struct RopeOp {
    pub(in super::super) cos: Tensor,
    pub(in super::super) sin: Tensor,
}

impl RopeOp {
    /// `sign` 1 rotates forward, -1 backward.
    fn rotated<'a>(&self, gpu: &Gpu<'a>, x: &Buffer<'a>, shape: &Shape, sign: f32) -> Result<CudaStorage> {
        let (tokens, heads, width) = shape.dims3()?;
        let tables = [&self.cos, &self.sin].map(Tensor::storage_and_layout);
        let [(cos, cos_layout), (sin, sin_layout)] = &tables;
        let (Storage::Cuda(cos), Storage::Cuda(sin)) = (&**cos, &**sin) else {
            bail!("rotary tables of another device")
        };
        let (cos, sin) = (Buffer::Given(cos, cos_layout), Buffer::Given(sin, sin_layout));
        plan::rope(gpu, [tokens, heads, width / 2], sign, [x, &cos, &sin])?.into_storage()
    }
}

impl CustomOp1 for RopeOp {
    fn name(&self) -> &'static str {
        "rope-gpu"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        not_on_a_cpu(self.name())
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let y = self.rotated(&Gpu::of(x), &Buffer::Given(x, layout), layout.shape(), 1.0)?;
        Ok((y, layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, gy: &Tensor) -> Result<Option<Tensor>> {
        with_buffers([&gy.contiguous()?], |gpu, [gy]| {
            Buffer::Made(self.rotated(gpu, gy, x.shape(), -1.0)?).into_tensor(x.shape()).map(Some)
        })
    }
}

impl Activation {
    /// The kernels of its value and of its gradient.
    fn kernels(self) -> [&'static str; 2] {
        match self {
            Activation::Gelu => ["gelu", "gelu_grad"],
            Activation::GeluTanh => ["gelu_tanh", "gelu_tanh_grad"],
            Activation::QuickGelu => ["quick_gelu", "quick_gelu_grad"],
            Activation::Silu => ["silu", "silu_grad"],
        }
    }
}

/// An activation, of any shape.
pub(in super::super) struct ActivationOp(pub(in super::super) Activation);

impl CustomOp1 for ActivationOp {
    fn name(&self) -> &'static str {
        "activation-gpu"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        not_on_a_cpu(self.name())
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let [kernel, _] = self.0.kernels();
        let count = layout.shape().elem_count();
        let made = plan::pointwise(&Gpu::of(x), kernel, count, 1, &[&Buffer::Given(x, layout)])?;
        Ok((first(made)?.into_storage()?, layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, gy: &Tensor) -> Result<Option<Tensor>> {
        let [_, kernel] = self.0.kernels();
        with_buffers([x, &gy.contiguous()?], |gpu, buffers| {
            let made = plan::pointwise(gpu, kernel, x.elem_count(), 1, &buffers)?;
            first(made)?.into_tensor(x.shape()).map(Some)
        })
    }
}

/// silu(gate) * up.
pub(in super::super) struct SwiGlu;

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu-gpu"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        not_on_a_cpu(self.name())
    }

    fn cuda_fwd(
        &self,
        gate: &CudaStorage,
        gate_layout: &Layout,
        up: &CudaStorage,
        up_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let inputs = [&Buffer::Given(gate, gate_layout), &Buffer::Given(up, up_layout)];
        let count = gate_layout.shape().elem_count();
        let made = plan::pointwise(&Gpu::of(gate), "swiglu", count, 1, &inputs)?;
        Ok((first(made)?.into_storage()?, gate_layout.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _y: &Tensor,
        gy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        with_buffers([gate, up, &gy.contiguous()?], |gpu, buffers| {
            let made = plan::pointwise(gpu, "swiglu_grad", gate.elem_count(), 2, &buffers)?;
            let mut made = made.into_iter().map(|buffer| buffer.into_tensor(gate.shape()));
            Ok((made.next().transpose()?, made.next().transpose()?))
        })
    }
}

/// The only output.
fn first(made: Vec<Buffer<'_>>) -> Result<Buffer<'_>> {
    match made.into_iter().next() {
        Some(buffer) => Ok(buffer),
        None => bail!("a kernel without an output"),
    }
}
