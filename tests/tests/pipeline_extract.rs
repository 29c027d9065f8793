//! `extract run` from images and text to the cache, against transformers' numbers and against itself.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use e2e::programs::{Finished, run};
use e2e::reference::samples;
use e2e::rows::{Contents, bmp, by_id, contents, fixture, llava_row, made_up, question, write_rows};
use extract::config::Keep;
use extract::sample::{Limits, identify, prepare};
use half::bf16;
use serde_json::{Value, json};
use shared::cache::{CacheReader, FeatureDtype, most_positions, verify};
use shared::dataset::{self, DatasetOptions};
use shared::models::Processor;
use tempfile::TempDir;

const FAMILIES: [&str; 2] = ["qwen2_vl", "internvl"];

/// One extraction in a folder of its own.
struct Bench {
    dir: TempDir,
    teacher: PathBuf,
}

impl Bench {
    fn new(family: &str) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), teacher: fixture(family) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs over `rows.jsonl` into the cache `out`.
    fn extract(&self, out: &str, more: &[&str]) -> Finished {
        let (teacher, data, out) = (&self.teacher, self.path("rows.jsonl"), self.path(out));
        let mut args = vec!["run", "--device", "cpu", "--json", "--teacher", teacher.to_str().unwrap()];
        args.extend(["--data", data.to_str().unwrap(), "--out", out.to_str().unwrap()]);
        args.extend(more);
        run("extract", args).unwrap()
    }

    /// As [`Self::extract`], which must succeed; the summary and the cache.
    fn cache(&self, out: &str, more: &[&str]) -> (Value, Contents) {
        let finished = self.extract(out, more);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        (serde_json::from_str(&finished.stdout).unwrap(), contents(&self.path(out)).unwrap())
    }
}

