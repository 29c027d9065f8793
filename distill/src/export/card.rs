//! The README.md of an exported student: where it comes from, in a model card.

use std::fmt::Write;
use std::path::Path;

use serde_json::Value;
use shared::ids::Fingerprint;

use super::Moment;
use crate::config::{Method, RunConfig, StageName};
use crate::report::run::Run;
use crate::train::aligned::FIELD;
use crate::train::identity::IDENTITY;

/// The card's text.
pub(super) fn text(config: &RunConfig, run: &Path, moment: Moment) -> String {
    let mut card =
        String::from("---\npipeline_tag: image-text-to-text\ntags: [genrecal, distillation]\n---\n\n");
    let name = run.file_name().map_or_else(|| "run".into(), |it| it.to_string_lossy());
    let _ = writeln!(card, "# Student of the run `{name}`\n");
    let _ = writeln!(card, "{}\n", sentence(config, moment));
    let _ = writeln!(card, "| | |\n|---|---|\n| student before | `{}` |", config.student.display());
    let caches = config.caches();
    for (cache, weight) in &caches {
        let share = match caches.len() {
            1 => String::new(),
            _ => format!(", weight {weight}"),
        };
        let _ = writeln!(card, "| teacher's feature cache | `{}`{share} |", cache.display());
    }
    // All caches of a run are of one teacher.
    for (title, value) in caches.first().iter().flat_map(|(cache, _)| provenance(cache)) {
        let _ = writeln!(card, "| {title} | `{value}` |");
    }
    if let Some((run, digest)) = config.recalibrator.from.as_ref().zip(aligned_digest(run)) {
        let _ = writeln!(card, "| Recalibrator begun from stage align of | `{}` |", run.display());
        let _ = writeln!(card, "| its weights | `{digest}` |");
    }
    let stages: Vec<&str> = config.stages().into_iter().map(StageName::as_str).collect();
    let _ = writeln!(card, "| stages | {} |\n| seed | {} |", stages.join(", "), config.seed);
    for stage in config.stages() {
        if let Some(lora) = &config.stage(stage).lora {
            let _ = writeln!(
                card,
                "| LoRA in stage {} | rank {}, alpha {} |",
                stage.as_str(),
                lora.rank,
                lora.alpha
            );
        }
    }
    card.push_str("\nThe architecture, tokenizer and processor are those of the student before training.\n");
    card + &controls(run, moment)
}

/// The leakage controls: the last that each stage has up to the moment; nothing where no stage has any.
fn controls(run: &Path, moment: Moment) -> String {
    let Ok(run) = Run::open(run) else { return String::new() };
    let stages = run.stages();
    let end = match moment {
        Moment::End => f64::INFINITY,
        Moment::After(stage) => {
            stages.iter().find(|it| it.0 == stage.as_str()).map_or(f64::INFINITY, |it| it.2)
        }
        Moment::Step(step) => step as f64,
    };
    let mut rows = String::new();
    for (stage, ..) in &stages {
        let controlled = run.points.iter().rev().find(|point| {
            point.stage == *stage && point.step <= end && point.values.contains_key("control_zeroed")
        });
        let Some(point) = controlled else { continue };
        let value = |name: &str| point.values.get(name).copied();
        let own = value("eval_ce_teacher").zip(value("eval_kl")).map(|(ce, kl)| ce + kl);
        let cells = [own, value("control_shuffled"), value("control_zeroed")];
        let cells = cells.map(|cell| cell.map_or_else(|| "–".to_owned(), |it| format!("{it:.3}")));
        let _ = writeln!(rows, "| {stage} | {} | {} |", point.step, cells.join(" | "));
    }
    match rows.is_empty() {
        true => rows,
        false => format!("{CONTROLS}{rows}"),
    }
}

const CONTROLS: &str = "
## Was the student used?

The teacher's features of an answer alone tell much of its next token, so a Recalibrator can learn and ignore the student. On
held-out samples: cross entropy + KL through the teacher's head, in nats a token, with the student's features of the
question, with those of another sample, and with zeros. How much worse the last two are is how much the student is used.

| stage | step | its own | another's | zeros |
|---|---|---|---|---|
";

fn sentence(config: &RunConfig, moment: Moment) -> String {
    let how: String = match (config.method, !config.caches().is_empty()) {
        (Method::Genrecal, true) => {
            "Distilled from a teacher's features through a Recalibrator (GenRecal, arXiv 2506.15681)".into()
        }
        (method, true) if method != Method::Sft => {
            format!("Distilled from a teacher's cached features by the method {}", method.as_str())
        }
        _ => "Trained on reference answers".into(),
    };
    match moment {
        Moment::End => format!("{how}."),
        Moment::After(stage) => format!("{how}; as stage {} left it.", stage.as_str()),
        Moment::Step(step) => format!("{how}; a checkpoint of step {step}, not the run's end."),
    }
}

/// The digest of the weights that the run's Recalibrator began with, where another run had aligned them.
fn aligned_digest(run: &Path) -> Option<String> {
    let identity: Fingerprint = serde_json::from_slice(&std::fs::read(run.join(IDENTITY)).ok()?).ok()?;
    identity.fields.get(FIELD).cloned()
}

/// What the cache's manifest says of the teacher; nothing when it is out of reach.
fn provenance(cache: &Path) -> Vec<(&'static str, String)> {
    let manifest = std::fs::read(cache.join("manifest.json")).unwrap_or_default();
    let Ok(manifest) = serde_json::from_slice::<Value>(&manifest) else { return Vec::new() };
    let field = |pointer: &str| manifest.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let known = [
        ("teacher", field("/about/teacher")),
        ("cache fingerprint", field("/fingerprint_digest")),
        ("teacher's weights", field("/fingerprint/fields/weights")),
    ];
    known.into_iter().filter_map(|(title, value)| Some((title, value?))).collect()
}
