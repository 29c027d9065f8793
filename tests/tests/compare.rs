//! `distill compare`: a grid of normal runs, continued, with what failed in the table.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use e2e::distilled::{KEYS, distilled, inputs};
use e2e::programs::{Finished, finished, program, run};
use e2e::rows::fixture;
use serde_json::Value;

/// A grid of two methods on the tests' cache; `more` stands before the first table.
fn grid(dir: &Path, more: &str, variants: &str) -> String {
    let inputs = inputs().unwrap();
    let (data, cache) = (inputs.data.display(), inputs.cache.display());
    let keys = KEYS.join("\n");
    let (student, out) = (fixture("internvl").display().to_string(), dir.join("grid").display().to_string());
    let text = format!(
        "out = \"{out}\"\nbaseline = \"sft\"\n{more}\n\
         [[teachers]]\nname = \"qwen\"\ncache = \"{cache}\"\n[[students]]\nname = \"intern\"\npath = \"{student}\"\n\
         [[variants]]\nname = \"sft\"\nmethod = \"sft\"\n{variants}\n\
         [run]\ndevice = \"cpu\"\ndata.sources = [\"{data}\"]\n{keys}\n\
         [eval]\ndata = [\"{data}\"]\nlimit = 4\nmax_new_tokens = 3\n"
    );
    let path = dir.join("grid.toml");
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn compare(config: &str) -> Finished {
    run("distill", ["compare", "--json", "--config", config]).unwrap()
}

#[test]
fn cells_are_normal_runs_and_done_ones_stay() {
    let dir = tempfile::tempdir().unwrap();
    let genrecal = "[[variants]]\nname = \"genrecal\"\n";
    let finished = compare(&grid(dir.path(), "seeds = [7]\njobs = 2", genrecal));
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let result: Value = serde_json::from_str(&finished.stdout).unwrap();
    let names: Vec<_> =
        result["rows"].as_array().unwrap().iter().map(|row| row["variant"].as_str()).collect();
    assert_eq!(names, [None, Some("sft"), Some("genrecal")]);
    for row in result["rows"].as_array().unwrap() {
        assert_eq!(row["questions"], 4, "{row}");
        assert_eq!(row["gain"].is_object(), row["variant"] == "genrecal", "{row}");
        assert_eq!(row["student_use"].is_number(), row["variant"] == "genrecal", "{row}");
        assert_eq!(row["peak_rss_bytes"].is_number(), row["variant"].is_string(), "{row}");
    }
    let out = dir.path().join("grid");
    let page = fs::read_to_string(out.join("compare.html")).unwrap();
    assert!(page.contains("genrecal: qwen → intern") && page.contains("intern, before"), "{page}");
    assert_eq!(fs::read_to_string(out.join("compare.md")).unwrap().lines().count(), 5);

    // The cell and a run by hand with the same keys: the same weights.
    let by_hand = dir.path().join("by-hand");
    distilled(&by_hand, &[]).unwrap();
    let cell = out.join("cells/qwen/intern/genrecal/seed-7");
    let weights = |run: &Path| fs::read(run.join("student/model.safetensors")).unwrap();
    assert!(weights(&cell) == weights(&by_hand), "a cell and a run with its keys differ");

    // A further seed: only its cells run, the others' files are not touched.
    let predictions = cell.join("eval/predictions.jsonl");
    let written = fs::metadata(&predictions).unwrap().modified().unwrap();
    let finished = compare(&grid(dir.path(), "seeds = [7, 8]", genrecal));
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(finished.stderr.contains("3 of 5 cells are done"), "{}", finished.stderr);
    assert_eq!(fs::metadata(&predictions).unwrap().modified().unwrap(), written);
    let result: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(result["rows"][2]["accuracies"].as_array().unwrap().len(), 2);
    assert_eq!(result["rows"][2]["gain"]["seeds"], 2);
}

#[test]
fn a_variant_may_name_its_teachers_and_one_without_a_teacher_runs_once() {
    let dir = tempfile::tempdir().unwrap();
    let cells = dir.path().join("shared");
    let cache = inputs().unwrap().cache.display().to_string();
    let teacher = format!("[[teachers]]\nname = \"again\"\ncache = \"{cache}\"\n");
    let variant = "[[variants]]\nname = \"genrecal\"\nteachers = [\"again\"]\n";
    let more = format!("seeds = [7]\ncells = \"{}\"", cells.display());
    let config = grid(dir.path(), &more, &(teacher + variant));
    let finished = compare(&config);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let result: Value = serde_json::from_str(&finished.stdout).unwrap();
    let rows: Vec<_> = result["rows"].as_array().unwrap().iter().collect();
    let who: Vec<_> = rows.iter().map(|row| (row["variant"].as_str(), row["teacher"].as_str())).collect();
    assert_eq!(who, [(None, None), (Some("sft"), None), (Some("genrecal"), Some("again"))]);
    // The baseline has no teacher: it is every teacher's.
    assert_eq!(rows[2]["gain"]["seeds"], 1, "{result}");
    for cell in ["no-teacher/intern/sft/seed-7", "again/intern/genrecal/seed-7", "before/intern"] {
        assert!(cells.join(cell).join("eval/summary.json").is_file(), "{cell}");
    }
    // Another grid on the same runs finds them done.
    let other = fs::read_to_string(&config).unwrap().replace("/grid\"", "/other\"");
    fs::write(&config, other).unwrap();
    let finished = compare(&config);
    assert!(finished.stderr.contains("3 of 3 cells are done"), "{}", finished.stderr);
    assert!(dir.path().join("other/compare.md").is_file());
}

#[test]
fn a_failed_cell_is_listed_and_the_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    // Method kd needs one vocabulary, which this pair does not have.
    let finished =
        compare(&grid(dir.path(), "seeds = [7]", "[[variants]]\nname = \"kd\"\nmethod = \"kd\"\n"));
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    let result: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(result["rows"].as_array().unwrap().len(), 2, "the student as it came, and sft");
    let failure = &result["failures"][0];
    assert_eq!(failure["cell"], "qwen -> intern, kd, seed 7");
    assert!(failure["reason"].as_str().unwrap().contains("vocabular"), "{failure}");
    assert!(failure["reason"].as_str().unwrap().contains("log.txt"), "{failure}");
}

