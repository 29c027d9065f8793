//! Every kernel against its plain twin, values and gradients, and both against finite differences; then the
//! promises about bits.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed unwrap is a failed test

use candle_core::{DType, Device, Result, Tensor, Var};

use super::*;
use crate::models::DecoderConfig;

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

#[test]
fn activations_match_their_twins() {
    type Function = fn(&Tensor) -> Result<Tensor>;
    let pairs: [(Function, Function); 4] = [
        (silu, plain::silu),
        (gelu, plain::gelu),
        (gelu_tanh, plain::gelu_tanh),
        (quick_gelu, plain::quick_gelu),
    ];
    for (fused, plain) in pairs {
        compare(&[&[7, 37]], &|x| fused(&x[0]), &|x| plain(&x[0]));
        // More than one parallel chunk.
        compare(&[&[3, 11_003]], &|x| fused(&x[0]), &|x| plain(&x[0]));
    }
    compare(&[&[5, 13], &[5, 13]], &|x| swiglu(&x[0], &x[1]), &|x| plain::swiglu(&x[0], &x[1]));
    compare(&[&[3, 11_003], &[3, 11_003]], &|x| swiglu(&x[0], &x[1]), &|x| plain::swiglu(&x[0], &x[1]));
}

#[test]
fn norms_match_their_twins() {
    for shape in [[3, 8], [5, 37], [150, 192]] {
        let width = &shape[1..];
        compare(&[&shape, width], &|x| RmsNorm::new(x[1].clone(), 1e-6).forward(&x[0]), &|x| {
            plain::rms_norm(&x[0], &x[1], 1e-6)
        });
        compare(
            &[&shape, width, width],
            &|x| LayerNorm::new(x[1].clone(), x[2].clone(), 1e-5).forward(&x[0]),
            &|x| plain::layer_norm(&x[0], &x[1], &x[2], 1e-5),
        );
    }
}

#[test]
fn linears_match_their_twins() {
    for (n, i, o) in [(1, 5, 3), (2, 16, 64), (70, 33, 40), (130, 600, 65)] {
        compare(
            &[&[n, i], &[o, i], &[o]],
            &|x| Linear::new(x[1].clone(), Some(x[2].clone())).forward(&x[0]),
            &|x| plain::linear(&x[0], &x[1], Some(&x[2])),
        );
        compare(&[&[1, n, i], &[o, i]], &|x| Linear::new(x[1].clone(), None).forward(&x[0]), &|x| {
            plain::linear(&x[0], &x[1], None)
        });
        let (weight, bias) = (Noise(1).tensor(&[o, i]), Noise(2).tensor(&[o]));
        let frozen =
            Linear::new(weight.to_dtype(DType::F32).unwrap(), Some(bias.to_dtype(DType::F32).unwrap()));
        compare(&[&[n, i]], &|x| frozen.forward(&x[0]), &|x| {
            plain::linear(
                &x[0],
                &frozen.weight().to_dtype(DType::F64)?,
                Some(&frozen.bias().unwrap().to_dtype(DType::F64)?),
            )
        });
    }
}

#[test]
fn adapted_linears_match_their_twins() {
    for (n, i, o, rank) in [(1, 5, 3, 1), (2, 16, 64, 8), (70, 33, 40, 4), (130, 600, 65, 16)] {
        let narrow = |seed: u64, shape: &[usize]| Noise(seed).tensor(shape).to_dtype(DType::F32).unwrap();
        let (weight, bias) = (narrow(1, &[o, i]), narrow(2, &[o]));
        let wide = |tensor: &Tensor| tensor.to_dtype(DType::F64);
        for bias in [None, Some(bias)] {
            compare(
                &[&[n, i], &[rank, i], &[o, rank]],
                &|x| {
                    let mut layer = Linear::new(weight.clone(), bias.clone());
                    layer.adapt(Adapter { a: x[1].clone(), b: x[2].clone(), scale: 0.5 })?;
                    layer.forward(&x[0])
                },
                &|x| {
                    let bias = bias.as_ref().map(wide).transpose()?;
                    plain::adapted(&x[0], (&wide(&weight)?, bias.as_ref()), [&x[1], &x[2]], 0.5)
                },
            );
        }
    }
}

