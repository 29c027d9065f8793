//! Every kernel against its plain twin, values and gradients, and both against finite differences; then the
//! promises about bits.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed unwrap is a failed test

use candle_core::{DType, Device, Result, Tensor, Var};

use super::*;
use crate::models::DecoderConfig;

mod blocks;
mod chunked;
mod kernels;
mod twins;

/// A small generator (splitmix64), so that the tests need no dependency.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Values in -2..2 of a shape, float64.
    fn tensor(&mut self, shape: &[usize]) -> Tensor {
        let values: Vec<f64> = (0..shape.iter().product()).map(|_| self.next() * 4.0 - 2.0).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }
}

fn values(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn bits(t: &Tensor) -> Vec<u32> {
    t.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().map(|x| x.to_bits()).collect()
}

/// Largest difference relative to the largest expected value.
fn distance(got: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(got.dims(), expected.dims());
    let (got, expected) = (values(got), values(expected));
    let size = expected.iter().fold(1e-30, |a: f64, b| a.max(b.abs()));
    got.iter().zip(&expected).fold(0.0, |a: f64, (g, e)| a.max((g - e).abs())) / size
}

fn sum_of_products(y: &Tensor, c: &Tensor) -> f64 {
    values(y).iter().zip(values(c)).map(|(y, c)| y * c).sum()
}

/// Output and gradients of sum(f(inputs) * c).
fn differentiate(
    f: &dyn Fn(&[Tensor]) -> Result<Tensor>,
    inputs: &[Tensor],
    c: &Tensor,
) -> (Tensor, Vec<Tensor>) {
    let vars: Vec<Var> = inputs.iter().map(|t| Var::from_tensor(t).unwrap()).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let y = f(&tensors).unwrap();
    let grads = y.mul(&c.to_dtype(y.dtype()).unwrap()).unwrap().sum_all().unwrap().backward().unwrap();
    let grads = vars.iter().map(|v| grads.get(v).expect("every input has a gradient").clone()).collect();
    (y, grads)
}

/// The derivative of sum(f * c) along `direction` of input `i`, by a central difference of step `h`.
fn slope(
    f: &dyn Fn(&[Tensor]) -> Result<Tensor>,
    inputs: &[Tensor],
    c: &Tensor,
    i: usize,
    direction: &Tensor,
    h: f64,
) -> f64 {
    let at = |h: f64| {
        let mut moved = inputs.to_vec();
        let step = (direction.to_dtype(inputs[i].dtype()).unwrap() * h).unwrap();
        moved[i] = (&inputs[i] + step).unwrap();
        sum_of_products(&f(&moved).unwrap(), c)
    };
    (at(h) - at(-h)) / (2.0 * h)
}

/// Holds `fused` (float32) to `plain` (float64), and each to finite differences of itself.
fn compare(
    shapes: &[&[usize]],
    fused: &dyn Fn(&[Tensor]) -> Result<Tensor>,
    plain: &dyn Fn(&[Tensor]) -> Result<Tensor>,
) {
    let mut noise = Noise(shapes.len() as u64);
    let wide: Vec<Tensor> = shapes
        .iter()
        .map(|s| noise.tensor(s).to_dtype(DType::F32).unwrap().to_dtype(DType::F64).unwrap())
        .collect();
    let narrow: Vec<Tensor> = wide.iter().map(|t| t.to_dtype(DType::F32).unwrap()).collect();
    let c = noise.tensor(plain(&wide).unwrap().dims());
    let (expected, expected_grads) = differentiate(plain, &wide, &c);
    let (got, grads) = differentiate(fused, &narrow, &c);
    assert!(distance(&got, &expected) < 1e-6, "values differ by {:e}", distance(&got, &expected));
    for (i, (grad, expected)) in grads.iter().zip(&expected_grads).enumerate() {
        let error = distance(grad, expected);
        assert!(error < 2e-6, "gradients of input {i} differ by {error:e}");
        let direction = noise.tensor(shapes[i]);
        let scale = values(expected).iter().map(|x| x.abs()).sum::<f64>().max(1e-3);
        let along = sum_of_products(expected, &direction);
        let numeric = slope(plain, &wide, &c, i, &direction, 1e-5);
        assert!((numeric - along).abs() < 1e-7 * scale, "plain input {i}: {numeric} against {along}");
        let numeric = slope(fused, &narrow, &c, i, &direction, 1e-2);
        assert!((numeric - along).abs() < 2e-3 * scale, "fused input {i}: {numeric} against {along}");
    }
}
