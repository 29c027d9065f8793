//! Which of several processes this one is, from the command line or from the scheduler that started it.
//!
//! | scheduler | index | count |
//! |---|---|---|
//! | Slurm job array | (`SLURM_ARRAY_TASK_ID` - `SLURM_ARRAY_TASK_MIN`) / `SLURM_ARRAY_TASK_STEP` | `SLURM_ARRAY_TASK_COUNT` |
//! | torchrun, MPI wrappers | `RANK` | `WORLD_SIZE` |
//! | Kubernetes indexed job | `JOB_COMPLETION_INDEX` | `WORLD_SIZE`, which a job may set; else `--part auto/N` |
//!
//! A Slurm array of a list, such as `--array=1,4,9`, does not tell which of its tasks one is: it is refused, all of its tasks
//! alike. A variable that is empty counts as none.

use std::fmt;
use std::str::FromStr;

use anyhow::Result;
use serde::Deserialize;
use shared::cache::Part;

use crate::error::Usage;

/// What `--part` or `cache.part` says: `2/8`, or `auto/8` to take the index from the environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct PartChoice {
    index: Option<usize>,
    count: usize,
}

impl PartChoice {
    /// One process for everything, whatever a scheduler says.
    pub const ALL: PartChoice = PartChoice { index: Some(0), count: 1 };
}

impl FromStr for PartChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a part: write `0/8` for the first of eight, or `auto/8`");
        let (index, count) = text.split_once('/').ok_or_else(wrong)?;
        let count: usize = count.parse().map_err(|_| wrong())?;
        let index = match index {
            "auto" => None,
            number => Some(number.parse().map_err(|_| wrong())?),
        };
        if count == 0 || index.is_some_and(|index| index >= count) {
            Err(wrong())
        } else {
            Ok(Self { index, count })
        }
    }
}

impl TryFrom<String> for PartChoice {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for PartChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            Some(index) => write!(f, "{index}/{}", self.count),
            None => write!(f, "auto/{}", self.count),
        }
    }
}

/// An index variable, and the one that says how many there are.
const SCHEDULERS: [(&str, &str); 3] =
    [(SLURM, "SLURM_ARRAY_TASK_COUNT"), ("RANK", "WORLD_SIZE"), ("JOB_COMPLETION_INDEX", "WORLD_SIZE")];

const SLURM: &str = "SLURM_ARRAY_TASK_ID";

/// Decides the part: what was chosen, else what a scheduler says, else all of it.
///
/// # Errors
/// A [`Usage`] error when a scheduler tells an index that makes no sense, or no count and none was chosen.
pub fn decide(choice: Option<PartChoice>, variable: impl Fn(&str) -> Option<String>) -> Result<Part> {
    if let Some(PartChoice { index: Some(index), count }) = choice {
        return Ok(Part { index, count });
    }
    let number = |name: &str| -> Result<Option<usize>> {
        let Some(text) = variable(name).filter(|text| !text.is_empty()) else { return Ok(None) };
        let wrong = || Usage(format!("`{name}` is `{text}`, not a number\nhint: give `--part I/N`"));
        Ok(Some(text.parse().map_err(|_| wrong())?))
    };
    for (name, count_name) in SCHEDULERS {
        let Some(told_index) = number(name)? else { continue };
        let Some(count) = choice.map(|choice| choice.count).or(number(count_name)?) else {
            let hint = "give the number of processes as `--part auto/N`, or `--part 0/1` for all of it";
            return Err(
                Usage(format!("`{name}` is set, but not how many parts there are\nhint: {hint}")).into()
            );
        };
        let index = if name == SLURM { array_index(told_index, count, &number)? } else { Some(told_index) };
        let Some(index) = index.filter(|index| *index < count) else {
            return Err(Usage(format!(
                "`{name}` is {told_index}, which does not name one of {count} parts\nhint: give `--part I/N`"
            ))
            .into());
        };
        return Ok(Part { index, count });
    }
    match choice {
        None => Ok(Part::default()),
        Some(_) => {
            Err(Usage("`--part auto/N` needs a scheduler's index\nhint: give `--part I/N`".into()).into())
        }
    }
}

