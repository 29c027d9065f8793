//! The losses of the methods without a Recalibrator, against PyTorch's autograd of formulas written from the papers, and
//! against differences of their own values.
//!
//! The expected numbers are those of tests/peers/methods.py, which made the fixture; the cases are named there.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use candle_core::{DType, Device, Tensor, Var};
use distill::config::{Divergence, KdConfig, RunConfig};
use distill::data::align::Piece;
use distill::data::batch::AnswerPair;
use distill::methods::alm::Alm;
use distill::methods::dskd::Dskd;
use distill::methods::kd::Kd;
use distill::methods::multilevel_ot::MultilevelOt;
use distill::methods::uld::Uld;
use distill::methods::{Distillation, MethodLoss, View, Views};
use e2e::rows::fixture;

struct Golden(HashMap<String, Tensor>);

impl Golden {
    fn load() -> Self {
        Self(candle_core::safetensors::load(fixture("methods/golden.safetensors"), &Device::Cpu).unwrap())
    }

    fn tensor(&self, name: &str) -> &Tensor {
        &self.0[name]
    }

    fn tokens(&self, name: &str) -> Vec<u32> {
        self.tensor(name).to_dtype(DType::U32).unwrap().to_vec1().unwrap()
    }

    fn number(&self, name: &str) -> f64 {
        self.tensor(name).to_scalar().unwrap()
    }

    /// The terms of a case.
    fn terms(&self, case: &str) -> BTreeMap<&str, f64> {
        let prefix = format!("{case}.term.");
        let terms = self.0.keys().filter_map(|name| Some((name.strip_prefix(&prefix)?, self.number(name))));
        terms.collect()
    }
}

/// Places of one answer of sample `sample`, and its pieces as (student, teacher).
fn answer(
    sample: usize,
    student: Range<usize>,
    teacher: Range<usize>,
    pieces: &[(Range<usize>, Range<usize>)],
) -> AnswerPair {
    let pieces =
        pieces.iter().map(|(student, teacher)| Piece { student: student.clone(), teacher: teacher.clone() });
    AnswerPair { sample, student, teacher, pieces: pieces.collect() }
}

/// The script's three answers.
fn answers() -> Vec<AnswerPair> {
    vec![
        answer(0, 0..4, 0..3, &[(0..1, 0..1), (1..4, 1..3)]),
        answer(0, 4..6, 3..6, &[(0..2, 0..2)]),
        answer(1, 6..11, 6..10, &[(0..2, 0..1), (2..3, 1..3), (3..5, 3..4)]),
    ]
}

/// kd's answers are the same tokens on both sides.
fn same_answers() -> Vec<AnswerPair> {
    let same = |pair: AnswerPair| AnswerPair { teacher: pair.student.clone(), ..pair };
    answers().into_iter().map(same).collect()
}

/// A method, and whether its teacher has the student's tokens.
struct Case {
    name: &'static str,
    method: Box<dyn Distillation>,
    is_same: bool,
}

fn cases(golden: &Golden) -> Vec<Case> {
    let kd = |divergence, top_k, temperature| -> Box<dyn Distillation> {
        Box::new(Kd::new(&KdConfig { divergence, top_k }, temperature))
    };
    let config = RunConfig::default();
    let mut ot = config.multilevel_ot.clone();
    ot.top_k = 7;
    let loss = distill::config::LossConfig { temperature: 2.0, ..config.loss.clone() };
    let dskd = Dskd::new((6, 5), &loss, 0, &Device::Cpu).unwrap();
    for param in dskd.params() {
        let name = param.name.strip_prefix("dskd.").unwrap().strip_suffix(".weight").unwrap().to_owned();
        param.var.set(golden.tensor(&name)).unwrap();
    }
    let same = |name, method| Case { name, method, is_same: true };
    let other = |name, method| Case { name, method, is_same: false };
    vec![
        same("kd_forward_0", kd(Divergence::Forward, 0, 1.0)),
        same("kd_forward_4", kd(Divergence::Forward, 4, 2.0)),
        same("kd_reverse_0", kd(Divergence::Reverse, 0, 2.0)),
        same("kd_jsd_0", kd(Divergence::Jsd, 0, 1.0)),
        same("kd_jsd_4", kd(Divergence::Jsd, 4, 1.0)),
        other("uld", Box::new(Uld::new(1.5))),
        other("multilevel_ot", Box::new(MultilevelOt::new(&ot, 2.0))),
        other("alm", Box::new(Alm::new(&config.alm))),
        other("dskd", Box::new(dskd)),
    ]
}

