//! What was typed, as the tables of a configuration.

use std::path::{Path, PathBuf};

use clap::builder::{NonEmptyStringValueParser, TypedValueParser};
use toml::{Table, Value};

/// The tables of a TOML document, filled with what was typed.
#[derive(Default)]
pub(crate) struct Overrides(pub(crate) Table);

impl Overrides {
    /// Sets `section.key` unless nothing was typed.
    pub(crate) fn put(&mut self, section: &str, key: &str, value: Option<impl Into<Value>>) {
        let Some(value) = value else { return };
        let section = self.0.entry(section).or_insert_with(|| Value::Table(Table::new()));
        if let Some(table) = section.as_table_mut() {
            table.insert(key.to_owned(), value.into());
        }
    }
}

/// Takes a path that is text: another one would be named by something else in TOML.
pub(super) fn utf8() -> impl TypedValueParser<Value = PathBuf> {
    NonEmptyStringValueParser::new().map(PathBuf::from)
}

/// Paths travel through TOML as text.
pub(crate) fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// TOML has signed numbers alone.
pub(super) fn integer(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
