//! What is left to do: which rows the cache has, which came twice, and which keep all their features.

use std::collections::{BTreeSet, HashMap};

use anyhow::Result;
use rayon::prelude::*;
use shared::cache::Part;
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
    /// Nothing: another process does it.
    Elsewhere,
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
    part: Part,
}

impl Plan {
    /// A plan for this `part` of a cache that has the samples `committed`.
    pub fn new<'a>(
        committed: impl IntoIterator<Item = &'a SampleKey>,
        keep: Keep,
        all_up_to: Option<SampleKey>,
        part: Part,
    ) -> Plan {
        Plan { keys: committed.into_iter().map(|key| (*key, false)).collect(), keep, all_up_to, part }
    }

    /// Whether a row that has no key is to be reported by this process.
    pub fn reports(&self, row: u64) -> bool {
        row % self.part.count.max(1) as u64 == self.part.index as u64
    }

    /// What to do about the next row, which has this key.
    pub fn decide(&mut self, key: SampleKey) -> Work {
        if !self.part.owns(&key) {
            return Work::Elsewhere;
        }
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
        let mut plan = Plan::new(&[key(1)], Keep::Answer, None, Part::default());
        let work = [1, 2, 1, 2, 2].map(|number| plan.decide(key(number)));
        let (new, duplicate) = (Work::New(Keep::Answer), Work::Duplicate);
        assert_eq!(work, [Work::Committed, new, duplicate, duplicate, duplicate]);
    }

    #[test]
    fn the_first_keys_keep_everything() {
        let mut plan = Plan::new(&[], Keep::Text, Some(key(5)), Part::default());
        assert_eq!(plan.decide(key(5)), Work::New(Keep::All));
        assert_eq!(plan.decide(key(6)), Work::New(Keep::Text));
    }

    #[test]
    fn every_sample_and_every_bad_row_has_one_part() {
        let plans: Vec<Plan> =
            (0..3).map(|index| Plan::new(&[], Keep::Text, None, Part { index, count: 3 })).collect();
        for number in 0..100 {
            let takers = plans.iter().filter(|plan| plan.part.owns(&key(number))).count();
            let reporters = plans.iter().filter(|plan| plan.reports(u64::from(number))).count();
            assert_eq!((takers, reporters), (1, 1), "{number}");
        }
        let mut plans = plans;
        let new = plans.iter_mut().filter(|plan| plan.part.index != 0).map(|plan| plan.decide(key(0)));
        assert_eq!(new.collect::<Vec<_>>(), [Work::Elsewhere, Work::Elsewhere], "key 0 belongs to part 0");
    }
}
