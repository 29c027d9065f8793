#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;

use super::*;

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// A run as `distill run` leaves it, with an evaluation beside it.
fn made_up_run(dir: &Path) {
    let rows = [
        r#"{"stage":"align","step":1,"loss":3.0,"ce_teacher":2.0,"kl":1.0,"lr":1e-4,"grad_norm":1.0,"tokens_per_second":10.0}"#,
        r#"{"stage":"align","step":2,"loss":2.5,"lr":9e-5,"eval_ce_teacher":1.0,"eval_kl":0.5,"control_shuffled":2.25,"control_zeroed":3.5}"#,
        r#"{"stage":"distill","step":3,"loss":2.0,"ce_student":0.7,"peak_rss_bytes":209715200,"lr":8e-5}"#,
    ];
    fs::create_dir_all(dir.join("eval")).unwrap();
    fs::write(dir.join("metrics.jsonl"), rows.join("\n")).unwrap();
    fs::write(dir.join("summary.json"), r#"{"samples": 12, "seconds": 125.0, "student": "s"}"#).unwrap();
    fs::write(dir.join("config.toml"), "seed = 7 # <none>\n").unwrap();
    let image = dir.join("a.png");
    fs::write(&image, PNG).unwrap();
    let score = serde_json::json!({"questions": 4, "correct": 3, "accuracy": 0.75});
    let summary = serde_json::json!({
        "model": "m", "data": ["d"], "metric": "auto", "samples": 4, "quarantined": 0, "questions": 4, "correct": 3,
        "accuracy": 0.75, "by_type": {"count": score}, "generated_tokens": 8, "seconds": 1.0,
        "tokens_per_second": 8.0, "peak_rss_bytes": 1
    });
    fs::write(dir.join("eval/summary.json"), summary.to_string()).unwrap();
    let prediction = serde_json::json!({
        "id": "count/1", "source": "d", "row": 0, "turn": 0, "type": "count", "question": "How many <b>?",
        "images": [image, "gone.png"], "reference": "3", "prediction": "2 & a half", "correct": false
    });
    fs::write(dir.join("eval/predictions.jsonl"), prediction.to_string()).unwrap();
}

fn rendered() -> String {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("genrecal");
    made_up_run(&run);
    let options = ReportOptions {
        title: "Toy <1>".into(),
        runs: vec![run.clone()],
        evaluations: vec![("teacher".into(), run.join("eval"))],
    };
    let report = render(&options).unwrap();
    assert_eq!(report.accuracies, [("teacher".to_owned(), 0.75), ("genrecal".to_owned(), 0.75)]);
    report.page
}

#[test]
fn a_page_shows_what_the_files_say() {
    let page = rendered();
    for shown in [
        "<title>Toy &lt;1&gt;</title>",
        "75.0 %",
        "<th scope=\"col\">teacher</th>",
        "<th scope=\"col\">genrecal</th>",
        "200 MiB",
        "How many &lt;b&gt;?",
        "2 &amp; a half",
        "seed = 7 # &lt;none&gt;",
        // Controls at the end: 2.25 - (1.0 + 0.5) and 3.5 - 1.5.
        "+0.750",
        "+2.000",
        "data:image/png;base64,iVBORw0KGgo=",
        "Not shown of the pictures: 1.",
        // Both evaluations are one and the same, its one answer wrong: neither model is right.
        "<th scope=\"row\">genrecal</th><td>0</td><td>0</td><td>0</td><td>1</td>",
        // From summary.json.
        "2.1 min",
    ] {
        assert!(page.contains(shown), "the page lacks {shown:?}");
    }
}

#[test]
fn a_page_stands_alone_and_is_accessible() {
    let page = rendered();
    for outside in ["http://", "https://", "<script", "<link", "@import", "url("] {
        assert!(!page.contains(outside), "a self-contained page has no {outside:?}");
    }
    let figures = page.matches("<figure").count();
    assert!(figures >= 4, "{figures} charts");
    assert_eq!(page.matches("role=\"img\"").count(), figures);
    assert_eq!(page.matches("<desc").count(), figures);
    assert_eq!(page.matches("<img").count(), page.matches("<img src").count());
    assert_eq!(page.matches("<img").count(), page.matches(" alt=").count());
    assert!(page.contains("prefers-color-scheme: dark"));
}

#[test]
fn a_report_appears_whole() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("report.html");
    write("<!doctype html>", &out).unwrap();
    assert_eq!(fs::read_to_string(&out).unwrap(), "<!doctype html>");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    let error = write("", &folder.path().join("no/report.html")).unwrap_err().to_string();
    assert!(error.contains("hint:"), "{error}");
}
