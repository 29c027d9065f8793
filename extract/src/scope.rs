//! Which rows of its dataset a run is after: all of them, or those that a repair owes the cache.
//!
//! A cache may have fewer samples than the data that it was made from: somebody chose them, or the data has grown. What damage has
//! taken is given back and nothing else.

use std::collections::BTreeSet;

use anyhow::{Result, anyhow};
use shared::cache::{Manifest, SampleMeta};
use shared::ids::SampleKey;

use crate::conditions::Condition;

/// What is taken.
pub struct Scope {
    /// The samples, where they are known one by one.
    keys: Option<BTreeSet<SampleKey>>,
    /// What a sample has to meet.
    conditions: Vec<Condition>,
    /// What all samples of the cache meet, as its manifest says it.
    pub selected: Vec<String>,
    /// Whether bad rows go to the quarantine.
    pub bad_rows: bool,
    /// Whether the manifest is to name the dataset's files.
    pub is_new_data: bool,
}

impl Default for Scope {
    /// Everything.
    fn default() -> Self {
        Self { keys: None, conditions: Vec::new(), selected: Vec::new(), bad_rows: true, is_new_data: true }
    }
}

impl Scope {
    /// What this cache is owed, if it is not complete.
    ///
    /// # Errors
    /// When it was chosen by conditions that this program does not know.
    pub fn owed(manifest: &Manifest) -> Result<Scope> {
        let owed = manifest.owed.as_ref();
        let was_complete = owed.filter(|owed| !owed.unfinished);
        if let Some(owed) = was_complete.filter(|owed| owed.unnamed == 0) {
            return Ok(Scope {
                keys: Some(owed.keys.clone()),
                conditions: Vec::new(),
                selected: manifest.selected.clone(),
                bad_rows: owed.quarantine,
                is_new_data: false,
            });
        }
        let condition =
            |text: &String| text.parse().map_err(|reason| anyhow!("the cache was chosen by {reason}"));
        Ok(Scope {
            keys: None,
            conditions: manifest.selected.iter().map(condition).collect::<Result<_>>()?,
            selected: manifest.selected.clone(),
            bad_rows: was_complete.map_or(manifest.selected.is_empty(), |owed| owed.quarantine),
            is_new_data: owed.is_none(),
        })
    }

    /// Whether no row of any dataset is taken.
    pub fn is_empty(&self) -> bool {
        !self.bad_rows && self.keys.as_ref().is_some_and(BTreeSet::is_empty)
    }

    /// Whether a sample is taken, as far as its key tells.
    pub fn names(&self, key: &SampleKey) -> bool {
        self.keys.as_ref().is_none_or(|keys| keys.contains(key))
    }

    /// Whether a sample is taken, once all is known of it.
    pub fn takes(&self, meta: &SampleMeta) -> bool {
        self.conditions.iter().all(|condition| condition.holds(meta))
    }
}
