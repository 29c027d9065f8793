//! `dskd`: distributions compared in both models' spaces, after learnt projections and an attention that finds which
//! tokens belong together (arXiv 2406.17328, dual-space distillation with cross-model attention).
//!
//! Per sample, over its answer tokens (n of the student's, m of the teacher's); \[a; b\] joins the embeddings of a
//! token and of the next one, x~ is x over the standard deviation of all its values:
//!
//! ```text
//! A (n, m)  = query([e_s; e_s']) [e_l; e_l']~ ^T / sqrt(2 d_l)
//! h_ls      = softmax over m of A . t2s(z_l~ + e_l'~)      the teacher's features in the student's space
//! h_sl      = softmax over n of A^T . s2t(z_s)             the student's in the teacher's
//! ```
//!
//! | term | sum over tokens of | trains |
//! |---|---|---|
//! | `dskd_projection_ce` | -log softmax(W_s h_ls)\[target\] | query, t2s |
//! | `dskd_student_kl` | KL(softmax(W_s h_ls) \|\| softmax(W_s z_s)), the first held | the student |
//! | `dskd_teacher_kl` | KL(softmax(W_l z_l) \|\| softmax(W_l h_sl)) | the student, query, s2t |
//!
//! Choices of ours: a cache holds one vocabulary matrix of the teacher, its head, whose rows stand for the teacher's
//! embeddings (for a teacher with tied weights they are the same); standard deviations are a sample's own, so that they
//! do not depend on how samples are packed; projections have no bias.

use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_nn::ops::softmax;
use shared::models::layers::Linear;

use super::{Distillation, MethodLoss, View, Views};
use crate::config::LossConfig;
use crate::data::batch::AnswerPair;
use crate::losses::{HeadLossOptions, head_loss};
use crate::recalibrator::fresh;
use crate::train::optim::Param;

/// Standard deviation of the projections' first weights.
const INIT_STD: f64 = 0.02;

/// The method's projections: float32 masters.
#[derive(Clone, Debug)]
pub struct Dskd {
    /// (2 d_l, 2 d_s), (d_l, d_s), (d_s, d_l).
    query: Var,
    s2t: Var,
    t2s: Var,
    temperature: f64,
}

impl Dskd {
    /// New projections between widths (student, teacher): the same seed gives the same ones.
    ///
    /// # Errors
    /// When the device fails.
    pub fn new(widths: (usize, usize), loss: &LossConfig, seed: u64, device: &Device) -> Result<Self> {
        let (s, t) = widths;
        let var = |name: &str, shape: [usize; 2], stream| {
            Var::from_tensor(&fresh(name, &shape, INIT_STD, seed, stream, device)?)
        };
        Ok(Self {
            query: var("query.weight", [2 * t, 2 * s], 0)?,
            s2t: var("s2t.weight", [t, s], 1)?,
            t2s: var("t2s.weight", [s, t], 2)?,
            temperature: loss.temperature,
        })
    }

    /// One sample's loss and terms.
    fn sample(&self, views: &Views, answers: &[AnswerPair]) -> Result<(Tensor, [f64; 3])> {
        let places = |range: fn(&AnswerPair) -> std::ops::Range<usize>| -> Vec<u32> {
            answers.iter().flat_map(|answer| range(answer).map(|place| place as u32)).collect()
        };
        let ours = Side::of(&views.student, views.embedding, &places(|answer| answer.student.clone()))?;
        let theirs = Side::of(&views.teacher, views.teacher.head, &places(|answer| answer.teacher.clone()))?;
        let apply = |weight: &Var, x: &Tensor| Linear::new(weight.as_tensor().clone(), None).forward(x);

        let keys = deviated(&theirs.index)?;
        let scale = (keys.dim(1)? as f64).sqrt();
        let scores = (apply(&self.query, &ours.index)?.matmul(&keys.t()?)? / scale)?;
        let values = (deviated(&theirs.features)? + deviated(&theirs.next)?)?;
        let in_student = softmax(&scores, D::Minus1)?.matmul(&apply(&self.t2s, &values)?)?;
        let back = softmax(&scores.t()?.contiguous()?, D::Minus1)?;
        let in_teacher = back.matmul(&apply(&self.s2t, &ours.features)?)?;

        let only =
            |ce_weight, kl_weight| HeadLossOptions { ce_weight, kl_weight, temperature: self.temperature };
        let head = views.student.head;
        let ce = head_loss(&in_student, &head.detach(), &ours.targets, None, &only(1.0, 0.0))?;
        let student =
            head_loss(&ours.features, head, &ours.targets, Some(&in_student.detach()), &only(0.0, 1.0))?;
        let teacher = head_loss(
            &in_teacher,
            views.teacher.head,
            &theirs.targets,
            Some(&theirs.features),
            &only(0.0, 1.0),
        )?;
        let loss = ((ce.loss + student.loss)? + teacher.loss)?;
        Ok((loss, [ce.ce, student.kl, teacher.kl]))
    }
}

/// One model's side of one sample.
struct Side {
    /// (n, D).
    features: Tensor,
    /// The embedding of each token and of the next one, (n, 2 D).
    index: Tensor,
    /// The embedding of the next token, (n, D).
    next: Tensor,
    targets: Vec<u32>,
}

impl Side {
    fn of(view: &View, embedding: &Tensor, places: &[u32]) -> Result<Self> {
        let features = view.rows(places)?;
        let pick =
            |tokens: &[u32]| -> Vec<u32> { places.iter().map(|&place| tokens[place as usize]).collect() };
        let embed = |tokens: Vec<u32>| -> Result<Tensor> {
            let rows = embedding.detach().index_select(&Tensor::new(tokens, embedding.device())?, 0)?;
            rows.to_dtype(features.dtype())
        };
        let targets = pick(&view.targets);
        let (now, next) = (embed(pick(&view.inputs))?, embed(targets.clone())?);
        let index = Tensor::cat(&[&now, &next], 1)?;
        Ok(Self { features, index, next, targets })
    }
}

/// x over the standard deviation of all its values (of a sample, with n - 1).
fn deviated(x: &Tensor) -> Result<Tensor> {
    let wide = x.to_dtype(DType::F32)?;
    let count = wide.elem_count() as f64;
    let centred = wide.broadcast_sub(&wide.mean_all()?)?;
    let variance = f64::from(centred.sqr()?.sum_all()?.to_scalar::<f32>()?) / (count - 1.0).max(1.0);
    x / variance.sqrt().max(1e-12)
}

impl Distillation for Dskd {
    fn loss(&self, views: &Views) -> Result<MethodLoss> {
        let mut loss = Tensor::new(0f32, views.student.features.device())?;
        let mut sums = [0.0; 3];
        for answers in views.answers.chunk_by(|a, b| a.sample == b.sample) {
            let (part, terms) = self.sample(views, answers)?;
            loss = (loss + part)?;
            sums.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
        }
        let names = ["dskd_projection_ce", "dskd_student_kl", "dskd_teacher_kl"];
        Ok(MethodLoss { loss, terms: names.into_iter().zip(sums).collect() })
    }

    fn params(&self) -> Vec<Param> {
        let named = [("query", &self.query), ("s2t", &self.s2t), ("t2s", &self.t2s)];
        named.map(|(name, var)| Param { name: format!("dskd.{name}.weight"), var: var.clone() }).to_vec()
    }
}
