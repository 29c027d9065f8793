//! The mean squared error between features that learn and the teacher's.

use candle_core::{D, DType, Result, Tensor};

/// Sum over rows of the mean of (r - z)^2 over the width, for r and z (N, D): differentiable in r, a scalar in float32.
///
/// # Errors
/// When the shapes differ or the device fails.
pub fn squared_error(features: &Tensor, teacher: &Tensor) -> Result<Tensor> {
    let difference = (features.to_dtype(DType::F32)? - teacher.detach().to_dtype(DType::F32)?)?;
    difference.sqr()?.mean(D::Minus1)?.sum_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn value_and_gradient_by_hand() {
        let r = Var::new(&[[1.0f32, 2.0], [0.0, -1.0]], &Device::Cpu).unwrap();
        let z = Tensor::new(&[[0.0f32, 4.0], [0.0, 2.0]], &Device::Cpu).unwrap();
        let loss = squared_error(r.as_tensor(), &z).unwrap();
        // (1 + 4) / 2 + (0 + 9) / 2; the gradient is 2 (r - z) / D.
        assert_eq!(loss.to_scalar::<f32>().unwrap(), 7.0);
        let gradient = loss.backward().unwrap().remove(r.as_tensor()).unwrap();
        assert_eq!(gradient.to_vec2::<f32>().unwrap(), [[1.0, -2.0], [0.0, -3.0]]);
    }
}