#[test]
fn adapters_stand_beside_frozen_weights_of_their_shape() {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let adapter = |rank: [usize; 2], inputs| Adapter {
        a: zeros(&[rank[0], inputs]),
        b: zeros(&[5, rank[1]]),
        scale: 1.0,
    };
    let refused = |weight: Tensor, adapter| Linear::new(weight, None).adapt(adapter).unwrap_err().to_string();
    assert!(refused(zeros(&[5, 7]), adapter([2, 2], 6)).contains("[5, 6] beside a weight [5, 7]"));
    assert!(refused(zeros(&[5, 7]), adapter([2, 3], 7)).contains("ranks 2 and 3"));
    let trained = Var::zeros((5, 7), DType::F32, &Device::Cpu).unwrap().as_tensor().clone();
    assert!(refused(trained, adapter([2, 2], 7)).contains("a weight that trains"));
}

#[test]
fn frozen_weights_get_no_gradient() {
    let x = Var::from_tensor(&Noise(3).tensor(&[4, 6]).to_dtype(DType::F32).unwrap()).unwrap();
    let weight = Noise(4).tensor(&[5, 6]).to_dtype(DType::F32).unwrap();
    let grads = Linear::new(weight.clone(), None).forward(&x).unwrap().sum_all().unwrap().backward().unwrap();
    assert!(grads.get(&x).is_some() && grads.get(&weight).is_none());
    // A trained bias on a frozen weight, and the other way round.
    let bias = Var::zeros(5, DType::F32, &Device::Cpu).unwrap();
    let layer = Linear::new(weight.clone(), Some(bias.as_tensor().clone()));
    let grads = layer.forward(&x).unwrap().sum_all().unwrap().backward().unwrap();
    assert_eq!(grads.get(&bias).unwrap().to_vec1::<f32>().unwrap(), [4.0; 5]);
    assert!(grads.get(&weight).is_none());
}

#[test]
fn rope_matches_its_twin_and_theory() {
    let positions = [[0, 0, 0], [1, 1, 1], [2, 5, 3], [2, 5, 4], [9, 9, 9]];
    let rope = Rope::sectioned(&positions, 16, 1e4, &[2, 3, 3], &Device::Cpu).unwrap();
    compare(&[&[5, 3, 16]], &|x| rope.apply(&x[0]), &|x| plain::rope(&x[0], &rope));
    // Equal axes are the one-dimensional embedding; position 0 rotates nothing.
    let x = Noise(5).tensor(&[5, 3, 16]).to_dtype(DType::F32).unwrap();
    let line = Rope::new(&[0, 1, 2, 2, 9], 16, 1e4, &Device::Cpu).unwrap();
    let (a, b) = (rope.apply(&x).unwrap(), line.apply(&x).unwrap());
    for token in [0, 1, 4] {
        assert_eq!(bits(&a.get(token).unwrap()), bits(&b.get(token).unwrap()));
    }
    assert_eq!(bits(&a.get(0).unwrap()), bits(&x.get(0).unwrap()));
    // Angle j of position p is p * theta^(-2j/K): expected by hand for p = 9, j = 4.
    let expected = (9.0f64 * 1e4f64.powf(-8.0 / 16.0)).cos();
    assert!(
        (f64::from(line.cos().get(4).unwrap().get(4).unwrap().to_scalar::<f32>().unwrap()) - expected).abs()
            < 1e-6
    );
    assert!(Rope::sectioned(&positions, 16, 1e4, &[2, 3, 2], &Device::Cpu).is_err());
}

#[test]
fn attention_matches_its_twin() {
    /// Query and key boundaries, heads, key-value heads, head width.
    type Case = (&'static [usize], &'static [usize], usize, usize, usize);
    let cases: [Case; 5] = [
        (&[0, 3, 3, 8], &[0, 3, 3, 8], 4, 2, 6),
        (&[0, 5, 9], &[0, 7, 15], 2, 2, 16),
        (&[0, 150], &[0, 150], 2, 1, 8),
        (&[0, 1], &[0, 70], 3, 1, 4),
        (&[0, 64, 129, 130], &[0, 64, 129, 130], 2, 1, 12),
    ];
    for (q, kv, heads, kv_heads, width) in cases {
        let segments = Segments { q, kv };
        let (tq, tk) = (*q.last().unwrap(), *kv.last().unwrap());
        for causal in [false, true] {
            let scale = 1.0 / (width as f64).sqrt();
            compare(
                &[&[tq, heads, width], &[tk, kv_heads, width], &[tk, kv_heads, width]],
                &|x| attention(&x[0], &x[1], &x[2], &segments, causal, scale),
                &|x| plain::attention(&x[0], &x[1], &x[2], &segments, causal, scale),
            );
        }
    }
}

