//! Between a processor's memory and a device's: weights and pixels in, features out.
//!
//! A GPU copies from and to pinned memory on streams of its own, one for each direction, so that copying waits for the values
//! alone and not for all that was asked of the device before. On a CPU a copy is a copy, and these functions are the plain twin.

use candle_core::{DType, Device, Result, Shape, Tensor, WithDType};

use super::moment::Moment;

#[cfg(feature = "cuda")]
mod lane;

/// Values of `shape` on a device.
///
/// # Errors
/// When they are more or fewer than the shape has, or the device has no memory for them.
pub(crate) fn upload<T: WithDType>(
    values: Vec<T>,
    shape: impl Into<Shape>,
    device: &Device,
) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let (Device::Cuda(gpu), DType::F32) = (device, T::DTYPE) {
        return lane::upload(lane::bytes_of(&values), DType::F32, shape.into(), gpu);
    }
    Tensor::from_vec(values, shape.into(), device)
}

/// Values of a type, stored little-endian at an address that fits it, on a device.
///
/// # Errors
/// As [`upload`].
pub(crate) fn upload_stored(bytes: &[u8], dtype: DType, shape: &[usize], device: &Device) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let (Device::Cuda(gpu), DType::F32 | DType::F16 | DType::BF16) = (device, dtype) {
        return lane::upload(bytes, dtype, shape.into(), gpu);
    }
    Tensor::from_raw_buffer(bytes, dtype, shape, device)
}

/// The values of a tensor of type `T`, in order, which the device had been asked for at the moment `asked`. Waits for that moment
/// and for nothing that the device was asked for after it.
///
/// # Errors
/// When the tensor is of another type, or the device fails.
pub fn download<T: WithDType>(tensor: &Tensor, asked: &Moment) -> Result<Vec<T>> {
    #[cfg(feature = "cuda")]
    if let Some(values) = lane::download(tensor, asked)? {
        return Ok(values);
    }
    let _ = asked;
    tensor.contiguous()?.flatten_all()?.to_vec1()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use half::bf16;

    use super::*;

    #[test]
    fn what_goes_up_comes_down() {
        let values: Vec<f32> = (0..30).map(|i| i as f32).collect();
        let up = upload(values.clone(), (5, 6), &Device::Cpu).unwrap();
        let now = Moment::now(&Device::Cpu).unwrap();
        assert_eq!(download::<f32>(&up, &now).unwrap(), values);
        // The columns of a transposed view come in its order.
        let transposed: Vec<f32> = download(&up.t().unwrap(), &now).unwrap();
        assert_eq!(transposed[..5], [0.0, 6.0, 12.0, 18.0, 24.0]);
        assert!(upload(values, (5, 7), &Device::Cpu).is_err());
        assert!(download::<bf16>(&up, &now).is_err());
        let stored: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect();
        let up = upload_stored(&stored, DType::BF16, &[2], &Device::Cpu).unwrap();
        assert_eq!(download::<bf16>(&up, &now).unwrap(), [1.5, -2.0].map(bf16::from_f32));
    }
}
