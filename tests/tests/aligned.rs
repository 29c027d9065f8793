//! `recalibrator.from`: one stage align serves several runs.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::path::Path;

use e2e::distilled::{arguments, distill, distilled, metrics};
use e2e::programs::run;
use e2e::rows::fixture;
use serde_json::Value;

/// The metrics of stages distill and finetune, without their step's number and what depends on the machine.
fn learnt(out: &Path) -> Vec<Value> {
    let mut rows = metrics(out).unwrap();
    rows.retain(|row| row["stage"] != "align");
    for row in rows.iter_mut().filter_map(Value::as_object_mut) {
        for field in ["step", "tokens_per_second", "peak_rss_bytes", "loader_stall"] {
            row.remove(field).unwrap();
        }
    }
    rows
}

/// The arguments that begin with the Recalibrator of a run.
fn from(run: &Path) -> [String; 2] {
    ["--set".to_owned(), format!("recalibrator.from='{}'", run.display())]
}

fn texts(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

#[test]
fn a_run_from_anothers_alignment_is_what_one_run_would_be() {
    let dir = tempfile::tempdir().unwrap();
    let [whole, aligned, shared] = ["whole", "aligned", "shared"].map(|name| dir.path().join(name));
    distilled(&whole, &[]).unwrap();
    distilled(&aligned, &["--stages", "align"]).unwrap();
    // Without `--stages`: align has been done. Stopped once within stage distill, once before stage finetune's first step.
    let from_aligned = from(&aligned);
    for stop in ["3", "5"] {
        let stop = format!("checkpoint.stop_after_steps={stop}");
        let args = [&texts(&from_aligned)[..], &["--set", &stop]].concat();
        assert_eq!(distill(&shared, &args).unwrap().code, Some(1));
    }
    // It is known by its weights, wherever they lie.
    let moved = dir.path().join("moved");
    fs::rename(&aligned, &moved).unwrap();
    let summary = distilled(&shared, &texts(&from(&moved))).unwrap();
    assert_eq!((&summary["steps"], summary["stages"][0].as_str()), (&Value::from(8), Some("distill")));
    assert_eq!(learnt(&shared), learnt(&whole));
    let files = [
        "stages/distill/recalibrator.safetensors",
        "stages/distill/student/model.safetensors",
        "stages/finetune/student/model.safetensors",
        "student/model.safetensors",
    ];
    for file in files {
        assert!(fs::read(shared.join(file)).unwrap() == fs::read(whole.join(file)).unwrap(), "{file}");
    }
    // The card says where it comes from: the folder, and the digest of what the run is known by.
    let [out, exported] = [&shared, &dir.path().join("exported")].map(|path| path.display().to_string());
    assert_eq!(run("distill", ["export", &out, "--out", &exported]).unwrap().code, Some(0));
    let card = fs::read_to_string(Path::new(&exported).join("README.md")).unwrap();
    let identity: Value = serde_json::from_slice(&fs::read(shared.join("run.json")).unwrap()).unwrap();
    let digest = identity["fields"]["recalibrator.from"].as_str().unwrap();
    assert!(card.contains(&format!("| `{}` |", moved.display())) && card.contains(digest), "{card}");

    // Another's weights are another run.
    let other = dir.path().join("other");
    distilled(&other, &["--stages", "align", "--set", "align.lr=0.01"]).unwrap();
    let refused = distill(&shared, &texts(&from(&other))).unwrap();
    assert!(
        refused.code == Some(1) && refused.stderr.contains("recalibrator.from: expected"),
        "{}",
        refused.stderr
    );
    // Named, stage align goes on from them.
    let further = dir.path().join("further");
    let stages = ["--stages", "align", "--set", "align.lr=1e-30", "--set", "align.lr_end=1e-30"];
    distilled(&further, &[&texts(&from(&moved))[..], &stages].concat()).unwrap();
    let file = "stages/align/recalibrator.safetensors";
    assert!(fs::read(further.join(file)).unwrap() == fs::read(moved.join(file)).unwrap());
}

#[test]
fn what_does_not_fit_is_refused_with_the_difference() {
    let dir = tempfile::tempdir().unwrap();
    let aligned = dir.path().join("aligned");
    let from_aligned = from(&aligned);
    let out = dir.path().join("run");
    let refused = |more: &[&str], needles: &[&str]| {
        let finished = distill(&out, &[&texts(&from_aligned)[..], more].concat()).unwrap();
        assert_eq!(finished.code, Some(1), "{}", finished.stderr);
        for needle in [needles, &["hint:"]].concat() {
            assert!(finished.stderr.contains(needle), "`{needle}` is not in:\n{}", finished.stderr);
        }
        assert!(!out.exists(), "nothing is written");
    };
    refused(&[], &["has no finished stage align"]);
    distilled(&aligned, &["--stages", "align"]).unwrap();
    refused(&["--set", "recalibrator.depth=1"], &["recalibrator.depth: expected 2, got 1"]);
    refused(
        &["--set", "recalibrator.answer=tokens"],
        &["recalibrator.answer: expected \"features\", got \"tokens\""],
    );
    // A student of another width, named again behind the first: config.json has 36 and 24.
    let narrower = fixture("llava").display().to_string();
    let widths = "blocks.0.input_layernorm.weight: expected [36], got [24]";
    refused(&["--student", &narrower], &[widths, "more"]);

    // Another teacher's cache, and a student that differs in its weights alone.
    let mut args = arguments(&out, &texts(&from_aligned)).unwrap();
    let teacher = dir.path().join("teacher");
    let data = args[args.iter().position(|arg| arg == "--data").unwrap() + 1].clone();
    copy_with_other_weights("qwen2_vl", &teacher);
    let cache = dir.path().join("cache").display().to_string();
    let teacher = teacher.display().to_string();
    let extract = [
        "run",
        "--device",
        "cpu",
        "--features",
        "all",
        "--teacher",
        &teacher,
        "--data",
        &data,
        "--out",
        &cache,
    ];
    assert_eq!(run("extract", extract).unwrap().code, Some(0));
    let place = args.iter().position(|arg| arg == "--cache").unwrap() + 1;
    args[place] = cache;
    let finished = run("distill", &args).unwrap();
    assert!(
        finished.code == Some(1) && finished.stderr.contains("cache fingerprint: expected"),
        "{}",
        finished.stderr
    );
    let student = dir.path().join("student");
    copy_with_other_weights("internvl", &student);
    let student = student.display().to_string();
    let finished = distill(&out, &[&texts(&from_aligned)[..], &["--student", &student]].concat()).unwrap();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(
        finished.stderr.contains("was aligned with another student\n  student weights: expected"),
        "{}",
        finished.stderr
    );
}

/// A fixture whose embedding is another.
fn copy_with_other_weights(name: &str, out: &Path) {
    let copy = e2e::damage::copy_of(name);
    e2e::damage::edit_weights(copy.path(), |tensors| {
        let name = tensors.keys().find(|name| name.ends_with("embed_tokens.weight")).unwrap().clone();
        tensors.insert(name.clone(), (&tensors[&name] * 1.5).unwrap());
    });
    fs::rename(copy.keep(), out).unwrap();
}
