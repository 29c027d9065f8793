//! One step: microbatches forward and backward, gradients summed, one clipped update.

use std::sync::Arc;

use anyhow::{Result, bail};
use candle_core::{DType, Tensor};
use shared::models::Model;
use shared::models::layers::Recomputed;

use super::ema::Ema;
use super::metrics::{EvalRow, Terms};
use super::optim::{AdamW, Gradients};
use super::schedule::Schedule;
use super::student_features::StudentFeatures;
use super::teacher::{QuestionFeatures, TeacherSide};
use super::terms::{Counts, MethodSums, RegularisationSums, TermSums, add_losses};
use crate::config::{LossConfig, QuestionRows, Regulariser, StageConfig};
use crate::data::batch::{BatchOptions, Microbatch, Scored, TeacherRows, microbatches};
use crate::data::source::Sample;
use crate::losses::{HeadLossOptions, head_loss};
use crate::methods::{Distillation, View, Views};
use crate::stage::Stage;

/// Everything a stage's steps need.
pub struct Trainer {
    /// What the stage does.
    pub stage: Stage,
    /// Its part of the configuration.
    pub keys: StageConfig,
    /// The losses' weights.
    pub loss: LossConfig,
    /// The student, the stage's parts trainable.
    pub model: Model,
    /// Recalibrator and teacher's head, where the stage has them.
    pub teacher: Option<TeacherSide>,
    /// A method without a Recalibrator and the teacher's head, where the stage has them.
    pub method: Option<MethodSide>,
    /// The frozen student's features from earlier passes, where the stage keeps them.
    pub student_features: Option<StudentFeatures>,
    /// Where recomputed blocks leave their weights' gradients.
    pub recomputed: RecomputedSides,
    /// The optimizer over all that trains.
    pub optimizer: AdamW,
    /// The average of all that trains, where the run keeps one.
    pub ema: Option<Ema>,
    /// Whether evaluations use it.
    pub evaluates_ema: bool,
    /// The learning rate.
    pub schedule: Schedule,
}

/// Where recomputed blocks leave their weights' gradients.
#[derive(Clone, Debug, Default)]
pub struct RecomputedSides {
    /// The student's: each block runs once a microbatch, so they are summed over all of a step in place.
    pub student: Recomputed,
    /// The Recalibrator's, which may run twice a microbatch: emptied after each, so that sums are formed in the order
    /// they have without recomputing, and to the same bits.
    pub recalibrator: Recomputed,
}

/// A method without a Recalibrator.
pub struct MethodSide {
    /// What makes its loss of both models' features.
    pub method: Box<dyn Distillation>,
    /// The teacher's head (V, D), frozen.
    pub head: Tensor,
}

/// What a step tells.
#[derive(Clone, Debug)]
pub struct StepReport {
    /// What was minimised.
    pub loss: f64,
    /// What it was summed from, before the weights.
    pub terms: Terms,
    /// The rate used.
    pub lr: f64,
    /// The gradient's norm before it was cut.
    pub grad_norm: f64,
    /// Tokens of the step's samples, as the student counts them.
    pub num_tokens: usize,
}

impl Trainer {
    /// How the stage's samples are batched.
    #[must_use]
    pub fn batch_options(&self) -> BatchOptions {
        BatchOptions {
            alignment: self.stage.alignment,
            regularisation: self.stage.regularisation,
            pools_questions: self.loss.regularisation_question == QuestionRows::Pooled,
            student_answers: self.teacher.as_ref().is_some_and(TeacherSide::sees_student_answers),
            answers: self.stage.method,
            score_boundary: self.loss.score_boundary,
            max_tokens: self.keys.microbatch_tokens,
            min_samples: 1,
        }
    }

    /// Trains on the samples of step `index`, counted from 0 in the stage.
    ///
    /// # Errors
    /// When the update would not be finite (then nothing has changed), or the device fails.
    pub fn step(&mut self, index: usize, samples: &[Arc<Sample>]) -> Result<StepReport> {
        let microbatches = microbatches(samples, &self.batch_options())?;
        let counts = self.counts(&microbatches);
        let mut sums = TermSums::default();
        let mut gradients = Gradients::none(self.optimizer.params().len());
        for microbatch in &microbatches {
            let (loss, terms) = self.forward(microbatch, &counts, QuestionFeatures::AsIs)?;
            sums.add(&terms);
            if let Some(loss) = loss {
                gradients.add(self.optimizer.params(), loss.backward()?, &self.recomputed.recalibrator)?;
            }
        }
        gradients.add_recomputed(self.optimizer.params(), &self.recomputed.student)?;
        let grad_norm = gradients.norm()?;
        if !grad_norm.is_finite() || !sums.is_finite() {
            bail!(self.blame(samples)?);
        }
        let lr = self.schedule.at(index);
        self.optimizer.step(gradients, lr, clip_scale(self.keys.clip, grad_norm))?;
        if let Some(ema) = &mut self.ema {
            ema.update(self.optimizer.params())?;
        }
        let (loss, terms) = sums.means(&counts, &self.loss);
        let num_tokens = microbatches.iter().map(|microbatch| microbatch.student.num_tokens()).sum();
        Ok(StepReport { loss, terms, lr, grad_norm, num_tokens })
    }

