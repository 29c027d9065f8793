//! `distill export`.

use std::path::PathBuf;

use anyhow::Result;
use candle_core::DType;
use clap::{Args, ValueEnum};
use indicatif::HumanBytes;

use super::print_summary;
use crate::config::StageName;
use crate::export::{self, ExportOptions, Moment};

/// Arguments of `distill export`, as typed.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  distill export RUN --out STUDENT
  distill export RUN --out STUDENT --dtype bf16
  distill export RUN --out EARLIER --step 400

In Python: AutoModelForImageTextToText.from_pretrained(\"STUDENT\").")]
pub struct ExportArgs {
    /// The run's folder.
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// The new checkout's folder.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// A checkpoint's student instead of the run's result.
    #[arg(long, value_name = "N", conflicts_with = "after")]
    pub step: Option<usize>,
    /// The student as a stage left it.
    #[arg(long, value_enum, value_name = "STAGE")]
    pub after: Option<StageName>,
    /// The type to store weights in; by default that of the run's student.
    #[arg(long, value_enum)]
    pub dtype: Option<StoredType>,
    /// Print exactly one JSON object on stdout; all else goes to stderr.
    #[arg(long)]
    pub json: bool,
}

/// A type of stored weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StoredType {
    /// float32.
    F32,
    /// bfloat16.
    Bf16,
    /// float16.
    F16,
}

impl From<StoredType> for DType {
    fn from(stored: StoredType) -> Self {
        match stored {
            StoredType::F32 => DType::F32,
            StoredType::Bf16 => DType::BF16,
            StoredType::F16 => DType::F16,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// When the run has not come so far, the folder exists, or it cannot be written.
pub fn run(args: &ExportArgs) -> Result<()> {
    let moment = match (args.after, args.step) {
        (Some(stage), _) => Moment::After(stage),
        (None, Some(step)) => Moment::Step(step),
        (None, None) => Moment::End,
    };
    let dtype = args.dtype.map(DType::from);
    let options = ExportOptions { run: args.run.clone(), out: args.out.clone(), moment, dtype };
    let exported = export::export(&options)?;
    let size = HumanBytes(exported.bytes);
    print_summary(args.json, &exported, &format!("{} ({size})", exported.model.display()))
}
