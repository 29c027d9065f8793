//! `multilevel_ot`: optimal transport between whole answers, at two levels (arXiv 2412.14528).
//!
//! The tokens of one answer are ranked together: each vocabulary by its probabilities summed over the answer, of which
//! the `top_k` largest stay. With p_ti the teacher's and q_ti the student's probability of rank i at place t:
//!
//! | term | per answer | weight |
//! |---|---|---|
//! | `holistic_difference` | sum over t, i of \|p_ti - q_ti\| | 1 |
//! | `sequential_logarithm` | - sum over t, i of p_ti log q_ti | `logarithm` |
//! | `sinkhorn` | sum over t, u of P_tu C_tu, C_tu = sum over i of \|p_ui - q_ti\| | `sinkhorn` |
//!
//! P comes from exp(-C / `regularisation`) by making its rows and then its columns add up to one, `iterations` times;
//! the gradient goes through these too. Places run as far as the shorter of the two answers. Our defaults, which
//! were not checked against the paper's text: k = 50, weights 0.1 and 0.1; `loss.method` weighs the whole. Softmaxes are at
//! `loss.temperature`.
//! The authors' own code (github.com/2018cx/Multi-Level-OT, `models/distillation_model.py`) has the same k and two weights, but
//! scales the Sinkhorn distance by 0.001 more, takes it between distributions that went through another softmax at
//! temperature 2, and iterates 10 times; `multilevel_ot.sinkhorn=0.0001` and `multilevel_ot.iterations=10` come near.

use candle_core::{D, Result, Tensor, Var};

use super::{Distillation, MethodLoss, Views};
use crate::config::MultilevelOtConfig;
use crate::data::batch::AnswerPair;
use crate::losses::log_probs::{from_log_probs, log_probs, summed_probabilities};

/// The method's choices.
#[derive(Clone, Debug)]
pub struct MultilevelOt {
    config: MultilevelOtConfig,
    temperature: f64,
}

impl MultilevelOt {
    /// As the keys say.
    #[must_use]
    pub fn new(config: &MultilevelOtConfig, temperature: f64) -> Self {
        Self { config: config.clone(), temperature }
    }

    /// One answer's loss and terms, from its paired features.
    fn answer(&self, views: &Views, places: [&[u32]; 2]) -> Result<(Tensor, [f64; 3])> {
        let (features, head) = (views.student.rows(places[0])?, views.student.head);
        let (teacher, teacher_head) = (views.teacher.rows(places[1])?, views.teacher.head);
        let ranks = self.config.top_k.min(head.dim(0)?).min(teacher_head.dim(0)?);
        let ours = self.likeliest(&features, head, ranks)?;
        let theirs = self.likeliest(&teacher, teacher_head, ranks)?;
        let p = log_probs(&teacher, teacher_head, &theirs, self.temperature)?.exp()?;
        let mut terms = [0.0; 3];
        let (loss, _) = from_log_probs(&features, head, &ours, self.temperature, |log_q| {
            let log_q = Var::from_tensor(log_q)?;
            let parts = self.terms(&p, &log_q)?;
            for (term, part) in terms.iter_mut().zip(&parts) {
                *term = f64::from(part.to_scalar::<f32>()?);
            }
            let weights = [1.0, self.config.logarithm, self.config.sinkhorn];
            let [difference, logarithm, sinkhorn] = parts;
            let loss = ((difference + (logarithm * weights[1])?)? + (sinkhorn * weights[2])?)?;
            let gradient = loss.backward()?.remove(&log_q);
            let value = terms.iter().zip(weights).map(|(term, weight)| term * weight).sum();
            Ok((value, gradient.map_or_else(|| log_q.zeros_like(), Ok)?))
        })?;
        Ok((loss, terms))
    }

    /// The tokens of the largest summed probability, in falling order, for each row: (L, k).
    fn likeliest(&self, features: &Tensor, head: &Tensor, ranks: usize) -> Result<Tensor> {
        let sums = summed_probabilities(features, head, self.temperature)?.to_vec1::<f32>()?;
        let mut order: Vec<u32> = (0..sums.len() as u32).collect();
        order.sort_unstable_by(|a, b| sums[*b as usize].total_cmp(&sums[*a as usize]).then(a.cmp(b)));
        let chosen = Tensor::new(&order[..ranks], features.device())?.unsqueeze(0)?;
        chosen.broadcast_as((features.dim(0)?, ranks))?.contiguous()
    }

    /// The three terms of p (L, k) and log q (L, k).
    fn terms(&self, p: &Tensor, log_q: &Tensor) -> Result<[Tensor; 3]> {
        let q = log_q.exp()?;
        let difference = (p - &q)?.abs()?.sum_all()?;
        let logarithm = p.mul(log_q)?.sum_all()?.neg()?;
        let costs = q.unsqueeze(1)?.broadcast_sub(&p.unsqueeze(0)?)?.abs()?.sum(D::Minus1)?;
        let mut plan = (&costs / -self.config.regularisation)?.exp()?;
        for _ in 0..self.config.iterations {
            plan = plan.broadcast_div(&plan.sum_keepdim(1)?)?;
            plan = plan.broadcast_div(&plan.sum_keepdim(0)?)?;
        }
        Ok([difference, logarithm, plan.mul(&costs)?.sum_all()?])
    }
}

impl Distillation for MultilevelOt {
    fn num_units(&self, answers: &[AnswerPair]) -> usize {
        answers.iter().map(AnswerPair::num_side_by_side).sum()
    }

    fn loss(&self, views: &Views) -> Result<MethodLoss> {
        let mut loss = Tensor::new(0f32, views.student.features.device())?;
        let mut sums = [0.0; 3];
        for answer in views.answers {
            let length = answer.num_side_by_side();
            let places = [&answer.student, &answer.teacher]
                .map(|range| (range.start as u32..(range.start + length) as u32).collect::<Vec<_>>());
            if length > 0 {
                let (part, terms) = self.answer(views, [&places[0], &places[1]])?;
                loss = (loss + part)?;
                sums.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
            }
        }
        let names = ["holistic_difference", "sequential_logarithm", "sinkhorn"];
        Ok(MethodLoss { loss, terms: names.into_iter().zip(sums).collect() })
    }
}