#[test]
fn attention_within_matches_its_twin() {
    // A window of three that an image of keys 2..6 opens forwards; and a cache of five keys before two queries.
    let window = |i: usize| [i.saturating_sub(2), if (2..6).contains(&i) { 6 } else { i + 1 }];
    let mut sights: Vec<Sight> = (0..80).map(window).collect();
    sights.extend([[3, 6], [0, 7]]);
    let segments = Segments { q: &[0, 80, 82], kv: &[0, 80, 87] };
    compare(
        &[&[82, 4, 6], &[87, 2, 6], &[87, 2, 6]],
        &|x| attention_within(&x[0], &x[1], &x[2], &segments, &sights, 0.4),
        &|x| plain::attention_within(&x[0], &x[1], &x[2], &segments, &sights, 0.4),
    );
    // Ranges up to each query are the causal mask.
    let mut noise = Noise(10);
    let mut draw = |heads: usize| noise.tensor(&[70, heads, 8]).to_dtype(DType::F32).unwrap();
    let (q, k, v) = (draw(2), draw(1), draw(1));
    let causal: Vec<Sight> = (0..70).map(|i| [0, i + 1]).collect();
    let within = attention_within(&q, &k, &v, &Segments::same(&[0, 70]), &causal, 0.3).unwrap();
    let expected = attention(&q, &k, &v, &Segments::same(&[0, 70]), true, 0.3).unwrap();
    assert_eq!(bits(&within), bits(&expected));
    for bad in [[3, 3], [0, 71]] {
        let mut sights = causal.clone();
        sights[5] = bad;
        assert!(attention_within(&q, &k, &v, &Segments::same(&[0, 70]), &sights, 0.3).is_err());
    }
}

#[test]
fn a_norm_from_one_multiplies_by_one_more() {
    let mut noise = Noise(11);
    let (x, weight) = (noise.tensor(&[3, 8]), noise.tensor(&[8]));
    let plus_one = (&weight + 1.0).unwrap();
    let expected = plain::rms_norm(&x, &plus_one, 1e-6).unwrap();
    let got = RmsNorm::from_one(weight.to_dtype(DType::F32).unwrap(), 1e-6);
    assert!(distance(&got.forward(&x.to_dtype(DType::F32).unwrap()).unwrap(), &expected) < 1e-6);
}

#[test]
fn attention_by_hand() {
    // Two keys with scores 0 and ln 3: weights 1/4 and 3/4.
    let q = Tensor::new(&[[[1f32]], [[1.0]]], &Device::Cpu).unwrap();
    let k = Tensor::new(&[[[0f32]], [[3f32.ln()]]], &Device::Cpu).unwrap();
    let v = Tensor::new(&[[[4f32]], [[8.0]]], &Device::Cpu).unwrap();
    let y = attention(&q, &k, &v, &Segments::same(&[0, 2]), true, 1.0).unwrap();
    let y = y.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!((y[0] - 4.0).abs() < 1e-6 && (y[1] - 7.0).abs() < 1e-6, "{y:?}");
    for bad in [&[0, 1][..], &[0, 3], &[1, 2], &[0, 2, 1, 2]] {
        assert!(attention(&q, &k, &v, &Segments::same(bad), true, 1.0).is_err());
    }
}

/// Runs with a pool of `threads`.
fn with_threads<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(f)
}

#[test]
fn a_row_of_a_linear_layer_depends_on_nothing_else() {
    let mut noise = Noise(6);
    for (i, o) in
        [(3, 1), (2, 5), (48, 7), (64, 32), (1176, 32), (1030, 64), (192, 512), (2048, 192), (1500, 300)]
    {
        let x = noise.tensor(&[300, i]).to_dtype(DType::F32).unwrap();
        let weight = noise.tensor(&[o, i]).to_dtype(DType::F32).unwrap();
        let bias = noise.tensor(&[o]).to_dtype(DType::F32).unwrap();
        for layer in [Linear::new(weight.clone(), Some(bias)), Linear::new(weight.clone(), None)] {
            let all = bits(&with_threads(2, || layer.forward(&x).unwrap()));
            for rows in [1, 2, 3, 5, 16, 17, 63, 64, 65, 129] {
                let part = x.narrow(0, 300 - rows, rows).unwrap();
                for threads in [1, 3] {
                    let part = bits(&with_threads(threads, || layer.forward(&part).unwrap()));
                    assert_eq!(
                        part,
                        all[(300 - rows) * o..],
                        "{rows} rows of {i} -> {o} on {threads} threads"
                    );
                }
            }
        }
    }
}

