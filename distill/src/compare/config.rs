//! The keys of a grid.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use toml::Table;

use crate::cli::UsageError;
use shared::agreement::Metric;

/// A teacher: the cache of its features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedTeacher {
    /// Its name in the tables and folders.
    pub name: String,
    /// Made by `extract run`.
    pub cache: PathBuf,
}

/// A student of the grid, as it is before training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedStudent {
    /// Its name in the tables and folders.
    pub name: String,
    /// The checkout it begins from.
    pub path: PathBuf,
}

/// A method with its keys: whatever `distill run` takes, laid over those of `[run]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Variant {
    /// Its name in the tables and folders.
    pub name: String,
    /// The teachers it is run with; all when absent. A method without a teacher is run once, whatever their number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teachers: Option<Vec<String>>,
    /// The students it is run on; all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub students: Option<Vec<String>>,
    /// Keys of `distill run`: `method = "uld"`, `loss.kl = 0`.
    #[serde(flatten)]
    pub keys: Table,
}

/// What every student is asked, as the options of `distill eval`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// Datasets with reference answers, as `distill eval --data` takes them.
    pub data: Vec<String>,
    /// The folder that image paths are relative to.
    pub image_root: Option<PathBuf>,
    /// Put image placeholders in front where the data has images but no placeholders.
    pub prepend_image: bool,
    /// When an answer is right.
    pub metric: Metric,
    /// An answer has at most so many tokens.
    pub max_new_tokens: usize,
    /// Only the first rows.
    pub limit: Option<usize>,
}

/// Everything that decides a grid, as its TOML file says it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GridConfig {
    /// The folder of all runs and of the tables.
    #[serde(default)]
    pub out: PathBuf,
    /// The folder of the runs, when not `OUT/cells`: grids that share it share the runs whose names and keys are equal.
    pub cells: Option<PathBuf>,
    /// The heading of the page.
    pub title: String,
    /// Each cell once a seed.
    pub seeds: Vec<u64>,
    /// Cells at once, at most: fewer where the first one's memory says that so many do not fit.
    pub jobs: usize,
    /// The variant that the others' gains are counted from; the first when absent.
    pub baseline: Option<String>,
    /// Teachers by name, each the cache of its features.
    pub teachers: Vec<NamedTeacher>,
    /// Students by name, as they are before training.
    pub students: Vec<NamedStudent>,
    /// The methods, or one method with other keys.
    pub variants: Vec<Variant>,
    /// Keys of `distill run` that all cells have.
    pub run: Table,
    /// What all students are asked.
    pub eval: Asked,
}

impl Default for GridConfig {
    fn default() -> Self {
        Self {
            out: PathBuf::new(),
            cells: None,
            title: "Methods compared".into(),
            seeds: vec![0, 1, 2],
            jobs: 1,
            baseline: None,
            teachers: Vec::new(),
            students: Vec::new(),
            variants: Vec::new(),
            run: Table::new(),
            eval: Asked {
                data: Vec::new(),
                image_root: None,
                prepend_image: false,
                metric: Metric::Auto,
                max_new_tokens: 64,
                limit: None,
            },
        }
    }
}

impl GridConfig {
    /// Refuses a grid that has no cells, or whose cells could not be told apart.
    ///
    /// # Errors
    /// A [`UsageError`] that names the key.
    pub fn validate(&self) -> Result<()> {
        let usage = |text: String| -> Result<()> { Err(UsageError(text).into()) };
        if self.out.as_os_str().is_empty() {
            return usage("no output folder given\nhint: `out = \"DIR\"` in the grid, or --out DIR".into());
        }
        if self.jobs == 0 {
            return usage("`jobs` must be at least 1".into());
        }
        let lists = [
            ("teachers", names(&self.teachers, |it| &it.name), "name and cache"),
            ("students", names(&self.students, |it| &it.name), "name and path"),
            ("variants", names(&self.variants, |it| &it.name), "name and keys of `distill run`"),
        ];
        for (key, names, fields) in lists {
            if names.is_empty() {
                return usage(format!("the grid has no {key}\nhint: `[[{key}]]` with {fields}"));
            }
            for name in &names {
                let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
                if !name.chars().all(is_plain) || name.trim_matches('.').is_empty() {
                    return usage(format!(
                        "the name `{name}` of `{key}` cannot name a folder\nhint: letters, digits, - _ ."
                    ));
                }
            }
            if names.iter().collect::<BTreeSet<_>>().len() < names.len() {
                return usage(format!("two of `{key}` have one name"));
            }
        }
        for variant in &self.variants {
            let known = [
                ("teachers", &variant.teachers, names(&self.teachers, |it| &it.name)),
                ("students", &variant.students, names(&self.students, |it| &it.name)),
            ];
            for (key, chosen, known) in known {
                if let Some(name) = chosen.iter().flatten().find(|name| !known.contains(name)) {
                    return usage(format!(
                        "variant `{}` names `{name}`, which is none of `{key}`",
                        variant.name
                    ));
                }
            }
        }
        if self.seeds.is_empty() || self.seeds.iter().collect::<BTreeSet<_>>().len() < self.seeds.len() {
            return usage("`seeds` must name at least one seed, and none twice".into());
        }
        if self.eval.data.is_empty() {
            return usage("the students are asked nothing\nhint: `eval.data = [\"test.json\"]`".into());
        }
        if let Some(name) = &self.baseline
            && !self.variants.iter().any(|it| it.name == *name)
        {
            return usage(format!("`baseline` names `{name}`, which is no variant"));
        }
        Ok(())
    }

    /// The folder of all runs.
    pub(super) fn cells(&self) -> PathBuf {
        self.cells.clone().unwrap_or_else(|| self.out.join("cells"))
    }

    /// The variant that gains are counted from.
    pub(super) fn baseline(&self) -> &str {
        let first = || self.variants.first().map_or("", |it| it.name.as_str());
        self.baseline.as_deref().unwrap_or_else(first)
    }
}

impl Variant {
    /// Whether it is run with this teacher.
    pub(super) fn takes_teacher(&self, name: &str) -> bool {
        self.teachers.as_ref().is_none_or(|names| names.iter().any(|it| it == name))
    }

    /// Whether it is run on this student.
    pub(super) fn takes_student(&self, name: &str) -> bool {
        self.students.as_ref().is_none_or(|names| names.iter().any(|it| it == name))
    }
}

fn names<T>(list: &[T], name: fn(&T) -> &String) -> Vec<&String> {
    list.iter().map(name).collect()
}
