//! The command line of `extract`: exit codes, one clear message with a hint, one JSON object.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};

use e2e::programs::{Finished, program, run};
use e2e::rows::{altered_checkpoint, bmp, fixture, made_up};
use serde_json::Value;
use tempfile::TempDir;

fn text(path: impl AsRef<Path>) -> String {
    path.as_ref().to_str().unwrap().to_owned()
}

/// A folder with a small dataset, and the arguments of a run over it.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        made_up(dir.path(), 3).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A run in which one flag is replaced or added.
    fn run_with(&self, flag: &str, value: &str) -> Finished {
        let (teacher, data, out) =
            (text(fixture("qwen2_vl")), text(self.path("rows.jsonl")), text(self.path("cache")));
        let mut args =
            vec![("--teacher", teacher.as_str()), ("--data", &data), ("--out", &out), ("--device", "cpu")];
        args.retain(|(name, _)| *name != flag);
        args.push((flag, value));
        run("extract", ["run"].into_iter().chain(args.iter().flat_map(|(name, value)| [*name, *value])))
            .unwrap()
    }

    /// A copy of the teacher with one text file changed.
    fn teacher_with(&self, name: &str, file: &str, change: impl Fn(String) -> String) -> String {
        let change = |bytes| change(String::from_utf8(bytes).unwrap()).into_bytes();
        text(altered_checkpoint("qwen2_vl", &self.path(name), file, change).unwrap())
    }
}

/// The program ends with this code, says this on standard error, and prints nothing.
fn assert_fails(finished: &Finished, code: i32, says: &[&str]) {
    assert_eq!(finished.code, Some(code), "{finished:?}");
    for part in says {
        assert!(finished.stderr.contains(part), "no `{part}` in: {}", finished.stderr);
    }
    assert_eq!(finished.stdout, "");
    assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
}

#[test]
fn wrong_usage_is_code_two() {
    let place = Place::new();
    assert_fails(
        &run("extract", ["run"]).unwrap(),
        2,
        &["a teacher is missing", "hint: give `--teacher DIR`"],
    );
    assert_fails(&run("extract", ["run", "--no-such-flag"]).unwrap(), 2, &["--no-such-flag"]);
    assert_fails(&run("extract", ["estimate"]).unwrap(), 2, &["a teacher is missing", "hint: "]);
    assert_fails(&run("extract", ["subset", "a", "b"]).unwrap(), 2, &["which samples", "hint: "]);
    assert_fails(&place.run_with("--part", "3/3"), 2, &["`3/3` is not a part"]);
    assert_fails(&run("extract", ["verify"]).unwrap(), 2, &["the cache is missing", "hint: "]);
    assert_fails(&place.run_with("--codec", "zfp"), 2, &["there is no codec `zfp`", "lossless"]);
    assert_fails(
        &place.run_with("--format", "tfrecord"),
        2,
        &["there is no dataset format `tfrecord`", "llava"],
    );
    assert_fails(&place.run_with("--max-bad", "many"), 2, &["`many` is not an error budget"]);
    assert_fails(&place.run_with("--shard-size", "0"), 2, &["`cache.shard_size` is 0", "hint: "]);
    assert_fails(&place.run_with("--max-tokens-per-batch", "0"), 2, &["`batch.max_tokens` is 0", "hint: "]);
    assert_fails(&place.run_with("--set", "batch.max_tokens"), 2, &["does not name a setting", "hint: "]);
    assert_fails(&place.run_with("--set", "batch.size=3"), 2, &["unknown field `size`", "hint: "]);
    assert_fails(&place.run_with("--config", "nowhere.toml"), 2, &["nowhere.toml", "hint: "]);
    assert!(!place.path("cache").exists(), "nothing was begun");
}

