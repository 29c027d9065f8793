//! The device a model runs on.

use std::ffi::CStr;
use std::str::FromStr;

use candle_core::Device;

use super::error::ModelError;

/// What a user may call a device, on any machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceName {
    /// The first GPU if this build and this machine have one, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// A GPU by its number.
    Cuda(usize),
}

impl FromStr for DeviceName {
    type Err = ModelError;

    fn from_str(asked: &str) -> Result<Self, ModelError> {
        match asked {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => match asked.strip_prefix("cuda:").map(str::parse) {
                Some(Ok(ordinal)) => Ok(Self::Cuda(ordinal)),
                _ => Err(refused(asked, "not a device", "use `auto`, `cpu`, `cuda` or `cuda:N`")),
            },
        }
    }
}

/// Resolves the name of a device.
///
/// # Errors
/// When it is no such name, or names a GPU and this build has no CUDA, the machine no driver, or the driver no such device.
pub fn device(asked: &str) -> Result<Device, ModelError> {
    match asked.parse()? {
        DeviceName::Cpu => Ok(Device::Cpu),
        DeviceName::Auto => Ok(cuda(asked, 0).unwrap_or(Device::Cpu)),
        DeviceName::Cuda(ordinal) => cuda(asked, ordinal),
    }
}

fn refused(asked: &str, reason: impl Into<String>, hint: &str) -> ModelError {
    ModelError::Device { asked: asked.into(), reason: reason.into(), hint: hint.into() }
}

fn cuda(asked: &str, ordinal: usize) -> Result<Device, ModelError> {
    if !cfg!(feature = "cuda") {
        return Err(refused(
            asked,
            "this build has no CUDA",
            "build with `--features cuda`, or use `--device cpu`",
        ));
    }
    // Candle panics where the driver library is absent, so look for it first.
    if !loads(&[c"libcuda.so.1"]) {
        return Err(refused(
            asked,
            "no NVIDIA driver on this machine (libcuda.so.1 is not there)",
            "install the driver, or use `--device cpu`",
        ));
    }
    // And where cuBLAS or cuRAND is.
    let libraries = [
        &[c"libcublas.so", c"libcublas.so.13", c"libcublas.so.12"][..],
        &[c"libcurand.so", c"libcurand.so.10"],
    ];
    if !libraries.iter().all(|names| loads(names)) {
        return Err(refused(
            asked,
            "CUDA's libraries cuBLAS and cuRAND are not found",
            "put their folder into LD_LIBRARY_PATH: that of a CUDA toolkit, or `nvidia/cu13/lib` of the Python packages that \
             PyTorch brings; or use `--device cpu`",
        ));
    }
    // One stream for all threads: `new_cuda` takes each thread's own, and then a thread that reads weights and the one that
    // computes with them are not in step.
    let device = Device::new_cuda_with_stream(ordinal).and_then(|device| {
        keep_memory(&device)?;
        Ok(device)
    });
    let device = device.map_err(|error| {
        refused(asked, error.to_string(), "`nvidia-smi` lists the devices; or use `--device cpu`")
    })?;
    translate_kernels(&device).map_err(|error| {
        refused(
            asked,
            format!("the driver does not take the kernels of this build: {error}"),
            "build with the `CUDA_COMPUTE_CAP` of this GPU and a `CUDA_VERSION` that the driver has, which `nvidia-smi` shows; or use `--device cpu`",
        )
    })?;
    Ok(device)
}

/// Finds out whether this build is for the device and its driver, before anything is computed.
fn translate_kernels(device: &Device) -> candle_core::Result<()> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(gpu) = device {
        return super::layers::translate(gpu);
    }
    let _ = device;
    Ok(())
}

/// Lets the device's pool keep the memory that is given back to it: by default it goes back to the system whenever the device
/// is waited for, and asking for it again costs more than most kernels.
#[cfg(feature = "cuda")]
fn keep_memory(device: &Device) -> candle_core::Result<()> {
    use candle_core::cuda_backend::WrapErr;
    use candle_core::cuda_backend::cudarc::driver::sys;
    let Device::Cuda(gpu) = device else { return Ok(()) };
    let context = gpu.cuda_stream().context().clone();
    if !context.has_async_alloc() {
        return Ok(());
    }
    let mut pool: sys::CUmemoryPool = std::ptr::null_mut();
    let mut threshold = u64::MAX;
    let attribute = sys::CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    context.bind_to_thread().w()?;
    // SAFETY: the context is bound to this thread, the pool lives as long as the device, and the attribute is a u64.
    unsafe {
        sys::cuDeviceGetDefaultMemPool(&mut pool, context.cu_device()).result().w()?;
        sys::cuMemPoolSetAttribute(pool, attribute, std::ptr::from_mut(&mut threshold).cast()).result().w()
    }
}

#[cfg(not(feature = "cuda"))]
fn keep_memory(_: &Device) -> candle_core::Result<()> {
    Ok(())
}

/// Whether a library of one of these names can be loaded.
fn loads(names: &[&CStr]) -> bool {
    // SAFETY: the names end in NUL; loading NVIDIA's libraries runs only their own initialisers.
    names.iter().any(|name| !unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) }.is_null())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn names_are_resolved_or_refused_with_a_hint() {
        assert!(device("cpu").unwrap().is_cpu());
        assert!(device("auto").is_ok());
        for wrong in ["gpu", "cuda:x", ""] {
            let message = device(wrong).unwrap_err().to_string();
            assert!(message.contains("not a device") && message.contains("hint: "), "{message}");
        }
        // A machine without the driver, or a build without CUDA, must say so and never panic.
        if let Err(error) = device("cuda:0") {
            assert!(error.to_string().contains("--device cpu"), "{error}");
        }
    }
}
