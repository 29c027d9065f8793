#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed unwrap is a failed test

use candle_core::{D, DType, Device, Result, Tensor, Var};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::{HeadLossOptions, Problem, Weight, head_loss};
use crate::losses::chunks::Wants;
use crate::losses::{HEAD, MappedHead};

fn noise(seed: u64, shape: (usize, usize)) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f32> =
        (0..shape.0 * shape.1).map(|_| rng.next_u32() as f32 / u32::MAX as f32 * 2.0 - 1.0).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn f64s(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// (ce, kl) by the definition, over all logits at once, differentiable.
fn plain(x: &Tensor, w: &Tensor, targets: &[u32], teacher: &Tensor, t: f64) -> Result<(Tensor, Tensor)> {
    let logits = x.matmul(&w.t()?)?;
    let targets = Tensor::new(targets, x.device())?.unsqueeze(1)?;
    let ce = candle_nn::ops::log_softmax(&logits, D::Minus1)?.gather(&targets, 1)?.sum_all()?.neg()?;
    let log_p = candle_nn::ops::log_softmax(&(teacher.matmul(&w.t()?.detach())? / t)?, D::Minus1)?;
    let log_q = candle_nn::ops::log_softmax(&(logits / t)?, D::Minus1)?;
    let kl = (log_p.exp()?.mul(&(log_p - log_q)?)?.sum_all()? * (t * t))?;
    Ok((ce, kl))
}

fn close(got: &Tensor, expected: &Tensor, tolerance: f64) {
    let (got, expected) = (f64s(got), f64s(expected));
    let size = expected.iter().fold(1e-30, |a: f64, b| a.max(b.abs()));
    let worst = got.iter().zip(&expected).fold(0.0, |a: f64, (g, e)| a.max((g - e).abs()));
    assert!(worst < tolerance * size, "{worst:e} of {size:e}");
}

const TARGETS: [u32; 9] = [3, 0, 18, 7, 7, 1, 2, 12, 5];

#[test]
fn matches_the_definition_and_finite_differences() {
    let (x, w, z) = (noise(1, (9, 6)), (noise(2, (19, 6)) * 2.0).unwrap(), noise(3, (9, 6)));
    for (ce_weight, kl_weight, temperature) in
        [(1.0, 1.0, 1.0), (0.5, 2.0, 3.0), (0.0, 1.0, 0.5), (1.0, 0.0, 1.0)]
    {
        let options = HeadLossOptions { ce_weight, kl_weight, temperature };
        let (xv, wv) = (Var::from_tensor(&x).unwrap(), Var::from_tensor(&w).unwrap());
        let got = head_loss(&xv, wv.as_tensor(), &TARGETS, Some(&z), &options).unwrap();
        let grads = got.loss.backward().unwrap();

        let wide = |t: &Tensor| Var::from_tensor(&t.to_dtype(DType::F64).unwrap()).unwrap();
        let (x64, w64) = (wide(&x), wide(&w));
        let z64 = z.to_dtype(DType::F64).unwrap();
        let (ce, kl) = plain(&x64, &w64, &TARGETS, &z64, temperature).unwrap();
        let expected = ((&ce * ce_weight).unwrap() + (&kl * kl_weight).unwrap()).unwrap();
        let expected_grads = expected.backward().unwrap();
        assert!((got.ce - ce.to_scalar::<f64>().unwrap()).abs() < 1e-5);
        assert!((got.kl - kl.to_scalar::<f64>().unwrap()).abs() < 1e-5);
        close(&got.loss, &expected, 1e-6);
        close(grads.get(&xv).unwrap(), expected_grads.get(&x64).unwrap(), 2e-6);
        close(grads.get(&wv).unwrap(), expected_grads.get(&w64).unwrap(), 2e-6);

        // Along a direction, by a central difference of our own value.
        let (direction, h) = (noise(4, (9, 6)), 1e-2);
        let at = |h: f64| {
            let moved = (&x + (&direction * h).unwrap()).unwrap();
            let out = head_loss(&moved, &w, &TARGETS, Some(&z), &options).unwrap();
            ce_weight * out.ce + kl_weight * out.kl
        };
        let numeric = (at(h) - at(-h)) / (2.0 * h);
        let along: f64 = f64s(grads.get(&xv).unwrap()).iter().zip(f64s(&direction)).map(|(g, d)| g * d).sum();
        assert!((numeric - along).abs() < 1e-3 * along.abs().max(1.0), "{numeric} against {along}");
    }
}

#[test]
fn chunks_and_the_composite_change_nothing() {
    let (x, w, z) = (noise(5, (9, 6)), noise(6, (19, 6)), noise(7, (9, 6)));
    let options = HeadLossOptions { ce_weight: 1.0, kl_weight: 0.7, temperature: 2.0 };
    let problem = |chunk| Problem {
        features: x.clone(),
        head: Weight::Tensor(w.clone()),
        dims: (19, 6),
        teacher: Some(z.clone()),
        targets: &TARGETS,
        options,
        wants: Wants { features: true, head: true },
        chunk,
    };
    let whole = problem(100).solve().unwrap();
    for part in [problem(2).solve().unwrap(), problem(4).solve_composite(&w).unwrap()] {
        assert!((part.ce - whole.ce).abs() < 1e-5 && (part.kl - whole.kl).abs() < 1e-5);
        close(part.features.as_ref().unwrap(), whole.features.as_ref().unwrap(), 1e-6);
        close(part.head.as_ref().unwrap(), whole.head.as_ref().unwrap(), 1e-6);
    }
}

// Expected by the definition in float64; in float32 the definition is off by 1 % here, and by 1e-4 at temperature 100.
#[test]
fn a_divergence_that_a_temperature_makes_small_keeps_its_digits() {
    let (x, w, z) = (noise(5, (9, 6)), noise(6, (19, 6)), noise(7, (9, 6)));
    let wide = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
    for temperature in [30.0, 1000.0] {
        let options = HeadLossOptions { ce_weight: 0.0, kl_weight: 1.0, temperature };
        let (xv, x64) = (Var::from_tensor(&x).unwrap(), Var::from_tensor(&wide(&x)).unwrap());
        let got = head_loss(&xv, &w, &TARGETS, Some(&z), &options).unwrap();
        let (_, kl) = plain(&x64, &wide(&w), &TARGETS, &wide(&z), temperature).unwrap();
        assert!(
            (got.kl / kl.to_scalar::<f64>().unwrap() - 1.0).abs() < 1e-6,
            "{temperature}: {} {kl}",
            got.kl
        );
        let (grads, expected) = (got.loss.backward().unwrap(), kl.backward().unwrap());
        close(grads.get(&xv).unwrap(), expected.get(&x64).unwrap(), 1e-4);
    }
}

#[test]
fn half_precision_features_train_a_float32_head() {
    let (x, w, z) = (noise(5, (9, 6)), noise(6, (19, 6)), noise(7, (9, 6)));
    let options = HeadLossOptions::default();
    let half = |t: &Tensor| Var::from_tensor(&t.to_dtype(DType::F16).unwrap()).unwrap();
    let run = |x: &Var| {
        let w = Var::from_tensor(&w).unwrap();
        let out = head_loss(x, w.as_tensor(), &TARGETS, Some(&z), &options).unwrap();
        let grads = out.loss.backward().unwrap();
        (out.ce, grads.get(x).unwrap().clone(), grads.get(&w).unwrap().clone())
    };
    let (narrow, wide) = (run(&half(&x)), run(&Var::from_tensor(&x).unwrap()));
    // Half precision keeps 11 bits.
    assert!((narrow.0 / wide.0 - 1.0).abs() < 2e-3);
    assert_eq!((narrow.1.dtype(), narrow.2.dtype()), (DType::F16, DType::F32));
    close(&narrow.1, &wide.1, 5e-3);
    close(&narrow.2, &wide.2, 5e-3);
}

#[test]
fn a_frozen_head_gets_no_gradient_and_no_teacher_means_no_divergence() {
    let (x, w) = (Var::from_tensor(&noise(8, (9, 6))).unwrap(), noise(9, (19, 6)));
    let out = head_loss(&x, &w, &TARGETS, None, &HeadLossOptions::default()).unwrap();
    // Scaling the loss scales the gradient, as accumulation over microbatches needs.
    let grads = (&out.loss * 0.25).unwrap().backward().unwrap();
    assert!(grads.get(&w).is_none());
    let twice = head_loss(&x, &w, &TARGETS, None, &HeadLossOptions { ce_weight: 0.25, ..Default::default() });
    let twice = twice.unwrap().loss.backward().unwrap();
    close(grads.get(&x).unwrap(), twice.get(&x).unwrap(), 1e-6);
    assert_eq!(out.kl, 0.0);
    // Equal features: the divergence is 0, and so is its gradient.
    let options = HeadLossOptions { ce_weight: 0.0, ..Default::default() };
    let same = head_loss(&x, &w, &TARGETS, Some(&x.detach()), &options).unwrap();
    let grads = same.loss.backward().unwrap();
    assert!(same.kl.abs() < 1e-5 && f64s(grads.get(&x).unwrap()).iter().all(|g| g.abs() < 1e-6));
}

#[test]
fn a_uniform_head_costs_the_logarithm_of_the_vocabulary() {
    let out = head_loss(
        &noise(1, (9, 6)),
        &Tensor::zeros((19, 6), DType::F32, &Device::Cpu).unwrap(),
        &TARGETS,
        None,
        &HeadLossOptions::default(),
    );
    assert!((out.unwrap().ce - 9.0 * 19f64.ln()).abs() < 1e-5);
}

#[test]
fn what_does_not_fit_is_refused() {
    let (x, w) = (noise(1, (2, 6)), noise(2, (19, 6)));
    let options = HeadLossOptions::default();
    assert!(head_loss(&x, &w, &[1], None, &options).is_err());
    assert!(head_loss(&x, &w, &[1, 19], None, &options).unwrap_err().to_string().contains("target 19"));
    assert!(head_loss(&x, &w, &[1, 2], Some(&noise(1, (2, 5))), &options).is_err());
    let empty = head_loss(&x.narrow(0, 0, 0).unwrap(), &w, &[], None, &options).unwrap();
    assert_eq!((empty.ce, empty.loss.to_scalar::<f32>().unwrap()), (0.0, 0.0));
}

#[test]
fn a_mapped_head_is_the_loaded_one() {
    // Wider than a tile: 32 MiB of float32 rows of 6 are 1,398,101.
    let vocab = 1_400_003;
    let (x, w, z) = (noise(8, (9, 6)), (noise(9, (vocab, 6)) * 2.0).unwrap(), noise(10, (9, 6)));
    let dir = tempfile::tempdir().unwrap();
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let stored = w.to_dtype(dtype).unwrap();
        let path = dir.path().join("head.safetensors");
        candle_core::safetensors::save(&[(HEAD, stored.clone())].into(), &path).unwrap();
        let mapped = MappedHead::open(&path).unwrap();
        let xv = Var::from_tensor(&x).unwrap();
        let options = HeadLossOptions::default();
        let loaded = stored.to_dtype(DType::F32).unwrap();
        let expected = head_loss(&xv, &loaded, &TARGETS, Some(&z), &options).unwrap();
        let got = head_loss(&xv, &mapped, &TARGETS, Some(&z), &options).unwrap();
        // Logits are the same products; the gradient's sum over the vocabulary is cut at tiles.
        assert_eq!((got.ce, got.kl), (expected.ce, expected.kl), "{dtype:?}");
        let gradient = |loss: &Tensor| loss.backward().unwrap().get(&xv).unwrap().clone();
        close(
            &gradient(&got.loss),
            &gradient(&expected.loss),
            if dtype == DType::F32 { 1e-12 } else { 1e-5 },
        );
    }
    let scalar = Tensor::zeros(6, DType::F32, &Device::Cpu).unwrap();
    let path = dir.path().join("other.safetensors");
    candle_core::safetensors::save(&[(HEAD, scalar)].into(), &path).unwrap();
    assert!(MappedHead::open(&path).is_err(), "a vector is no head");
}
