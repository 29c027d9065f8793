//! What the runs took, and the caches that they read: time, memory, bytes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use shared::cache::Manifest;
use toml::Table;

use super::bytes;
use super::html::{escape, table};
use super::run::Run;

/// The section, empty without runs.
pub(super) fn section(runs: &[Run]) -> String {
    if runs.is_empty() {
        return String::new();
    }
    format!("<h2>What it cost</h2>\n{}{}", runs_table(runs), caches_table(runs))
}

fn runs_table(runs: &[Run]) -> String {
    let head = ["run", "samples", "steps", "time", "tokens a second", "most memory", "waited for data"]
        .map(str::to_owned);
    let some = |value: Option<f64>, text: fn(f64) -> String| value.map_or_else(|| "–".to_owned(), text);
    let row = |run: &Run| {
        vec![
            escape(&run.name),
            some(run.summary.get("samples").copied(), |it| format!("{it:.0}")),
            some(run.points.last().map(|point| point.step), |it| format!("{it:.0}")),
            some(run.summary.get("seconds").copied(), duration),
            some(median(run.line("tokens_per_second")), |it| format!("{it:.0}")),
            some(run.last("peak_rss_bytes"), bytes),
            some(mean(&run.line("loader_stall")), |it| format!("{:.2} %", it * 100.0)),
        ]
    };
    let caption = "Each run on the machine it ran on: time of its last call, the median rate of its steps, the most memory \
                   its process held, and the share of the time that its steps waited for samples";
    table(caption, &head, &runs.iter().map(row).collect::<Vec<_>>())
}

/// The caches that the runs' configurations name, each once, as far as they can still be opened.
fn caches_table(runs: &[Run]) -> String {
    let mut readers: BTreeMap<PathBuf, Vec<&str>> = BTreeMap::new();
    for run in runs {
        for cache in caches_of(&run.config) {
            readers.entry(cache).or_default().push(&run.name);
        }
    }
    let rows: Vec<Vec<String>> = readers
        .iter()
        .filter_map(|(dir, names)| Some(cache_row(&dir.to_string_lossy(), &Manifest::load(dir).ok()?, names)))
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let head = ["cache", "teacher", "samples", "features", "on disk", "a token", "smaller by", "read by"]
        .map(str::to_owned);
    let caption = "The teacher ran once for each cache; \u{201c}a token\u{201d} is what one token's features take on disk, everything \
                   else in the files included, and \u{201c}smaller by\u{201d} compares with the features as the teacher gives them";
    table(caption, &head, &rows)
}

fn cache_row(dir: &str, manifest: &Manifest, readers: &[&str]) -> Vec<String> {
    let (format, totals) = (&manifest.features, &manifest.totals);
    let each = totals.bytes as f64 / totals.feature_rows.max(1) as f64;
    let plain = (format.width * format.dtype.size()) as f64;
    vec![
        escape(dir),
        escape(manifest.about.get("teacher").map_or("–", String::as_str)),
        totals.samples.to_string(),
        format!("{} tokens, {} x {}, {}", totals.feature_rows, format.width, format.dtype, format.codec),
        bytes(totals.bytes as f64),
        format!("{each:.0} bytes"),
        format!("{:.2} times", plain / each),
        escape(&readers.join(", ")),
    ]
}

/// The caches that a run's `config.toml` names; none where it cannot be read, as with other versions.
fn caches_of(config: &str) -> Vec<PathBuf> {
    let keys: Table = config.parse().unwrap_or_default();
    let mixture = keys.get("data").and_then(|data| data.get("mixture")?.as_array()).into_iter().flatten();
    let one = keys.get("cache").into_iter();
    one.chain(mixture.filter_map(|part| part.get("cache")))
        .filter_map(|it| it.as_str())
        .map(PathBuf::from)
        .collect()
}

fn mean(line: &[(f64, f64)]) -> Option<f64> {
    (!line.is_empty()).then(|| line.iter().map(|it| it.1).sum::<f64>() / line.len() as f64)
}

fn median(line: Vec<(f64, f64)>) -> Option<f64> {
    let mut values: Vec<f64> = line.into_iter().map(|it| it.1).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn duration(seconds: f64) -> String {
    match seconds {
        _ if seconds >= 5400.0 => format!("{:.1} h", seconds / 3600.0),
        _ if seconds >= 90.0 => format!("{:.1} min", seconds / 60.0),
        _ => format!("{seconds:.0} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_names_one_cache_or_several() {
        assert_eq!(caches_of("cache = \"a\""), [PathBuf::from("a")]);
        let mixture = "[[data.mixture]]\ncache = \"b\"\nweight = 2.0\n[[data.mixture]]\ncache = \"c\"\n";
        assert_eq!(caches_of(mixture), [PathBuf::from("b"), PathBuf::from("c")]);
        assert!(caches_of("method = \"sft\"").is_empty() && caches_of("no = toml = at all").is_empty());
    }

    #[test]
    fn times_and_middles_are_told_in_few_digits() {
        assert_eq!([7.4, 89.0, 90.0, 7200.0].map(duration), ["7 s", "89 s", "1.5 min", "2.0 h"]);
        assert_eq!(median(vec![(0.0, 9.0), (1.0, 1.0), (2.0, 5.0)]), Some(5.0));
        assert_eq!((median(Vec::new()), mean(&[])), (None, None));
    }
}
