//! Copies through pinned memory on a GPU's copying streams.
//!
//! cudarc keeps events with each buffer: a kernel waits for the copy that filled its operand, and memory is given back after its
//! last use on any stream. Two habits of candle's stand in the way. What its kernels write cudarc takes for read, so that a copy
//! from the device waits for an event of ours. And some of its operations, casts among them, wait on the stream that a buffer
//! belongs to and note their use there, so that a buffer filled on a lane has to belong to the device's own stream.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{
    CudaEvent, CudaSlice, CudaStream, CudaView, DevicePtr, DevicePtrMut, DeviceRepr, PinnedHostSlice, result,
    sys,
};
use candle_core::cuda_backend::{CudaDType, WrapErr};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, DType, Result, Shape, Storage, Tensor, WithDType, bail};
use half::{bf16, f16};
use rayon::prelude::*;

use crate::models::moment::Moment;

/// Bytes of each of a lane's two buffers.
const PINNED_BYTES: usize = 32 << 20;
/// Bytes that one thread copies at a time between a buffer and other memory.
const SHARE_BYTES: usize = 1 << 20;

/// Towards the device, or from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Way {
    Up,
    Down,
}

/// A stream with two pinned buffers: while one is copied from or to the device, the other is filled or emptied.
struct Lane {
    stream: Arc<CudaStream>,
    buffers: [Pinned; 2],
    next: usize,
}

struct Pinned {
    memory: PinnedHostSlice<u8>,
    /// The last copy from or to it.
    copied: Option<CudaEvent>,
}

impl Pinned {
    /// The memory once nothing copies from or to it.
    fn settled(&mut self) -> Result<&mut [u8]> {
        if let Some(copied) = self.copied.take() {
            copied.synchronize().w()?;
        }
        self.memory.as_mut_slice().w()
    }
}

impl Lane {
    fn new(device: &CudaDevice, way: Way) -> Result<Lane> {
        let context = device.cuda_stream().context().clone();
        // Write-combined memory is slow to read by a processor.
        let flags = if way == Way::Up { sys::CU_MEMHOSTALLOC_WRITECOMBINED } else { 0 };
        // SAFETY: bytes without a value are written before they are read.
        let pinned = || unsafe { context.alloc_pinned_with_flags::<u8>(PINNED_BYTES, flags) }.w();
        let buffer = || Ok::<_, candle_core::Error>(Pinned { memory: pinned()?, copied: None });
        Ok(Lane { stream: context.new_stream().w()?, buffers: [buffer()?, buffer()?], next: 0 })
    }

    /// The buffers in turn.
    fn take_turn(&mut self) -> usize {
        self.next = 1 - self.next;
        self.next
    }

    fn send(&mut self, bytes: &[u8], dst: u64) -> Result<()> {
        let turn = self.take_turn();
        let memory = &mut self.buffers[turn].settled()?[..bytes.len()];
        copy(bytes, memory);
        // SAFETY: `dst` has room for these bytes; the buffer is not written again before the event below.
        unsafe { result::memcpy_htod_async(dst, memory, self.stream.cu_stream()) }.w()?;
        self.buffers[turn].copied = Some(self.stream.record_event(None).w()?);
        Ok(())
    }

    /// Starts a copy of so many bytes; the turn of the buffer that they come to.
    fn fetch(&mut self, src: u64, len: usize) -> Result<usize> {
        let turn = self.take_turn();
        let memory = &mut self.buffers[turn].settled()?[..len];
        // SAFETY: `src` has these bytes; the buffer is not read before the event below.
        unsafe { result::memcpy_dtoh_async(memory, src, self.stream.cu_stream()) }.w()?;
        self.buffers[turn].copied = Some(self.stream.record_event(None).w()?);
        Ok(turn)
    }
}

/// Copies on all cores: one alone does not keep up with the bus.
fn copy(from: &[u8], to: &mut [u8]) {
    to.par_chunks_mut(SHARE_BYTES)
        .zip(from.par_chunks(SHARE_BYTES))
        .for_each(|(to, from)| to.copy_from_slice(from));
}

/// The lane of a device, made when it is first asked for and kept until the process ends.
fn with_lane<R>(device: &CudaDevice, way: Way, f: impl FnOnce(&mut Lane) -> Result<R>) -> Result<R> {
    type Lanes = HashMap<(usize, Way), Arc<Mutex<Lane>>>;
    static LANES: Mutex<Option<Lanes>> = Mutex::new(None);
    // After a panic a lane is as good as before: buffers say themselves what is copied from or to them.
    fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }
    let lane = {
        let mut lanes = locked(&LANES);
        let lanes = lanes.get_or_insert_default();
        let key = (device.cuda_stream().context().ordinal(), way);
        match lanes.get(&key) {
            Some(lane) => lane.clone(),
            None => {
                let lane = Arc::new(Mutex::new(Lane::new(device, way)?));
                lanes.insert(key, lane.clone());
                lane
            }
        }
    };
    let mut lane = locked(&lane);
    f(&mut lane)
}