#[test]
fn what_cannot_be_used_is_code_one_with_a_hint() {
    let place = Place::new();
    let nowhere = text(place.path("nowhere"));
    assert_fails(&place.run_with("--teacher", &nowhere), 1, &["nowhere/config.json", "hint: "]);
    assert_fails(&place.run_with("--data", &nowhere), 1, &["nowhere", "hint: "]);
    let unknown = place.teacher_with("unknown", "config.json", |config| {
        config.replace("qwen2_vl", "mamba").replace("Qwen2VLForConditionalGeneration", "MambaForCausalLM")
    });
    assert_fails(
        &place.run_with("--teacher", &unknown),
        1,
        &["`MambaForCausalLM` is not supported", "hint: supported are"],
    );
    let wordless =
        place.teacher_with("wordless", "tokenizer.json", |json| json.replace("<|image_pad|>", "<|other|>"));
    assert_fails(&place.run_with("--teacher", &wordless), 1, &["<|image_pad|>", "hint: "]);
    fs::write(place.path("prose.jsonl"), "Once upon a time\n").unwrap();
    assert_fails(
        &place.run_with("--data", &text(place.path("prose.jsonl"))),
        1,
        &["prose.jsonl", "neither a JSON list nor JSON lines", "hint: "],
    );
    assert_fails(&place.run_with("--device", "tpu"), 2, &["`tpu`: not a device", "hint: "]);
    if shared::models::device("cuda:0").is_err() {
        assert_fails(&place.run_with("--device", "cuda:0"), 1, &["`cuda:0`", "CUDA", "hint: "]);
    }
    fs::create_dir(place.path("thesis")).unwrap();
    fs::write(place.path("thesis/chapter.tex"), "").unwrap();
    assert_fails(&place.run_with("--out", &text(place.path("thesis"))), 1, &["chapter.tex", "hint: "]);
    assert_fails(
        &place.run_with("--out", &text(place.path("rows.jsonl/cache"))),
        1,
        &["rows.jsonl/cache", "hint: "],
    );
    assert_fails(&run("extract", ["verify", &nowhere]).unwrap(), 1, &["is not a feature cache", "hint: "]);
    assert_fails(&run("extract", ["inspect", &nowhere]).unwrap(), 1, &["is not a feature cache", "hint: "]);
}

#[test]
fn a_checkpoint_with_missing_weights_names_them_and_writes_no_rows() {
    let place = Place::new();
    let deeper = place.teacher_with("deeper", "config.json", |config| {
        let mut config: Value = serde_json::from_str(&config).unwrap();
        let layers = config["num_hidden_layers"].as_u64().unwrap();
        config["num_hidden_layers"] = (layers + 1).into();
        config.to_string()
    });
    assert_fails(&place.run_with("--teacher", &deeper), 1, &["input_layernorm.weight", "hint: "]);
}

#[test]
fn json_is_one_object_for_success_and_failure() {
    let place = Place::new();
    let (teacher, student, cache) =
        (text(fixture("qwen2_vl")), text(fixture("internvl")), text(place.path("cache")));
    let data = text(place.path("rows.jsonl"));
    let object = |args: &[&str], code: i32| -> Value {
        let finished = run("extract", args).unwrap();
        assert_eq!(finished.code, Some(code), "{}", finished.stderr);
        let value: Value = serde_json::from_str(&finished.stdout).unwrap();
        assert!(value.is_object(), "{value}");
        value
    };
    let summary = object(
        &["run", "--teacher", &teacher, "--data", &data, "--out", &cache, "--device", "cpu", "--json"],
        0,
    );
    for field in [
        "samples",
        "quarantined",
        "tokens",
        "feature_rows",
        "bytes",
        "seconds",
        "tokens_per_second",
        "resumed_from",
    ] {
        assert!(summary[field].is_number(), "{field}: {summary}");
    }
    assert!(summary["peak_rss_bytes"].as_u64().unwrap() > 1 << 20 || cfg!(not(target_os = "linux")));
    assert_eq!(summary["fingerprint"].as_str().unwrap().len(), 64);
    assert_eq!(object(&["verify", &cache, "--json"], 0)["samples"], 3);
    assert_eq!(object(&["inspect", &cache, "--json"], 0)["manifest"]["totals"]["samples"], 3);
    let reader = shared::cache::CacheReader::open(&cache).unwrap();
    let key = reader.key(0).to_string();
    let sample = object(&["inspect", &cache, "--sample", &key[..20], "--json"], 0);
    assert_eq!(sample["key"], key);
    assert!(
        sample["turns"]
            .as_array()
            .unwrap()
            .iter()
            .any(|turn| turn["text"].as_str().unwrap().contains("It is a square"))
    );
    fs::write(place.path("image.bmp"), bmp(16, 16, 3)).unwrap();
    let image = text(place.path("image.bmp"));
    let pair = object(
        &[
            "pair",
            "--teacher",
            &teacher,
            "--student",
            &student,
            "--text",
            "two words",
            "--image",
            &image,
            "--json",
        ],
        0,
    );
    assert_eq!(pair["teacher"]["pieces"].as_array().unwrap().concat_texts(), "two words");
    // The fixture takes patches of 4 pixels, merges 2 x 2 and leaves an image of 16 x 16 as it is: (16 / 8)^2.
    assert_eq!(pair["teacher"]["image_tokens"], serde_json::json!([4]));
    // Without sizes five common ones.
    assert_eq!(pair["teacher"]["sizes"].as_array().unwrap().len(), 5);
    assert!(
        pair["teacher"]["sizes"].as_array().unwrap().iter().all(|size| size["tokens"].as_u64() > Some(0))
    );
    let sizes = [
        "pair",
        "--teacher",
        &teacher,
        "--student",
        &student,
        "--image-size",
        "16x16",
        "--image-size",
        "4000x10",
        "--json",
    ];
    let sizes = object(&sizes, 0);
    assert_eq!(
        sizes["teacher"]["sizes"][0],
        serde_json::json!({"size": "16x16", "tokens": 4, "reason": null})
    );
    // Qwen2-VL refuses what is over 200 times as long as wide.
    let refused = &sizes["teacher"]["sizes"][1];
    assert!(
        refused["tokens"].is_null() && refused["reason"].as_str().unwrap().contains("too long and thin"),
        "{refused}"
    );
    let error = object(&["verify", &text(place.path("nowhere")), "--json"], 1);
    assert!(
        error["error"].as_str().unwrap().contains("not a feature cache") && error["hints"][0].is_string()
    );
    // What is wrong with the line itself, too.
    let error = object(&["subset", "a", "b", "--where", "colour=red", "--json"], 2);
    assert!(error["error"].as_str().unwrap().ends_with("is not a condition: no field `colour`"), "{error}");
    assert!(error["hints"][0].as_str().unwrap().starts_with("write FIELD=VALUE"), "{error}");
    let error = object(&["merge", "--json", &cache], 2);
    assert!(
        error["error"].as_str().unwrap().contains("<CACHE>...") && error["hints"][0].is_string(),
        "{error}"
    );
}

