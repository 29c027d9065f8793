//! The teacher's side of a step: the Recalibrator, and the teacher's head from the cache. No other teacher weights.

use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;
use shared::cache::CacheReader;
use shared::models::{Checkpoint, Model, config_of};

use super::optim::Param;
use super::terms::PairSums;
use crate::config::{AnswerRows, RecalibratorConfig, RecalibratorInit};
use crate::data::batch::TeacherRows;
use crate::data::mixture::Caches;
use crate::losses::{HEAD, HeadLossOptions, HeadWeight, MappedHead, head_loss, squared_error};
use crate::recalibrator::{Init, Plan, Recalibrator, RecalibratorSpec};

/// What the Recalibrator sees of the student's question: itself, or a leakage control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuestionFeatures {
    /// The sample's own.
    AsIs,
    /// Another sample's of the microbatch.
    Shuffled,
    /// Zeros in their place.
    Zeroed,
}

/// How a stage's Recalibrator begins.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// What an earlier stage left, here or in another run; a new one where there was none.
    pub file: Option<&'a Path>,
    /// Whether it trains.
    pub trains: bool,
    /// Whether the stage has A2, which reads the teacher's rows.
    pub regularisation: bool,
    /// Seed of fresh weights.
    pub seed: u64,
    /// The student's checkout, for blocks copied from it.
    pub student: &'a Path,
}

/// The teacher's head (V, D), frozen: where it lies in the cache, or on a GPU.
enum Head {
    Mapped(MappedHead),
    Loaded(Tensor),
}

/// Recalibrator and teacher's head.
pub struct TeacherSide {
    /// The Recalibrator, trainable or frozen.
    pub recalibrator: Recalibrator,
    answer: AnswerRows,
    trains: bool,
    /// Whether rows of the teacher's width go in, through `proj_pre`.
    reads_teacher: bool,
    head: Head,
    device: Device,
    dtype: DType,
}

impl TeacherSide {
    /// The Recalibrator between this student and the cache's teacher, and the teacher's head.
    ///
    /// # Errors
    /// When the cache's head does not fit its features, or an earlier stage's file does not fit.
    pub fn open(
        config: &RecalibratorConfig,
        cache: &CacheReader,
        model: &Model,
        start: &Start,
    ) -> Result<Self> {
        let spec = config.spec(model.body.decoder(), cache.width());
        let recalibrator = match (start.file, config.init) {
            (Some(file), _) => Recalibrator::load(&spec, file, &model.device)
                .with_context(|| format!("{} does not fit", file.display()))?,
            (None, RecalibratorInit::Fresh) => {
                Recalibrator::new(&spec, Init::Fresh, start.seed, &model.device)?
            }
            (None, RecalibratorInit::Copy) => copy_of_student(&spec, start, model)?,
        };
        let recalibrator = if start.trains { recalibrator } else { recalibrator.frozen()? };
        let (device, dtype) = (model.device.clone(), model.dtype);
        let head = match device.is_cpu() && dtype == DType::F32 {
            true => {
                check_head(cache)?;
                Head::Mapped(MappedHead::open(&cache.dir().join("head.safetensors"))?)
            }
            false => Head::Loaded(teacher_head(cache, &device, dtype)?),
        };
        let reads_teacher = start.regularisation || config.answer != AnswerRows::Student;
        Ok(Self {
            recalibrator,
            answer: config.answer,
            trains: start.trains,
            reads_teacher,
            head,
            device,
            dtype,
        })
    }

    /// What trains, under the names of a run.
    #[must_use]
    pub fn params(&self) -> Vec<Param> {
        let is_read = |name: &str| self.reads_teacher || !name.starts_with("proj_pre.");
        let vars = self.recalibrator.vars().iter().filter(|(name, _)| self.trains && is_read(name));
        vars.map(|(name, var)| Param { name: format!("recalibrator.{name}"), var: var.clone() }).collect()
    }

    /// Whether the Recalibrator sees the student's features of answers, not the teacher's.
    #[must_use]
    pub fn sees_student_answers(&self) -> bool {
        self.answer == AnswerRows::Student
    }

    /// A1: the teacher's predictions of its answers from the student's questions and the teacher's answers.
    /// `features` (T, D) are the student's. Returns the weighted sum over scored tokens and its two parts.
    ///
    /// # Errors
    /// When a shape does not fit or the device fails.
    pub fn alignment(
        &self,
        features: &Tensor,
        rows: &TeacherRows,
        questions: QuestionFeatures,
        weights: &HeadLossOptions,
    ) -> Result<(Tensor, PairSums)> {
        let features = match questions {
            QuestionFeatures::AsIs => features.clone(),
            QuestionFeatures::Shuffled => {
                features.index_select(&Tensor::new(rows.shuffled.as_slice(), features.device())?, 0)?
            }
            QuestionFeatures::Zeroed => features.zeros_like()?,
        };
        self.score(Some(&features), rows, &rows.alignment, weights)
    }

    /// A2: the same predictions from the teacher's own features of every token.
    ///
    /// # Errors
    /// When a shape does not fit or the device fails.
    pub fn regularisation(
        &self,
        rows: &TeacherRows,
        weights: &HeadLossOptions,
    ) -> Result<(Tensor, PairSums)> {
        self.score(None, rows, &rows.regularisation, weights)
    }

    /// In place of A2, the squared error between what comes out for the teacher's own features and what the head is given by
    /// the teacher: summed over scored tokens.
    ///
    /// # Errors
    /// When a shape does not fit or the device fails.
    pub fn squared_error(&self, rows: &TeacherRows) -> Result<Tensor> {
        let [r, teacher] = self.recalibrated(None, rows, &rows.regularisation)?;
        Ok(squared_error(&r, &teacher)?)
    }

