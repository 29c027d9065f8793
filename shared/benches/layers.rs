//! Each CPU kernel beside its plain twin, forward and with backward, at the sizes of the embedded toy and larger.
//!
//! `RAYON_NUM_THREADS=1 cargo bench -p shared --bench layers`; PyTorch's times: `tests/peers/bench_ops.py`.
#![allow(clippy::unwrap_used)] // a benchmark that fails should stop

use candle_core::{Device, Result, Tensor, Var};
use divan::Bencher;
use shared::models::DecoderConfig;
use shared::models::layers::{
    DecoderLayer, LayerNorm, Linear, RmsNorm, Rope, Segments, attention, gelu, plain, quick_gelu, swiglu,
};

fn main() {
    divan::main();
}

/// Tokens, width, feed-forward width and segments of the toy.
const T: usize = 1280;
const D: usize = 192;
const I: usize = 512;
const SEGMENTS: usize = 32;

fn inputs(shapes: &[&[usize]]) -> Vec<Var> {
    shapes.iter().map(|s| Var::randn(0f32, 1.0, *s, &Device::Cpu).unwrap()).collect()
}

/// `with_backward` off times the forward pass on constants, on also the gradients of all inputs.
fn run(
    bencher: Bencher,
    with_backward: bool,
    shapes: &[&[usize]],
    f: impl Fn(&[Tensor]) -> Result<Tensor> + Sync,
) {
    let vars = inputs(shapes);
    let tensors: Vec<Tensor> = vars
        .iter()
        .map(|v| if with_backward { v.as_tensor().clone() } else { v.as_detached_tensor() })
        .collect();
    bencher.bench_local(|| {
        let y = f(&tensors).unwrap();
        if with_backward {
            divan::black_box(y.sum_all().unwrap().backward().unwrap());
        }
    });
}

/// Two benchmarks, `fused` and `plain`, in a module of the operation's name.
macro_rules! pair {
    ($name:ident, $shapes:expr, $fused:expr, $plain:expr) => {
        mod $name {
            use super::*;
            #[divan::bench(args = [false, true])]
            fn fused(bencher: Bencher, with_backward: bool) {
                run(bencher, with_backward, $shapes, $fused);
            }
            #[divan::bench(args = [false, true])]
            fn plain(bencher: Bencher, with_backward: bool) {
                run(bencher, with_backward, $shapes, $plain);
            }
        }
    };
}

pair!(linear_1280x192_512, &[&[T, D], &[I, D]], |x| Linear::new(x[1].clone(), None).forward(&x[0]), |x| {
    super::plain::linear(&x[0], &x[1], None)
});
pair!(
    linear_256x1024_4096,
    &[&[256, 1024], &[4096, 1024]],
    |x| Linear::new(x[1].clone(), None).forward(&x[0]),
    |x| super::plain::linear(&x[0], &x[1], None)
);
pair!(rms_norm_1280x192, &[&[T, D], &[D]], |x| RmsNorm::new(x[1].clone(), 1e-6).forward(&x[0]), |x| {
    super::plain::rms_norm(&x[0], &x[1], 1e-6)
});
pair!(
    layer_norm_1280x192,
    &[&[T, D], &[D], &[D]],
    |x| LayerNorm::new(x[1].clone(), x[2].clone(), 1e-6).forward(&x[0]),
    |x| super::plain::layer_norm(&x[0], &x[1], &x[2], 1e-6)
);
pair!(swiglu_1280x512, &[&[T, I], &[T, I]], |x| swiglu(&x[0], &x[1]), |x| super::plain::swiglu(&x[0], &x[1]));
pair!(gelu_1280x512, &[&[T, I]], |x| gelu(&x[0]), |x| super::plain::gelu(&x[0]));
pair!(quick_gelu_1280x512, &[&[T, I]], |x| quick_gelu(&x[0]), |x| super::plain::quick_gelu(&x[0]));
pair!(rope_1280x4x48, &[&[T, 4, 48]], |x| rotary().apply(&x[0]), |x| super::plain::rope(&x[0], &rotary()));
pair!(
    attention_32x40_causal,
    &[&[T, 4, 48], &[T, 2, 48], &[T, 2, 48]],
    |x| attention(&x[0], &x[1], &x[2], &Segments::same(&boundaries()), true, 0.144),
    |x| super::plain::attention(&x[0], &x[1], &x[2], &Segments::same(&boundaries()), true, 0.144)
);
pair!(
    attention_1x1024_causal,
    &[&[1024, 8, 64], &[1024, 8, 64], &[1024, 8, 64]],
    |x| attention(&x[0], &x[1], &x[2], &Segments::same(&[0, 1024]), true, 0.125),
    |x| super::plain::attention(&x[0], &x[1], &x[2], &Segments::same(&[0, 1024]), true, 0.125)
);

fn boundaries() -> Vec<usize> {
    (0..=SEGMENTS).map(|i| i * (T / SEGMENTS)).collect()
}

fn rotary() -> Rope {
    let positions: Vec<u32> = (0..T as u32).map(|t| t % 40).collect();
    Rope::new(&positions, 48, 1e4, &Device::Cpu).unwrap()
}

/// A whole decoder block, its weights trained or frozen.
#[divan::bench(args = [false, true])]
fn decoder_block_1280x192(bencher: Bencher, trained: bool) {
    let cfg = DecoderConfig {
        hidden_size: D,
        intermediate_size: I,
        num_layers: 1,
        num_heads: 4,
        num_kv_heads: 2,
        head_dim: 48,
        qkv_bias: false,
        fused_qkv: false,
        qk_norm: false,
        gemma: None,
        rms_norm_eps: 1e-6,
        rope_theta: 1e4,
        vocab_size: 1,
        tie_word_embeddings: false,
    };
    let mut vars = Vec::new();
    let layer = DecoderLayer::new(&cfg, &mut |_: &str, shape: &[usize]| {
        let var = Var::randn(0f32, 0.05, shape, &Device::Cpu)?;
        vars.push(var.clone());
        Ok(if trained { var.as_tensor().clone() } else { var.as_detached_tensor() })
    });
    let (layer, rope, cu) = (layer.unwrap(), rotary(), boundaries());
    run(bencher, true, &[&[T, D]], |x| layer.forward(&x[0], &rope, &cu, None));
}