#[test]
fn a_folder_with_a_tokenizer_alone_can_be_paired() {
    let place = Place::new();
    let whole = fixture("qwen2_vl");
    fs::create_dir(place.path("tokenizer")).unwrap();
    fs::copy(whole.join("tokenizer.json"), place.path("tokenizer/tokenizer.json")).unwrap();
    let (alone, whole) = (text(place.path("tokenizer")), text(whole));
    let finished = run("extract", ["pair", "--teacher", &alone, "--student", &whole, "--json"]).unwrap();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let pair: Value = serde_json::from_str(&finished.stdout).unwrap();
    for field in ["vocab_size", "pieces", "ids"] {
        assert_eq!(pair["teacher"][field], pair["student"][field], "the checkout has the same tokenizer");
    }
    assert!(pair["teacher"]["prompt_tokens"].is_null() && pair["student"]["prompt_tokens"].is_number());
    assert!(
        pair["teacher"]["sizes"][0]["tokens"].is_null() && pair["student"]["sizes"][0]["tokens"].is_number()
    );
}

#[test]
fn several_sources_may_follow_one_flag() {
    let place = Place::new();
    let rows = fs::read_to_string(place.path("rows.jsonl")).unwrap();
    let (first, others) = rows.split_once('\n').unwrap();
    fs::write(place.path("first.jsonl"), first).unwrap();
    fs::write(place.path("others.jsonl"), others).unwrap();
    let [teacher, first, others, out] = [
        text(fixture("qwen2_vl")),
        text(place.path("first.jsonl")),
        text(place.path("others.jsonl")),
        text(place.path("cache")),
    ];
    let args = ["run", "--data", &first, &others, "--teacher", &teacher, "--out", &out, "--json"];
    let finished = run("extract", args).unwrap();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert_eq!(serde_json::from_str::<Value>(&finished.stdout).unwrap()["written"], 3);
}

#[cfg(target_os = "linux")]
#[test]
fn a_name_that_is_no_text_is_refused_or_read_and_never_changed() {
    use std::ffi::{OsStr, OsString};
    use std::os::unix::ffi::OsStrExt;

    let place = Place::new();
    let name = OsStr::from_bytes(b"caf\xe9.jsonl");
    let (teacher, folder) = (text(fixture("qwen2_vl")), place.path("folder"));
    let started = |data: &Path, out: OsString| {
        let args = ["run", "--teacher", &teacher, "--device", "cpu", "--data"].map(OsString::from);
        let root = ["--image-root".into(), place.dir.path().into()];
        let args = args.into_iter().chain([data.into(), "--out".into(), out]).chain(root);
        run("extract", args).unwrap()
    };
    let refused = started(&place.path("rows.jsonl"), place.path("").join(name).into_os_string());
    assert_fails(&refused, 2, &["invalid UTF-8"]);
    assert_eq!(fs::read_dir(place.path("")).unwrap().filter(is_folder).count(), 0);
    // Beside another file of its folder it would not be missed.
    fs::create_dir(&folder).unwrap();
    let rows = fs::read_to_string(place.path("rows.jsonl")).unwrap();
    let (first, others) = rows.split_once('\n').unwrap();
    fs::write(folder.join("first.jsonl"), first).unwrap();
    fs::write(folder.join(name), others).unwrap();
    let finished = started(&folder, place.path("cache").into());
    assert!(
        finished.code == Some(0) && finished.stdout.starts_with("read 3 rows: 3 written"),
        "{finished:?}"
    );
}

