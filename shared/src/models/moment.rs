//! When a device comes to a point of what it is asked for: how long it works, and how long it stands still.

use std::time::Instant;

use candle_core::{Device, Result};

/// A point in a device's work.
pub enum Moment {
    /// A CPU works when it is asked.
    Host(Instant),
    /// A GPU comes to it later.
    #[cfg(feature = "cuda")]
    Gpu(candle_core::cuda_backend::cudarc::driver::CudaEvent),
}

impl Moment {
    /// The end of all that the device was asked for so far. A GPU that has nothing to do comes to it at once.
    ///
    /// # Errors
    /// When the device fails.
    pub fn now(device: &Device) -> Result<Moment> {
        #[cfg(feature = "cuda")]
        if let Device::Cuda(gpu) = device {
            use candle_core::cuda_backend::WrapErr;
            use candle_core::cuda_backend::cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT;
            // Other events of cudarc keep no time.
            return Ok(Moment::Gpu(gpu.cuda_stream().record_event(Some(CU_EVENT_DEFAULT)).w()?));
        }
        let _ = device;
        Ok(Moment::Host(Instant::now()))
    }

    /// Seconds from this moment to a later one of the same device; waits until it comes to that.
    ///
    /// # Errors
    /// When the device fails.
    pub fn seconds_to(&self, later: &Moment) -> Result<f64> {
        match (self, later) {
            (Moment::Host(start), Moment::Host(end)) => Ok(end.duration_since(*start).as_secs_f64()),
            #[cfg(feature = "cuda")]
            (Moment::Gpu(start), Moment::Gpu(end)) => {
                use candle_core::cuda_backend::WrapErr;
                Ok(f64::from(start.elapsed_ms(end).w()?) / 1e3)
            }
            #[cfg(feature = "cuda")]
            _ => candle_core::bail!("moments of two devices"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use std::time::Duration;

    use super::*;

    #[test]
    fn time_goes_by() {
        let before = Moment::now(&Device::Cpu).unwrap();
        std::thread::sleep(Duration::from_millis(3));
        let after = Moment::now(&Device::Cpu).unwrap();
        assert!(before.seconds_to(&after).unwrap() >= 0.003);
    }
}
