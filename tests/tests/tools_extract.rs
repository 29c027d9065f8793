//! The tools around a cache: codecs, estimate, merge, subset, inspect, and a cache that was moved or cannot be written.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use e2e::jobs::Job;
use e2e::programs::run;
use e2e::rows::{Contents, contents, made_up};
use e2e::tools::{fails, is_sound, object, text, words};
use shared::cache::{CacheReader, Codec, FeatureBlock, Manifest};
use shared::ids::SampleKey;

/// Every file of a cache by name, with its bytes; lock files hold nothing.
fn files(cache: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for folder in [cache.to_path_buf(), cache.join("data")] {
        for entry in
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file())
        {
            files.insert(text(entry.strip_prefix(cache).unwrap()), fs::read(&entry).unwrap());
        }
    }
    files
}

#[test]
fn codecs_keep_what_they_promise_and_say_what_they_cost() {
    let job = Job::new(24);
    let expected = job.expected();
    assert_eq!(job.run("none", &["--codec", "none"]).code, Some(0));
    assert!(contents(&job.cache("none")).unwrap() == expected);
    assert_eq!(job.run("int8", &["--codec", "int8"]).code, Some(0));
    let rounded: Contents = expected
        .iter()
        .map(|(key, (meta, block))| (*key, (meta.clone(), Codec::INT8.rounded(block))))
        .collect();
    assert!(contents(&job.cache("int8")).unwrap() == rounded);
    let manifest = Manifest::load(&job.cache("int8")).unwrap();
    let error = manifest.lossy_error.unwrap();
    // Four positions of each of 24 samples. By the plain formula in double precision, from the features of both caches.
    assert_eq!(error.positions, 96);
    let (mean, worst) = divergence(&job.cache("int8"), &expected);
    assert!((error.mean_kl - mean).abs() < 1e-9 + 1e-6 * mean, "{error:?}, by formula {mean}");
    assert!(
        (error.max_kl - worst).abs() < 1e-9 + 1e-6 * worst && error.max_kl > 0.0,
        "{error:?}, by formula {worst}"
    );
    assert!(error.top1_agreement > 0.9 && error.top1_agreement <= 1.0);
    assert!(fs::read_to_string(job.cache("int8/README.md")).unwrap().contains("KL through the head"));
    assert!(Manifest::load(&job.cache("none")).unwrap().lossy_error.is_none());
    assert!(is_sound(&job.cache("none")) && is_sound(&job.cache("int8")));
}

/// Mean and maximum of sum p ln(p / q) at the positions that the cache's documentation names: four of a sample, evenly spaced.
fn divergence(int8: &Path, expected: &Contents) -> (f64, f64) {
    let reader = CacheReader::open(int8).unwrap();
    let head = reader.head().tensors().unwrap();
    let head: Vec<f64> = floats(head.tensor("lm_head.weight").unwrap().data()).collect();
    let width = reader.width();
    let softmax = |feature: &[f64]| -> Vec<f64> {
        let logits = head.chunks(width).map(|row| row.iter().zip(feature).map(|(a, b)| a * b).sum::<f64>());
        let exponentials: Vec<f64> = logits.map(f64::exp).collect();
        let sum: f64 = exponentials.iter().sum();
        exponentials.iter().map(|value| value / sum).collect()
    };
    let mut all = Vec::new();
    for (_, block) in expected.values() {
        let rows = |block: &FeatureBlock| -> Vec<f64> { floats(&block.bytes).collect() };
        let (before, after) = (rows(block), rows(&Codec::INT8.rounded(block)));
        let count = block.num_positions();
        assert!(count >= 4);
        for at in (0..4).map(|i| i * count / 4 * width) {
            let (p, q) = (softmax(&before[at..at + width]), softmax(&after[at..at + width]));
            all.push(p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum::<f64>());
        }
    }
    (all.iter().sum::<f64>() / all.len() as f64, all.iter().copied().fold(0.0, f64::max))
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f64> + '_ {
    bytes.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]])))
}