    /// The Recalibrator's features of the scored rows, and the teacher's of the same tokens, (scored, d_l) each.
    fn recalibrated(&self, student: Option<&Tensor>, rows: &TeacherRows, plan: &Plan) -> Result<[Tensor; 2]> {
        let teacher = rows.tensor(&self.device, self.dtype)?;
        let r = match self.answer {
            AnswerRows::Features | AnswerRows::Student => {
                self.recalibrator.forward(student, &teacher, plan)?
            }
            AnswerRows::Tokens => {
                self.recalibrator.forward(student, &self.with_tokens(&teacher, rows)?, plan)?
            }
        };
        let scored = Tensor::new(plan.teacher_rows.as_slice(), &self.device)?;
        Ok([r, teacher.index_select(&scored, 0)?])
    }

    /// The teacher's features (rows, d_l) with the answers' replaced by their tokens' rows of the head, each scaled to a mean
    /// square of 1, which is about what features behind a norm have.
    fn with_tokens(&self, teacher: &Tensor, rows: &TeacherRows) -> Result<Tensor> {
        let answers: Vec<usize> = rows.answer_rows.iter().cloned().flatten().collect();
        let tokens: Vec<u32> = answers.iter().map(|&row| rows.tokens[row]).collect();
        let of_head = match &self.head {
            Head::Mapped(head) => head.rows(&tokens)?,
            Head::Loaded(head) => head.index_select(&Tensor::new(tokens, &self.device)?, 0)?,
        };
        let mean_square = of_head.to_dtype(DType::F32)?.sqr()?.mean_keepdim(1)?;
        let scale = (mean_square + 1e-12)?.sqrt()?.recip()?.to_dtype(self.dtype)?;
        let of_head = of_head.broadcast_mul(&scale)?;
        let num_rows = teacher.dim(0)?;
        let mut order: Vec<u32> = (0..num_rows as u32).collect();
        for (index, row) in answers.into_iter().enumerate() {
            order[row] = (num_rows + index) as u32;
        }
        Ok(Tensor::cat(&[teacher, &of_head], 0)?.index_select(&Tensor::new(order, &self.device)?, 0)?)
    }

    fn score(
        &self,
        student: Option<&Tensor>,
        rows: &TeacherRows,
        plan: &Plan,
        weights: &HeadLossOptions,
    ) -> Result<(Tensor, PairSums)> {
        let [r, teacher] = self.recalibrated(student, rows, plan)?;
        let head = match &self.head {
            Head::Mapped(head) => HeadWeight::Mapped(head),
            Head::Loaded(head) => HeadWeight::Tensor(head),
        };
        let output = head_loss(&r, head, &rows.targets(plan), Some(&teacher), weights)?;
        Ok((output.loss, PairSums { ce: output.ce, kl: output.kl }))
    }
}

/// Blocks that begin as the student's last ones.
fn copy_of_student(spec: &RecalibratorSpec, start: &Start, model: &Model) -> Result<Recalibrator> {
    let family = config_of(start.student)?.family;
    let checkpoint = Checkpoint::open(start.student, family)?;
    let num_layers = spec.decoder.num_layers;
    if num_layers < spec.num_blocks {
        bail!(
            "`recalibrator.depth` is {}, the student has {num_layers} blocks to copy\nhint: `recalibrator.init=fresh`",
            spec.num_blocks
        );
    }
    let get = |from_last: usize, name: &str| {
        let suffix = format!("model.layers.{}.{name}", num_layers - 1 - from_last);
        let entry = checkpoint.entries().iter().find(|(stored, _)| stored.ends_with(&suffix));
        let Some((_, entry)) = entry else { candle_core::bail!("the student has no `{suffix}`") };
        checkpoint.tensor(entry, DType::F32, &Device::Cpu)
    };
    Ok(Recalibrator::new(spec, Init::Student(&get), start.seed, &model.device)?)
}

/// The teacher's head (V, D) from the cache, in the compute type.
///
/// # Errors
/// When it is missing or does not fit the features.
pub fn teacher_head(cache: &CacheReader, device: &Device, dtype: DType) -> Result<Tensor> {
    let stored = check_head(cache)?;
    let tensors = cache.head().tensors()?;
    let head = tensors.tensor(HEAD)?;
    Ok(Tensor::from_raw_buffer(head.data(), stored, head.shape(), device)?.to_dtype(dtype)?)
}

/// Refuses a head that does not fit the cache's features; its stored type.
fn check_head(cache: &CacheReader) -> Result<DType> {
    let tensors = cache.head().tensors()?;
    let head = tensors.tensor(HEAD).with_context(|| format!("the cache's head has no `{HEAD}`"))?;
    let stored = match head.dtype() {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        other => bail!("the cache's head is stored as {other:?}"),
    };
    if head.shape().len() != 2 || head.shape()[1] != cache.width() {
        bail!(
            "the cache's head is {:?}, its features have width {}\nhint: `extract verify` the cache",
            head.shape(),
            cache.width()
        );
    }
    Ok(stored)
}

/// Refuses caches that cannot serve the regularisation loss.
///
/// # Errors
/// When no sample has features of all its tokens.
pub fn require_all_tokens(caches: &Caches) -> Result<()> {
    let complete = |cache: &CacheReader, row| cache.num_positions(row) == cache.num_tokens(row);
    let readers = caches.readers();
    if readers.iter().any(|cache| (0..cache.len()).any(|row| complete(cache, row))) {
        return Ok(());
    }
    let names: Vec<String> = readers.iter().map(|cache| cache.dir().display().to_string()).collect();
    bail!(
        "stage align's regularisation needs the teacher's features of all tokens, and no sample of {} has them\n\
         hint: `extract run --features all`, or --set align.regularisation=false",
        names.join(", ")
    )
}
