//! A failed unwrap is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use candle_core::Device;

use super::*;

fn params() -> Vec<Param> {
    let matrix = Var::new(&[[0.5f32, -1.0, 2.0]], &Device::Cpu).unwrap();
    let vector = Var::new(&[0.3f32, -0.7], &Device::Cpu).unwrap();
    vec![Param { name: "w".into(), var: matrix }, Param { name: "b".into(), var: vector }]
}

fn config() -> AdamConfig {
    AdamConfig { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1 }
}

fn gradients(step: usize) -> Gradients {
    let w = [[0.1f32, -0.2, 0.3], [0.4, 0.5, -0.6], [-0.7, 0.0, 0.9]][step];
    let b = [[1.0f32, -1.0], [0.5, 0.25], [0.0, 2.0]][step];
    let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
    Gradients(vec![Some(tensor(&w).unsqueeze(0).unwrap()), Some(tensor(&b))])
}

fn values(adam: &AdamW) -> Vec<f32> {
    adam.params().iter().flat_map(|p| p.var.flatten_all().unwrap().to_vec1::<f32>().unwrap()).collect()
}

// torch 2.15: AdamW(lr=0.01, 0.02, 0.03; betas 0.9/0.95, eps 1e-8), weight_decay 0.1 on the matrix and 0 on the
// vector, the same three gradients.
const TORCH: [f32; 5] = [0.475_614_9, -1.003_094, 1.975_165_4, 0.249_150_22, -0.692_381_44];

#[test]
fn equals_pytorch_over_three_steps() {
    let mut adam = AdamW::new(config(), OptimizerStates::F32, params()).unwrap();
    for step in 0..3 {
        adam.step(gradients(step), 0.01 * (step + 1) as f64, 1.0).unwrap();
    }
    for (got, want) in values(&adam).iter().zip(TORCH) {
        assert!((got - want).abs() < 3e-7, "{got} {want}");
    }
}

#[test]
fn a_devices_norm_is_that_of_the_fused_pass() {
    let gradients = gradients(1);
    let all: Vec<&Tensor> = gradients.0.iter().flatten().collect();
    // 0.16 + 0.25 + 0.36 of the matrix, 0.25 + 0.0625 of the vector.
    let norm = sum_of_squares_on_device(&all).unwrap().sqrt();
    assert!((norm - 1.0825f64.sqrt()).abs() < 1e-6 && (norm - gradients.norm().unwrap()).abs() < 1e-6);
    assert_eq!(sum_of_squares_on_device(&[]).unwrap(), 0.0);
}

#[test]
fn tensor_operations_agree_with_the_fused_pass() {
    let [fused, composite] = [params(), params()];
    let update = Update::new(&config(), 1, 0.01, 0.5);
    let mut adam =
        AdamW::new(AdamConfig { weight_decay: 0.0, ..config() }, OptimizerStates::F32, fused).unwrap();
    adam.step(gradients(0), 0.01, 0.5).unwrap();
    for (index, param) in composite.iter().enumerate() {
        let (mut m, mut v) = (param.var.zeros_like().unwrap(), param.var.zeros_like().unwrap());
        update.on_device(&param.var, gradients(0).get(index).unwrap(), &mut m, &mut v).unwrap();
        let fused = &adam.params()[index].var;
        let gap = (fused.as_tensor() - param.var.as_tensor()).unwrap().abs().unwrap().flatten_all().unwrap();
        assert!(gap.max(0).unwrap().to_scalar::<f32>().unwrap() < 1e-7);
    }
}

#[test]
fn restored_state_continues_bit_for_bit() {
    let mut whole = AdamW::new(config(), OptimizerStates::F32, params()).unwrap();
    whole.step(gradients(0), 0.01, 1.0).unwrap();
    let (num_updates, tensors) = whole.state().unwrap();
    let copies = whole.params().iter().map(|p| {
        let var = Var::from_tensor(&p.var.as_detached_tensor().copy().unwrap()).unwrap();
        Param { name: p.name.clone(), var }
    });
    let mut resumed = AdamW::new(config(), OptimizerStates::F32, copies.collect()).unwrap();
    let find = |name: &str| Ok(tensors.iter().find(|(n, _)| n == name).unwrap().1.clone());
    resumed.restore(num_updates, find).unwrap();
    for adam in [&mut whole, &mut resumed] {
        adam.step(gradients(1), 0.02, 1.0).unwrap();
    }
    assert_eq!(values(&whole), values(&resumed));
}