#[test]
fn a_segment_depends_on_no_other_segment() {
    let mut noise = Noise(7);
    let cu = [0, 1, 70, 75, 205];
    let mut draw = |heads: usize| noise.tensor(&[205, heads, 16]).to_dtype(DType::F32).unwrap();
    let (q, k, v) = (draw(4), draw(2), draw(2));
    let all = with_threads(3, || attention(&q, &k, &v, &Segments::same(&cu), true, 0.25).unwrap());
    for w in cu.windows(2) {
        let part = |t: &Tensor| t.narrow(0, w[0], w[1] - w[0]).unwrap();
        let alone =
            attention(&part(&q), &part(&k), &part(&v), &Segments::same(&[0, w[1] - w[0]]), true, 0.25);
        assert_eq!(bits(&alone.unwrap()), bits(&part(&all)));
    }
}

fn small_layer(noise: &mut Noise) -> (DecoderConfig, DecoderLayer, Vec<(String, Var)>) {
    let cfg = DecoderConfig {
        hidden_size: 24,
        intermediate_size: 40,
        num_layers: 1,
        num_heads: 4,
        num_kv_heads: 2,
        head_dim: 6,
        qkv_bias: true,
        fused_qkv: false,
        qk_norm: false,
        gemma: None,
        rms_norm_eps: 1e-6,
        rope_theta: 1e4,
        vocab_size: 10,
        tie_word_embeddings: false,
    };
    let mut vars = Vec::new();
    let layer = DecoderLayer::new(&cfg, &mut |name: &str, shape: &[usize]| {
        let var = Var::from_tensor(&(noise.tensor(shape).to_dtype(DType::F32)? * 0.3)?)?;
        vars.push((name.to_string(), var.clone()));
        Ok(var.as_tensor().clone())
    });
    (cfg, layer.unwrap(), vars)
}

#[test]
fn a_cached_block_continues_where_the_whole_one_goes() {
    let mut noise = Noise(8);
    let (cfg, layer, _) = small_layer(&mut noise);
    let x = noise.tensor(&[11, 24]).to_dtype(DType::F32).unwrap();
    let rope = |positions: &[u32]| Rope::new(positions, cfg.head_dim, cfg.rope_theta, &Device::Cpu).unwrap();
    let whole = layer.forward(&x, &rope(&[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5]), &[0, 5, 11], None).unwrap();
    // The prompts are the first 4 and 5 tokens; then one more of each sample.
    let mut cache = KvLayer::default();
    let rows = |rows: &[u32]| x.index_select(&Tensor::new(rows, &Device::Cpu).unwrap(), 0).unwrap();
    let prompt = rows(&[0, 1, 2, 3, 5, 6, 7, 8, 9]);
    layer.forward(&prompt, &rope(&[0, 1, 2, 3, 0, 1, 2, 3, 4]), &[0, 4, 9], Some(&mut cache)).unwrap();
    let mut only_second = cache.clone();
    let next = layer.forward(&rows(&[4, 10]), &rope(&[4, 5]), &[0, 1, 2], Some(&mut cache)).unwrap();
    assert!(distance(&next.get(0).unwrap(), &whole.get(4).unwrap()) < 1e-6);
    assert!(distance(&next.get(1).unwrap(), &whole.get(10).unwrap()) < 1e-6);
    only_second.keep(&[1]);
    let next = layer.forward(&rows(&[10]), &rope(&[5]), &[0, 1], Some(&mut only_second)).unwrap();
    assert!(distance(&next.get(0).unwrap(), &whole.get(10).unwrap()) < 1e-6);
}

#[test]
fn every_weight_of_a_block_gets_a_gradient() {
    let mut noise = Noise(9);
    let (cfg, layer, vars) = small_layer(&mut noise);
    let x = Var::from_tensor(&noise.tensor(&[7, 24]).to_dtype(DType::F32).unwrap()).unwrap();
    let rope = Rope::new(&[0, 1, 2, 0, 1, 2, 3], cfg.head_dim, cfg.rope_theta, &Device::Cpu).unwrap();
    let grads = layer.forward(&x, &rope, &[0, 3, 7], None).unwrap().sqr().unwrap().sum_all().unwrap();
    let grads = grads.backward().unwrap();
    assert_eq!(vars.len(), 12);
    for (name, var) in vars {
        let size = values(grads.get(&var).expect(&name)).iter().fold(0.0, |a: f64, b| a.max(b.abs()));
        // A bias of the keys shifts all scores of a query alike, which softmax ignores up to the rotation.
        assert!(size > 1e-6, "{name}: {size:e}");
    }
}