/// Which task of a Slurm array of `count` tasks has this id; none if no task of the array has it.
fn array_index(
    id: usize,
    count: usize,
    number: &impl Fn(&str) -> Result<Option<usize>>,
) -> Result<Option<usize>> {
    let first = number("SLURM_ARRAY_TASK_MIN")?.unwrap_or(0);
    let step = number("SLURM_ARRAY_TASK_STEP")?.unwrap_or(1).max(1);
    let wrong = |what: String| {
        let hint = "write the array as a range of all parts, such as `--array=0-7`, or give `--part I/N`";
        Err(Usage(format!("{what}, so that `{SLURM}` = {id} does not tell a part\nhint: {hint}")).into())
    };
    // A task that is started again by itself has an array of one.
    let told = number("SLURM_ARRAY_TASK_COUNT")?.unwrap_or(count);
    if told != count {
        return wrong(format!("the Slurm array has {told} tasks, not {count}"));
    }
    let last = number("SLURM_ARRAY_TASK_MAX")?;
    if last.is_some_and(|last| last.saturating_sub(first) / step + 1 != count) {
        return wrong("the Slurm array is no range".into());
    }
    Ok(id.checked_sub(first).filter(|after| after % step == 0).map(|after| after / step))
}

#[cfg(test)]
mod tests {
    // A failed unwrap is a failed test.
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    fn decided(choice: &str, variables: &[(&str, &str)]) -> Result<(usize, usize)> {
        let choice = (!choice.is_empty()).then(|| choice.parse().unwrap());
        let variable =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into());
        decide(choice, variable).map(|part| (part.index, part.count))
    }

    #[test]
    fn what_is_typed_wins_over_what_is_told() {
        let slurm =
            [("SLURM_ARRAY_TASK_ID", "7"), ("SLURM_ARRAY_TASK_MIN", "5"), ("SLURM_ARRAY_TASK_COUNT", "4")];
        assert_eq!(decided("", &[]).unwrap(), (0, 1));
        assert_eq!(decided("1/3", &slurm).unwrap(), (1, 3));
        assert_eq!(decided("", &slurm).unwrap(), (2, 4));
        assert_eq!(decided("", &[("RANK", "1"), ("WORLD_SIZE", "2")]).unwrap(), (1, 2));
        assert_eq!(decided("auto/5", &[("JOB_COMPLETION_INDEX", "4")]).unwrap(), (4, 5));
        assert_eq!(decided("", &[("JOB_COMPLETION_INDEX", "1"), ("WORLD_SIZE", "2")]).unwrap(), (1, 2));
        assert_eq!(decided("", &[("RANK", ""), ("WORLD_SIZE", "")]).unwrap(), (0, 1));
    }

    /// What Slurm sets for `sbatch --array=5-11:2` and for `--array=1,4,9`, by its manual's section on job arrays.
    #[test]
    fn each_task_of_an_array_is_one_part() {
        let task = |id: &str, [min, max, step, count]: [&str; 4]| {
            decided(
                "",
                &[
                    ("SLURM_ARRAY_TASK_ID", id),
                    ("SLURM_ARRAY_TASK_MIN", min),
                    ("SLURM_ARRAY_TASK_MAX", max),
                    ("SLURM_ARRAY_TASK_STEP", step),
                    ("SLURM_ARRAY_TASK_COUNT", count),
                ],
            )
        };
        let stepped = ["5", "7", "9", "11"].map(|id| task(id, ["5", "11", "2", "4"]).unwrap());
        assert_eq!(stepped, [(0, 4), (1, 4), (2, 4), (3, 4)]);
        assert!(task("6", ["5", "11", "2", "4"]).is_err(), "no task of that array");
        for id in ["1", "4", "9"] {
            let error = task(id, ["1", "9", "1", "3"]).unwrap_err();
            assert!(error.is::<Usage>() && error.to_string().contains("is no range"), "{error}");
        }
        let alone =
            [("SLURM_ARRAY_TASK_ID", "3"), ("SLURM_ARRAY_TASK_MIN", "3"), ("SLURM_ARRAY_TASK_COUNT", "1")];
        let error = decided("auto/8", &alone).unwrap_err();
        assert!(error.to_string().contains("has 1 tasks, not 8"), "{error}");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in ["", "1", "3/3", "a/3", "1/0", "-1/2"] {
            assert!(text.parse::<PartChoice>().is_err(), "{text}");
        }
        type Variables<'a> = &'a [(&'a str, &'a str)];
        let cases: [(&str, Variables, &str); 4] = [
            ("", &[("JOB_COMPLETION_INDEX", "4")], "`--part auto/N`"),
            ("auto/2", &[], "needs a scheduler's index"),
            ("auto/2", &[("RANK", "2")], "does not name one of 2 parts"),
            ("", &[("RANK", "first")], "`RANK` is `first`"),
        ];
        for (choice, variables, says) in cases {
            let error = decided(choice, variables).unwrap_err();
            assert!(error.is::<Usage>() && error.to_string().contains(says), "{error}");
        }
    }
}