#[test]
fn gradients_sum_and_their_norm_covers_all() {
    let params = params();
    let mut sum = Gradients::none(2);
    for _ in 0..2 {
        // d/dw of sum(3 w) is 3 for each of the three values; nothing reaches the vector.
        let loss = (params[0].var.as_tensor() * 3.0).unwrap().sum_all().unwrap();
        sum.add(&params, loss.backward().unwrap(), &Recomputed::default()).unwrap();
    }
    assert!((sum.norm().unwrap() - (3.0f64 * 36.0).sqrt()).abs() < 1e-12);
    assert!(sum.get(1).is_none());
    let nan = Tensor::new(&[f32::NAN, 0.0], &Device::Cpu).unwrap();
    sum.0[1] = Some(nan);
    assert!(!sum.norm().unwrap().is_finite());
}

/// 600 updates towards a target under noisy gradients; how far each weight still is.
fn noisy_descent(states: OptimizerStates, beta2: f64) -> Vec<f32> {
    let target: Vec<f32> = (0..700).map(|i| (i as f32 * 0.37).sin()).collect();
    let var = Var::zeros(700, DType::F32, &Device::Cpu).unwrap();
    let config = AdamConfig { beta2, weight_decay: 0.0, ..config() };
    let mut adam = AdamW::new(config, states, vec![Param { name: "w".into(), var: var.clone() }]).unwrap();
    for step in 0..600u32 {
        let weights = var.to_vec1::<f32>().unwrap();
        let noise = |i: usize| ((i as f32 + 1.0) * (step as f32 + 1.0) * 12.9898).sin();
        let gradient: Vec<f32> =
            (0..700).map(|i| (weights[i] - target[i] + noise(i)) * (1.0 + (i % 13) as f32)).collect();
        let gradient = Tensor::new(gradient, &Device::Cpu).unwrap();
        adam.step(Gradients(vec![Some(gradient)]), 0.01 * (1.0 - f64::from(step) / 600.0), 1.0).unwrap();
    }
    var.to_vec1::<f32>().unwrap().iter().zip(target).map(|(weight, target)| (weight - target).abs()).collect()
}

#[test]
fn small_moments_train_as_float32_does() {
    for beta2 in [0.95, 0.999] {
        let mean = |states| noisy_descent(states, beta2).iter().sum::<f32>() / 700.0;
        let plain = mean(OptimizerStates::F32);
        // The weights began 0.64 away on average (the mean of |sin|).
        assert!(plain < 0.1, "beta2 {beta2}: {plain}");
        for states in [OptimizerStates::Bf16, OptimizerStates::F8] {
            let small = mean(states);
            assert!(small < 1.1 * plain + 0.003, "{states:?}, beta2 {beta2}: {small}, float32 {plain}");
        }
    }
}

#[test]
fn one_small_update_is_the_plain_formula_on_what_is_stored() {
    for (states, step) in [(OptimizerStates::Bf16, 1.0 / 128.0), (OptimizerStates::F8, 1.0 / 8.0)] {
        let [plain, small] = [params(), params()];
        let mut plain = AdamW::new(config(), OptimizerStates::F32, plain).unwrap();
        let mut small = AdamW::new(config(), states, small).unwrap();
        for adam in [&mut plain, &mut small] {
            adam.step(gradients(0), 0.01, 1.0).unwrap();
        }
        // The first update comes from moments of zero: storing them changes only later ones.
        assert_eq!(values(&plain), values(&small));
        let (moment, expected) = (&small.moments[0], &plain.moments[0]);
        let (Moments::Host { m, .. }, Moments::Host { m: expected, .. }) = (moment, expected) else {
            panic!("on the CPU")
        };
        let Moment::F32(expected) = expected else { panic!("float32") };
        let stored = match m {
            Moment::Bf16(values) => values.iter().map(|value| value.to_f32()).collect::<Vec<f32>>(),
            Moment::F8 { order, codes, scales } => {
                codes.iter().map(|code| order.table()[*code as usize] * scales[0]).collect()
            }
            Moment::F32(_) => panic!("small"),
        };
        for (stored, expected) in stored.iter().zip(expected) {
            assert!((stored - expected).abs() <= expected.abs() * step, "{states:?}: {stored} {expected}");
        }
    }
}
