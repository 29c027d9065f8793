//! What is left to do: which rows the cache has, which came twice, and which keep all their features.

use std::collections::{BTreeSet, HashMap};

use anyhow::Result;
use rayon::prelude::*;
use shared::dataset::Dataset;
use shared::ids::SampleKey;

use crate::config::Keep;
use crate::sample::identify;
use crate::stop::Stop;

/// What is to be done about one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Run the teacher on it, and keep these features.
    New(Keep),
    /// Nothing: the cache has it from an earlier run.
    Committed,
    /// Nothing: an earlier row of this run is the same sample.
    Duplicate,
}

/// Decides row by row. Holds about 40 bytes for each distinct sample, the only thing that grows with the dataset.
pub struct Plan {
    /// Every key known, and whether this run has met it.
    keys: HashMap<SampleKey, bool>,
    keep: Keep,
    /// Samples with keys up to here keep the features of all tokens.
    all_up_to: Option<SampleKey>,
}

impl Plan {
    /// A plan for a cache that has the samples `committed`.
    pub fn new<'a>(
        committed: impl IntoIterator<Item = &'a SampleKey>,
        keep: Keep,
        all_up_to: Option<SampleKey>,
    ) -> Plan {
        Plan { keys: committed.into_iter().map(|key| (*key, false)).collect(), keep, all_up_to }
    }

    /// What to do about the next row, which has this key.
    pub fn decide(&mut self, key: SampleKey) -> Work {
        match self.keys.insert(key, true) {
            Some(true) => Work::Duplicate,
            Some(false) => Work::Committed,
            None if self.all_up_to.is_some_and(|last| key <= last) => Work::New(Keep::All),
            None => Work::New(self.keep),
        }
    }
}

/// The largest of the `number` smallest keys of a dataset: a pass that reads every row and image file once, decodes nothing
/// and holds `number` keys. Bad rows have no key here; the main pass reports them.
///
/// # Errors
/// When a source cannot be read.
pub fn last_of_first_keys(mut dataset: Dataset, number: usize, stop: &Stop) -> Result<Option<SampleKey>> {
    let mut smallest = BTreeSet::new();
    let rows_at_once = 16 * rayon::current_num_threads();
    while number > 0 && !stop.is_raised() {
        let rows = dataset.by_ref().take(rows_at_once).collect::<Result<Vec<_>, _>>()?;
        if rows.is_empty() {
            break;
        }
        let keys = rows.into_par_iter().filter_map(|row| Some(identify(row.ok()?).ok()?.key));
        smallest.extend(keys.collect::<Vec<_>>());
        while smallest.len() > number {
            smallest.pop_last();
        }
    }
    Ok(smallest.last().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> SampleKey {
        SampleKey::from_bytes([number; 16])
    }

    #[test]
    fn each_sample_is_done_once() {
        let mut plan = Plan::new(&[key(1)], Keep::Answer, None);
        let work = [1, 2, 1, 2, 2].map(|number| plan.decide(key(number)));
        let (new, duplicate) = (Work::New(Keep::Answer), Work::Duplicate);
        assert_eq!(work, [Work::Committed, new, duplicate, duplicate, duplicate]);
    }

    #[test]
    fn the_first_keys_keep_everything() {
        let mut plan = Plan::new(&[], Keep::Text, Some(key(5)));
        assert_eq!(plan.decide(key(5)), Work::New(Keep::All));
        assert_eq!(plan.decide(key(6)), Work::New(Keep::Text));
    }
}