fn loss(golden: &Golden, case: &Case, features: &Tensor, head: &Tensor) -> MethodLoss {
    let (answers, kind, targets, inputs) = match case.is_same {
        true => (same_answers(), "same", "targets", "inputs"),
        false => (answers(), "teacher", "teacher_targets", "teacher_inputs"),
    };
    let views = Views {
        student: View {
            features: features.clone(),
            head,
            targets: golden.tokens("targets"),
            inputs: golden.tokens("inputs"),
        },
        embedding: golden.tensor("embedding"),
        teacher: View {
            features: golden.tensor(&format!("{kind}_features")).clone(),
            head: golden.tensor(&format!("{kind}_head")),
            targets: golden.tokens(targets),
            inputs: golden.tokens(inputs),
        },
        answers: &answers,
    };
    case.method.loss(&views).unwrap()
}

fn f64s(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn assert_close(what: &str, got: &Tensor, expected: &Tensor) {
    assert_eq!(got.dims(), expected.dims(), "{what}");
    let (got, expected) = (f64s(got), f64s(expected));
    let size = expected.iter().map(|x| x * x).sum::<f64>().sqrt();
    let error = got.iter().zip(&expected).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt();
    assert!(error < 1e-4 * size, "{what}: {error:e} of {size:e}");
}

#[test]
fn losses_and_gradients_equal_pytorch() {
    let golden = Golden::load();
    for case in cases(&golden) {
        let name = case.name;
        let var = |name: &str| Var::from_tensor(golden.tensor(name)).unwrap();
        let (features, head) = (var("features"), var("head"));
        let output = loss(&golden, &case, &features, &head);
        let near = |got: f64, expected: f64| (got / expected - 1.0).abs() < 1e-5;
        let value = f64::from(output.loss.to_scalar::<f32>().unwrap());
        assert!(near(value, golden.number(&format!("{name}.loss"))), "{name}: {value}");
        let expected = golden.terms(name);
        assert!(!expected.is_empty());
        assert_eq!(output.terms.iter().map(|term| term.0).collect::<Vec<_>>().len(), expected.len());
        for (term, value) in &output.terms {
            assert!(near(*value, expected[term]), "{name}: `{term}` is {value}");
        }
        let gradients = output.loss.backward().unwrap();
        let own = case.method.params();
        let own = own.iter().map(|param| (param.name.split('.').nth(1).unwrap(), &param.var));
        for (input, var) in [("features", &features), ("head", &head)].into_iter().chain(own) {
            let what = format!("{name}.grad.{input}");
            assert_close(&what, gradients.get(var).unwrap(), golden.tensor(&what));
        }
    }
}

#[test]
fn gradients_equal_differences() {
    let golden = Golden::load();
    let direction = golden.tensor("features").sin().unwrap();
    for case in cases(&golden) {
        let head = golden.tensor("head");
        let features = Var::from_tensor(golden.tensor("features")).unwrap();
        let gradients = loss(&golden, &case, &features, head).loss.backward().unwrap();
        let gradient = gradients.get(&features).unwrap();
        assert!(gradients.get(head).is_none(), "{}: a frozen head has no gradient", case.name);
        let along: f64 = f64s(gradient).iter().zip(f64s(&direction)).map(|(g, d)| g * d).sum();
        let value = |h: f64| {
            let moved = (golden.tensor("features") + (&direction * h).unwrap()).unwrap();
            f64::from(loss(&golden, &case, &moved, head).loss.to_scalar::<f32>().unwrap())
        };
        // Small enough to leave the order of sorted probabilities alone, large enough for float32 values.
        let h = 1e-3;
        let numeric = (value(h) - value(-h)) / (2.0 * h);
        // dskd holds the projected distribution in one of its terms, which a difference of values does not.
        if case.name != "dskd" {
            assert!((numeric - along).abs() < 5e-3 * along.abs(), "{}: {numeric} against {along}", case.name);
        }
    }
}

#[test]
fn units_are_tokens_pairs_or_pieces() {
    let golden = Golden::load();
    let units: BTreeMap<&str, usize> =
        cases(&golden).iter().map(|case| (case.name, case.method.num_units(&answers()))).collect();
    // 4 + 2 + 5 student tokens; 3 + 2 + 4 side by side; 2 + 1 + 3 pieces.
    assert_eq!((units["kd_forward_0"], units["dskd"]), (11, 11));
    assert_eq!((units["uld"], units["multilevel_ot"], units["alm"]), (9, 9, 6));
}
