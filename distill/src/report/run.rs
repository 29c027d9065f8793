//! What a report is made of: a run's metrics, its configuration, and evaluations.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::eval::{Prediction, Summary};

/// One line of `metrics.jsonl`: its stage, its step, and every number it has by name.
///
/// Read by name and not as the type that wrote it, so that a report can show runs of other versions.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Point {
    pub(crate) stage: String,
    pub(crate) step: f64,
    pub(crate) values: BTreeMap<String, f64>,
}

/// What a report shows of a run.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// The folder's name, with as many of the folders above it as tell the runs of a report apart.
    pub(crate) name: String,
    /// `config.toml` as it stands.
    pub(crate) config: String,
    pub(crate) points: Vec<Point>,
    /// The numbers of `summary.json` by name; none before the run has come to its end.
    pub(crate) summary: BTreeMap<String, f64>,
    pub(crate) evaluations: Vec<Evaluation>,
}

/// The results of one `distill eval`.
#[derive(Clone, Debug)]
pub(crate) struct Evaluation {
    /// The row's name in the table.
    pub(crate) name: String,
    pub(crate) summary: Summary,
    pub(crate) predictions: Vec<Prediction>,
}

impl Run {
    /// Reads the folders of several runs, whose names differ: where two end alike, the folders above come in front.
    pub(crate) fn open_all(dirs: &[PathBuf]) -> Result<Vec<Self>> {
        let paths: Vec<PathBuf> = dirs.iter().map(|dir| whole(dir)).collect();
        dirs.iter().zip(names(&paths)).map(|(dir, name)| Self::named(dir, name)).collect()
    }

    /// Reads a run's folder; evaluations in it (`eval*/summary.json`) come along.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        Self::named(dir, ending(&whole(dir), 1))
    }

    fn named(dir: &Path, name: String) -> Result<Self> {
        let path = dir.join("metrics.jsonl");
        if !path.is_file() {
            bail!(
                "`{}` has no metrics.jsonl\nhint: give the folder that `distill run --out` wrote",
                dir.display()
            );
        }
        let config = std::fs::read_to_string(dir.join("config.toml")).unwrap_or_default();
        let evaluations = evaluations_in(dir, &name)?;
        let summary = std::fs::read_to_string(dir.join("summary.json")).unwrap_or_default();
        let summary: BTreeMap<String, Value> = serde_json::from_str(&summary).unwrap_or_default();
        let summary = summary.into_iter().filter_map(|(name, value)| Some((name, value.as_f64()?))).collect();
        Ok(Self { name, config, points: read_points(&path)?, summary, evaluations })
    }

    /// One metric over the whole run: (step, value) where a line has it.
    pub(crate) fn line(&self, metric: &str) -> Vec<(f64, f64)> {
        self.points.iter().filter_map(|point| Some((point.step, *point.values.get(metric)?))).collect()
    }

    /// The stages with their first and last step, in order.
    pub(crate) fn stages(&self) -> Vec<(String, f64, f64)> {
        let mut stages: Vec<(String, f64, f64)> = Vec::new();
        for point in &self.points {
            match stages.last_mut().filter(|last| last.0 == point.stage) {
                Some(last) => last.2 = point.step,
                None => stages.push((point.stage.clone(), point.step, point.step)),
            }
        }
        stages
    }

    /// The last value of a metric, if it was ever logged.
    pub(crate) fn last(&self, metric: &str) -> Option<f64> {
        self.line(metric).last().map(|point| point.1)
    }
}

impl Evaluation {
    /// Reads a folder that `distill eval --out` wrote.
    pub(crate) fn open(dir: &Path, name: &str) -> Result<Self> {
        let path = dir.join("summary.json");
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!("no evaluation in `{}`\nhint: make one with `distill eval --out`", dir.display())
        })?;
        let summary = serde_json::from_str(&text).with_context(|| {
            format!(
                "`{}` is not a summary of `distill eval`\nhint: make the evaluation again",
                path.display()
            )
        })?;
        let path = dir.join("predictions.jsonl");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let lines = text.lines().enumerate().map(|(index, line)| {
            serde_json::from_str(line).with_context(|| format!("`{}` line {}", path.display(), index + 1))
        });
        Ok(Self { name: name.to_owned(), summary, predictions: lines.collect::<Result<_>>()? })
    }
}

