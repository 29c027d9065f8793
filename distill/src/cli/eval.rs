//! `distill eval`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use shared::agreement::Metric;
use shared::dataset::DatasetOptions;
use shared::models::checkout;

use super::print_summary;
use crate::eval::{self, EvalOptions, Progress};

/// Arguments of `distill eval`, as typed.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  distill eval --model RUN --data test.json --image-root images
  distill eval --model CHECKPOINT --data test.json --metric relaxed --out results --json

  distill eval --model CHECKPOINT --data mmbench_dev_en.tsv

Reads the datasets of `distill run`, and MMBench (TSV), ChartQA, MM-Vet and plain VQA (JSON) as published. Writes predictions.jsonl, summary.json with the accuracy and its 95 % interval, and submission.json for
answers that are graded elsewhere (MM-Vet, hidden test splits). The kind of a question, for the table, is what stands before
the number in its row's id: `count/0012`, `count-12`.")]
pub struct EvalArgs {
    /// The checkpoint: a student or a teacher as on the Hugging Face hub, the name of one there (`org/name@revision`, the revision optional), or
    /// a finished run's folder.
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// The questions, with reference answers. May be repeated.
    #[arg(long, value_name = "SRC", required = true)]
    pub data: Vec<String>,
    /// The folder that image paths in the data are relative to.
    #[arg(long, value_name = "DIR")]
    pub image_root: Option<PathBuf>,
    /// Put image placeholders in front where the data has images but no placeholders.
    #[arg(long)]
    pub prepend_image: bool,
    /// When an answer is right: auto (choice where the reference is an option letter, else exact), exact, relaxed (numbers
    /// within 5 %), choice, contains, or conclusion (the reference is what the last statement says).
    #[arg(long, default_value_t)]
    pub metric: Metric,
    /// Only the first N rows.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// An answer has at most N tokens.
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub max_new_tokens: usize,
    /// Questions run together up to N tokens.
    #[arg(long, value_name = "N", default_value_t = 4096)]
    pub max_tokens_per_batch: usize,
    /// auto, cpu or cuda:N.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// Where the results go; RUN/eval for a run, else eval-NAME in the current folder.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Print exactly one JSON object, the summary, on stdout; all else goes to stderr.
    #[arg(long)]
    pub json: bool,
}

impl EvalArgs {
    /// Where the results go.
    fn folder(&self, checkpoint: &std::path::Path) -> PathBuf {
        let name = || self.model.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match &self.out {
            Some(out) => out.clone(),
            None if checkpoint != self.model && checkpoint.starts_with(&self.model) => {
                self.model.join("eval")
            }
            None => PathBuf::from(format!("eval-{}", name())),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// When the checkpoint or the data cannot be used, or the results not be written.
pub fn run(args: &EvalArgs) -> Result<()> {
    let checkpoint = eval::checkpoint_of(&checkout(&args.model)?)?;
    let options = EvalOptions {
        out: args.folder(&checkpoint),
        model: checkpoint,
        sources: args.data.clone(),
        dataset: DatasetOptions {
            image_root: args.image_root.clone(),
            prepend_image: args.prepend_image,
            ..DatasetOptions::default()
        },
        metric: args.metric,
        limit: args.limit,
        max_new_tokens: args.max_new_tokens,
        max_tokens_per_batch: args.max_tokens_per_batch,
        device: args.device.clone(),
    };
    let bar = ProgressBar::new(0);
    // The template is a constant: were it wrong, the plain default would show.
    if let Ok(style) = ProgressStyle::with_template("{bar:32} {msg}, about {eta} left") {
        bar.set_style(style);
    }
    let summary = eval::evaluate(&options, &mut |event| match event {
        Progress::Quarantined(reason) => bar.suspend(|| eprintln!("set aside: {reason}")),
        Progress::Answered(score, (done, total)) => {
            let percent = score.accuracy * 100.0;
            let line = format!("{} questions, {percent:.1} % right", score.questions);
            bar.set_length(*total);
            bar.set_position(*done);
            bar.set_message(line.clone());
            if bar.is_hidden() && done < total {
                eprintln!("{line}");
            }
        }
    })?;
    bar.finish_and_clear();
    let place = format!("written to {}\n", options.out.display());
    print_summary(args.json, &summary, &(eval::text_table(&summary) + &place))
}
