//! A Recalibrator that stage align of another run left, for this run to begin with: `recalibrator.from`.
//!
//! It reads one teacher's features and one student's, so both runs must have the same teacher and head, the same shape of
//! Recalibrator and a student of the same sizes. The student's weights may differ, as after a finetuning; that is said.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use shared::ids::{Difference, Digest, Fingerprint};

use super::checkpoint::Tensors;
use super::run::{RECALIBRATOR, STAGES};
use crate::config::{RecalibratorConfig, StageName};
use crate::recalibrator::RecalibratorSpec;

/// The identity's field that says which weights a run's Recalibrator began with.
pub const FIELD: &str = "recalibrator.from";

/// What decides, besides the parameters' shapes, what a Recalibrator computes of which teacher's features.
const SHARED: [&str; 6] = [
    "cache fingerprint",
    "recalibrator.answer",
    "recalibrator.depth",
    "recalibrator.new_positions",
    "recalibrator.norm",
    "recalibrator.projection_bias",
];

/// So many differences show what is the matter.
const MOST_LINES: usize = 6;

/// What stage align of another run left.
#[derive(Debug)]
pub struct Aligned {
    run: PathBuf,
    /// The Recalibrator's weights.
    pub file: PathBuf,
    identity: Fingerprint,
    digest: Digest,
}

/// What is read of a stage's end.
#[derive(Deserialize)]
struct End {
    identity: Fingerprint,
}

impl Aligned {
    /// The Recalibrator that the configuration names, if it names one.
    ///
    /// # Errors
    /// When the run has no finished stage align.
    pub fn open(config: &RecalibratorConfig) -> Result<Option<Self>> {
        let Some(run) = &config.from else { return Ok(None) };
        let dir = run.join(STAGES).join(StageName::Align.as_str());
        let (end, file) = (dir.join("done.json"), dir.join(RECALIBRATOR));
        if !end.is_file() {
            bail!(
                "`recalibrator.from`: `{}` has no finished stage align\n\
                 hint: name the folder of a `distill run` that has come through it",
                run.display()
            );
        }
        let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read `{}`", path.display()));
        let End { identity } = serde_json::from_slice(&read(&end)?)
            .with_context(|| format!("`{}` is damaged", end.display()))?;
        let digest = Digest::of_file(&file).with_context(|| format!("cannot read `{}`", file.display()))?;
        Ok(Some(Self { run: run.clone(), file, identity, digest }))
    }

    /// Refuses a Recalibrator that is not one of this run's teacher and of its shape; says so where the student is another.
    ///
    /// # Errors
    /// Naming what differs.
    pub fn check(&self, here: &Fingerprint, spec: &RecalibratorSpec) -> Result<()> {
        let shared = |field: &str| SHARED.contains(&field);
        let (theirs, own) = (shapes(Tensors::open(&self.file)?.shapes()), shapes(spec.parameters()?));
        let mut differences = fields(&self.identity, shared).differences(&fields(here, shared));
        // Each parameter's shape follows from these keys and the student's sizes: a few show what is the matter.
        if differences.is_empty() {
            differences = theirs.differences(&own);
        }
        if !differences.is_empty() {
            bail!(
                "the Recalibrator of `{}` does not fit this run{}\n\
                 hint: it takes the same teacher's cache, `recalibrator` keys and sizes of the student; without \
                 `recalibrator.from` stage align makes one",
                self.run.display(),
                listed(&differences)
            );
        }
        let of_student = |field: &str| field.starts_with("student ");
        let differences = fields(&self.identity, of_student).differences(&fields(here, of_student));
        if !differences.is_empty() {
            let lines = listed(&differences);
            shared::say!(
                "the Recalibrator of `{}` was aligned with another student{lines}",
                self.run.display()
            );
        }
        Ok(())
    }

    /// What a run must keep of it: its weights, wherever they lie.
    pub fn identify(&self, identity: &mut Fingerprint) {
        identity.insert(FIELD, self.digest);
    }
}

fn fields(of: &Fingerprint, wanted: impl Fn(&str) -> bool) -> Fingerprint {
    let chosen = of.fields.iter().filter(|(field, _)| wanted(field));
    Fingerprint { fields: chosen.map(|(field, value)| (field.clone(), value.clone())).collect() }
}

/// Shapes by their parameters' names.
fn shapes(parameters: impl IntoIterator<Item = (String, Vec<usize>)>) -> Fingerprint {
    let shown = |(name, shape): (String, Vec<usize>)| (name, format!("{shape:?}"));
    Fingerprint { fields: parameters.into_iter().map(shown).collect() }
}

/// A line for each difference, up to a few.
fn listed(differences: &[Difference]) -> String {
    let shown = differences.iter().take(MOST_LINES);
    let lines: String = shown.map(|difference| format!("\n  {difference}")).collect();
    match differences.len().saturating_sub(MOST_LINES) {
        0 => lines,
        more => format!("{lines}\n  and {more} more"),
    }
}
