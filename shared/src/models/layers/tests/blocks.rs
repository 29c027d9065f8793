//! Segments, rotary embeddings and whole blocks.

use super::super::kv::ROOM;
use super::*;

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
fn a_layer_apart_makes_what_it_makes_whole() {
    let mut noise = Noise(8);
    let mut draw = |shape: &[usize]| noise.tensor(shape).to_dtype(DType::F32).unwrap();
    let (x, weight, bias) = (draw(&[5, 8]), draw(&[12, 8]), draw(&[12]));
    let whole = Linear::new(weight.clone(), Some(bias));
    let parts = whole.apart::<3>().unwrap().unwrap();
    let parts = parts.map(|part| part.forward(&x).unwrap());
    let gap = (Tensor::cat(&parts, 1).unwrap() - whole.forward(&x).unwrap()).unwrap().abs().unwrap();
    assert!(gap.max_all().unwrap().to_scalar::<f32>().unwrap() < 1e-6);
    assert!(
        Linear::new(Var::from_tensor(&weight).unwrap().into_inner(), None).apart::<3>().unwrap().is_none()
    );
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

/// Three samples, of which one ends early and one late, past the room that a prompt leaves; each step beside the block
/// without a cache over all tokens.
#[test]
fn a_cached_block_continues_where_the_whole_one_goes() {
    let mut noise = Noise(8);
    let (cfg, layer, _) = small_layer(&mut noise);
    let rope = |positions: &[u32]| Rope::new(positions, cfg.head_dim, cfg.rope_theta, &Device::Cpu).unwrap();
    let tokens = [5 + ROOM, 9 + 2 * ROOM, 6];
    let samples = tokens.map(|count| noise.tensor(&[count, 24]).to_dtype(DType::F32).unwrap());
    let whole = samples.each_ref().map(|x| {
        let positions: Vec<u32> = (0..x.dims()[0] as u32).collect();
        layer.forward(x, &rope(&positions), &[0, x.dims()[0]], None).unwrap()
    });
    let mut cache = KvLayer::default();
    let (mut lengths, mut active) = ([4, 5, 3], vec![0, 1, 2]);
    let mut step = lengths;
    while !active.is_empty() {
        let starts: Vec<usize> = active.iter().map(|&i| lengths[i] - step[i]).collect();
        let rows =
            active.iter().zip(&starts).map(|(&i, &start)| samples[i].narrow(0, start, step[i]).unwrap());
        let x = Tensor::cat(&rows.collect::<Vec<_>>(), 0).unwrap();
        let mut cu = vec![0];
        let mut positions = Vec::new();
        for (&i, &start) in active.iter().zip(&starts) {
            positions.extend((start..lengths[i]).map(|at| at as u32));
            cu.push(positions.len());
        }
        let y = layer.forward(&x, &rope(&positions), &cu, Some(&mut cache)).unwrap();
        assert_eq!(cache.lengths(), active.iter().map(|&i| lengths[i]).collect::<Vec<_>>());
        for (&i, end) in active.iter().zip(&cu[1..]) {
            let last = whole[i].get(lengths[i] - 1).unwrap();
            assert!(distance(&y.get(end - 1).unwrap(), &last) < 1e-6, "sample {i}, {} tokens", lengths[i]);
        }
        let open: Vec<usize> =
            (0..active.len()).filter(|&at| lengths[active[at]] < tokens[active[at]]).collect();
        cache.keep(&open);
        active = open.iter().map(|&at| active[at]).collect();
        step = [1; 3];
        active.iter().for_each(|&i| lengths[i] += 1);
    }
}

#[test]
fn kept_samples_may_change_places() {
    let mut noise = Noise(18);
    let (cfg, layer, _) = small_layer(&mut noise);
    let x = noise.tensor(&[11, 24]).to_dtype(DType::F32).unwrap();
    let rope = |positions: &[u32]| Rope::new(positions, cfg.head_dim, cfg.rope_theta, &Device::Cpu).unwrap();
    let whole = layer.forward(&x, &rope(&[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5]), &[0, 5, 11], None).unwrap();
    let rows = |rows: &[u32]| x.index_select(&Tensor::new(rows, &Device::Cpu).unwrap(), 0).unwrap();
    let mut cache = KvLayer::default();
    let prompt = rows(&[0, 1, 2, 3, 5, 6, 7, 8, 9]);
    layer.forward(&prompt, &rope(&[0, 1, 2, 3, 0, 1, 2, 3, 4]), &[0, 4, 9], Some(&mut cache)).unwrap();
    cache.keep(&[1, 0]);
    let next = layer.forward(&rows(&[10, 4]), &rope(&[5, 4]), &[0, 1, 2], Some(&mut cache)).unwrap();
    assert!(distance(&next.get(0).unwrap(), &whole.get(10).unwrap()) < 1e-6);
    assert!(distance(&next.get(1).unwrap(), &whole.get(4).unwrap()) < 1e-6);
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
    let along = |axes: Axes| Rope::along(&[[2, 3, 5]], &axes, &frequencies(12, 100.0).unwrap(), device);
    let sectioned = along(Axes::Sectioned(vec![2, 3, 1])).unwrap();
    expect(sectioned, [(2.0, f(0)), (2.0, f(1)), (3.0, f(2)), (3.0, f(3)), (3.0, f(4)), (5.0, f(5))]);
    let interleaved = along(Axes::Interleaved(vec![2, 3, 1])).unwrap();
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
    assert!(along(Axes::Interleaved(vec![2, 2, 1])).is_err());
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
