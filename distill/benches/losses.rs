//! The head loss beside its definition over all logits at once, and a Recalibrator's step.
//!
//! `RAYON_NUM_THREADS=1 cargo bench -p distill --bench losses`; PyTorch's time: `tests/peers/bench_ops.py`.
#![allow(clippy::unwrap_used)] // a benchmark that fails should stop
#![allow(clippy::single_range_in_vec_init)] // a sample of one turn has one range

use candle_core::{D, Device, Tensor, Var};
use distill::losses::{HeadLossOptions, head_loss};
use distill::recalibrator::{Init, Plan, Recalibrator, RecalibratorSpec, SampleTurns, Source};
use divan::Bencher;
use shared::models::DecoderConfig;

fn main() {
    divan::main();
}

/// Scored tokens, width, vocabulary.
const N: usize = 512;
const WIDTH: usize = 192;
const V: usize = 2000;

fn randn(shape: (usize, usize)) -> Var {
    Var::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
}

#[divan::bench(args = [false, true])]
fn head_loss_512x192_v2000(bencher: Bencher, trained_head: bool) {
    let (x, w, z) = (randn((N, WIDTH)), randn((V, WIDTH)), randn((N, WIDTH)));
    let w = if trained_head { w.as_tensor().clone() } else { w.as_detached_tensor() };
    let targets: Vec<u32> = (0..N as u32).map(|i| i * 3).collect();
    bencher.bench_local(|| {
        let out = head_loss(&x, &w, &targets, Some(&z), &HeadLossOptions::default()).unwrap();
        divan::black_box(out.loss.backward().unwrap());
    });
}

#[divan::bench]
fn definition_512x192_v2000(bencher: Bencher) {
    let (x, w, z) = (randn((N, WIDTH)), randn((V, WIDTH)), randn((N, WIDTH)));
    let targets: Vec<u32> = (0..N as u32).map(|i| i * 3).collect();
    let targets = Tensor::new(targets, &Device::Cpu).unwrap().unsqueeze(1).unwrap();
    let log_softmax = |x: &Tensor| {
        let logits = x.matmul(&w.t().unwrap()).unwrap();
        candle_nn::ops::log_softmax(&logits, D::Minus1).unwrap()
    };
    bencher.bench_local(|| {
        let (log_q, log_p) = (log_softmax(&x), log_softmax(&z.as_detached_tensor()));
        let ce = log_q.gather(&targets, 1).unwrap().sum_all().unwrap();
        let kl = log_p.exp().unwrap().mul(&(log_p - log_q).unwrap()).unwrap().sum_all().unwrap();
        divan::black_box((kl - ce).unwrap().backward().unwrap());
    });
}

#[divan::bench(args = [false, true])]
fn recalibrator_32x40(bencher: Bencher, trained: bool) {
    let decoder = DecoderConfig {
        hidden_size: 96,
        intermediate_size: 256,
        num_layers: 2,
        num_heads: 4,
        num_kv_heads: 2,
        head_dim: 24,
        qkv_bias: false,
        fused_qkv: false,
        qk_norm: false,
        gemma: None,
        rms_norm_eps: 1e-6,
        rope_theta: 1e4,
        vocab_size: V,
        tie_word_embeddings: false,
    };
    let spec = RecalibratorSpec::new(decoder, WIDTH);
    let rec = Recalibrator::new(&spec, Init::Fresh, 1, &Device::Cpu).unwrap();
    let rec = if trained { rec } else { rec.frozen().unwrap() };
    let turns: Vec<SampleTurns> = (0..32)
        .map(|i| SampleTurns {
            tokens: i * 40..i * 40 + 40,
            filled: vec![i * 40 + 30..i * 40 + 40],
            answers: vec![i * 11 + 1..i * 11 + 11],
            answer_positions: vec![30],
        })
        .collect();
    let plan = Plan::new(&turns, Source::Student, true);
    let (student, teacher) = (randn((1280, 96)), randn((352, WIDTH)).as_detached_tensor());
    bencher.bench_local(|| {
        let r = rec.forward(Some(&student), &teacher, &plan).unwrap();
        divan::black_box(r.sum_all().unwrap().backward().unwrap());
    });
}
