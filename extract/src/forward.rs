//! The teacher at work: a packed batch in, the kept rows of its last-layer features out.

use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use shared::cache::{FeatureBlock, FeatureDtype};
use shared::models::{
    Encoded, Footprint, LoadOptions, Model, Moment, PackedBatch, download, generate_greedy,
};

use crate::head::{StoredHead, values};
use crate::passes::{Batch, Question};
use crate::sample::Prepared;

/// A loaded teacher.
pub struct Teacher {
    model: Model,
    dtype: FeatureDtype,
}

/// Where a teacher's weights are, and what it computes on.
#[derive(Clone, Copy)]
pub struct TeacherWeights<'a> {
    /// The checkout.
    pub dir: &'a Path,
    /// A GGUF file whose matrices take the place of the language model's.
    pub gguf: Option<&'a Path>,
    /// Where it runs.
    pub device: &'a Device,
    /// What its features are stored in.
    pub dtype: FeatureDtype,
}

impl TeacherWeights<'_> {
    /// A GPU computes in the type that is stored; a CPU in f32, because its 16-bit sums lose digits.
    fn options(&self) -> LoadOptions {
        let compute = if self.device.is_cpu() { DType::F32 } else { compute_dtype(self.dtype) };
        let gguf = self.gguf.map(Path::to_owned);
        LoadOptions { gguf, ..LoadOptions::frozen(self.device.clone(), compute) }
    }
}

impl Teacher {
    /// Loads the weights, frozen.
    ///
    /// # Errors
    /// When the checkpoint is incomplete, a GGUF file is not of its model, or they do not fit the device.
    pub fn load(weights: TeacherWeights<'_>) -> Result<Teacher> {
        let model = shared::models::load(weights.dir, &weights.options()).map_err(|error| {
            let is_full = error.to_string().contains("OUT_OF_MEMORY");
            let error = anyhow::Error::new(error);
            match is_full {
                true => error.context(
                    "the teacher's weights do not fit the device\nhint: `--memory-limit` reads its blocks as they are needed",
                ),
                false => error,
            }
        })?;
        Ok(Teacher { model, dtype: weights.dtype })
    }

    /// Leaves blocks and tables in the checkpoint, to be read whenever they are needed.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn stream(weights: TeacherWeights<'_>) -> Result<(Teacher, Footprint)> {
        let (model, footprint) = shared::models::load_streamed(weights.dir, &weights.options())?;
        Ok((Teacher { model, dtype: weights.dtype }, footprint))
    }

    /// The end of all that its device was asked for so far.
    ///
    /// # Errors
    /// When the device fails.
    pub fn now(&self) -> Result<Moment> {
        Ok(Moment::now(&self.model.device)?)
    }

    /// Starts the batches of a pass: `take` gets each with its features as soon as they are asked for, which a device may
    /// still be computing then, and says whether it wants more.
    ///
    /// # Errors
    /// When the device fails, most likely for lack of memory, and those of `take`.
    pub fn start(&self, pass: Vec<Batch>, mut take: impl FnMut(Started) -> Result<bool>) -> Result<()> {
        let tokens: usize = pass.iter().map(Batch::num_tokens).sum();
        let advice = |error: candle_core::Error| {
            // What the model advises itself is no matter of memory.
            let is_advised = error.to_string().contains("\nhint:");
            let hint = if is_advised { "" } else { "\nhint: lower `--max-tokens-per-batch`" };
            anyhow::Error::new(error).context(format!("the teacher failed on {tokens} tokens{hint}"))
        };
        let (packed, samples): (Vec<PackedBatch>, Vec<_>) =
            pass.into_iter().map(|batch| (batch.packed, batch.samples)).unzip();
        let mut begin = Some(self.now()?);
        let features = self.model.body.features_all(&packed).map_err(advice)?;
        let last = features.len().saturating_sub(1);
        for (i, (features, samples)) in features.into_iter().zip(samples).enumerate() {
            let dtype = compute_dtype(self.dtype);
            let features =
                features.to_dtype(dtype).and_then(|features| features.contiguous()).map_err(advice)?;
            let (begin, asked, is_last) = (begin.take(), self.now()?, i == last);
            if !take(Started { samples, features, dtype: self.dtype, begin, asked, is_last })? {
                break;
            }
        }
        Ok(())
    }

    /// Runs the batches of a pass through the teacher; `take` gets each with the features that its samples keep, in their
    /// positions' order, as they are stored, and says whether it wants more.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn features(
        &self,
        pass: Vec<Batch>,
        mut take: impl FnMut(Vec<Prepared>, Vec<FeatureBlock>) -> Result<bool>,
    ) -> Result<()> {
        self.start(pass, |started| {
            let blocks = started.blocks()?;
            take(started.samples, blocks)
        })
    }

    /// Tests that the stored features and the stored head together say what the model says: for a few samples, the token
    /// that `head x feature` prefers at the last question position is the one the model generates there. Features taken
    /// before the final norm, shifted by a position, or a head of another model do not pass.
    ///
    /// # Errors
    /// When they disagree by more than rounding, naming sample and tokens.
    pub fn self_test(
        &self,
        head: &StoredHead,
        questions: &[Question],
        samples: &[Prepared],
        features: &[FeatureBlock],
    ) -> Result<()> {
        let prompts: Vec<&Encoded> = questions.iter().map(|question| &question.encoded).collect();
        let answers = generate_greedy(&self.model, &prompts, 1, &[])?;
        for (question, answer) in questions.iter().zip(answers) {
            let (sample, block) = (&samples[question.sample], &features[question.sample]);
            let position = question.position;
            let Some(&live) = answer.first() else { continue };
            let Ok(row) = sample.positions().binary_search(&(position as u32)) else { continue };
            let row_bytes = block.width * block.dtype.size();
            let feature: Vec<f32> =
                values(&block.bytes[row * row_bytes..][..row_bytes], block.dtype).collect();
            compare(&head.logits(&feature), live, self.dtype).with_context(|| {
                format!("self-test failed on sample `{}` at token {position}", sample.key())
            })?;
        }
        Ok(())
    }
}