#[test]
fn an_estimate_is_within_ten_percent_of_the_run() {
    let job = Job::new(120);
    for more in [&["--features-all-for", "30"][..], &["--features", "all", "--codec", "int8"]] {
        let options =
            ["--device", "cpu", "--shard-size", "64KiB"].iter().chain(more).copied().collect::<Vec<_>>();
        let mut args = vec!["estimate", "--teacher"].into_iter().map(str::to_owned).collect::<Vec<_>>();
        args.extend([text(&job.teacher), "--data".to_owned(), text(job.dir.path().join("rows.jsonl"))]);
        args.extend(options.iter().map(|option| (*option).to_owned()));
        let estimate = object(&args);
        for codec in Codec::all() {
            let out = format!("{codec}-{}", more.len());
            let all: Vec<&str> = options.iter().copied().chain(["--codec", codec.name()]).collect();
            assert_eq!(job.run(&out, &all).code, Some(0));
            let Manifest { totals, shards, .. } = Manifest::load(&job.cache(&out)).unwrap();
            let size = &estimate["codecs"][codec.name()];
            let pairs = [
                (&estimate["samples"], totals.samples),
                (&estimate["tokens"], totals.tokens),
                (&estimate["feature_rows"], totals.feature_rows),
                (&size["bytes"], totals.bytes),
            ];
            for (estimated, truth) in pairs {
                let off = estimated.as_f64().unwrap() / truth as f64 - 1.0;
                assert!(off.abs() < 0.1, "{codec} {more:?}: {estimated} instead of {truth}");
            }
            assert!(
                size["files"].as_u64().unwrap().abs_diff(shards.len() as u64) <= 1,
                "{size} {}",
                shards.len()
            );
        }
        assert!(
            estimate["tokens_per_second"].as_f64().unwrap() > 0.0
                && estimate["hours"].as_f64().unwrap() > 0.0
        );
        assert!(estimate["free_bytes"].as_u64().unwrap() > 0);
    }
}

/// `distill` looks at one sample to know whether it needs the data.
#[test]
fn images_are_embedded_in_all_samples_or_in_none() {
    let job = Job::new(12);
    let embeds = |cache: &str| {
        let reader = CacheReader::open(job.cache(cache)).unwrap();
        let mut embeds = (0..reader.len()).map(|i| !reader.image_files(i).unwrap().is_empty());
        let first = embeds.next().unwrap();
        (first, embeds.all(|other| other == first))
    };
    let rows = fs::read_to_string(job.dir.path().join("rows.jsonl")).unwrap();
    let begin = |cache: &str, flags: &[&str]| {
        fs::write(job.dir.path().join("rows.jsonl"), rows.lines().next().unwrap()).unwrap();
        assert_eq!(job.run(cache, flags).code, Some(0));
        fs::write(job.dir.path().join("rows.jsonl"), &rows).unwrap();
    };
    begin("with", &["--embed-images"]);
    assert_eq!(job.run("with", &[]).code, Some(0));
    assert_eq!((embeds("with"), job.committed("with")), ((true, true), 12));

    begin("without", &[]);
    let refused = job.run("without", &["--embed-images"]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("was made without `--embed-images`\nhint: "), "{}", refused.stderr);
    assert_eq!(job.run("without", &[]).code, Some(0));
    let [both, with, without] = ["both", "with", "without"].map(|cache| job.cache(cache));
    fails(&words(&["merge"], &[&both, &with, &without]), &["embeds its images and"]);

    // What is extracted again is as the rest, without a flag.
    let lost = Manifest::load(&with).unwrap().shards[0].entry.file.clone();
    fs::remove_file(with.join(lost)).unwrap();
    let mut repair = words(&["repair", "--teacher"], &[&job.teacher]);
    repair.extend(words(&["--data"], &[&job.dir.path().join("rows.jsonl"), &with]));
    object(&repair);
    assert_eq!((embeds("with"), job.committed("with")), ((true, true), 12));
}

