//! One TOML a run, or several laid over each other. Three layers, the later over the earlier: the files, `--set a.b=c`,
//! what was typed as a flag.
//!
//! Both programs describe a run as a serde struct of tables; this module only merges. What a key means, and its
//! default, stands on the struct that obeys it. A key that no struct knows is an error (`deny_unknown_fields`
//! there), so a misspelt one never passes for its default.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::{Table, Value};

/// Why the settings of a run cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file is not readable.
    #[error("cannot read the configuration `{}`: {source}\nhint: `--config` takes a TOML file", path.display())]
    Unreadable {
        /// The file as given.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("`{}` is not valid TOML: {reason}\nhint: sections are `[name]`, settings `key = value`, text in quotes", path.display())]
    Syntax {
        /// The file as given.
        path: PathBuf,
        /// What the parser said, with line and column.
        reason: String,
    },
    /// `--set` without `=`, or through a key that is not a table.
    #[error("`--set {text}` does not name a setting: {reason}\nhint: write it as `--set section.key=value`")]
    Set {
        /// The text as typed.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An unknown key, or a value of the wrong type.
    #[error("{reason}\nhint: `--help` lists the settings and what each takes")]
    Value {
        /// What serde said, naming the key.
        reason: String,
    },
}

/// Merges the layers and reads the result as `T`.
///
/// `flags` holds what was typed on the command line, as the tables of `T`; leave out what was not typed.
///
/// # Errors
/// When a file cannot be read or is not TOML, when a `--set` is malformed, or when the merged
/// tables do not fit `T`.
pub fn resolve<T: DeserializeOwned>(
    files: &[PathBuf],
    sets: &[String],
    flags: Table,
) -> Result<T, SettingsError> {
    resolve_over(Table::new(), files, sets, flags)
}

/// As [`resolve`], with a layer of defaults below the files: for tables of one type whose defaults differ by their place.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_over<T: DeserializeOwned>(
    defaults: Table,
    files: &[PathBuf],
    sets: &[String],
    flags: Table,
) -> Result<T, SettingsError> {
    let mut merged = defaults;
    for path in files {
        overlay(&mut merged, read(path)?);
    }
    for text in sets {
        set(&mut merged, text)?;
    }
    overlay(&mut merged, flags);
    merged
        .try_into()
        .map_err(|e: toml::de::Error| SettingsError::Value { reason: e.to_string().trim().to_owned() })
}

fn read(path: &Path) -> Result<Table, SettingsError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| SettingsError::Unreadable { path: path.to_owned(), source })?;
    toml::from_str(&text)
        .map_err(|e| SettingsError::Syntax { path: path.to_owned(), reason: e.to_string().trim().to_owned() })
}

/// Applies one `a.b=c`. The value is read as TOML and, where it is none, as text: `--set model.dir=/a/b` needs no quotes.
fn set(table: &mut Table, text: &str) -> Result<(), SettingsError> {
    let fail = |reason: &str| SettingsError::Set { text: text.to_owned(), reason: reason.to_owned() };
    let (path, value) = text.split_once('=').ok_or_else(|| fail("there is no `=`"))?;
    let mut keys: Vec<&str> = path.trim().split('.').collect();
    let last = keys.pop().filter(|key| !key.is_empty()).ok_or_else(|| fail("the key is empty"))?;
    let mut table = table;
    for key in keys {
        let entry = table.entry(key).or_insert_with(|| Value::Table(Table::new()));
        table = entry.as_table_mut().ok_or_else(|| fail(&format!("`{key}` is a value, not a section")))?;
    }
    table.insert(last.to_owned(), parse_value(value.trim()));
    Ok(())
}

fn parse_value(text: &str) -> Value {
    let document = format!("value = {text}");
    let parsed = toml::from_str::<Table>(&document).ok().filter(|table| table.len() == 1);
    parsed.and_then(|mut table| table.remove("value")).unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Lays `over` on `base`: tables merge, everything else is replaced, lists too.
pub fn overlay(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => overlay(below, above),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    // A failed unwrap is a failed test.
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[derive(Debug, PartialEq, Default, serde::Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Run {
        data: Data,
        steps: u32,
    }

    #[derive(Debug, PartialEq, Default, serde::Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Data {
        sources: Vec<String>,
        root: String,
        ratio: f64,
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn later_layers_win_key_by_key() {
        let file = file("steps = 3\n[data]\nsources = [\"a\", \"b\"]\nroot = \"/file\"\nratio = 0.5\n");
        let sets = ["data.root=/set/with=sign".to_owned(), "steps=4".to_owned()];
        let flags = toml::from_str("[data]\nsources = [\"c\"]\n").unwrap();
        let above = self::file("steps = 5\ndata.ratio = 0.25\n");
        let files = [file.path().to_owned(), above.path().to_owned()];
        let run: Run = resolve(&files, &sets, flags).unwrap();
        let data = Data { sources: vec!["c".into()], root: "/set/with=sign".into(), ratio: 0.25 };
        assert_eq!(run, Run { data, steps: 4 });
    }

    #[test]
    fn a_misspelt_key_is_named() {
        let error = resolve::<Run>(&[], &["data.roots=x".to_owned()], Table::new()).unwrap_err().to_string();
        assert!(error.contains("unknown field `roots`") && error.contains("hint:"), "{error}");
    }

    #[test]
    fn malformed_sets_are_refused() {
        for text in ["steps", "=4", "data.=4"] {
            let error = resolve::<Run>(&[], &[text.to_owned()], Table::new()).unwrap_err();
            assert!(matches!(error, SettingsError::Set { .. }), "{text}: {error}");
        }
        let sets = ["steps=4".to_owned(), "steps.x=4".to_owned()];
        assert!(resolve::<Run>(&[], &sets, Table::new()).unwrap_err().to_string().contains("not a section"));
    }

    #[test]
    fn a_broken_file_is_named_with_the_line() {
        let file = file("steps = 3\n[data\n");
        let error = resolve::<Run>(&[file.path().to_owned()], &[], Table::new()).unwrap_err().to_string();
        assert!(error.contains(&file.path().display().to_string()) && error.contains("line 2"), "{error}");
    }
}
