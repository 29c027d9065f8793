//! The keys of the Recalibrator.

use std::path::PathBuf;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use shared::models::DecoderConfig;

use super::at_least_zero;
use crate::cli::UsageError;
use crate::recalibrator::{NormPlace, RecalibratorSpec};

/// The Recalibrator's shape; its width, heads and feed-forward are the student decoder's own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecalibratorConfig {
    /// A run whose stage align has made the Recalibrator that this run begins with; a new one when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
    /// Number of decoder blocks; the paper uses 2.
    pub depth: usize,
    /// `fresh`, or `copy` the student's last blocks.
    pub init: RecalibratorInit,
    /// Standard deviation of fresh weights.
    pub init_std: f64,
    /// Positions 0..n-1 over the joint sequence, as in the paper; else each row keeps its own.
    pub new_positions: bool,
    /// Biases on the two projections.
    pub projection_bias: bool,
    /// Where the LayerNorm stands: `after` the projection to the teacher's width, `before` it, or `none`.
    pub norm: NormPlace,
    /// What it sees of the answer: the teacher's `features`, as in the paper, the teacher's `tokens`, or the `student`'s features.
    pub answer: AnswerRows,
}

impl Default for RecalibratorConfig {
    fn default() -> Self {
        Self {
            from: None,
            depth: 2,
            init: RecalibratorInit::Fresh,
            init_std: 0.02,
            new_positions: true,
            projection_bias: false,
            norm: NormPlace::After,
            answer: AnswerRows::Features,
        }
    }
}

impl RecalibratorConfig {
    /// The Recalibrator between a student with this decoder and a teacher whose features have this width.
    #[must_use]
    pub fn spec(&self, decoder: &DecoderConfig, teacher_width: usize) -> RecalibratorSpec {
        RecalibratorSpec {
            num_blocks: self.depth,
            new_positions: self.new_positions,
            projection_bias: self.projection_bias,
            init_std: self.init_std,
            norm: self.norm,
            ..RecalibratorSpec::new(decoder.clone(), teacher_width)
        }
    }

    /// Refuses a shape or a beginning that cannot be.
    pub(super) fn validate(&self) -> Result<()> {
        if self.depth == 0 {
            return Err(UsageError("`recalibrator.depth` must be at least 1".into()).into());
        }
        if self.from.is_some() && self.init == RecalibratorInit::Copy {
            let both = "both `recalibrator.from` and `recalibrator.init=copy` say how the Recalibrator begins\n\
                        hint: leave one away";
            return Err(UsageError(both.into()).into());
        }
        at_least_zero("recalibrator", &[("init_std", self.init_std)])
    }
}

/// What the Recalibrator sees of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AnswerRows {
    /// The teacher's features, which know the image and the question, and what comes next.
    Features,
    /// The teacher's tokens alone, as rows of its head: whatever else the prediction needs has to come from the student's question.
    Tokens,
    /// The student's features of it, in its own tokens, so that all of the prediction comes from the student. It is scored where
    /// a token of the teacher and one of the student begin at the same character.
    Student,
}

/// How the Recalibrator's blocks begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecalibratorInit {
    /// Random weights from the run's seed.
    Fresh,
    /// The student's last blocks.
    Copy,
}
