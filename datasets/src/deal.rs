//! Rows of a dataset dealt into what is trained on and what is asked, for data that comes as one file.
//!
//! Rows that share a picture stay together, so that no picture is on both sides.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::dice::Dice;

/// The two sides.
pub struct Dealt {
    /// What is trained on.
    pub train: Vec<Value>,
    /// What is asked.
    pub test: Vec<Value>,
}

/// Which rows are for the test.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Share {
    /// About one row of so many is for the test.
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub every: usize,
    /// Only rows whose answers have at most so many characters: longer ones cannot be graded by comparison.
    #[arg(long, value_name = "CHARACTERS", default_value_t = usize::MAX, hide_default_value = true)]
    pub longest_answer: usize,
    /// Seed of the random numbers.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// Deals the rows of a LLaVA JSON; the same for the same seed.
///
/// # Errors
/// When the file is no such list, a row names no picture, or one side stays empty.
pub fn deal(data: &Path, share: Share) -> Result<Dealt> {
    let text = fs::read_to_string(data).with_context(|| format!("cannot read `{}`", data.display()))?;
    let rows: Vec<Value> = serde_json::from_str(&text).with_context(|| {
        format!("`{}` is no list of rows\nhint: LLaVA's JSON is one array", data.display())
    })?;
    let pictures = rows.iter().enumerate().map(|(i, row)| {
        pictures(row).with_context(|| format!("`{}`, row {i}: `image` names no picture", data.display()))
    });
    let pictures: Vec<Vec<&str>> = pictures.collect::<Result<_>>()?;
    let groups = groups(&pictures);
    let mut dice = Dice::new(share.seed, "deal");
    let mut asked: BTreeMap<usize, bool> = BTreeMap::new();
    for (&group, row) in groups.iter().zip(&rows) {
        let is_asked = asked.entry(group).or_insert_with(|| dice.below(share.every.max(1)) == 0);
        *is_asked &= answers(row).all(|answer| answer.chars().count() <= share.longest_answer);
    }
    let mut dealt = Dealt { train: Vec::new(), test: Vec::new() };
    for (row, group) in rows.into_iter().zip(groups) {
        if asked[&group] { dealt.test.push(row) } else { dealt.train.push(row) }
    }
    if dealt.train.is_empty() || dealt.test.is_empty() {
        bail!(
            "one side of `{}` stays empty\nhint: it has too few pictures, or another --every is needed",
            data.display()
        );
    }
    Ok(dealt)
}

/// Writes both sides under `out`, as `train.json` and `test.json`.
///
/// # Errors
/// When a file cannot be written.
pub fn write(dealt: &Dealt, out: &Path) -> Result<()> {
    fs::create_dir_all(out).with_context(|| format!("cannot make `{}`", out.display()))?;
    for (name, rows) in [("train", &dealt.train), ("test", &dealt.test)] {
        let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
        let path = out.join(format!("{name}.json"));
        fs::write(&path, format!("[\n{}\n]\n", lines.join(",\n")))
            .with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    Ok(())
}

/// The pictures of a row: one name or a list of them.
fn pictures(row: &Value) -> Option<Vec<&str>> {
    match row.get("image")? {
        Value::String(one) => Some(vec![one]),
        Value::Array(all) if !all.is_empty() => all.iter().map(Value::as_str).collect(),
        _ => None,
    }
}

/// What the assistant says in a row.
fn answers(row: &Value) -> impl Iterator<Item = &str> {
    let turns = row["conversations"].as_array().into_iter().flatten();
    turns.filter(|turn| turn["from"] == "gpt").filter_map(|turn| turn["value"].as_str())
}

/// The group of each row, by the number of its first row: rows that share a picture, directly or through others.
fn groups(pictures: &[Vec<&str>]) -> Vec<usize> {
    let mut parent: Vec<usize> = (0..pictures.len()).collect();
    let mut shown: HashMap<&str, usize> = HashMap::new();
    for (row, names) in pictures.iter().enumerate() {
        for name in names {
            let (a, b) = (root(&parent, *shown.entry(name).or_insert(row)), root(&parent, row));
            parent[a.max(b)] = a.min(b);
        }
    }
    (0..parent.len()).map(|row| root(&parent, row)).collect()
}

fn root(parent: &[usize], mut row: usize) -> usize {
    while parent[row] != row {
        row = parent[row];
    }
    row
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)] // a failed unwrap is a failed test

    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    const HALF: Share = Share { every: 2, longest_answer: usize::MAX, seed: 1 };

    fn said(i: usize) -> Value {
        json!([{"from": "human", "value": "What?"}, {"from": "gpt", "value": if i % 4 < 2 { "yes" } else { "Since it is." }}])
    }

    /// Row i shows picture i / 2, and every tenth another row's as well.
    fn file(folder: &Path) -> std::path::PathBuf {
        let rows: Vec<Value> = (0..200)
            .map(|i| match i % 10 {
                0 => json!({"id": i, "image": [format!("{}.png", i / 2), format!("{}.png", (i + 70) % 200 / 2)]}),
                _ => json!({"id": i, "image": format!("{}.png", i / 2), "conversations": said(i)}),
            })
            .collect();
        let path = folder.join("data.json");
        fs::write(&path, serde_json::to_string(&rows).unwrap()).unwrap();
        path
    }

    #[test]
    fn no_picture_is_on_both_sides_and_no_row_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let dealt = deal(&file(folder.path()), HALF).unwrap();
        assert_eq!(dealt.train.len() + dealt.test.len(), 200);
        let shown = |rows: &[Value]| -> BTreeSet<String> {
            rows.iter().flat_map(|row| pictures(row).unwrap()).map(str::to_owned).collect()
        };
        assert!(shown(&dealt.train).is_disjoint(&shown(&dealt.test)));
        assert!((60..=140).contains(&dealt.test.len()), "about a half: {}", dealt.test.len());

        write(&dealt, folder.path()).unwrap();
        let written = fs::read_to_string(folder.path().join("test.json")).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Value>>(&written).unwrap(), dealt.test);
    }

    #[test]
    fn long_answers_are_for_training() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(folder.path());
        let all = deal(&path, HALF).unwrap();
        let short = deal(&path, Share { longest_answer: 3, ..HALF }).unwrap();
        assert!(short.test.iter().all(|row| answers(row).all(|answer| answer == "yes")));
        assert!(short.test.iter().all(|row| all.test.contains(row)), "the same dice");
        assert!(short.test.len() < all.test.len() && short.test.len() > 20, "{}", short.test.len());
    }

    #[test]
    fn a_row_without_a_picture_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.json");
        fs::write(&path, r#"[{"id": 1, "image": "a.png"}, {"id": 2}]"#).unwrap();
        let error = format!("{:#}", deal(&path, HALF).err().unwrap());
        assert!(error.contains("data.json`, row 1: `image` names no picture"), "{error}");
    }
}
