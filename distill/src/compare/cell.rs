//! One cell of the grid: a run of `distill run`, and its student's answers.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use shared::settings::overlay;
use toml::{Table, Value};

use super::config::{Asked, GridConfig, NamedStudent, NamedTeacher, Variant};
use crate::cli::UsageError;
use crate::config::RunConfig;
use crate::train::checkpoint::publish_file;
use crate::train::summary::{Summary, read_summary};

/// The folder of runs without a teacher.
const NO_TEACHER: &str = "no-teacher";

/// All cells, and the students as they came.
pub(super) struct Cells {
    /// The students first, then the cells: seed by seed, so that every row of the table fills up alike.
    pub(super) all: Vec<Cell>,
    /// The variant that gains are counted from.
    pub(super) baseline: String,
}

/// Where a cell stands in the grid.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Place {
    /// A student before any training.
    Before { student: String },
    /// A run; without a teacher where its method has none.
    Run { teacher: Option<String>, student: String, variant: String, seed: u64 },
}

/// What has to be done in one folder.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    pub(super) place: Place,
    pub(super) dir: PathBuf,
    /// The run's configuration; none for a student as it came.
    run: Option<Table>,
    /// The model that is asked.
    model: PathBuf,
    asked: Asked,
}

impl Cells {
    /// The cells of a grid, each with keys that `distill run` accepts.
    pub(super) fn of(config: &GridConfig) -> Result<Self> {
        let mut all: Vec<Cell> = config.students.iter().map(|student| before(config, student)).collect();
        for &seed in &config.seeds {
            for variant in &config.variants {
                all.extend(runs(config, variant, seed)?);
            }
        }
        Ok(Self { all, baseline: config.baseline().to_owned() })
    }
}

/// A variant's cells of one seed: with each of its teachers and students. A method that reads no features would learn
/// the same with any teacher; its samples are those of the first one's cache, so that it sees what the others see.
fn runs(config: &GridConfig, variant: &Variant, seed: u64) -> Result<Vec<Cell>> {
    let mut cells = Vec::new();
    for teacher in config.teachers.iter().filter(|it| variant.takes_teacher(&it.name)) {
        for student in config.students.iter().filter(|it| variant.takes_student(&it.name)) {
            cells.push(cell(config, teacher, student, variant, seed)?);
        }
        if cells.iter().any(|cell| matches!(cell.place, Place::Run { teacher: None, .. })) {
            break;
        }
    }
    Ok(cells)
}

fn before(config: &GridConfig, student: &NamedStudent) -> Cell {
    Cell {
        place: Place::Before { student: student.name.clone() },
        dir: config.cells().join("before").join(&student.name),
        run: None,
        model: student.path.clone(),
        asked: config.eval.clone(),
    }
}

fn cell(
    config: &GridConfig,
    teacher: &NamedTeacher,
    student: &NamedStudent,
    variant: &Variant,
    seed: u64,
) -> Result<Cell> {
    let text = |path: &Path| Value::String(path.to_string_lossy().into_owned());
    let mut keys = Table::try_from(RunConfig::default())?;
    overlay(&mut keys, config.run.clone());
    overlay(&mut keys, variant.keys.clone());
    let own = [("cache", text(&teacher.cache)), ("student", text(&student.path))];
    overlay(&mut keys, own.into_iter().map(|(key, value)| (key.to_owned(), value)).collect());
    keys.insert("seed".into(), Value::try_from(seed)?);
    // The folder follows from the method; until it is known, any name will do.
    keys.insert("out".into(), text(&config.cells()));
    let usage = |error: &dyn std::fmt::Display| {
        UsageError(format!("variant `{}` is no run: {}", variant.name, error.to_string().trim()))
    };
    let run: RunConfig = keys.clone().try_into().map_err(|error: toml::de::Error| usage(&error))?;
    run.validate().map_err(|error| usage(&error))?;
    let reads_features = run.stages().into_iter().any(|stage| run.method.reads_features(stage));
    let teacher = reads_features.then(|| teacher.name.clone());
    let names = [teacher.as_deref().unwrap_or(NO_TEACHER), &student.name, &variant.name];
    let dir = names.into_iter().fold(config.cells(), |dir, name| dir.join(name)).join(format!("seed-{seed}"));
    keys.insert("out".into(), text(&dir));
    let place = Place::Run { teacher, student: student.name.clone(), variant: variant.name.clone(), seed };
    Ok(Cell { place, model: dir.clone(), dir, run: Some(keys), asked: config.eval.clone() })
}