#[test]
fn a_grid_goes_on_when_its_program_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let config = grid(dir.path(), "seeds = [7]", "");
    let command = program("distill").unwrap();
    let original = Path::new(command.get_program());
    // Another name beside it, and no copy: a file that was just written may still be busy when it is started.
    let beside = tempfile::tempdir_in(original.parent().unwrap()).unwrap();
    let link = beside.path().join("distill");
    fs::hard_link(original, &link).unwrap();
    let running = Command::new(&link)
        .args(["compare", "--json", "--config", &config])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    // It runs: a program that is being started can no longer be missed.
    fs::remove_file(&link).unwrap();
    let finished = finished(running.unwrap().wait_with_output().unwrap()).unwrap();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(finished.stderr.contains("done: intern, sft, seed 7"), "{}", finished.stderr);
}

#[test]
fn a_grid_that_is_none_is_refused_before_anything_runs() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |more: &str, variants: &str, needle: &str| {
        let finished = compare(&grid(dir.path(), more, variants));
        assert_eq!(finished.code, Some(2), "{}", finished.stderr);
        assert!(finished.stderr.contains(needle), "`{needle}` is not in:\n{}", finished.stderr);
        assert!(!dir.path().join("grid").exists());
    };
    refused("seeds = []", "", "at least one seed");
    refused("seeds = [1, 1]", "", "none twice");
    refused("", "[[variants]]\nname = \"a\"\nteachers = [\"qwen\", \"qwne\"]\n", "`qwne`");
    refused("jobs = 0", "", "`jobs`");
    refused("", "[[variants]]\nname = \"a\"\nloss.kll = 0\n", "variant `a` is no run");
    refused("", "[[variants]]\nname = \"a\"\nrecalibrator.depth = 0\n", "`recalibrator.depth`");
    refused("", "[[variants]]\nname = \"a/b\"\n", "cannot name a folder");
    refused("", "[[variants]]\nname = \"sft\"\n", "one name");
    refused("", "[[variants]]\n", "name");
    let finished = run("distill", ["compare", "--out", "grid"]).unwrap();
    assert_eq!(finished.code, Some(2));
    assert!(finished.stderr.contains("[[teachers]]"), "{}", finished.stderr);
}
