//! Counts answers and writes them down: `predictions.jsonl`, what others grade, and at last `summary.json`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};
use shared::memory::peak_rss_bytes;

use super::benchmarks::submitted_as;
use super::{EvalOptions, Prediction, Progress, Score, Summary, interval};

/// Counts and writes.
pub(super) struct Tally {
    file: BufWriter<File>,
    path: PathBuf,
    /// Rows that were evaluated.
    pub(super) samples: usize,
    quarantined: usize,
    /// Tokens of all questions and answers.
    pub(super) tokens: usize,
    /// Tokens of all answers.
    pub(super) generated_tokens: usize,
    /// All questions that are graded here.
    pub(super) score: Score,
    outcomes: Vec<bool>,
    /// The answers that are graded elsewhere by their rows' ids, file by file: ids are a file's own.
    submissions: Vec<(String, Map<String, Value>)>,
    by_type: BTreeMap<String, Score>,
}

impl Tally {
    pub(super) fn new(options: &EvalOptions) -> Result<Self> {
        // An earlier evaluation's ends go first: a folder never shows one with the other's predictions.
        for name in ["summary.json", "submission.json"] {
            let path = options.out.join(name);
            if path.exists() {
                fs::remove_file(&path).with_context(|| format!("cannot replace `{}`", path.display()))?;
            }
        }
        let path = options.out.join("predictions.jsonl");
        let file = File::create(&path).with_context(|| format!("cannot write `{}`", path.display()))?;
        Ok(Self {
            file: BufWriter::new(file),
            path,
            samples: 0,
            quarantined: 0,
            tokens: 0,
            generated_tokens: 0,
            score: Score::default(),
            outcomes: Vec::new(),
            submissions: Vec::new(),
            by_type: BTreeMap::new(),
        })
    }

    pub(super) fn set_aside(&mut self, reason: &str, progress: &mut dyn FnMut(&Progress)) {
        self.quarantined += 1;
        progress(&Progress::Quarantined(reason));
    }

    pub(super) fn add(&mut self, prediction: Prediction, is_graded: bool) -> Result<()> {
        if is_graded {
            self.score.add(prediction.correct);
            self.outcomes.push(prediction.correct);
            if let Some(kind) = &prediction.kind {
                self.by_type.entry(kind.clone()).or_default().add(prediction.correct);
            }
        } else {
            self.submit(&prediction);
        }
        let line = serde_json::to_string(&prediction)?;
        writeln!(self.file, "{line}").with_context(|| format!("cannot write `{}`", self.path.display()))
    }

    fn submit(&mut self, prediction: &Prediction) {
        let id = submitted_as(prediction.id.as_deref(), prediction.row);
        let answer = Value::from(prediction.prediction.clone());
        match self.submissions.iter_mut().find(|(source, _)| *source == prediction.source) {
            Some((_, answers)) => drop(answers.insert(id, answer)),
            None => self.submissions.push((prediction.source.clone(), Map::from_iter([(id, answer)]))),
        }
    }

    /// Writes what is handed in: one file, or one for each file of questions.
    fn write_submissions(&self, out: &Path) -> Result<Vec<String>> {
        let sources: Vec<&Path> = self.submissions.iter().map(|(source, _)| Path::new(source)).collect();
        let names = submission_names(&sources);
        for (name, (_, answers)) in names.iter().zip(&self.submissions) {
            let path = out.join(name);
            let text = serde_json::to_string_pretty(answers)? + "\n";
            fs::write(&path, text).with_context(|| format!("cannot write `{}`", path.display()))?;
        }
        Ok(names)
    }

    pub(super) fn finish(mut self, options: &EvalOptions, seconds: f64) -> Result<Summary> {
        if self.score.questions == 0 && self.submissions.is_empty() {
            bail!(
                "no question could be asked: {} rows were set aside\nhint: see the reasons above",
                self.quarantined
            );
        }
        self.file.flush().with_context(|| format!("cannot write `{}`", self.path.display()))?;
        let submissions = self.write_submissions(&options.out)?;
        // A kind a question is no grouping but an id.
        let grouped = self.by_type.len() <= 1 + self.score.questions / 4;
        let summary = Summary {
            model: options.model.display().to_string(),
            data: options.sources.clone(),
            metric: options.metric,
            samples: self.samples,
            quarantined: self.quarantined,
            score: self.score,
            interval: interval(&self.outcomes),
            submitted: self.submissions.iter().map(|(_, answers)| answers.len()).sum(),
            submissions,
            by_type: if grouped { self.by_type } else { BTreeMap::new() },
            generated_tokens: self.generated_tokens,
            seconds,
            tokens_per_second: self.tokens as f64 / seconds.max(1e-9),
            peak_rss_bytes: peak_rss_bytes().unwrap_or(0),
        };
        let path = options.out.join("summary.json");
        let text = serde_json::to_string_pretty(&summary)? + "\n";
        fs::write(&path, text).with_context(|| format!("cannot write `{}`", path.display()))?;
        Ok(summary)
    }
}

/// `submission.json` where all answers are of one file; else a name for each from its file's, numbered where two are called alike.
fn submission_names(sources: &[&Path]) -> Vec<String> {
    let stem = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let name = |(place, source): (usize, &&Path)| {
        let earlier = sources[..place].iter().filter(|other| stem(other) == stem(source)).count();
        let number = if earlier > 0 { format!("-{}", earlier + 1) } else { String::new() };
        format!("submission-{}{number}.json", stem(source))
    };
    match sources.len() {
        0 | 1 => sources.iter().map(|_| "submission.json".to_owned()).collect(),
        _ => sources.iter().enumerate().map(name).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_of_several_has_a_submission_of_its_own() {
        let names = |paths: &[&str]| submission_names(&paths.iter().map(Path::new).collect::<Vec<_>>());
        assert_eq!(names(&[]), [""; 0]);
        assert_eq!(names(&["a/test.json"]), ["submission.json"]);
        assert_eq!(
            names(&["a/test.json", "b/dev.tsv", "b/test.json"]),
            ["submission-test.json", "submission-dev.json", "submission-test-2.json"]
        );
    }
}
