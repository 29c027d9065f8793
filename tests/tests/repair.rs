//! Repair: what is damaged is found, what is sound is kept, and nothing is extracted but what the cache had.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::io::Write as _;
use std::path::Path;

use e2e::jobs::Job;
use e2e::rows::{contents, fixture, made_up};
use e2e::tools::{fails, is_sound, object, text, words};
use serde_json::Value;
use shared::cache::{CacheReader, Manifest};

/// The command that repairs a cache of the job with a file of rows in its folder.
fn repair(job: &Job, cache: &str, data: &str) -> Vec<String> {
    let mut args = words(&["repair", "--device", "cpu", "--teacher"], &[&job.teacher]);
    args.extend(words(&["--data"], &[&job.dir.path().join(data), &job.cache(cache)]));
    args
}

fn flip(cache: &Path, file: &str, at: usize) {
    let mut bytes = fs::read(cache.join(file)).unwrap();
    bytes[at] ^= 4;
    fs::write(cache.join(file), bytes).unwrap();
}

fn shards(cache: &Path) -> Vec<(String, u64)> {
    let manifest = Manifest::load(cache).unwrap();
    manifest.shards.into_iter().map(|shard| (shard.entry.file, shard.samples)).collect()
}

#[test]
fn repair_extracts_what_is_damaged_and_nothing_else() {
    let job = Job::new(30);
    let expected = job.expected();
    let cache = job.cache("undisturbed");
    assert_eq!(object(&repair(&job, "undisturbed", "rows.jsonl"))["run"], Value::Null, "nothing to do");

    let reader = CacheReader::open(&cache).unwrap();
    let shards: Vec<(String, u64)> =
        reader.manifest().shards.iter().map(|shard| (shard.entry.file.clone(), shard.samples)).collect();
    drop(reader);
    assert!(shards.len() > 4);
    // The first feature page of one shard, the footer of another, a whole third one, the card and the head.
    flip(&cache, &shards[0].0, 100);
    let footer = fs::metadata(cache.join(&shards[2].0)).unwrap().len() as usize - 20;
    flip(&cache, &shards[2].0, footer);
    fs::remove_file(cache.join(&shards[3].0)).unwrap();
    flip(&cache, "README.md", 100);
    flip(&cache, "head.safetensors", 2000);
    assert!(!is_sound(&cache));
    let repaired = object(&repair(&job, "undisturbed", "rows.jsonl"));
    let lost = 1 + shards[2].1 + shards[3].1;
    assert_eq!((repaired["lost"].as_u64(), repaired["run"]["written"].as_u64()), (Some(lost), Some(lost)));
    assert_eq!(repaired["saved"].as_u64(), Some(shards[0].1 - 1));
    assert_eq!(repaired["damaged"].as_array().unwrap().len(), 5);
    assert!(is_sound(&cache) && contents(&cache).unwrap() == expected);
    assert!(Manifest::load(&cache).unwrap().complete);

    // Another teacher repairs nothing. The shards have their names anew.
    flip(&cache, &Manifest::load(&cache).unwrap().shards[0].entry.file, 100);
    let other = Job { teacher: fixture("internvl"), ..job };
    fails(&repair(&other, "undisturbed", "rows.jsonl"), &["another fingerprint"]);
}

