//! The device a model runs on.

use candle_core::Device;

use super::error::ModelError;

/// Resolves `auto`, `cpu`, `cuda` or `cuda:N`. `auto` takes the first GPU if this build and this machine have one.
///
/// # Errors
/// When a GPU is asked for and this build has no CUDA, the machine no driver, or the driver no such device.
pub fn device(asked: &str) -> Result<Device, ModelError> {
    match asked {
        "cpu" => Ok(Device::Cpu),
        "auto" => Ok(cuda(asked, 0).unwrap_or(Device::Cpu)),
        "cuda" => cuda(asked, 0),
        _ => match asked.strip_prefix("cuda:").map(str::parse) {
            Some(Ok(ordinal)) => cuda(asked, ordinal),
            _ => Err(refused(asked, "not a device", "use `auto`, `cpu`, `cuda` or `cuda:N`")),
        },
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
    if !has_driver() {
        return Err(refused(
            asked,
            "no NVIDIA driver on this machine (libcuda.so.1 is not there)",
            "install the driver, or use `--device cpu`",
        ));
    }
    Device::new_cuda(ordinal).map_err(|error| {
        refused(asked, error.to_string(), "`nvidia-smi` lists the devices; or use `--device cpu`")
    })
}

fn has_driver() -> bool {
    // SAFETY: the name is a NUL-terminated literal; loading the driver library runs only its own initialisers.
    let handle = unsafe { libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_NOW) };
    !handle.is_null()
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
