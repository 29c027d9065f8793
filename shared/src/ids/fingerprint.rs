//! What a cache, a run or a checkpoint was made from, field by field, so that a mismatch can be shown.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Digest;

/// Named facts that must agree before two artefacts may be used together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Facts by name, such as `weights`, `tokenizer`, `chat_template`.
    pub fields: BTreeMap<String, String>,
}

/// One fact on which two fingerprints disagree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The fact's name.
    pub field: String,
    /// Its value on the left side; none if only the right side has it.
    pub expected: Option<String>,
    /// Its value on the right side; none if only the left side has it.
    pub got: Option<String>,
}

impl Fingerprint {
    /// Adds or replaces a fact.
    pub fn insert(&mut self, field: impl Into<String>, value: impl fmt::Display) {
        self.fields.insert(field.into(), value.to_string());
    }

    /// Adds several facts, such as the identity of a processor or of a model.
    pub fn extend(&mut self, fields: BTreeMap<String, String>) {
        self.fields.extend(fields);
    }

    /// One digest over all facts: equal exactly when the fingerprints are.
    pub fn digest(&self) -> Digest {
        let mut bytes = Vec::new();
        for text in self.fields.iter().flat_map(|(field, value)| [field, value]) {
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        Digest::of(&bytes)
    }

    /// The facts on which `got` disagrees with `self`, by name.
    pub fn differences(&self, got: &Self) -> Vec<Difference> {
        let mut names: Vec<_> = self.fields.keys().chain(got.fields.keys()).collect();
        names.sort_unstable();
        names.dedup();
        let differs = |field: &&&String| self.fields.get(**field) != got.fields.get(**field);
        let difference = |field: &String| Difference {
            field: field.clone(),
            expected: self.fields.get(field).cloned(),
            got: got.fields.get(field).cloned(),
        };
        names.iter().filter(differs).map(|field| difference(field)).collect()
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |value: &Option<String>| value.clone().unwrap_or_else(|| "absent".into());
        write!(f, "{}: expected {}, got {}", self.field, show(&self.expected), show(&self.got))
    }
}
