//! Fused kernels against their plain twins.

use candle_core::quantized::{GgmlDType, QTensor};

use super::*;

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

/// A quantised weight gives the bits of the layer with its floats, however many rows there are and however they are divided
/// into panels; the floats are candle's.
#[test]
fn quantised_linears_are_those_of_their_floats() {
    for (kind, i, o) in [(GgmlDType::Q8_0, 1536, 700), (GgmlDType::Q4K, 2304, 300), (GgmlDType::Q8_0, 64, 7)]
    {
        let floats = Noise(1).tensor(&[o, i]).to_dtype(DType::F32).unwrap();
        let weight = QTensor::quantize(&floats, kind).unwrap();
        let floats = weight.dequantize(&Device::Cpu).unwrap();
        let bias = Noise(2).tensor(&[o]).to_dtype(DType::F32).unwrap();
        let weight = Weight::from(weight);
        assert_eq!(bits(&weight.to_dtype(DType::F32).unwrap()), bits(&floats));
        for (n, bias) in [(1, None), (2, Some(&bias)), (33, None), (140, Some(&bias))] {
            let quantised = Linear::new(weight.clone(), bias.cloned());
            let plain = Linear::new(floats.clone(), bias.cloned());
            let x = Var::from_tensor(&Noise(3).tensor(&[n, i]).to_dtype(DType::F32).unwrap()).unwrap();
            let [got, expected] = [quantised, plain].map(|layer| {
                let y = layer.forward(&x).unwrap();
                let gradient = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
                (bits(&y), bits(gradient.get(&x).unwrap()))
            });
            assert_eq!(got, expected, "{kind:?}, {n} rows");
        }
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
fn a_frozen_layer_without_a_kernel_has_its_twins_gradient_and_no_other() {
    // float64 has no kernel, as a GPU has none for products.
    let (weight, bias) = (Noise(1).tensor(&[5, 6]), Noise(2).tensor(&[5]));
    let (x, c) = (Noise(3).tensor(&[2, 4, 6]), Noise(4).tensor(&[2, 4, 5]));
    for bias in [None, Some(bias)] {
        let layer = Linear::new(weight.clone(), bias.clone());
        let (y, gradients) = differentiate(&|x| layer.forward(&x[0]), std::slice::from_ref(&x), &c);
        let twin = |x: &[Tensor]| plain::linear(&x[0], &weight, bias.as_ref());
        let (expected, expected_gradients) = differentiate(&twin, std::slice::from_ref(&x), &c);
        assert!(distance(&y, &expected) < 1e-15);
        assert!(distance(&gradients[0], &expected_gradients[0]) < 1e-14);
    }
    let x = Var::from_tensor(&x).unwrap();
    let grads = Linear::new(weight.clone(), None).forward(&x).unwrap().sum_all().unwrap().backward().unwrap();
    assert!(grads.get(&x).is_some() && grads.get(&weight).is_none());
}

#[test]
fn rope_matches_its_twin_and_theory() {
    let positions = [[0, 0, 0], [1, 1, 1], [2, 5, 3], [2, 5, 4], [9, 9, 9]];
    let along = |sections: Vec<usize>| {
        let frequencies = frequencies(16, 1e4).unwrap();
        Rope::along(&positions, &Axes::Sectioned(sections), &frequencies, &Device::Cpu)
    };
    let rope = along(vec![2, 3, 3]).unwrap();
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
    assert!(along(vec![2, 3, 2]).is_err());
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
