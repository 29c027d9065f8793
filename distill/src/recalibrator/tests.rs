#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed unwrap is a failed test
#![allow(clippy::single_range_in_vec_init)] // a sample of one turn has one range

use candle_core::{DType, Device, Tensor, Var};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use shared::models::DecoderConfig;

use super::{Init, Plan, Recalibrator, RecalibratorSpec, SampleTurns, Source};
use crate::losses::{HeadLossOptions, head_loss};

fn decoder(
    hidden: usize,
    intermediate: usize,
    heads: usize,
    kv_heads: usize,
    qkv_bias: bool,
) -> DecoderConfig {
    DecoderConfig {
        hidden_size: hidden,
        intermediate_size: intermediate,
        num_layers: 0,
        num_heads: heads,
        num_kv_heads: kv_heads,
        head_dim: hidden / heads,
        qkv_bias,
        fused_qkv: false,
        qk_norm: false,
        gemma: None,
        rms_norm_eps: 1e-6,
        rope_theta: 1e6,
        vocab_size: 0,
        tie_word_embeddings: false,
    }
}

fn small() -> RecalibratorSpec {
    let spec = RecalibratorSpec::new(decoder(12, 20, 2, 1, true), 10);
    // Larger than the default, so that every part matters in the numbers below.
    RecalibratorSpec { init_std: 0.3, ..spec }
}

fn noise(seed: u64, shape: (usize, usize)) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f32> =
        (0..shape.0 * shape.1).map(|_| rng.next_u32() as f32 / u32::MAX as f32 * 2.0 - 1.0).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// Two samples, the second with two turns; 17 student rows and 26 teacher rows.
fn turns() -> [SampleTurns; 2] {
    [
        SampleTurns { tokens: 0..7, filled: vec![4..6], answers: vec![11..14], answer_positions: vec![9] },
        SampleTurns {
            tokens: 7..17,
            filled: vec![9..12, 14..16],
            answers: vec![21..23, 24..25],
            answer_positions: vec![5, 12],
        },
    ]
}

#[test]
fn parameter_counts_are_the_papers() {
    // Expected: GenRecal (arXiv 2506.15681), 503.3 M and 524.8 M for a teacher 8,192 wide: its matrices, without the
    // 0.04 M of norms and biases.
    for (decoder, expected) in
        [(decoder(4096, 14336, 32, 8, false), "503.3"), (decoder(3584, 18944, 28, 4, true), "524.8")]
    {
        let spec = RecalibratorSpec::new(decoder, 8192);
        let shapes = spec.parameters().unwrap();
        let matrices: usize = shapes.values().filter(|s| s.len() == 2).map(|s| s[0] * s[1]).sum();
        assert_eq!(format!("{:.1}", matrices as f64 / 1e6), expected, "{matrices}");
        assert!(spec.num_parameters().unwrap() - matrices < 50_000);
    }
}

#[test]
fn gradients_match_finite_differences_for_inputs_and_every_parameter() {
    let rec = Recalibrator::new(&small(), Init::Fresh, 1, &Device::Cpu).unwrap();
    let student = Var::from_tensor(&noise(2, (17, 12))).unwrap();
    let (teacher, head) = (noise(3, (26, 10)), noise(4, (15, 10)));
    let plan = Plan::new(&turns(), Source::Student, true);
    let rows = Tensor::new(plan.teacher_rows.as_slice(), &Device::Cpu).unwrap();
    let own = teacher.index_select(&rows, 0).unwrap();
    let targets: Vec<u32> = plan.targets.iter().map(|t| t % 15).collect();
    let loss = |student: &Tensor| {
        let r = rec.forward(Some(student), &teacher, &plan).unwrap();
        head_loss(&r, &head, &targets, Some(&own), &HeadLossOptions::default()).unwrap()
    };
    let grads = loss(&student).loss.backward().unwrap();
    let mut checked: Vec<(&str, &Var)> = rec.vars().iter().map(|(n, v)| (n.as_str(), v)).collect();
    checked.push(("student features", &student));
    for (i, (name, var)) in checked.into_iter().enumerate() {
        let grad = values(grads.get(var).expect(name));
        let start = var.as_tensor().copy().unwrap();
        let direction = noise(i as u64, (1, grad.len())).reshape(start.dims()).unwrap();
        let at = |h: f64| {
            var.set(&(&start + (&direction * h).unwrap()).unwrap()).unwrap();
            let out = loss(&student);
            out.ce + out.kl
        };
        let h = 3e-3;
        let numeric = (at(h) - at(-h)) / (2.0 * h);
        at(0.0);
        let along: f64 = grad.iter().zip(values(&direction)).map(|(g, d)| f64::from(g * d)).sum();
        let size = grad.iter().map(|g| f64::from(g.abs())).sum::<f64>();
        assert!(size > 1e-5, "{name} has no gradient");
        assert!((numeric - along).abs() < 5e-3 * size.max(0.1), "{name}: {numeric} against {along}");
    }
}