/// The path without links and dots; as it is where nothing is there, which opening it will say.
fn whole(dir: &Path) -> PathBuf {
    dir.canonicalize().unwrap_or_else(|_| dir.to_owned())
}

/// The last `count` parts of a path, as a name.
fn ending(path: &Path, count: usize) -> String {
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).filter(|part| part != "/").collect();
    parts[parts.len().saturating_sub(count)..].join("/")
}

/// A name for each path: its last part, or as many parts as no other path ends in.
fn names(paths: &[PathBuf]) -> Vec<String> {
    let depth = paths.iter().map(|path| path.iter().count()).max().unwrap_or_default();
    let is_alone = |path: &Path, count: usize| {
        let name = ending(path, count);
        paths.iter().filter(|other| ending(other, count) == name).count() == 1
    };
    let name =
        |path: &PathBuf| ending(path, (1..depth).find(|&count| is_alone(path, count)).unwrap_or(depth));
    paths.iter().map(name).collect()
}

fn evaluations_in(dir: &Path, run: &str) -> Result<Vec<Evaluation>> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("cannot read `{}`", dir.display()))?;
    let mut folders: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    folders.retain(|path| path.join("summary.json").is_file());
    folders.sort();
    let named = |path: &PathBuf| {
        let folder = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = if folder == "eval" { run.to_owned() } else { format!("{run}, {folder}") };
        Evaluation::open(path, &name)
    };
    folders.iter().map(named).collect()
}

fn read_points(path: &Path) -> Result<Vec<Point>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let mut points = Vec::new();
    let num_lines = text.lines().count();
    for (index, line) in text.lines().enumerate() {
        match point(line) {
            Some(point) => points.push(point),
            // A run that is being written, or was killed, may end in half a line.
            None if index + 1 == num_lines => {}
            None => bail!(
                "`{}` line {} is not a step's metrics\nhint: take the line out, and the report has the others",
                path.display(),
                index + 1
            ),
        }
    }
    Ok(points)
}

fn point(line: &str) -> Option<Point> {
    let row: Value = serde_json::from_str(line).ok()?;
    let numbers = row.as_object()?.iter().filter_map(|(name, value)| Some((name.clone(), value.as_f64()?)));
    Some(Point {
        stage: row.get("stage")?.as_str()?.to_owned(),
        step: row.get("step")?.as_f64()?,
        values: numbers.collect(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn reads_stages_and_survives_half_a_last_line() {
        let folder = tempfile::tempdir().unwrap();
        let lines = concat!(
            "{\"stage\":\"align\",\"step\":1,\"loss\":2.0,\"ce_student\":null}\n",
            "{\"stage\":\"align\",\"step\":2,\"loss\":1.5,\"control_zeroed\":3.0}\n",
            "{\"stage\":\"distill\",\"step\":3,\"loss\":1.0}\n{\"stage\":\"dis"
        );
        std::fs::write(folder.path().join("metrics.jsonl"), lines).unwrap();
        let run = Run::open(folder.path()).unwrap();
        assert_eq!(run.line("loss"), [(1.0, 2.0), (2.0, 1.5), (3.0, 1.0)]);
        assert_eq!(run.line("control_zeroed"), [(2.0, 3.0)]);
        assert_eq!(run.last("ce_student"), None);
        let stages = run.stages();
        assert_eq!(stages, [("align".to_owned(), 1.0, 2.0), ("distill".to_owned(), 3.0, 3.0)]);
    }

    #[test]
    fn runs_of_one_name_are_told_apart_by_the_folders_above() {
        let named = |paths: &[&str]| names(&paths.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(named(&["/runs/genrecal", "/runs/sft"]), ["genrecal", "sft"]);
        assert_eq!(
            named(&["/a/x/seed-1", "/b/x/seed-1", "/b/seed-2"]),
            ["a/x/seed-1", "b/x/seed-1", "seed-2"]
        );
        assert_eq!(named(&["/a/x", "/a/x"]), ["a/x", "a/x"]);
        assert_eq!(named(&[]), [""; 0]);
    }

    #[test]
    fn a_broken_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("metrics.jsonl"), "nonsense\n{}\n").unwrap();
        let error = Run::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("line 1"), "{error}");
        let error = Run::open(Path::new("/nowhere")).unwrap_err().to_string();
        assert!(error.contains("hint:"), "{error}");
    }
}