#[test]
fn a_repair_that_had_too_little_data_is_not_forgotten() {
    let job = Job::new(12);
    let expected = job.expected();
    let cache = job.cache("undisturbed");
    let all = job.dir.path().join("rows.jsonl");
    let half = job.dir.path().join("half.jsonl");
    let rows = fs::read_to_string(&all).unwrap();
    fs::write(&half, rows.lines().take(6).map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    for shard in Manifest::load(&cache).unwrap().shards {
        fs::remove_file(cache.join(shard.entry.file)).unwrap();
    }
    fails(&repair(&job, "undisturbed", "half.jsonl"), &["12 samples were lost and 6 extracted again"]);
    assert!(!Manifest::load(&cache).unwrap().complete, "what is lost is owed");
    fails(&repair(&job, "undisturbed", "half.jsonl"), &["6 samples were lost and 0 extracted again"]);
    assert_eq!(object(&repair(&job, "undisturbed", "rows.jsonl"))["run"]["written"], 6);
    let mut found = contents(&cache).unwrap();
    // Half of the rows were read from the other file and say so.
    found.values_mut().for_each(|(meta, _)| meta.source = text(&all));
    assert!(Manifest::load(&cache).unwrap().complete && found == expected);
}

#[test]
fn a_manifest_with_one_flipped_bit_becomes_what_it_was() {
    let job = Job::new(8);
    job.expected();
    let cache = job.cache("undisturbed");
    let path = cache.join("manifest.json");
    let sound = fs::read(&path).unwrap();
    // In a number, in a name, in the digest of everything.
    for at in [300, sound.len() / 2, sound.len() - 40] {
        flip(&cache, "manifest.json", at);
        fails(&words(&["verify"], &[&cache]), &["manifest.json", "`extract repair`"]);
        let repaired = object(&repair(&job, "undisturbed", "rows.jsonl"));
        assert_eq!(repaired["damaged"], serde_json::json!(["manifest.json"]));
        assert_eq!((&repaired["lost"], &repaired["run"]), (&0.into(), &Value::Null));
        assert!(fs::read(&path).unwrap() == sound && is_sound(&cache), "{at}");
    }
}

#[test]
fn a_lost_manifest_is_made_again_and_the_rest_is_repaired() {
    let job = Job::new(16);
    let expected = job.expected();
    let cache = job.cache("undisturbed");
    let path = cache.join("manifest.json");
    let sound = fs::read(&path).unwrap();
    for damage in ["bits", "zeros", "gone"] {
        match damage {
            "bits" => [300, 600].into_iter().for_each(|at| flip(&cache, "manifest.json", at)),
            "zeros" => fs::write(&path, vec![0; 4096]).unwrap(),
            _ => fs::remove_file(&path).unwrap(),
        }
        // With other settings than those of the cache.
        let mut other = repair(&job, "undisturbed", "rows.jsonl");
        other.extend(words(&["--features", "all"], &[]));
        fails(&other, &["manifest.json", "nothing confirms", "`--features`"]);
        let repaired = object(&repair(&job, "undisturbed", "rows.jsonl"));
        assert_eq!(repaired["damaged"], serde_json::json!(["manifest.json"]), "{damage}");
        assert_eq!(repaired["run"], Value::Null);
        assert!(fs::read(&path).unwrap() == sound, "{damage}: as the run wrote it");
    }
    // A row of one shard, another shard's end, which says how much it had, and the manifest.
    let shards = shards(&cache);
    flip(&cache, &shards[0].0, 100);
    let footer = fs::metadata(cache.join(&shards[2].0)).unwrap().len() as usize - 6;
    flip(&cache, &shards[2].0, footer);
    fs::remove_file(&path).unwrap();
    let repaired = object(&repair(&job, "undisturbed", "rows.jsonl"));
    assert_eq!(repaired["run"]["written"], 1 + shards[2].1);
    assert!(is_sound(&cache) && contents(&cache).unwrap() == expected);
    assert!(Manifest::load(&cache).unwrap().complete);
}

#[test]
fn bytes_behind_a_shard_cost_no_sample() {
    let job = Job::new(8);
    let expected = job.expected();
    let cache = job.cache("undisturbed");
    let (file, samples) = shards(&cache)[1].clone();
    fs::File::options().append(true).open(cache.join(&file)).unwrap().write_all(b"appended").unwrap();
    assert!(!is_sound(&cache));
    let repaired = object(&repair(&job, "undisturbed", "rows.jsonl"));
    assert_eq!(repaired["damaged"], serde_json::json!([file]));
    assert_eq!((&repaired["lost"], &repaired["saved"]), (&0.into(), &samples.into()));
    assert_eq!(repaired["run"], Value::Null, "no row is read again");
    assert!(is_sound(&cache) && contents(&cache).unwrap() == expected);
    assert!(Manifest::load(&cache).unwrap().complete);
}

#[test]
fn a_cache_is_owed_only_what_it_had() {
    let job = Job::new(30);
    let expected = job.expected();
    let middle = expected.values().map(|(meta, _)| meta.input_ids.len()).sum::<usize>() / 30;
    let mut args = words(&["subset"], &[&job.cache("part"), &job.cache("undisturbed")]);
    args.extend(words(&["--where", &format!("num_tokens<={middle}"), "--where", "row>0"], &[]));
    object(&args);
    let cache = job.cache("part");
    let part = contents(&cache).unwrap();
    assert!(part.len() > 5 && part.len() < 25);
    let is_as_before = |written: u64| {
        let repaired = object(&repair(&job, "part", "rows.jsonl"));
        assert_eq!((&repaired["lost"], &repaired["run"]["written"]), (&written.into(), &written.into()));
        let manifest = Manifest::load(&cache).unwrap();
        assert!(manifest.complete && manifest.owed.is_none() && manifest.selected.len() == 2);
        assert!(is_sound(&cache) && contents(&cache).unwrap() == part);
    };
    // A row, of which the key is known; then all of them at once, of which only the conditions are.
    flip(&cache, &shards(&cache)[0].0, 100);
    is_as_before(1);
    fs::remove_file(cache.join(&shards(&cache)[0].0)).unwrap();
    fs::remove_file(cache.join(&shards(&cache)[1].0)).unwrap();
    is_as_before(part.len() as u64);
    // No row at all.
    flip(&cache, "README.md", 100);
    assert_eq!(object(&repair(&job, "part", "rows.jsonl"))["run"], Value::Null);
    assert!(is_sound(&cache) && contents(&cache).unwrap() == part);

    // Data that has grown is no reason to extract more than was lost, and a run may still add all of it.
    let whole = job.cache("undisturbed");
    made_up(job.dir.path(), 40).unwrap();
    flip(&whole, &shards(&whole)[0].0, 100);
    assert_eq!(object(&repair(&job, "undisturbed", "rows.jsonl"))["run"]["written"], 1);
    assert!(contents(&whole).unwrap() == expected);
    assert_eq!(job.run("part", &[]).code, Some(0));
    let manifest = Manifest::load(&cache).unwrap();
    assert!(manifest.complete && manifest.totals.samples == 40 && manifest.selected.is_empty());
}

#[test]
fn the_error_of_a_codec_is_not_counted_twice() {
    let job = Job::new(24);
    assert_eq!(job.run("int8", &["--codec", "int8"]).code, Some(0));
    let cache = job.cache("int8");
    let (before, rows) = (Manifest::load(&cache).unwrap().lossy_error, contents(&cache).unwrap());
    flip(&cache, &shards(&cache)[0].0, 100);
    fs::remove_file(cache.join(&shards(&cache)[2].0)).unwrap();
    object(&repair(&job, "int8", "rows.jsonl"));
    assert!(is_sound(&cache) && contents(&cache).unwrap() == rows);
    assert_eq!(Manifest::load(&cache).unwrap().lossy_error, before, "as the undisturbed run says it");

    // Samples that come later are measured, up to the 2,048 positions.
    made_up(job.dir.path(), 30).unwrap();
    assert_eq!(job.run("int8", &["--codec", "int8"]).code, Some(0));
    let positions = |error: Option<shared::cache::LossyError>| error.unwrap().positions;
    let after = Manifest::load(&cache).unwrap().lossy_error;
    assert_eq!((positions(before), positions(after)), (4 * 24, 4 * 30));

    // A source without samples tells nothing of the error, and copied rows are not measured as if they were the teacher's.
    let no_answer = r#"{"id": "x", "conversations": [{"from": "human", "value": "Hello?"}]}"#;
    fs::write(job.dir.path().join("rows.jsonl"), no_answer).unwrap();
    assert_eq!(job.run("empty", &["--codec", "int8", "--max-bad", "100%"]).code, Some(0));
    object(&words(&["merge"], &[&job.cache("both"), &job.cache("empty"), &cache]));
    assert_eq!(Manifest::load(&job.cache("both")).unwrap().lossy_error, after);
}