#[test]
fn a_frozen_recalibrator_passes_gradients_on_and_keeps_none() {
    let rec = Recalibrator::new(&small(), Init::Fresh, 1, &Device::Cpu).unwrap();
    let frozen = rec.frozen().unwrap();
    let student = Var::from_tensor(&noise(2, (17, 12))).unwrap();
    let teacher = noise(3, (26, 10));
    let plan = Plan::new(&turns(), Source::Student, true);
    let (a, b) =
        (rec.forward(Some(&student), &teacher, &plan), frozen.forward(Some(&student), &teacher, &plan));
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!(values(&a), values(&b));
    let grads = b.sqr().unwrap().sum_all().unwrap().backward().unwrap();
    assert!(rec.vars().values().all(|var| grads.get(var).is_none()));
    let grad = grads.get(&student).unwrap().to_vec2::<f32>().unwrap();
    // Answers and what follows the last one are the teacher's or nobody's: the student's features there get nothing.
    for (row, grad) in grad.iter().enumerate() {
        let unused = [4..7, 9..12, 14..17].iter().any(|range| range.contains(&row));
        assert_eq!(grad.iter().all(|g| *g == 0.0), unused, "row {row}");
    }
}

#[test]
fn a_row_sees_what_comes_before_it_in_its_sample_alone() {
    let rec = Recalibrator::new(&small(), Init::Fresh, 1, &Device::Cpu).unwrap();
    let (student, teacher) = (noise(2, (17, 12)), noise(3, (26, 10)));
    let plan = Plan::new(&turns(), Source::Student, true);
    let base = rec.forward(Some(&student), &teacher, &plan).unwrap().to_vec2::<f32>().unwrap();
    // Changing the first sample's second answer token (teacher row 12) reaches only the row that comes after it.
    let mut rows = teacher.to_vec2::<f32>().unwrap();
    rows[12][0] += 1.0;
    let moved = Tensor::new(rows, &Device::Cpu).unwrap();
    let moved = rec.forward(Some(&student), &moved, &plan).unwrap().to_vec2::<f32>().unwrap();
    let changed: Vec<usize> = (0..base.len()).filter(|&i| base[i] != moved[i]).collect();
    assert_eq!(changed, [2]);
    // The second sample alone gives the same bits as in company.
    let alone = Plan::new(&turns()[1..], Source::Student, true);
    let alone = rec.forward(Some(&student), &teacher, &alone).unwrap().to_vec2::<f32>().unwrap();
    assert_eq!(alone, base[3..]);
}

#[test]
fn regularisation_needs_no_student_and_positions_matter() {
    let spec = small();
    let rec = Recalibrator::new(&spec, Init::Fresh, 1, &Device::Cpu).unwrap();
    let teacher = noise(3, (26, 10));
    let sample =
        SampleTurns { tokens: 3..9, filled: vec![6..9], answers: vec![6..9], answer_positions: vec![40] };
    let plan = Plan::new(&[sample], Source::Teacher, true);
    let new = rec.forward(None, &teacher, &plan).unwrap();
    assert_eq!(new.dims(), [3, 10]);
    let kept = RecalibratorSpec { new_positions: false, ..spec };
    let vars = rec.vars().iter().map(|(n, v)| (n.clone(), v.as_tensor().clone()));
    let kept = Recalibrator::from_tensors(&kept, vars, &Device::Cpu).unwrap();
    let old = kept.forward(None, &teacher, &plan).unwrap();
    let (new, old) = (new.to_vec2::<f32>().unwrap(), old.to_vec2::<f32>().unwrap());
    // The boundary row sees questions alone, whose positions are the same; the answers' differ.
    assert_eq!(new[0], old[0]);
    assert!(new[1] != old[1] && new[2] != old[2]);
}

#[test]
fn seeds_students_and_files_give_the_parameters_they_should() {
    let spec = small();
    let new = |seed| Recalibrator::new(&spec, Init::Fresh, seed, &Device::Cpu).unwrap();
    let all = |rec: &Recalibrator| rec.vars().values().map(|v| values(v)).collect::<Vec<_>>();
    assert_eq!(all(&new(1)), all(&new(1)));
    assert_ne!(all(&new(1)), all(&new(2)));
    let deviation = |x: Vec<f32>| (x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32).sqrt();
    assert!((deviation(values(&new(1).vars()["blocks.0.mlp.gate_proj.weight"])) - 0.3).abs() < 0.05);

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("recalibrator.safetensors");
    new(1).save(&path).unwrap();
    assert_eq!(all(&Recalibrator::load(&spec, &path, &Device::Cpu).unwrap()), all(&new(1)));
    let deeper = RecalibratorSpec { num_blocks: 3, ..spec.clone() };
    let error = Recalibrator::load(&deeper, &path, &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("blocks.2") && error.contains("missing"), "{error}");

    let shapes = spec.parameters().unwrap();
    let student = |from_last: usize, name: &str| {
        let shape = shapes[&format!("blocks.0.{name}")].clone();
        Tensor::full(from_last as f32, shape, &Device::Cpu)
    };
    let copied = Recalibrator::new(&spec, Init::Student(&student), 1, &Device::Cpu).unwrap();
    let first = |name: &str| values(&copied.vars()[name])[0];
    assert_eq!((first("blocks.0.self_attn.q_proj.weight"), first("blocks.1.mlp.up_proj.weight")), (1.0, 0.0));
    assert_eq!(copied.vars()["proj_pre.weight"].dtype(), DType::F32);
    assert_eq!(all(&copied)[shapes.len() - 1], all(&new(1))[shapes.len() - 1]);
}