#[test]
fn caches_unite_and_divide() {
    let job = Job::new(30);
    let expected = job.expected();
    for part in ["0/2", "1/2"] {
        assert_eq!(job.run(&part[..1], &["--part", part]).code, Some(0));
    }
    let (a, b, whole) = (job.cache("0"), job.cache("1"), job.cache("undisturbed"));
    let united = object(&words(&["merge"], &[&job.cache("united"), &a, &b]));
    assert_eq!((united["samples"].as_u64(), united["left_out"].as_u64()), (Some(30), Some(0)));
    assert!(contents(&job.cache("united")).unwrap() == expected && is_sound(&job.cache("united")));
    assert!(Manifest::load(&job.cache("united")).unwrap().complete);
    // Samples that several have are taken once; the same command again changes nothing.
    let overlapping = words(&["merge"], &[&job.cache("united"), &a, &whole]);
    let before = files(&job.cache("united"));
    assert_eq!(object(&overlapping)["written"].as_u64(), Some(0));
    assert!(files(&job.cache("united")) == before);
    // What was merged is a cache like any other: the run that made its sources has nothing to add.
    assert_eq!(job.run("united", &["--json"]).code, Some(0));
    assert_eq!(contents(&job.cache("united")).unwrap().len(), 30);

    assert_eq!(job.run("int8", &["--codec", "int8"]).code, Some(0));
    let unlike = words(&["merge"], &[&job.cache("unlike"), &a, &job.cache("int8")]);
    fails(&unlike, &["codec: expected lossless, got int8"]);
    fails(&words(&["merge"], &[&a, &a, &b]), &["source and the result"]);

    let subset = |out: &str, conditions: &[&str]| {
        let mut args = words(&["subset"], &[&job.cache(out), &whole]);
        conditions.iter().for_each(|condition| args.extend(words(&["--where", condition], &[])));
        object(&args);
        assert!(is_sound(&job.cache(out)));
        contents(&job.cache(out)).unwrap()
    };
    let middle = {
        let mut lengths: Vec<usize> = expected.values().map(|(meta, _)| meta.input_ids.len()).collect();
        lengths.sort_unstable();
        lengths[15]
    };
    let short = subset("short", &[&format!("num_tokens<={middle}")]);
    let long = subset("long", &[&format!("num_tokens>{middle}"), "num_images=1"]);
    assert!(!short.is_empty() && !long.is_empty());
    assert!(short.into_iter().chain(long).collect::<Contents>() == expected);
    let one: SampleKey = *expected.keys().next().unwrap();
    assert_eq!(subset("one", &[&format!("key={one}")]).into_keys().collect::<Vec<_>>(), [one]);

    // A rounded cache divides without being rounded again, and keeps what is known of its error.
    let mut args = words(&["subset"], &[&job.cache("int8-part"), &job.cache("int8")]);
    args.extend(words(&["--where", "row<10"], &[]));
    object(&args);
    let (all, part) = (contents(&job.cache("int8")).unwrap(), contents(&job.cache("int8-part")).unwrap());
    assert!(part.len() == 10 && part.iter().all(|(key, row)| all[key] == *row));
    let error = |name: &str| Manifest::load(&job.cache(name)).unwrap().lossy_error.unwrap();
    assert_eq!(error("int8-part"), error("int8"));
}