/// The bytes of plain numbers.
pub(super) fn bytes_of<T: WithDType>(values: &[T]) -> &[u8] {
    // SAFETY: numbers have no padding, and any byte of them is a valid u8.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), std::mem::size_of_val(values)) }
}

/// See [`upload_stored`](super::upload_stored).
pub(super) fn upload(bytes: &[u8], dtype: DType, shape: Shape, device: &CudaDevice) -> Result<Tensor> {
    if shape.elem_count() * dtype.size_in_bytes() != bytes.len() {
        bail!("{} bytes of {dtype:?} for a tensor of {shape:?}", bytes.len())
    }
    let storage = match dtype {
        DType::F32 => sent::<f32>(bytes, device)?,
        DType::F16 => sent::<f16>(bytes, device)?,
        DType::BF16 => sent::<bf16>(bytes, device)?,
        dtype => bail!("{dtype:?} values are not copied to a GPU"),
    };
    Ok(Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false))
}

fn sent<T: DeviceRepr + CudaDType>(bytes: &[u8], device: &CudaDevice) -> Result<CudaStorage> {
    let slice = with_lane(device, Way::Up, |lane| {
        let (stream, len) = (lane.stream.clone(), bytes.len() / size_of::<T>());
        // The lane asks for the memory: on the device's own stream it would exist only after all that was asked for before. The
        // device's own stream gives it back.
        // SAFETY: nobody else owns this memory, of so many values; all of it is written below, and kernels wait for that.
        let mut slice: CudaSlice<T> = unsafe {
            let address = stream.alloc::<T>(len).w()?.leak();
            device.cuda_stream().upgrade_device_ptr(address, len)
        };
        {
            let (address, _written) = slice.device_ptr_mut(&stream);
            for (piece, at) in bytes.chunks(PINNED_BYTES).zip((0u64..).step_by(PINNED_BYTES)) {
                lane.send(piece, address + at)?;
            }
        }
        Ok(slice)
    })?;
    Ok(CudaStorage::wrap_cuda_slice(slice, device.clone()))
}

/// The values of a contiguous tensor on a GPU, asked for at the moment `asked`; none of another device's.
pub(super) fn download<T: WithDType>(tensor: &Tensor, asked: &Moment) -> Result<Option<Vec<T>>> {
    let (storage, layout) = tensor.storage_and_layout();
    let (Storage::Cuda(storage), Moment::Gpu(asked)) = (&*storage, asked) else { return Ok(None) };
    if storage.dtype() != T::DTYPE {
        bail!("{:?} values were asked for as {:?}", storage.dtype(), T::DTYPE)
    }
    // A copy that made it so would come after the moment.
    let Some((start, end)) = layout.contiguous_offsets() else { return Ok(None) };
    let mut values = vec![T::zero(); end - start];
    // SAFETY: numbers have no padding, and any bytes that the device holds as values of `T` are such.
    let bytes = unsafe {
        std::slice::from_raw_parts_mut(
            values.as_mut_ptr().cast::<u8>(),
            (end - start) * T::DTYPE.size_in_bytes(),
        )
    };
    let device = storage.device();
    match T::DTYPE {
        DType::F32 => fetched(storage.as_cuda_slice::<f32>()?.slice(start..end), bytes, device, asked)?,
        DType::F16 => fetched(storage.as_cuda_slice::<f16>()?.slice(start..end), bytes, device, asked)?,
        DType::BF16 => fetched(storage.as_cuda_slice::<bf16>()?.slice(start..end), bytes, device, asked)?,
        _ => return Ok(None),
    }
    Ok(Some(values))
}

fn fetched<T>(view: CudaView<'_, T>, bytes: &mut [u8], device: &CudaDevice, asked: &CudaEvent) -> Result<()> {
    with_lane(device, Way::Down, |lane| {
        let stream = lane.stream.clone();
        stream.wait(asked).w()?;
        let (address, _read) = view.device_ptr(&stream);
        let mut on_its_way: Option<(usize, &mut [u8])> = None;
        for (piece, at) in bytes.chunks_mut(PINNED_BYTES).zip((0u64..).step_by(PINNED_BYTES)) {
            let turn = lane.fetch(address + at, piece.len())?;
            if let Some((turn, piece)) = on_its_way.replace((turn, piece)) {
                let len = piece.len();
                copy(&lane.buffers[turn].settled()?[..len], piece);
            }
        }
        if let Some((turn, piece)) = on_its_way {
            let len = piece.len();
            copy(&lane.buffers[turn].settled()?[..len], piece);
        }
        Ok(())
    })
}