/// cos of the angle of each pair, for one token.
fn cosines(rope: &Rope) -> Vec<f32> {
    rope.cos().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn rotary_axes_are_dealt_as_each_family_deals_them() {
    // Position p on an axis turns pair j by p * theta^(-2j/K); theta 100 and K 12 give six frequencies.
    let frequency = |j: i32| 100f64.powf(-2.0 * f64::from(j) / 12.0);
    let expect = |rope: Rope, turns: [(f64, f64); 6]| {
        for (got, (position, frequency)) in cosines(&rope).iter().zip(turns) {
            assert!((f64::from(*got) - (position * frequency).cos()).abs() < 1e-6, "{rope:?}");
        }
    };
    let device = &Device::Cpu;
    let f = frequency;
    // Sections 2, 3, 1 one after the other are t t h h h w. Interleaved they go round, t h w t h t: the width has one
    // place, and the height's third one would come after the last pair.
    let sectioned = Rope::sectioned(&[[2, 3, 5]], 12, 100.0, &[2, 3, 1], device).unwrap();
    expect(sectioned, [(2.0, f(0)), (2.0, f(1)), (3.0, f(2)), (3.0, f(3)), (3.0, f(4)), (5.0, f(5))]);
    let interleaved = Rope::interleaved(&[[2, 3, 5]], 12, 100.0, &[2, 3, 1], device).unwrap();
    expect(interleaved, [(2.0, f(0)), (3.0, f(1)), (5.0, f(2)), (2.0, f(3)), (3.0, f(4)), (2.0, f(5))]);
    // A grid gives rows and columns the same frequencies, of half a head's width each, or deals them out.
    let half = |j: i32| 100f64.powf(-2.0 * f64::from(j) / 4.0);
    let grid = Rope::grid(&[[3, 5]], 8, 100.0, device).unwrap();
    let turns = [(3.0, half(0)), (3.0, half(1)), (5.0, half(0)), (5.0, half(1)), (0.0, 0.0), (0.0, 0.0)];
    expect(grid, turns);
    let eighth = |j: i32| 100f64.powf(-2.0 * f64::from(j) / 8.0);
    let dealt = Rope::dealt_grid(&[[3, 5]], 8, 100.0, device).unwrap();
    let turns =
        [(3.0, eighth(0)), (3.0, eighth(2)), (5.0, eighth(1)), (5.0, eighth(3)), (0.0, 0.0), (0.0, 0.0)];
    expect(dealt, turns);
    assert!(Rope::interleaved(&[[0; 3]], 12, 100.0, &[2, 2, 1], device).is_err());
}

#[test]
fn fused_projections_are_the_separate_ones_laid_out_otherwise() {
    let mut noise = Noise(10);
    // H 4, Hkv 2, K 3: InternLM2 stores, for each key-value head, its two query heads, its key and its value.
    let (heads, width) = (Heads { queries: 4, key_values: 2, width: 3 }, 5);
    let f32s = |t: Tensor| t.to_dtype(DType::F32).unwrap();
    let weights: Vec<Tensor> = [4, 2, 2].iter().map(|n| f32s(noise.tensor(&[n * 3, width]))).collect();
    let x = f32s(noise.tensor(&[6, width]));
    let linear = |weight: &Tensor| Linear::new(weight.clone(), None);
    let separate = Qkv::Separate([linear(&weights[0]), linear(&weights[1]), linear(&weights[2])]);
    let rows =
        |weight: usize, head: usize, count: usize| weights[weight].narrow(0, head * 3, count * 3).unwrap();
    let grouped = [rows(0, 0, 2), rows(1, 0, 1), rows(2, 0, 1), rows(0, 2, 2), rows(1, 1, 1), rows(2, 1, 1)];
    let grouped = Qkv::Grouped(linear(&Tensor::cat(&grouped, 0).unwrap()));
    for (a, b) in separate.forward(&x, heads).unwrap().iter().zip(grouped.forward(&x, heads).unwrap()) {
        assert_eq!(a.dims(), b.dims());
        assert!(distance(a, &b) < 1e-6);
    }
}
