//! `distill run`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use shared::models::checkout;
use toml::{Table, Value};

use super::{CommonArgs, on_interrupt, print_summary};
use crate::config::{self, Method, RunConfig, StageName};
use crate::train;
use crate::train::stage_loop::INTERRUPTED;
use crate::train::summary::Summary;

const EXAMPLES: &str = "Examples:
  distill run --cache CACHE --student DIR --out RUN --data train.jsonl --image-root images
  distill run --cache CACHE --student DIR --out RUN --stages align,distill --set distill.lr=5e-5
  distill run --method sft --cache CACHE --student DIR --out RUN
  distill run --method kd --set kd.divergence=reverse --cache CACHE --student DIR --out RUN
  distill run --stages finetune --data train.jsonl --image-root images --student DIR --out RUN

The same command again continues where it stopped, and does nothing when the run is done.
--help lists every key with its default, RUN/config.toml those of a run; --set KEY=VALUE overrides one.
Methods other than genrecal and sft put their loss in the Recalibrator's place in stage distill, then finetune: \
with equal keys they update the student as often, on the same samples in the same order.";

/// The examples, and what a configuration can say.
fn long_help() -> String {
    // Tables of plain values are always TOML.
    let defaults = toml::to_string(&RunConfig::default()).unwrap_or_default();
    format!(
        "{EXAMPLES}\n\nEvery key with its default, as --config FILE has it; `steps` and `lora` of a stage and `recalibrator.from` have none:\n\n{defaults}"
    )
}

/// Arguments of `distill run`, as typed.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = long_help())]
pub struct RunArgs {
    /// The teacher's feature cache, made by `extract run`. Not needed for stage finetune alone.
    #[arg(long, value_name = "CACHE")]
    pub cache: Option<PathBuf>,
    /// The student: a checkout as on the Hugging Face hub, or the name of one there: `org/name@revision`, the revision optional.
    #[arg(long, value_name = "DIR")]
    pub student: Option<PathBuf>,
    /// The run's folder: configuration, metrics, checkpoints, and the student at the end.
    #[arg(long, value_name = "RUN")]
    pub out: Option<PathBuf>,
    /// The stages to run, in order.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub stages: Option<Vec<StageName>>,
    /// What the student learns from.
    #[arg(long, value_enum)]
    pub method: Option<Method>,
    /// Where messages and images come from when the cache does not embed them. May be repeated.
    #[arg(long, value_name = "SRC")]
    pub data: Vec<String>,
    /// The folder that image paths in the data are relative to.
    #[arg(long, value_name = "DIR")]
    pub image_root: Option<PathBuf>,
    /// Put image placeholders in front where the data has images but no placeholders.
    #[arg(long)]
    pub prepend_image: bool,
    /// auto, cpu or cuda:N.
    #[arg(long)]
    pub device: Option<String>,
    /// Seed of the sample order and of fresh weights.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Configuration and output.
    #[command(flatten)]
    pub common: CommonArgs,
}

impl RunArgs {
    /// The flags that were typed, as configuration keys.
    fn typed(&self) -> Result<Table> {
        let (mut table, mut data) = (Table::new(), Table::new());
        let path = |path: &Option<PathBuf>| path.as_ref().map(|p| Value::String(p.to_string_lossy().into()));
        let sources = (!self.data.is_empty()).then(|| Value::try_from(&self.data)).transpose()?;
        put(&mut data, "sources", sources);
        put(&mut data, "image_root", path(&self.image_root));
        put(&mut data, "prepend_image", self.prepend_image.then_some(Value::Boolean(true)));
        put(&mut table, "cache", path(&self.cache));
        put(&mut table, "student", path(&self.student));
        put(&mut table, "out", path(&self.out));
        put(&mut table, "stages", self.stages.as_ref().map(Value::try_from).transpose()?);
        put(&mut table, "method", self.method.as_ref().map(Value::try_from).transpose()?);
        put(&mut table, "device", self.device.clone().map(Value::String));
        put(&mut table, "seed", self.seed.map(Value::try_from).transpose()?);
        put(&mut table, "data", Some(Value::Table(data)));
        Ok(table)
    }
}

fn put(table: &mut Table, key: &str, value: Option<Value>) {
    if let Some(value) = value {
        table.insert(key.to_owned(), value);
    }
}

/// Runs the command.
///
/// # Errors
/// Anything that stops the run; what was written before stays valid.
pub fn run(args: &RunArgs) -> Result<()> {
    let mut config: RunConfig = config::resolve(&RunConfig::default(), &args.common, args.typed()?)?;
    config.validate()?;
    config.student = checkout(&config.student)?;
    on_interrupt(&INTERRUPTED, "finishing this step");
    let summary = train::run::run(&config)?;
    print_summary(args.common.json, &summary, &describe(&summary))
}

fn describe(summary: &Summary) -> String {
    let mut text = format!(
        "{} steps on {} samples in {:.0} s, peak memory {} MiB\n",
        summary.steps,
        summary.samples,
        summary.seconds,
        summary.peak_rss_bytes >> 20
    );
    for row in &summary.evaluations {
        let terms = [
            ("cross entropy through the teacher's head", row.eval.eval_ce_teacher),
            ("divergence from the teacher", row.eval.eval_kl),
            ("both with shuffled questions", row.eval.control_shuffled),
            ("both with zeroed questions", row.eval.control_zeroed),
            ("the method's loss", row.eval.eval_method),
            ("the student's cross entropy", row.eval.eval_ce_student),
        ];
        let terms = terms.iter().filter_map(|(name, value)| Some(format!("{name} {:.4}", (*value)?)));
        text += &format!("{}, held out: {}\n", row.stage.as_str(), terms.collect::<Vec<_>>().join(", "));
    }
    text + &format!("student: {}", summary.student.display())
}