impl Cell {
    /// A name for people.
    pub(super) fn name(&self) -> String {
        match &self.place {
            Place::Before { student } => format!("{student} before training"),
            Place::Run { teacher: Some(teacher), student, variant, seed } => {
                format!("{teacher} -> {student}, {variant}, seed {seed}")
            }
            Place::Run { teacher: None, student, variant, seed } => {
                format!("{student}, {variant}, seed {seed}")
            }
        }
    }

    /// Where the answers are.
    pub(super) fn answers(&self) -> PathBuf {
        self.dir.join("eval")
    }

    /// Whether the answers to these questions are there.
    pub(super) fn is_done(&self) -> Result<bool> {
        let asked = fs::read_to_string(self.answers().join("asked.json")).unwrap_or_default();
        let summary = self.answers().join("summary.json");
        Ok(summary.is_file() && asked == serde_json::to_string_pretty(&self.asked)?)
    }

    /// The commands that are left, in order, with what they say in `log.txt`.
    pub(super) fn commands(&self) -> Result<Vec<Command>> {
        fs::create_dir_all(self.answers())
            .with_context(|| format!("cannot write `{}`", self.dir.display()))?;
        let mut commands = Vec::new();
        if let Some(run) = &self.run {
            let path = self.dir.join("cell.toml");
            publish_file(&path, toml::to_string(run)?.as_bytes())?;
            let mut command = self.program()?;
            command.arg("run").arg("--config").arg(path);
            commands.push(command);
        }
        // The old answers go before the new questions are noted: a folder never shows one with the other.
        let summary = self.answers().join("summary.json");
        if summary.exists() {
            fs::remove_file(&summary).with_context(|| format!("cannot replace `{}`", summary.display()))?;
        }
        publish_file(
            &self.answers().join("asked.json"),
            serde_json::to_string_pretty(&self.asked)?.as_bytes(),
        )?;
        let mut command = self.program()?;
        command.arg("eval").arg("--model").arg(&self.model).arg("--out").arg(self.answers());
        for source in &self.asked.data {
            command.arg("--data").arg(source);
        }
        if let Some(root) = &self.asked.image_root {
            command.arg("--image-root").arg(root);
        }
        if self.asked.prepend_image {
            command.arg("--prepend-image");
        }
        if let Some(limit) = self.asked.limit {
            command.arg("--limit").arg(limit.to_string());
        }
        command.arg("--metric").arg(self.asked.metric.to_string());
        command.arg("--max-new-tokens").arg(self.asked.max_new_tokens.to_string());
        if let Some(device) = self.run.as_ref().and_then(|run| run.get("device")?.as_str()) {
            command.arg("--device").arg(device);
        }
        commands.push(command);
        Ok(commands)
    }

    /// This program again, its words in the cell's log.
    fn program(&self) -> Result<Command> {
        let path = self.log();
        let log = File::options().create(true).append(true).open(&path);
        let log = log.with_context(|| format!("cannot write `{}`", path.display()))?;
        let mut command = Command::new(this_program()?);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(command)
    }

    fn log(&self) -> PathBuf {
        self.dir.join("log.txt")
    }

    /// The error that a failed command left, from its log.
    pub(super) fn complaint(&self) -> String {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let error = text.rfind("error: ").map_or(text.as_str(), |at| &text[at + "error: ".len()..]);
        format!("{}\n(the whole log: {})", error.trim(), self.log().display())
    }

    /// The most memory the run has held, once it is done.
    pub(super) fn peak_rss_bytes(&self) -> Option<u64> {
        self.run_summary().ok().flatten().map(|summary| summary.peak_rss_bytes)
    }

    /// What the run says of itself; none for a student as it came.
    pub(super) fn run_summary(&self) -> Result<Option<Summary>> {
        match &self.run {
            None => Ok(None),
            Some(_) => match read_summary(&self.dir)? {
                None => bail!("`{}` has no summary", self.dir.display()),
                summary => Ok(summary),
            },
        }
    }
}

/// Where this program lies; if it was replaced or removed since it began, as a build does in the middle of a long grid, the
/// system's own handle on it: all cells of a grid are run by one program.
fn this_program() -> Result<PathBuf> {
    let path = std::env::current_exe().context("cannot tell where this program lies")?;
    Ok(if path.exists() { path } else { PathBuf::from("/proc/self/exe") })
}
