//! What quantised weights do to the teacher: its features beside those of the float weights, on the dataset's first samples.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rayon::prelude::*;
use shared::cache::{FeatureBlock, LossyError};
use shared::ids::Digest;

use crate::config::RunConfig;
use crate::forward::{Teacher, TeacherWeights};
use crate::head::values;
use crate::passes::Batch;
use crate::run::{TeacherFiles, open_dataset};
use crate::sample::{Prepared, identify, prepare};

/// Samples that both teachers run over, and the rows that are looked through for them.
const SAMPLES: usize = 16;
const ROWS: usize = 64;
/// Positions whose distributions are compared: a head of 150,000 tokens takes about a gigaflop for each.
const POSITIONS: usize = 128;

/// How far the quantised teacher is from the float one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GgufError {
    /// How many samples both teachers ran over.
    pub(crate) samples: usize,
    /// Norm of the difference of all features over the norm of the float teacher's.
    pub(crate) relative_l2: f64,
    /// Between the distributions that the head makes of them.
    pub(crate) through_head: LossyError,
}

impl GgufError {
    /// Runs the float teacher, then the quantised one.
    ///
    /// # Errors
    /// When a teacher cannot be loaded or run, or no row of the dataset's first can be used.
    pub(crate) fn measure(config: &RunConfig, files: &TeacherFiles) -> Result<GgufError> {
        let samples = first_samples(config, files)?;
        if samples.is_empty() {
            bail!(
                "none of the first {ROWS} rows can be used to measure what quantisation costs\nhint: run without the GGUF \
                 file to see in the quarantine why"
            );
        }
        let weights = files.weights(config);
        let float = features(TeacherWeights { gguf: None, ..weights }, &samples)?;
        let quantised = features(weights, &samples)?;
        Ok(Self::between(&float, &quantised, files, samples.len()))
    }

    fn between(
        float: &[FeatureBlock],
        quantised: &[FeatureBlock],
        files: &TeacherFiles,
        samples: usize,
    ) -> Self {
        let rows = |blocks: &[FeatureBlock]| -> Vec<Vec<f32>> {
            let row_bytes = |block: &FeatureBlock| block.width * block.dtype.size();
            let of_block = |block: &FeatureBlock| -> Vec<Vec<f32>> {
                let rows = block.bytes.chunks_exact(row_bytes(block));
                rows.map(|row| values(row, block.dtype).collect()).collect()
            };
            blocks.iter().flat_map(of_block).collect()
        };
        let (float, quantised) = (rows(float), rows(quantised));
        let squares = |difference: fn(f64, f64) -> f64| -> f64 {
            let pairs = float.iter().flatten().zip(quantised.iter().flatten());
            pairs.map(|(a, b)| difference(f64::from(*a), f64::from(*b)).powi(2)).sum()
        };
        let relative_l2 = (squares(|a, b| a - b) / squares(|a, _| a)).sqrt();
        let mut through_head = LossyError::default();
        let step = float.len().div_ceil(POSITIONS).max(1);
        for (float, quantised) in float.iter().zip(&quantised).step_by(step) {
            let error = LossyError::between(&files.head.logits(float), &files.head.logits(quantised));
            through_head.add(&error.unwrap_or_default());
        }
        Self { samples, relative_l2, through_head }
    }

    /// What the manifest says of it, beside which file it was.
    pub(crate) fn about(&self, path: &Path) -> [(String, String); 3] {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        [
            ("gguf".to_owned(), name),
            ("gguf_relative_l2".to_owned(), format!("{:.3e}", self.relative_l2)),
            ("gguf_through_head".to_owned(), self.through_head.to_string()),
        ]
    }
}

impl fmt::Display for GgufError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "features of {} samples differ from the float teacher's by {:.2e} (relative L2); {}",
            self.samples, self.relative_l2, self.through_head
        )
    }
}

/// The digest of the file, for the fingerprint: features of other weights are other features.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn digest(path: &Path) -> Result<Digest> {
    Digest::of_file(path).with_context(|| {
        format!("cannot read `{}`\nhint: give a GGUF file of the teacher's language model", path.display())
    })
}

/// What the teacher makes of each sample, block by block: the float one may be larger than memory.
fn features(weights: TeacherWeights<'_>, samples: &[Prepared]) -> Result<Vec<FeatureBlock>> {
    let (teacher, _) = Teacher::stream(weights)?;
    let pass = samples.iter().map(|sample| Batch::pack(vec![sample.clone()])).collect();
    let mut all = Vec::with_capacity(samples.len());
    teacher.features(pass, |_, blocks| {
        all.extend(blocks);
        Ok(true)
    })?;
    Ok(all)
}

fn first_samples(config: &RunConfig, files: &TeacherFiles) -> Result<Vec<Prepared>> {
    let rows = open_dataset(config)?.take(ROWS).collect::<Result<Vec<_>, _>>()?;
    let keep = config.settings.features.keep;
    let prepared: Vec<Option<Prepared>> = rows
        .into_par_iter()
        .map(|row| {
            prepare(identify(row.ok()?).ok()?, &files.processor, files.limits(config), keep, false).ok()
        })
        .collect();
    Ok(prepared.into_iter().flatten().take(SAMPLES).collect())
}
