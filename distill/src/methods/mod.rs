//! The methods that learn from a cache without a Recalibrator: one file and one line of the table each.
//!
//! | method | file | what it compares | pair |
//! |---|---|---|---|
//! | `kd` | [`kd`] | the two distributions of each answer token | same vocabulary |
//! | `uld` | [`uld`] | their probabilities in falling order | any |
//! | `multilevel_ot` | [`multilevel_ot`] | the same over a whole answer, and an optimal transport between its tokens | any |
//! | `alm` | [`alm`] | the likelihoods of pieces of text that both tokenizers cut alike | answers of the same text |
//! | `dskd` | [`dskd`] | distributions after learnt projections and an attention between the two token sequences | any |
//!
//! All take the place of the Recalibrator's loss in stage distill: the student's own cross entropy stays, the samples,
//! their order and the number of updates are those of `genrecal`'s stages distill and finetune, so that runs of equal
//! keys compare. The teacher's distributions come from its cached features through its cached head.

use candle_core::{Result, Tensor};
use shared::models::Model;

use crate::config::{AnswerRows, Method, RunConfig};
use crate::data::batch::AnswerPair;
use crate::data::source::Sample;
use crate::train::optim::Param;

pub mod alm;
mod check;
pub mod dskd;
pub mod kd;
pub mod multilevel_ot;
pub mod uld;

pub use check::check;

/// What one method's loss of a microbatch adds up to.
#[derive(Clone, Debug)]
pub struct MethodLoss {
    /// The weighted sum of the terms, differentiable, a scalar.
    pub loss: Tensor,
    /// Each term's name in the metrics, and its sum.
    pub terms: Vec<(&'static str, f64)>,
}

/// One model's side of a microbatch: all answer tokens of all samples, in order.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// The features that predict the tokens, (N, D).
    pub features: Tensor,
    /// The head, (V, D).
    pub head: &'a Tensor,
    /// The tokens, N.
    pub targets: Vec<u32>,
    /// The token at each feature, which stands before the predicted one, N.
    pub inputs: Vec<u32>,
}

/// A microbatch as both models see it.
#[derive(Clone, Debug)]
pub struct Views<'a> {
    /// The student's side, which may track gradients.
    pub student: View<'a>,
    /// The student's input embeddings, (V, D).
    pub embedding: &'a Tensor,
    /// The teacher's side.
    pub teacher: View<'a>,
    /// Which tokens of both sides are one answer.
    pub answers: &'a [AnswerPair],
}

/// What a method makes of a microbatch, and which pairs it can serve.
pub trait Distillation: Send {
    /// Units of a microbatch that the sums are divided by: the student's answer tokens, unless the method says otherwise.
    fn num_units(&self, answers: &[AnswerPair]) -> usize {
        answers.iter().map(|answer| answer.student.len()).sum()
    }

    /// The loss, summed over the microbatch.
    ///
    /// # Errors
    /// When a shape does not fit or the device fails.
    fn loss(&self, views: &Views) -> Result<MethodLoss>;

    /// Whether both models must have one vocabulary.
    fn needs_one_vocabulary(&self) -> bool {
        false
    }

    /// Weights of its own that train with the student, and are left behind.
    fn params(&self) -> Vec<Param> {
        Vec::new()
    }
}

/// The table: what a method's name stands for. `teacher_width` is the width of the cached features.
///
/// # Errors
/// When the device fails.
pub fn open(
    config: &RunConfig,
    model: &Model,
    teacher_width: usize,
) -> Result<Option<Box<dyn Distillation>>> {
    let temperature = config.loss.temperature;
    Ok(Some(match config.method {
        Method::Genrecal | Method::Sft => return Ok(None),
        Method::Kd => Box::new(kd::Kd::new(&config.kd, temperature)),
        Method::Uld => Box::new(uld::Uld::new(temperature)),
        Method::MultilevelOt => {
            Box::new(multilevel_ot::MultilevelOt::new(&config.multilevel_ot, temperature))
        }
        Method::Alm => Box::new(alm::Alm::new(&config.alm)),
        Method::Dskd => {
            let widths = (model.body.decoder().hidden_size, teacher_width);
            Box::new(dskd::Dskd::new(widths, &config.loss, config.seed, &model.device)?)
        }
    }))
}

/// Why a run cannot use a sample, if it cannot.
pub type Refusal = fn(&Sample) -> Option<String>;

/// What a run's method, or the answers that its Recalibrator sees, ask of each sample.
#[must_use]
pub fn refusal(config: &RunConfig) -> Refusal {
    match (config.method, config.recalibrator.answer) {
        (Method::Kd, _) => kd::refuses,
        // Scored where both models begin a token, which are the same places.
        (Method::Alm, _) | (Method::Genrecal, AnswerRows::Student) => alm::refuses,
        _ => |_| None,
    }
}

impl Views<'_> {
    /// Places (student, teacher) of the tokens that stand at the same place of an answer, as long as both go on.
    fn side_by_side(&self) -> (Vec<u32>, Vec<u32>) {
        let pairs = self.answers.iter().flat_map(|answer| answer.student.clone().zip(answer.teacher.clone()));
        pairs.map(|(student, teacher)| (student as u32, teacher as u32)).unzip()
    }
}

impl View<'_> {
    /// The features at these places.
    fn rows(&self, places: &[u32]) -> Result<Tensor> {
        self.features.index_select(&Tensor::new(places, self.features.device())?, 0)
    }
}
