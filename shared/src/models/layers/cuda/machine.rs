//! The GPU as a [`Machine`]: buffers of candle's, kernels as nvcc compiled them.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, CudaView, DeviceRepr, LaunchArgs, LaunchConfig, PushKernelArg,
};
use candle_core::{CudaDevice, CudaStorage, DType, Layout, Result, Shape, Storage, Tensor, bail};
use half::{bf16, f16};

use super::plan::{Launch, Machine, Number, Output};

/// `kernels.cu` as shared/build.rs had it compiled; the driver translates it for its GPU when the first kernel is asked for.
const PTX: &str = include_str!(concat!(env!("OUT_DIR"), "/kernels.ptx"));

/// What candle calls the kernels together.
const MODULE: &str = "genrecal";

/// Has the driver translate the kernels, which it does once for a device: a GPU or a driver that they are not for is known then.
pub(in crate::models) fn translate(device: &CudaDevice) -> Result<()> {
    device.get_or_load_custom_func("silu_f32", MODULE, PTX).map(|_| ())
}

/// A GPU that runs kernels of one type.
pub(super) struct Gpu<'a> {
    device: &'a CudaDevice,
    dtype: DType,
}

/// Values in a GPU's memory.
pub(super) enum Buffer<'a> {
    /// Of somebody else.
    Given(&'a CudaStorage, &'a Layout),
    /// A kernel's output.
    Made(CudaStorage),
}

impl<'a> Gpu<'a> {
    /// For kernels of the type of `storage`.
    pub(super) fn of(storage: &'a CudaStorage) -> Gpu<'a> {
        Gpu { device: storage.device(), dtype: storage.dtype() }
    }
}

impl Buffer<'_> {
    /// The output's storage.
    pub(super) fn into_storage(self) -> Result<CudaStorage> {
        match self {
            Buffer::Made(storage) => Ok(storage),
            Buffer::Given(..) => bail!("a kernel's input is not its output"),
        }
    }

    /// The output as a tensor.
    pub(super) fn into_tensor(self, shape: &Shape) -> Result<Tensor> {
        let storage = Storage::Cuda(self.into_storage()?);
        Ok(Tensor::from_storage(storage, shape.clone(), candle_core::op::BackpropOp::none(), false))
    }

    fn read(&self) -> Result<Argument<'_>> {
        let (storage, range) = match self {
            Buffer::Made(storage) => (storage, None),
            Buffer::Given(storage, layout) => match layout.contiguous_offsets() {
                Some(range) => (*storage, Some(range)),
                None => bail!("a kernel got an operand that is not contiguous"),
            },
        };
        match storage.dtype() {
            DType::U32 => Ok(Argument::U32(view(storage.as_cuda_slice()?, range))),
            DType::F32 => Ok(Argument::F32(view(storage.as_cuda_slice()?, range))),
            DType::F16 => Ok(Argument::F16(view(storage.as_cuda_slice()?, range))),
            DType::BF16 => Ok(Argument::BF16(view(storage.as_cuda_slice()?, range))),
            dtype => bail!("a kernel got {dtype:?} values"),
        }
    }
}

fn view<T>(slice: &CudaSlice<T>, range: Option<(usize, usize)>) -> CudaView<'_, T> {
    match range {
        Some((start, end)) => slice.slice(start..end),
        None => slice.as_view(),
    }
}

/// What a kernel reads.
enum Argument<'a> {
    U32(CudaView<'a, u32>),
    F32(CudaView<'a, f32>),
    F16(CudaView<'a, f16>),
    BF16(CudaView<'a, bf16>),
}

impl Argument<'_> {
    fn push<'a>(&'a self, arguments: &mut LaunchArgs<'a>) {
        match self {
            Argument::U32(view) => arguments.arg(view),
            Argument::F32(view) => arguments.arg(view),
            Argument::F16(view) => arguments.arg(view),
            Argument::BF16(view) => arguments.arg(view),
        };
    }
}

/// Adds what a kernel writes: told so, cudarc lets other streams wait for it.
fn push_output<'a>(output: &'a mut CudaStorage, arguments: &mut LaunchArgs<'a>) -> Result<()> {
    match output.dtype() {
        DType::F32 => arguments.arg(output.as_cuda_slice_mut::<f32>()?),
        DType::F16 => arguments.arg(output.as_cuda_slice_mut::<f16>()?),
        DType::BF16 => arguments.arg(output.as_cuda_slice_mut::<bf16>()?),
        dtype => bail!("a kernel makes {dtype:?} values"),
    };
    Ok(())
}

impl Gpu<'_> {
    /// Memory for an output, with whatever it held before: a kernel writes all of it.
    fn empty(&self, output: &Output) -> Result<CudaStorage> {
        match if output.is_single { DType::F32 } else { self.dtype } {
            DType::F32 => self.alloc::<f32>(output.len),
            DType::F16 => self.alloc::<f16>(output.len),
            DType::BF16 => self.alloc::<bf16>(output.len),
            dtype => bail!("no kernels of {dtype:?}"),
        }
    }

    fn alloc<T: DeviceRepr + candle_core::cuda_backend::CudaDType>(&self, len: usize) -> Result<CudaStorage> {
        // SAFETY: the kernel that the memory is for writes every value before anything reads one.
        let slice = unsafe { self.device.alloc::<T>(len)? };
        Ok(CudaStorage::wrap_cuda_slice(slice, self.device.clone()))
    }
}

impl<'a> Machine for Gpu<'a> {
    type Buffer = Buffer<'a>;

    fn value_bytes(&self) -> usize {
        self.dtype.size_in_bytes()
    }

    fn run(&self, launch: Launch, inputs: &[&Buffer<'a>]) -> Result<Vec<Buffer<'a>>> {
        let mut outputs =
            launch.outputs.iter().map(|output| self.empty(output)).collect::<Result<Vec<_>>>()?;
        {
            let pointers = inputs.iter().map(|input| input.read()).collect::<Result<Vec<_>>>()?;
            let name = format!("{}_{}", launch.kernel, self.dtype.as_str());
            let function = self.device.get_or_load_custom_func(&name, MODULE, PTX)?;
            let mut arguments = function.builder();
            pointers.iter().for_each(|pointer| pointer.push(&mut arguments));
            for output in &mut outputs {
                push_output(output, &mut arguments)?;
            }
            for number in &launch.numbers {
                match number {
                    Number::Int(number) => arguments.arg(number),
                    Number::Long(number) => arguments.arg(number),
                    Number::Float(number) => arguments.arg(number),
                };
            }
            let ([blocks_x, blocks_y], [threads_x, threads_y]) = (launch.grid, launch.block);
            let config = LaunchConfig {
                grid_dim: (blocks_x, blocks_y, 1),
                block_dim: (threads_x, threads_y, 1),
                shared_mem_bytes: 0,
            };
            // SAFETY: plan.rs lists the kernel's arguments in its order, with buffers as long as it reads and writes; the tests
            // run the same launches on a processor.
            unsafe { arguments.launch(config) }.w()?;
        }
        Ok(outputs.into_iter().map(Buffer::Made).collect())
    }
}