    /// The stage's losses of one microbatch: their weighted sum, each divided by the step's count, and the sums.
    ///
    /// # Errors
    /// When a shape does not fit or the device fails.
    pub fn forward(
        &self,
        microbatch: &Microbatch,
        counts: &Counts,
        questions: QuestionFeatures,
    ) -> Result<(Option<Tensor>, TermSums)> {
        let compute = || self.model.body.features(&microbatch.student);
        let features = match &self.student_features {
            Some(kept) => kept.of(microbatch, compute)?,
            None => compute()?,
        };
        let mut sums = TermSums::default();
        let mut total = None;
        if let (Some(side), Some(rows)) = (&self.teacher, &microbatch.teacher) {
            let weights = self.teacher_weights();
            let (loss, pair) = side.alignment(&features, rows, questions, &weights)?;
            total = add_losses(total, (loss / counts.teacher.max(1) as f64)?)?;
            sums.alignment = Some(pair);
            if rows.regularisation.num_scored() > 0 {
                let (loss, regularisation) = self.regularisation(side, rows)?;
                total = add_losses(total, (loss / counts.regularisation.max(1) as f64)?)?;
                sums.regularisation = Some(regularisation);
            }
        }
        if let (Some(side), Some(rows)) = (&self.method, &microbatch.teacher) {
            let (loss, method) = self.method_loss(side, &features, microbatch, rows)?;
            total = add_losses(total, (loss * (self.loss.method / counts.method.max(1) as f64))?)?;
            sums.method = Some(method);
        }
        if self.stage.student_ce {
            let (loss, ce) = self.student_ce(&features, microbatch)?;
            total = add_losses(total, (loss / counts.student.max(1) as f64)?)?;
            sums.student = Some(ce);
        }
        Ok((total, sums))
    }

    /// A2, summed over its scored tokens.
    fn regularisation(&self, side: &TeacherSide, rows: &TeacherRows) -> Result<(Tensor, RegularisationSums)> {
        let [ce_weight, kl_weight, mse_weight] = self.loss.regularisation_weights();
        if self.loss.regulariser == Regulariser::Mse {
            let loss = side.squared_error(rows)?;
            let value = f64::from(loss.to_scalar::<f32>()?);
            return Ok(((loss * mse_weight)?, RegularisationSums::Features(value)));
        }
        let weights = HeadLossOptions { ce_weight, kl_weight, ..self.teacher_weights() };
        let (loss, pair) = side.regularisation(rows, &weights)?;
        Ok((loss, RegularisationSums::Predictions(pair)))
    }

    fn counts(&self, microbatches: &[Microbatch]) -> Counts {
        Counts::of(microbatches, self.method.as_ref().map(|side| side.method.as_ref()))
    }

    /// The method's loss, summed.
    fn method_loss(
        &self,
        side: &MethodSide,
        features: &Tensor,
        microbatch: &Microbatch,
        rows: &TeacherRows,
    ) -> Result<(Tensor, MethodSums)> {
        let teacher = rows.tensor(side.head.device(), side.head.dtype())?;
        let views = Views {
            student: view(
                features,
                self.model.head.weight()?,
                &microbatch.student_scored,
                &microbatch.student.input_ids,
            )?,
            embedding: self.model.body.embedding().tensor()?,
            teacher: view(&teacher, &side.head, &rows.scored, &rows.tokens)?,
            answers: &rows.answers,
        };
        let output = side.method.loss(&views)?;
        let value = f64::from(output.loss.to_dtype(DType::F32)?.to_scalar::<f32>()?);
        Ok((output.loss, MethodSums { loss: value, terms: output.terms.into_iter().collect() }))
    }

    /// CE(head_s(za_s), gt_s), summed.
    fn student_ce(&self, features: &Tensor, microbatch: &Microbatch) -> Result<(Tensor, f64)> {
        let scored = &microbatch.student_scored;
        let rows = Tensor::new(scored.rows.as_slice(), features.device())?;
        let features = features.index_select(&rows, 0)?;
        let weights = HeadLossOptions { ce_weight: self.loss.ce_student, ..HeadLossOptions::default() };
        let output = head_loss(&features, self.model.head.weight()?, &scored.targets, None, &weights)?;
        Ok((output.loss, output.ce))
    }

