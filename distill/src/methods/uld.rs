//! `uld`: the L1 distance of the two distributions in falling order (arXiv 2402.12030).
//!
//! Two vocabularies have nothing in common, so each token's probabilities are sorted and compared place by place; the
//! shorter vocabulary is continued with zeros. This is the Wasserstein distance of the two when moving any probability
//! costs the same. The i-th token of an answer is compared with the teacher's i-th, as far as the shorter answer goes.
//! Both softmaxes are at `loss.temperature`.

use candle_core::{D, Result, Tensor};
use candle_nn::ops::softmax;
use rayon::prelude::*;

use super::{Distillation, MethodLoss, Views};
use crate::data::batch::AnswerPair;
use crate::losses::chunks::{logits, through_head};

/// The method's choices.
#[derive(Clone, Copy, Debug)]
pub struct Uld {
    temperature: f64,
}

impl Uld {
    /// At this temperature.
    #[must_use]
    pub fn new(temperature: f64) -> Self {
        Self { temperature }
    }

    /// Sum of the rows' distances, and its gradient with respect to the student's logits (n, V).
    fn score(&self, student: &Tensor, teacher: &Tensor) -> Result<(f64, Tensor)> {
        let probabilities = |logits: &Tensor| softmax(&(logits / self.temperature)?, D::Minus1);
        // Sorting is the host's work: GPUs have no sort of a whole vocabulary in candle.
        let q = probabilities(student)?.to_vec2::<f32>()?;
        let p = probabilities(teacher)?.to_vec2::<f32>()?;
        let rows: Vec<(f64, Vec<f32>)> = q.par_iter().zip(p).map(|(q, p)| self.row(q, p)).collect();
        let value = rows.iter().map(|row| row.0).sum();
        let gradient: Vec<f32> = rows.into_iter().flat_map(|row| row.1).collect();
        Ok((value, Tensor::from_vec(gradient, student.shape(), student.device())?))
    }

    fn row(&self, q: &[f32], mut p: Vec<f32>) -> (f64, Vec<f32>) {
        p.sort_unstable_by(|a, b| b.total_cmp(a));
        let mut order: Vec<u32> = (0..q.len() as u32).collect();
        order.sort_unstable_by(|a, b| q[*b as usize].total_cmp(&q[*a as usize]).then(a.cmp(b)));
        let (mut value, mut mean) = (0f64, 0f64);
        let mut by_q = vec![0f32; q.len()];
        for (rank, &token) in order.iter().enumerate() {
            let ours = q[token as usize];
            let gap = ours - p.get(rank).copied().unwrap_or(0.0);
            value += f64::from(gap.abs());
            let sign = if gap == 0.0 { 0.0 } else { gap.signum() };
            by_q[token as usize] = sign;
            mean += f64::from(ours * sign);
        }
        value += p.iter().skip(q.len()).map(|p| f64::from(*p)).sum::<f64>();
        // Through the softmax.
        let scale = 1.0 / self.temperature as f32;
        let through = by_q.iter().zip(q).map(|(sign, q)| q * (sign - mean as f32) * scale);
        (value, through.collect())
    }
}

impl Distillation for Uld {
    fn num_units(&self, answers: &[AnswerPair]) -> usize {
        answers.iter().map(AnswerPair::num_side_by_side).sum()
    }

    fn loss(&self, views: &Views) -> Result<MethodLoss> {
        let (places, teacher_places) = views.side_by_side();
        let teacher = views.teacher.rows(&teacher_places)?;
        let features = views.student.rows(&places)?;
        let (loss, value) = through_head(&features, views.student.head, &mut |rows, student| {
            let teacher = teacher.narrow(0, rows.start, rows.len())?;
            self.score(student, &logits(&teacher, views.teacher.head)?)
        })?;
        Ok(MethodLoss { loss, terms: vec![("uld", value)] })
    }
}