/// As root no permission is enforced, so what is checked as well is that reading changes nothing.
#[test]
fn a_cache_that_was_copied_elsewhere_and_cannot_be_written_reads_as_it_is() {
    let job = Job::new(8);
    let expected = job.expected();
    let elsewhere = job.dir.path().join("far/away");
    fs::create_dir_all(elsewhere.join("data")).unwrap();
    for (name, bytes) in
        files(&job.cache("undisturbed")).into_iter().filter(|(name, _)| !name.starts_with(".lock"))
    {
        fs::write(elsewhere.join(name), bytes).unwrap();
    }
    fs::rename(job.cache("undisturbed"), job.cache("gone")).unwrap();
    let before = files(&elsewhere);
    let set_writable = |writable: bool| {
        for path in
            before.keys().map(|name| elsewhere.join(name)).chain([elsewhere.join("data"), elsewhere.clone()])
        {
            let mut permissions = fs::metadata(&path).unwrap().permissions();
            #[allow(clippy::permissions_set_readonly_false, reason = "a temporary folder")]
            permissions.set_readonly(!writable);
            fs::set_permissions(path, permissions).unwrap();
        }
    };
    set_writable(false);
    assert!(contents(&elsewhere).unwrap() == expected && is_sound(&elsewhere));
    object(&words(&["verify"], &[&elsewhere]));
    let key = expected.keys().next().unwrap().to_string();
    let mut args = words(&["inspect"], &[&elsewhere]);
    args.extend(words(&["--sample", &key], &[]));
    let shown = run("extract", &args).unwrap().stdout;
    assert!(
        shown.contains("[image: ") && shown.contains("largest channels") && !shown.contains('\x1b'),
        "{shown}"
    );
    assert!(files(&elsewhere) == before, "reading writes nothing");
    set_writable(true);
}

/// The page shows the image's own bytes, every token once, and how long the feature of each is.
#[test]
fn a_sample_is_shown_as_its_image_and_its_tokens() {
    let job = Job::new(4);
    job.expected();
    assert_eq!(job.run("embedded", &["--embed-images"]).code, Some(0));
    let show = |cache: &str, more: &[&str]| {
        let reader = CacheReader::open(job.cache(cache)).unwrap();
        let i = (0..reader.len()).find(|&i| !reader.meta(i).unwrap().images.is_empty()).unwrap();
        let file = job.dir.path().join("sample.html");
        let mut args = words(&["inspect", "--html"], &[&file, &job.cache(cache)]);
        args.extend(words(&["--sample", &reader.key(i).to_string()], &[]));
        args.extend(words(more, &[]));
        object(&args);
        (reader.meta(i).unwrap(), reader.features(i).unwrap(), fs::read_to_string(file).unwrap())
    };
    let (meta, block, html) = show("embedded", &[]);
    // Base64 of "BM", with which the made-up images begin, and two bits of the byte after it.
    assert_eq!(html.matches("src=\"data:image/bmp;base64,Qk").count(), meta.images.len());
    let in_images: u32 = meta.images.iter().map(|image| image.num_tokens).sum();
    let shown = meta.input_ids.len() - in_images as usize + meta.images.len();
    assert_eq!(html.matches(", id ").count(), shown, "{html}");
    assert_eq!(html.matches("<rect ").count(), in_images as usize);
    let values: Vec<f64> = floats(&block.bytes).collect();
    for (position, row) in meta.positions.iter().zip(values.chunks(block.width)) {
        let norm = row.iter().map(|value| value * value).sum::<f64>().sqrt();
        let id = meta.input_ids[*position as usize];
        assert!(html.contains(&format!("token {position}, id {id}, feature of length {norm:.4}")), "{html}");
    }
    // Without embedded images the page says so, unless the file is given.
    let (meta, _, html) = show("undisturbed", &[]);
    assert_eq!(html.matches("does not embed this image").count(), meta.images.len());
    let files: Vec<String> = (0..4).map(|i| text(job.dir.path().join(format!("{i}.bmp")))).collect();
    let given: Vec<&str> =
        files.iter().filter(|file| Path::new(file).exists()).flat_map(|file| ["--image", file]).collect();
    assert!(show("undisturbed", &given).2.contains("src=\"data:image/bmp;base64,Qk"));
}

#[test]
fn more_data_joins_an_existing_cache() {
    let job = Job::new(10);
    job.expected();
    made_up(job.dir.path(), 15).unwrap();
    let more = job.dir.path().join("more.jsonl");
    fs::rename(job.dir.path().join("rows.jsonl"), &more).unwrap();
    made_up(job.dir.path(), 10).unwrap();
    assert_eq!(job.run("undisturbed", &["--data", more.to_str().unwrap()]).code, Some(0));
    let manifest = Manifest::load(&job.cache("undisturbed")).unwrap();
    assert_eq!((manifest.totals.samples, manifest.dataset.len(), manifest.complete), (15, 2, true));
}