fn values(block: &shared::cache::FeatureBlock) -> Vec<f32> {
    assert_eq!(block.dtype, FeatureDtype::F32);
    block.bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

/// Tokens and features of transformers 5.23 for the same files (`tests/fixtures/<family>/ref`, made by the script beside
/// it); 2e-4 is the tolerance that float32 against float64 there asks for.
#[test]
fn every_token_and_feature_is_that_of_transformers() {
    for family in FAMILIES {
        let bench = Bench::new(family);
        let samples = samples(&bench.teacher).unwrap();
        write_rows(&bench.path("rows.jsonl"), &samples.iter().map(llava_row).collect::<Vec<_>>()).unwrap();
        let (summary, cache) = bench.cache("cache", &["--features", "all", "--image-root", "/"]);
        assert_eq!(summary["samples"], samples.len());
        for sample in &samples {
            let (meta, block) = by_id(&cache, &sample.name).unwrap();
            assert_eq!(meta.input_ids, sample.input_ids, "{family} {}", sample.name);
            let theirs = sample.features().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let worst = values(block).iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert_eq!(block.bytes.len(), theirs.len() * 4);
            assert!(worst < 2e-4, "{family} {}: off by {worst}", sample.name);
        }
    }
}

/// What is kept by default is a selection of all features, made of the boundary token and the answer, and the spans say
/// which text they are.
#[test]
fn answers_are_kept_with_the_position_before_them() {
    for family in FAMILIES {
        let bench = Bench::new(family);
        let samples = samples(&bench.teacher).unwrap();
        write_rows(&bench.path("rows.jsonl"), &samples.iter().map(llava_row).collect::<Vec<_>>()).unwrap();
        let (_, all) = bench.cache("all", &["--features", "all", "--image-root", "/"]);
        let (_, text) = bench.cache("text", &["--features", "text", "--image-root", "/"]);
        let (_, answers) = bench.cache("answer", &["--image-root", "/"]);
        for (key, (meta, block)) in &answers {
            let mut expected = BTreeSet::new();
            for turn in meta.turns.iter().filter(|turn| turn.role == "assistant") {
                let end = turn.answer_start + turn.num_answer_tokens;
                expected.extend(turn.answer_start - 1..end);
                let span = meta.offsets[turn.answer_start as usize].0..meta.offsets[end as usize - 2].1;
                let shown: String = meta.text.chars().skip(span.start as usize).take(span.len()).collect();
                let messages: Value = serde_json::from_str(&meta.messages).unwrap();
                let said =
                    messages.as_array().unwrap().iter().map(|message| message["content"][0]["text"].as_str());
                assert!(said.flatten().any(|said| said.trim() == shown.trim()), "{family}: `{shown}`");
            }
            assert_eq!(meta.positions, Vec::from_iter(expected));
            assert_selected(&all[key], (meta, block));
            let (meta, block) = &text[key];
            assert_selected(&all[key], (meta, block));
            let images: u32 = meta.images.iter().map(|image| image.num_tokens).sum();
            assert_eq!(meta.positions.len() + images as usize, meta.input_ids.len());
        }
    }
}

/// The rows of `part` are those rows of `all`, bit for bit.
fn assert_selected(
    all: &(shared::cache::SampleMeta, shared::cache::FeatureBlock),
    part: (&shared::cache::SampleMeta, &shared::cache::FeatureBlock),
) {
    let row = all.1.width * all.1.dtype.size();
    for (number, position) in part.0.positions.iter().enumerate() {
        let expected = &all.1.bytes[*position as usize * row..][..row];
        assert_eq!(expected, &part.1.bytes[number * row..][..row], "position {position}");
    }
}

#[test]
fn results_do_not_depend_on_the_batch_size() {
    for family in FAMILIES {
        let bench = Bench::new(family);
        made_up(bench.dir.path(), 24).unwrap();
        let sizes = ["1", "150", "100000"];
        let caches =
            sizes.map(|size| bench.cache(size, &["--features", "text", "--max-tokens-per-batch", size]).1);
        assert_eq!(caches[0].len(), 24);
        assert!(caches[0] == caches[1] && caches[0] == caches[2], "{family}");
    }
}

#[test]
fn the_first_keys_keep_all_tokens() {
    let bench = Bench::new("qwen2_vl");
    made_up(bench.dir.path(), 12).unwrap();
    let (_, cache) = bench.cache("cache", &["--features-all-for", "5"]);
    let complete = cache.values().map(|(meta, _)| meta.positions.len() == meta.input_ids.len());
    // The map is in key order.
    assert_eq!(complete.collect::<Vec<_>>(), (0..12).map(|number| number < 5).collect::<Vec<_>>());
}

#[test]
fn bf16_features_are_the_f32_ones_rounded_to_nearest() {
    let bench = Bench::new("internvl");
    made_up(bench.dir.path(), 3).unwrap();
    let (_, full) = bench.cache("f32", &[]);
    let (_, half) = bench.cache("bf16", &["--dtype", "bf16"]);
    for (key, (_, block)) in &full {
        // `half::bf16::from_f32` rounds to nearest even.
        let rounded: Vec<bf16> = values(block).into_iter().map(bf16::from_f32).collect();
        assert_eq!(half[key].1, shared::cache::FeatureBlock::from_bf16(block.width, &rounded));
    }
}

/// `--embed-images` keeps each image file byte for byte; without it there is none. The features do not change.
#[test]
fn image_files_are_embedded_on_demand() {
    let bench = Bench::new("qwen2_vl");
    made_up(bench.dir.path(), 6).unwrap();
    let (_, plain) = bench.cache("plain", &[]);
    let (_, embedded) = bench.cache("embedded", &["--embed-images"]);
    assert!(plain == embedded);
    let files = |out: &str| {
        let reader = CacheReader::open(bench.path(out)).unwrap();
        (0..reader.len()).flat_map(|i| reader.image_files(i).unwrap()).collect::<BTreeSet<Vec<u8>>>()
    };
    assert!(files("plain").is_empty());
    let written = (0..6).map(|i| fs::read(bench.path(&format!("{i}.bmp"))).unwrap());
    assert!(files("embedded") == written.collect());
}

#[test]
fn the_cache_keeps_the_head_as_it_was() {
    for family in FAMILIES {
        let bench = Bench::new(family);
        made_up(bench.dir.path(), 2).unwrap();
        bench.cache("cache", &[]);
        let reader = CacheReader::open(bench.path("cache")).unwrap();
        let head = reader.head().tensors().unwrap();
        let head = head.tensor("lm_head.weight").unwrap();
        // The loader's head, from the same checkpoint by another path.
        let options = shared::models::LoadOptions::frozen(candle_core::Device::Cpu, candle_core::DType::F32);
        let model = shared::models::load(&bench.teacher, &options).unwrap();
        let dtype = match head.dtype() {
            safetensors::Dtype::F32 => candle_core::DType::F32,
            safetensors::Dtype::BF16 => candle_core::DType::BF16,
            other => panic!("{other:?}"),
        };
        let stored =
            Tensor::from_raw_buffer(head.data(), dtype, head.shape(), &candle_core::Device::Cpu).unwrap();
        let stored = stored.to_dtype(candle_core::DType::F32).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(stored, model.head.weight().unwrap().to_vec2::<f32>().unwrap(), "{family}");
        assert!(verify(bench.path("cache"), |_, _| ()).unwrap().problems.is_empty());
    }
}

/// One row for each way of being bad, and what its reason must say.
fn bad_rows(dir: &Path) -> Vec<(Value, &'static str)> {
    fs::write(dir.join("torn.bmp"), &bmp(28, 28, 1)[..200]).unwrap();
    fs::write(dir.join("text.jpg"), "no image at all").unwrap();
    let mut two = question("two placeholders", "0.bmp", "<image> and this?", "Yes.");
    two["conversations"][0]["value"] = json!("<image> and <image>?");
    let mut none = question("no placeholder", "0.bmp", "", "Yes.");
    none["conversations"][0]["value"] = json!("And this?");
    vec![
        (question("missing image", "nowhere.bmp", "What?", "Nothing."), "nowhere.bmp"),
        (question("torn image", "torn.bmp", "What?", "Half."), "image 0"),
        (question("not an image", "text.jpg", "What?", "Text."), "image 0"),
        (two, "2 `<image>`"),
        (none, "no `<image>`"),
        (question("empty answer", "0.bmp", "What?", "  "), "empty answer"),
        (question("too long", "0.bmp", &"very ".repeat(2000), "Long."), "more than the maximum"),
        (json!({ "id": "no conversation", "image": "0.bmp" }), "conversations"),
    ]
}

#[test]
fn bad_rows_go_to_quarantine_with_the_reason_and_the_run_goes_on() {
    let bench = Bench::new("qwen2_vl");
    let path = made_up(bench.dir.path(), 10).unwrap();
    let mut rows: Vec<Value> =
        fs::read_to_string(&path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let bad = bad_rows(bench.dir.path());
    rows.splice(5..5, bad.iter().map(|(row, _)| row.clone()));
    rows.push(rows[0].clone());
    write_rows(&path, &rows).unwrap();
    let limits = ["--max-bad", "100%", "--max-length", "500"];
    let (summary, cache) = bench.cache("cache", &limits);
    assert_eq!(cache.len(), 10);
    let counts = ["read", "samples", "written", "quarantined", "duplicates"]
        .map(|name| summary[name].as_u64().unwrap());
    assert_eq!(counts, [19, 10, 10, 8, 1]);
    let quarantined = CacheReader::open(bench.path("cache")).unwrap().quarantined().unwrap();
    assert_eq!(quarantined.len(), bad.len());
    for ((row, reason), found) in bad.iter().zip(&quarantined) {
        assert_eq!(found.id.as_deref(), row["id"].as_str());
        assert_eq!(rows[found.row as usize]["id"], row["id"]);
        assert_eq!(found.source, path.display().to_string());
        assert!(
            found.reason.contains(reason) && !found.reason.contains('\n'),
            "{}: {}",
            row["id"],
            found.reason
        );
    }
    // Again, and nothing changes: neither rows nor the quarantine are written twice.
    let manifest = fs::read(bench.path("cache/manifest.json")).unwrap();
    let (summary, _) = bench.cache("cache", &limits);
    assert_eq!((&summary["written"], &summary["resumed_from"]), (&json!(0), &json!(10)));
    assert_eq!(fs::read(bench.path("cache/manifest.json")).unwrap(), manifest);
}

/// A page holds 2 GB of float32, so that the limit is what is small here.
#[test]
fn a_sample_too_large_for_a_cache_is_a_bad_row() {
    let dir = tempfile::tempdir().unwrap();
    let sources = [made_up(dir.path(), 1).unwrap().to_str().unwrap().to_owned()];
    let processor = Processor::load(&fixture("qwen2_vl")).unwrap();
    let prepared = |positions| {
        let record = dataset::open(&sources, &DatasetOptions::default()).unwrap().next().unwrap().unwrap();
        let limits = Limits { tokens: usize::MAX, positions };
        identify(record.unwrap()).and_then(|row| prepare(row, &processor, limits, Keep::Answer, false))
    };
    let count = prepared(usize::MAX).ok().unwrap().positions().len();
    assert!(prepared(count).is_ok());
    let reason = prepared(count - 1).err().unwrap().reason;
    assert!(reason.contains(&format!("{count} positions have features, more than the")), "{reason}");
    // 2 GB by the 8,192 bytes of a position.
    assert_eq!(most_positions(2048), 244_140);
}

#[test]
fn a_row_that_was_mended_leaves_the_quarantine() {
    let bench = Bench::new("qwen2_vl");
    let path = made_up(bench.dir.path(), 4).unwrap();
    fs::rename(bench.path("2.bmp"), bench.path("away.bmp")).unwrap();
    let (summary, _) = bench.cache("cache", &["--max-bad", "1"]);
    assert_eq!((&summary["samples"], &summary["quarantined"]), (&json!(3), &json!(1)));
    fs::rename(bench.path("away.bmp"), bench.path("2.bmp")).unwrap();
    let (summary, cache) = bench.cache("cache", &["--max-bad", "0"]);
    assert_eq!(
        (&summary["samples"], &summary["quarantined"], &summary["written"]),
        (&json!(4), &json!(0), &json!(1))
    );
    assert!(by_id(&cache, "row 2").is_ok() && path.exists());
    assert!(CacheReader::open(bench.path("cache")).unwrap().quarantined().unwrap().is_empty());
}

#[test]
fn a_spent_error_budget_fails_and_keeps_what_was_written() {
    let bench = Bench::new("qwen2_vl");
    made_up(bench.dir.path(), 6).unwrap();
    fs::remove_file(bench.path("3.bmp")).unwrap();
    let finished = bench.extract("cache", &[]);
    assert_eq!(finished.code, Some(1));
    // 1 of 6 is more than the default of 1 %.
    assert!(
        finished.stderr.contains("1 of 6 rows are bad") && finished.stderr.contains("hint: "),
        "{}",
        finished.stderr
    );
    assert_eq!(contents(&bench.path("cache")).unwrap().len(), 5);
    assert!(!CacheReader::open(bench.path("cache")).unwrap().manifest().complete);
    let (summary, _) = bench.cache("cache", &["--max-bad", "20%"]);
    assert_eq!((&summary["written"], &summary["complete"]), (&json!(0), &json!(true)));
}
