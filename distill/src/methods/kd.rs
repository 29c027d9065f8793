//! `kd`: divergence between the two distributions of each answer token; needs one vocabulary.
//!
//! | `kd.divergence` | sum over tokens of | source |
//! |---|---|---|
//! | `forward` | KL(p \|\| q) | arXiv 1503.02531 |
//! | `reverse` | KL(q \|\| p) | arXiv 2306.08543 (MiniLLM's objective, on the cached answers) |
//! | `jsd` | (KL(p \|\| m) + KL(q \|\| m)) / 2, m = (p + q) / 2 | arXiv 2306.13649, at 1/2 |
//!
//! p is the teacher's and q the student's softmax at `loss.temperature`, whose square multiplies the loss so that
//! gradients keep their size. With `kd.top_k` both are taken over the teacher's k likeliest tokens and made to add up
//! to one again. Heads may be padded to different sizes: tokens that only one of them has take no part.

use candle_core::{D, Result, Tensor, bail};
use candle_nn::ops::log_softmax;

use super::{Distillation, MethodLoss, Views};
use crate::config::{Divergence, KdConfig};
use crate::data::source::Sample;
use crate::losses::chunks::{logits, through_head, total};
use crate::losses::divergence;

/// The method's choices.
#[derive(Clone, Copy, Debug)]
pub struct Kd {
    divergence: Divergence,
    top_k: usize,
    temperature: f64,
}

impl Kd {
    /// As the keys say.
    #[must_use]
    pub fn new(config: &KdConfig, temperature: f64) -> Self {
        Self { divergence: config.divergence, top_k: config.top_k, temperature }
    }

    /// Sum of the rows' divergences, and its gradient with respect to the student's logits (n, V).
    fn score(&self, student: &Tensor, teacher: &Tensor) -> Result<(f64, Tensor)> {
        if self.top_k == 0 || self.top_k >= student.dim(1)? {
            return self.divergence(student, teacher);
        }
        let kept = largest(teacher, self.top_k)?;
        let (value, gradient) = self.divergence(&student.gather(&kept, 1)?, &teacher.gather(&kept, 1)?)?;
        Ok((value, student.zeros_like()?.scatter_add(&kept, &gradient, 1)?))
    }

    fn divergence(&self, student: &Tensor, teacher: &Tensor) -> Result<(f64, Tensor)> {
        let t = self.temperature;
        let log_q = log_softmax(&(student / t)?, D::Minus1)?;
        let log_p = log_softmax(&(teacher / t)?, D::Minus1)?;
        let (p, q) = (log_p.exp()?, log_q.exp()?);
        let (value, by_q) = match self.divergence {
            // d/dz is q - p, which is q (v - sum q v) with v = -p / q; there is no need to divide.
            Divergence::Forward => {
                let value = number(&divergence(&log_p, &log_q)?)?;
                return Ok((value * t * t, ((q - p)? * t)?));
            }
            Divergence::Reverse => (number(&divergence(&log_q, &log_p)?)?, (&log_q - &log_p)?),
            Divergence::Jsd => {
                let log_m = (log_add(&log_p, &log_q)? - std::f64::consts::LN_2)?;
                let both = (divergence(&log_p, &log_m)? + divergence(&log_q, &log_m)?)?;
                (number(&both)? * 0.5, ((&log_q - &log_m)? * 0.5)?)
            }
        };
        // Through the softmax: dL/dz = q (v - sum q v) with v = dL/dq.
        let mean = q.mul(&by_q)?.sum_keepdim(D::Minus1)?;
        let gradient = (q.mul(&by_q.broadcast_sub(&mean)?)? * t)?;
        Ok((value * t * t, gradient))
    }
}

impl Distillation for Kd {
    fn loss(&self, views: &Views) -> Result<MethodLoss> {
        let (student, teacher) = (&views.student, &views.teacher);
        if student.targets != teacher.targets {
            bail!("the two models' answers are not the same tokens")
        }
        let vocab = student.head.dim(0)?.min(teacher.head.dim(0)?);
        let (head, teacher_head) = (first_rows(student.head, vocab)?, first_rows(teacher.head, vocab)?);
        let (loss, value) = through_head(&student.features, &head, &mut |rows, student| {
            let features = teacher.features.narrow(0, rows.start, rows.len())?;
            self.score(student, &logits(&features, &teacher_head)?)
        })?;
        Ok(MethodLoss { loss, terms: vec![("kd", value)] })
    }

    fn needs_one_vocabulary(&self) -> bool {
        true
    }
}

/// Why a sample cannot be served: one tokenizer may still cut an answer differently after another prompt.
pub(super) fn refuses(sample: &Sample) -> Option<String> {
    let teacher = sample.teacher.as_ref()?;
    let student = &sample.student.prompt;
    let answers = student.turns.iter().filter_map(|turn| turn.answer.clone());
    let mut pairs = answers.zip(&teacher.answers);
    let same =
        pairs.all(|(ours, theirs)| student.input_ids.get(ours) == teacher.input_ids.get(theirs.clone()));
    (!same).then(|| "the two models' answers are not the same tokens".into())
}

fn first_rows(head: &Tensor, count: usize) -> Result<Tensor> {
    if head.dim(0)? == count { Ok(head.clone()) } else { head.narrow(0, 0, count) }
}

fn number(values: &Tensor) -> Result<f64> {
    Ok(f64::from(total(values)?.to_scalar::<f32>()?))
}

/// log(e^a + e^b), also where one of them is far below the other.
fn log_add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let gap = (a - b)?.abs()?.neg()?;
    a.maximum(b)? + (gap.exp()? + 1.0)?.log()?
}

/// The places of the `k` largest values of each row, (n, k); of equals the first.
fn largest(rows: &Tensor, k: usize) -> Result<Tensor> {
    let values = rows.to_vec2::<f32>()?;
    let mut kept = Vec::with_capacity(values.len() * k);
    for row in &values {
        let mut order: Vec<u32> = (0..row.len() as u32).collect();
        let falling = |a: &u32, b: &u32| row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b));
        order.select_nth_unstable_by(k - 1, falling);
        kept.extend_from_slice(&order[..k]);
    }
    Tensor::from_vec(kept, (values.len(), k), rows.device())
}
