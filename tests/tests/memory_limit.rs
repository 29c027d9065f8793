//! `extract run --memory-limit`: the same cache in less memory than the teacher's weights, by the kernel's own figure. And where
//! no limit is given: what is freed is kept, once.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]
#![cfg(target_os = "linux")]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use e2e::grown::grown;
use e2e::programs::{Finished, finished, program};
use e2e::rows::{contents, made_up};
use serde_json::{Value, json};
use shared::cache::Manifest;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
/// Under half of the weights; enough for two blocks of 12 MiB, the program and a batch.
const LIMIT: u64 = 88 * MIB;

/// A teacher whose weights take 200 MiB, and rows for it.
struct Bench {
    teacher: TempDir,
    weight_bytes: u64,
    dir: TempDir,
}

impl Bench {
    fn new(rows: usize) -> Self {
        let (teacher, numbers) = grown("qwen2_vl", |json| {
            for (key, value) in [
                ("hidden_size", json!(512)),
                ("intermediate_size", json!(1536)),
                ("num_hidden_layers", json!(16)),
                ("num_attention_heads", json!(8)),
                ("num_key_value_heads", json!(4)),
                ("rope_scaling", json!({"type": "mrope", "mrope_section": [8, 12, 12]})),
            ] {
                json[key] = value;
            }
            for (key, value) in
                [("depth", 3), ("embed_dim", 128), ("num_heads", 4), ("mlp_ratio", 4), ("hidden_size", 512)]
            {
                json["vision_config"][key] = value.into();
            }
        });
        let dir = tempfile::tempdir().unwrap();
        made_up(dir.path(), rows).unwrap();
        Self { teacher, weight_bytes: 4 * numbers as u64, dir }
    }

    fn cache(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs into the cache `out`; the end, and the most memory without a file behind it that the kernel showed.
    fn extract(&self, out: &str, more: &[&str]) -> (Finished, u64) {
        let mut command = program("extract").unwrap();
        command.args(["run", "--device", "cpu", "--json", "--features", "text", "--teacher"]);
        command.arg(self.teacher.path()).arg("--data").arg(self.dir.path().join("rows.jsonl"));
        command.arg("--out").arg(self.cache(out)).args(more);
        let mut child = command.spawn().unwrap();
        let status = format!("/proc/{}/status", child.id());
        let mut peak = 0;
        while child.try_wait().unwrap().is_none() {
            let text = fs::read_to_string(&status).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
            let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
            peak = peak.max(kib.unwrap_or(0) * 1024);
            std::thread::sleep(Duration::from_millis(1));
        }
        (finished(child.wait_with_output().unwrap()).unwrap(), peak)
    }

    /// As [`Self::extract`], which must succeed; the summary and the peak.
    fn summary(&self, out: &str, more: &[&str]) -> (Value, u64) {
        let (finished, peak) = self.extract(out, more);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        (serde_json::from_str(&finished.stdout).unwrap(), peak)
    }
}

#[test]
fn a_limit_changes_the_memory_and_nothing_else() {
    let bench = Bench::new(40);
    let limit = LIMIT.to_string();
    let small = ["--max-tokens-per-batch", "150"];
    let (whole, whole_peak) = bench.summary("whole", &small);
    let (summary, peak) = bench.summary("streamed", &[&small[..], &["--memory-limit", &limit]].concat());
    let expected = contents(&bench.cache("whole")).unwrap();
    assert!(expected.len() == 40 && expected == contents(&bench.cache("streamed")).unwrap());
    assert_eq!(summary["fingerprint"], whole["fingerprint"]);

    assert!(bench.weight_bytes > 2 * LIMIT);
    assert!(whole_peak > bench.weight_bytes, "the weights are in memory without a limit: {whole_peak}");
    assert!(peak < LIMIT, "{} MiB with a limit of {}", peak / MIB, LIMIT / MIB);
    let streaming = &summary["streaming"];
    let own = streaming["peak_anonymous_bytes"].as_u64().unwrap();
    assert!(own < LIMIT && own > peak / 2, "{own} by its own look, {peak} from outside");
    assert!(whole["streaming"].is_null());
    // Several batches shared a pass over the weights.
    assert_eq!(streaming["batch_tokens"], 150);
    assert!(streaming["pass_tokens"].as_u64().unwrap() > 600, "{streaming}");
    assert_eq!(
        (&streaming["limit_bytes"], &streaming["weight_bytes"]),
        (&json!(LIMIT), &json!(bench.weight_bytes))
    );
}

#[test]
fn an_impossible_limit_is_refused_with_one_that_is_not() {
    let bench = Bench::new(6);
    let (refused, _) = bench.extract("cache", &["--memory-limit", "20MB"]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    let object: Value = serde_json::from_str(&refused.stdout).unwrap();
    let (error, hint) = (object["error"].as_str().unwrap(), object["hints"][0].as_str().unwrap());
    assert!(error.contains("19.07 MiB") && hint.contains("`--memory-limit`"), "{object}");
    assert!(contents(&bench.cache("cache")).map_or(0, |rows| rows.len()) == 0);
    // What it asks for is enough; the program itself takes a little more or less each time.
    let least = error.split("at least ").nth(1).unwrap().split('.').next().unwrap();
    let limit = (least.parse::<u64>().unwrap() + 2) * MIB;
    assert!(limit < bench.weight_bytes / 2, "{error}");
    let (summary, peak) = bench.summary("cache", &["--memory-limit", &limit.to_string()]);
    assert!(summary["written"] == 6 && peak < limit, "{} of {} MiB", peak / MIB, limit / MIB);
}

#[test]
fn runs_with_and_without_a_limit_fill_one_cache() {
    let bench = Bench::new(12);
    bench.summary("whole", &[]);
    bench.summary("parts", &["--part", "0/2"]);
    let (summary, _) = bench.summary("parts", &["--part", "1/2", "--memory-limit", "1GiB"]);
    assert!(summary["written"].as_u64().unwrap() > 0 && summary["resumed_from"].as_u64().unwrap() > 0);
    assert!(contents(&bench.cache("parts")).unwrap() == contents(&bench.cache("whole")).unwrap());
    assert!(Manifest::load(&bench.cache("parts")).unwrap().complete);
}

/// Blocks above the 32 MiB from which on glibc would map each by itself and give it back.
#[test]
#[cfg(target_env = "gnu")]
fn freed_memory_is_kept_once_and_not_more() {
    let bytes = 64 * MIB;
    let held = |keep: Option<&str>| -> u64 {
        let mut program = program("hold_freed").unwrap();
        let finished =
            finished(program.args([&bytes.to_string(), "5"]).args(keep).output().unwrap()).unwrap();
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        finished.stdout.trim().parse().unwrap()
    };
    let (kept, without) = (held(Some("keep")), held(None));
    assert!(kept >= bytes * 9 / 10, "{kept} bytes are held: they were given back");
    assert!(kept < bytes * 3 / 2, "{kept} bytes are held: each block took memory of its own");
    assert!(without < bytes / 10, "{without} bytes are held without it");
}