/// The type in which a device holds what is stored.
fn compute_dtype(stored: FeatureDtype) -> DType {
    match stored {
        FeatureDtype::F32 => DType::F32,
        FeatureDtype::Bf16 => DType::BF16,
        FeatureDtype::F16 => DType::F16,
    }
}

/// Samples whose features a device has been asked for.
pub struct Started {
    /// In the order in which the device has them.
    pub samples: Vec<Prepared>,
    /// The rows that they keep, in the order of their positions.
    features: Tensor,
    dtype: FeatureDtype,
    /// When the device begins the pass that they are the first of.
    pub begin: Option<Moment>,
    /// When it is done with all that it was asked for until the features were.
    pub asked: Moment,
    /// Whether they are the last of their pass.
    pub is_last: bool,
}

impl Started {
    /// Waits for the features and cuts them at sample boundaries, as they are stored.
    ///
    /// # Errors
    /// When the device fails.
    pub fn blocks(&self) -> Result<Vec<FeatureBlock>> {
        let counts: Vec<usize> = self.samples.iter().map(|sample| sample.positions().len()).collect();
        let (features, asked) = (&self.features, &self.asked);
        let width = features.dim(1)?;
        Ok(match self.dtype {
            FeatureDtype::F32 => {
                cut::<f32>(&download(features, asked)?, width, &counts, FeatureBlock::from_f32)
            }
            FeatureDtype::Bf16 => {
                cut::<bf16>(&download(features, asked)?, width, &counts, FeatureBlock::from_bf16)
            }
            FeatureDtype::F16 => {
                cut::<f16>(&download(features, asked)?, width, &counts, FeatureBlock::from_f16)
            }
        })
    }
}

/// Rows of `width` values, `counts` of them a sample.
fn cut<T>(
    mut values: &[T],
    width: usize,
    counts: &[usize],
    block: fn(usize, &[T]) -> FeatureBlock,
) -> Vec<FeatureBlock> {
    let cut = |count: &usize| {
        let (sample, rest) = values.split_at(count * width);
        values = rest;
        block(width, sample)
    };
    counts.iter().map(cut).collect()
}

/// Whether every value is a number: an f16 overflow or a broken weight must not reach a student.
pub fn is_finite(block: &FeatureBlock) -> bool {
    values(&block.bytes, block.dtype).all(f32::is_finite)
}

/// Two tokens whose logits differ by less than rounding may change places.
fn compare(logits: &[f64], live: u32, dtype: FeatureDtype) -> Result<()> {
    let tolerance = match dtype {
        FeatureDtype::F32 => 1e-3,
        FeatureDtype::F16 => 1e-2,
        FeatureDtype::Bf16 => 5e-2,
    };
    let best = logits.iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
    let Some((best, highest)) = best else { bail!("the stored head has no rows") };
    let got = logits.get(live as usize).copied().unwrap_or(f64::NEG_INFINITY);
    if highest - got > tolerance * highest.abs().max(1.0) {
        bail!(
            "the stored head prefers token {best} (logit {highest:.4}), the model says {live} (logit {got:.4} by the stored head)\n\
             hint: the checkpoint's files may belong to different models; if not, please report this, nothing was written"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    // A failed unwrap is a failed test.
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn rows_are_cut_at_sample_boundaries() {
        let values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let blocks = cut(&values, 2, &[1, 0, 2], FeatureBlock::from_f32);
        let expected = [&values[..2], &[], &values[2..]].map(|values| FeatureBlock::from_f32(2, values));
        assert_eq!(blocks, expected);
    }

    #[test]
    fn the_self_test_bears_rounding_and_nothing_else() {
        assert!(compare(&[0.0, 2.0, 1.999], 2, FeatureDtype::F32).is_ok());
        let error = compare(&[0.0, 2.0, 1.9], 2, FeatureDtype::F32).unwrap_err().to_string();
        assert!(error.contains("prefers token 1") && error.contains("says 2"), "{error}");
        assert!(compare(&[0.0, 2.0], 7, FeatureDtype::Bf16).is_err(), "a token beyond the head");
    }

    #[test]
    fn an_overflow_to_infinity_is_seen() {
        let block = FeatureBlock::from_f16(1, &[f16::from_f32(70_000.0)]);
        assert!(!is_finite(&block) && is_finite(&FeatureBlock::from_f32(1, &[70_000.0])));
    }
}