    fn teacher_weights(&self) -> HeadLossOptions {
        HeadLossOptions {
            ce_weight: self.loss.ce_teacher,
            kl_weight: self.loss.kl,
            temperature: self.loss.temperature,
        }
    }

    /// Losses on held-out samples, with the leakage controls where there is a Recalibrator.
    ///
    /// # Errors
    /// When a shape does not fit or the device fails.
    pub fn evaluate(&mut self, samples: &[Arc<Sample>]) -> Result<EvalRow> {
        if !self.evaluates_ema {
            return self.evaluate_weights(samples);
        }
        self.swap_ema()?;
        let row = self.evaluate_weights(samples);
        self.swap_ema()?;
        row
    }

    /// Exchanges the weights with their averages, where there are any.
    ///
    /// # Errors
    /// When the device fails.
    pub fn swap_ema(&mut self) -> Result<()> {
        match &mut self.ema {
            Some(ema) => ema.swap(self.optimizer.params()),
            None => Ok(()),
        }
    }

    fn evaluate_weights(&self, samples: &[Arc<Sample>]) -> Result<EvalRow> {
        let options = BatchOptions { regularisation: false, min_samples: 2, ..self.batch_options() };
        let microbatches = microbatches(samples, &options)?;
        let counts = self.counts(&microbatches);
        let run = |questions| -> Result<Terms> {
            let mut sums = TermSums::default();
            for microbatch in &microbatches {
                sums.add(&self.forward(microbatch, &counts, questions)?.1);
            }
            Ok(sums.means(&counts, &self.loss).1)
        };
        let as_is = run(QuestionFeatures::AsIs)?;
        let mut row = EvalRow {
            eval_ce_teacher: as_is.ce_teacher,
            eval_kl: as_is.kl,
            eval_ce_student: as_is.ce_student,
            eval_method: as_is.method,
            ..EvalRow::default()
        };
        let total = |terms: &Terms| terms.ce_teacher.zip(terms.kl).map(|(ce, kl)| ce + kl);
        // One sample alone has no other to take questions from.
        if self.teacher.is_some() && samples.len() > 1 {
            let shuffled = run(QuestionFeatures::Shuffled)?;
            row.control_shuffled = total(&shuffled);
            row.control_shuffled_ce = shuffled.ce_teacher;
            row.control_shuffled_kl = shuffled.kl;
        }
        if self.teacher.is_some() {
            let zeroed = run(QuestionFeatures::Zeroed)?;
            row.control_zeroed = total(&zeroed);
            row.control_zeroed_ce = zeroed.ce_teacher;
            row.control_zeroed_kl = zeroed.kl;
        }
        Ok(row)
    }

    /// Which samples made a step's loss or gradient something other than a number.
    fn blame(&self, samples: &[Arc<Sample>]) -> Result<String> {
        let mut guilty = Vec::new();
        for sample in samples {
            let alone = microbatches(std::slice::from_ref(sample), &self.batch_options())?;
            let mut gradients = Gradients::none(self.optimizer.params().len());
            let mut is_finite = true;
            for microbatch in &alone {
                let (loss, sums) = self.forward(microbatch, &self.counts(&alone), QuestionFeatures::AsIs)?;
                is_finite &= sums.is_finite();
                if let Some(loss) = loss {
                    gradients.add(
                        self.optimizer.params(),
                        loss.backward()?,
                        &self.recomputed.recalibrator,
                    )?;
                }
            }
            gradients.add_recomputed(self.optimizer.params(), &self.recomputed.student)?;
            if !is_finite || !gradients.norm()?.is_finite() {
                guilty.push(sample.key.to_string());
            }
        }
        let who = match guilty.is_empty() {
            true => "no sample does so alone".to_owned(),
            false => format!("because of sample {}", guilty.join(", ")),
        };
        Ok(format!(
            "the step's loss or gradient is not finite, {who}; no weight was changed\n\
             hint: a lower `{}.lr`, or look at the sample in the data and the cache (`extract verify`)",
            self.stage.name.as_str()
        ))
    }
}

/// One model's answer tokens, of all its packed `features` and `tokens`.
fn view<'a>(features: &Tensor, head: &'a Tensor, scored: &Scored, tokens: &[u32]) -> Result<View<'a>> {
    let rows = Tensor::new(scored.rows.as_slice(), features.device())?;
    Ok(View {
        features: features.index_select(&rows, 0)?,
        head,
        targets: scored.targets.clone(),
        inputs: scored.rows.iter().map(|&row| tokens[row as usize]).collect(),
    })
}

/// What gradients are multiplied by so that their norm is at most `clip` (0 or less: unchanged); the small constant
/// is PyTorch's.
fn clip_scale(clip: f64, norm: f64) -> f64 {
    if clip > 0.0 { (clip / (norm + 1e-6)).min(1.0) } else { 1.0 }
}