/// Whether a folder's entry is a folder.
#[cfg(target_os = "linux")]
fn is_folder(entry: &std::io::Result<fs::DirEntry>) -> bool {
    entry.as_ref().unwrap().path().is_dir()
}

trait ConcatTexts {
    fn concat_texts(&self) -> String;
}

impl ConcatTexts for Vec<Value> {
    fn concat_texts(&self) -> String {
        self.iter().filter_map(Value::as_str).collect()
    }
}

#[test]
fn a_run_goes_on_when_nobody_hears_it() {
    let place = Place::new();
    let (teacher, data, out) =
        (text(fixture("qwen2_vl")), text(place.path("rows.jsonl")), text(place.path("cache")));
    let unheard = |data: &str| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let args = ["run", "--teacher", &teacher, "--data", data, "--out", &out, "--part", "0/1"];
        program("extract").unwrap().args(args).stderr(writer).output().unwrap()
    };
    assert_eq!(unheard(&data).status.code(), Some(0));
    // The second run says that it continues, the third what is wrong.
    assert_eq!(unheard(&data).status.code(), Some(0));
    assert_eq!(unheard(&text(place.path("nowhere"))).status.code(), Some(1));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let script = program("extract").unwrap().args(["completions", "bash"]).stdout(writer).output().unwrap();
    assert_eq!(script.status.code(), Some(0));
}

#[test]
fn verify_finds_a_flipped_bit() {
    let place = Place::new();
    assert_eq!(place.run_with("--shard-size", "1MiB").code, Some(0));
    let shard = fs::read_dir(place.path("cache/data")).unwrap().map(|entry| entry.unwrap().path());
    let shard = shard.into_iter().find(|path| path.extension().is_some_and(|end| end == "parquet")).unwrap();
    let mut bytes = fs::read(&shard).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&shard, bytes).unwrap();
    let name = shard.file_name().unwrap().to_str().unwrap();
    assert_fails(
        &run("extract", ["verify", &text(place.path("cache"))]).unwrap(),
        1,
        &[name, "1 problem", "hint: "],
    );
}

#[test]
fn one_file_describes_a_run_and_flags_win_over_it() {
    let place = Place::new();
    let config = format!(
        "[teacher]\ndir = {:?}\ndevice = \"cpu\"\n[data]\nsources = [{:?}]\nmax_bad = 2\n[features]\nkeep = \"all\"\n[cache]\ndir = {:?}\n",
        fixture("qwen2_vl"),
        place.path("rows.jsonl"),
        place.path("elsewhere")
    );
    fs::write(place.path("run.toml"), config).unwrap();
    let (file, out) = (text(place.path("run.toml")), text(place.path("cache")));
    let finished =
        run("extract", ["run", "--config", &file, "--set", "features.keep=text", "--out", &out]).unwrap();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(finished.stdout.contains("read 3 rows: 3 written"), "{}", finished.stdout);
    let manifest = shared::cache::Manifest::load(&place.path("cache")).unwrap();
    assert_eq!(manifest.fingerprint.fields["features"], "text");
    assert!(!place.path("elsewhere").exists());
    // The file serves the other commands too.
    assert_eq!(
        run("extract", ["verify", "--config", &file, "--set", &format!("cache.dir={out}")]).unwrap().code,
        Some(0)
    );
}

#[test]
fn help_has_examples_and_completions_know_the_commands() {
    for command in
        ["run", "estimate", "verify", "repair", "merge", "subset", "inspect", "pair", "completions"]
    {
        let finished = run("extract", [command, "--help"]).unwrap();
        assert_eq!(finished.code, Some(0));
        assert!(finished.stdout.contains(&format!("  extract {command}")), "{}", finished.stdout);
    }
    let finished = run("extract", ["completions", "bash"]).unwrap();
    assert!(finished.code == Some(0) && finished.stdout.contains("--max-tokens-per-batch"));
}
