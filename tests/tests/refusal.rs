//! Twelve ways to be the wrong cache: each is refused by the run, with the field or the file that differs, and left as it was.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};

use e2e::programs::run;
use e2e::rows::{altered_checkpoint, fixture, made_up, resign};
use serde_json::{Value, json};
use shared::cache::CacheReader;
use tempfile::TempDir;

/// A finished cache, and the run that made it.
struct Made {
    dir: TempDir,
}

impl Made {
    fn new() -> Self {
        let made = Self { dir: tempfile::tempdir().unwrap() };
        made_up(made.dir.path(), 6).unwrap();
        let finished = made.run(&fixture("qwen2_vl"), &[]);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        made
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, teacher: &Path, more: &[&str]) -> e2e::programs::Finished {
        let (data, out) = (self.path("rows.jsonl"), self.path("cache"));
        let mut args =
            vec!["run", "--device", "cpu", "--shard-size", "1KiB", "--teacher", teacher.to_str().unwrap()];
        args.extend(["--data", data.to_str().unwrap(), "--out", out.to_str().unwrap()]);
        args.extend(more);
        run("extract", args).unwrap()
    }

    /// A run with this teacher is refused, saying all of `says`, and changes nothing.
    fn refuses(&self, teacher: &Path, more: &[&str], says: &[&str]) {
        let manifest = fs::read(self.path("cache/manifest.json")).unwrap();
        let finished = self.run(teacher, more);
        assert_eq!(finished.code, Some(1), "{says:?}: {}", finished.stderr);
        for part in says.iter().chain(&["hint: "]) {
            assert!(finished.stderr.contains(part), "no `{part}` in: {}", finished.stderr);
        }
        assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
        assert_eq!(fs::read(self.path("cache/manifest.json")).unwrap(), manifest);
    }

    /// A teacher that differs in one file.
    fn other_teacher(&self, name: &str, file: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> PathBuf {
        altered_checkpoint("qwen2_vl", &self.path(name), file, change).unwrap()
    }

    fn other_json(&self, name: &str, file: &str, change: impl FnOnce(&mut Value)) -> PathBuf {
        self.other_teacher(name, file, |bytes| {
            let mut value = serde_json::from_slice(&bytes).unwrap();
            change(&mut value);
            value.to_string().into_bytes()
        })
    }

    /// The reader refuses as well, naming the same.
    fn reader_refuses(&self, says: &str) {
        let error = CacheReader::open(self.path("cache")).err().expect("refused").to_string();
        assert!(error.contains(says) && error.contains("hint: "), "{error}");
    }
}

#[test]
fn another_teacher_or_setting_is_refused_by_field() {
    let made = Made::new();
    let weights = made.other_teacher("weights", "model.safetensors", |mut bytes| {
        // One bit of one value: names, types and shapes stay.
        let last = bytes.len() - 4;
        bytes[last] ^= 1;
        bytes
    });
    made.refuses(&weights, &[], &["weights: the cache has `"]);
    let tokenizer = made.other_json("tokenizer", "tokenizer.json", |json| {
        json["model"]["merges"].as_array_mut().unwrap().pop();
    });
    made.refuses(&tokenizer, &[], &["tokenizer: the cache has `"]);
    let token = made.other_json("token", "tokenizer.json", |json| {
        let added = json["added_tokens"].as_array_mut().unwrap();
        let mut token = added.last().unwrap().clone();
        token["id"] = json!(token["id"].as_u64().unwrap() + 1);
        token["content"] = json!("<|extra|>");
        added.push(token);
    });
    made.refuses(&token, &[], &["tokenizer: the cache has `"]);
    let template = made.other_json("template", "chat_template.json", |json| {
        let template = json["chat_template"].as_str().unwrap();
        json["chat_template"] = json!(format!("{template}{{# another #}}"));
    });
    made.refuses(&template, &[], &["chat_template: the cache has `"]);
    let processor =
        made.other_json("processor", "preprocessor_config.json", |json| json["max_pixels"] = json!(1024));
    made.refuses(&processor, &[], &["image_processor: the cache has `", "576", "1024"]);
    made.refuses(
        &fixture("qwen2_vl"),
        &["--dtype", "bf16"],
        &["dtype: the cache has `f32`, this run has `bf16`"],
    );
    let codec = "codec: the cache has `lossless`, this run has `int8`";
    made.refuses(&fixture("qwen2_vl"), &["--codec", "int8"], &[codec]);
}

/// Features from before the final norm, as other tools keep them: no flag of ours makes such a cache, so its manifest is signed
/// anew with that one field changed.
#[test]
fn another_norm_state_is_refused() {
    let made = Made::new();
    resign(&made.path("cache"), |manifest| {
        manifest["fingerprint"]["fields"]["norm_state"] = json!("before final norm");
    })
    .unwrap();
    let says = "norm_state: the cache has `before final norm`, this run has `after final norm`";
    made.refuses(&fixture("qwen2_vl"), &[], &[says]);
}

#[test]
fn a_wrong_set_of_shards_is_refused_by_name() {
    let made = Made::new();
    let teacher = fixture("qwen2_vl");
    let shards = CacheReader::open(made.path("cache")).unwrap().manifest().shards.clone();
    assert!(shards.len() > 1);
    let name = &shards[1].entry.file;
    let path = made.path("cache").join(name);
    let sound = fs::read(&path).unwrap();

    fs::write(&path, &sound[..sound.len() - 1]).unwrap();
    made.refuses(&teacher, &[], &[name, &format!("{} bytes, expected {}", sound.len() - 1, sound.len())]);
    made.reader_refuses(name);
    fs::remove_file(&path).unwrap();
    made.refuses(&teacher, &[], &[name]);
    made.reader_refuses(name);
    fs::write(&path, &sound).unwrap();

    let extra = made.path("cache/data/train-00099.parquet");
    fs::copy(&path, &extra).unwrap();
    made.refuses(&teacher, &[], &["train-00099.parquet", "does not name it"]);
    made.reader_refuses("train-00099.parquet");
    fs::remove_file(extra).unwrap();
    assert_eq!(made.run(&teacher, &[]).code, Some(0));
}

#[test]
fn another_version_or_an_edited_manifest_is_refused() {
    let made = Made::new();
    let path = made.path("cache/manifest.json");
    let sound = fs::read_to_string(&path).unwrap();
    let edits = [
        ("\"format_version\": 1", "\"format_version\": 2", "format version 2, this program reads 1"),
        ("\"samples\": 6", "\"samples\": 7", "edited or damaged"),
        ("after final norm", "before final norm", "edited or damaged"),
    ];
    for (from, to, says) in edits {
        assert!(sound.contains(from), "{from}");
        fs::write(&path, sound.replace(from, to)).unwrap();
        made.refuses(&fixture("qwen2_vl"), &[], &[says]);
        made.reader_refuses(says);
    }
    fs::write(&path, sound).unwrap();
    assert_eq!(made.run(&fixture("qwen2_vl"), &[]).code, Some(0));
}
