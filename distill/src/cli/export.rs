//! `distill export`.

use std::path::PathBuf;

use anyhow::Result;
use candle_core::DType;
use clap::{Args, ValueEnum};
use indicatif::HumanBytes;
use serde::{Deserialize, Serialize};
use toml::Table;

use super::{CommonArgs, UsageError, print_summary};
use crate::config::{self, StageName};
use crate::export::{self, ExportOptions, Moment};

/// Arguments of `distill export`, as typed.
#[derive(Clone, Debug, Args, Serialize)]
#[command(after_help = "Examples:
  distill export RUN --out STUDENT
  distill export RUN --out STUDENT --dtype bf16
  distill export RUN --out EARLIER --step 400

In Python: AutoModelForImageTextToText.from_pretrained(\"STUDENT\").")]
pub struct ExportArgs {
    /// The run's folder.
    #[arg(value_name = "RUN")]
    pub run: Option<PathBuf>,
    /// The new checkout's folder.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// A checkpoint's student instead of the run's result.
    #[arg(long, value_name = "N", conflicts_with = "after")]
    pub step: Option<usize>,
    /// The student as a stage left it.
    #[arg(long, value_enum, value_name = "STAGE")]
    pub after: Option<StageName>,
    /// The type to store weights in; by default that of the run's student.
    #[arg(long, value_enum)]
    pub dtype: Option<StoredType>,
    /// Configuration and output.
    #[command(flatten)]
    #[serde(skip)]
    pub common: CommonArgs,
}

/// The keys of `distill export`, called as its options.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ExportKeys {
    run: PathBuf,
    out: PathBuf,
    step: Option<usize>,
    after: Option<StageName>,
    dtype: Option<StoredType>,
}

impl ExportKeys {
    /// What was decided: options over `--set` over the file.
    fn decide(args: &ExportArgs) -> Result<Self> {
        let keys: Self = config::resolve(&Self::default(), &args.common, Table::try_from(args)?)?;
        let missing = match (keys.run.as_os_str().is_empty(), keys.out.as_os_str().is_empty()) {
            (true, _) => "no run given\nhint: name the folder that `distill run --out` wrote",
            (false, true) => "no output folder given\nhint: --out DIR",
            (false, false) if keys.step.is_some() && keys.after.is_some() => {
                "both `step` and `after` say which student\nhint: leave one away"
            }
            (false, false) => return Ok(keys),
        };
        Err(UsageError(missing.into()).into())
    }
}

/// A type of stored weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
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
    let keys = ExportKeys::decide(args)?;
    let moment = match (keys.after, keys.step) {
        (Some(stage), _) => Moment::After(stage),
        (None, Some(step)) => Moment::Step(step),
        (None, None) => Moment::End,
    };
    let options = ExportOptions { run: keys.run, out: keys.out, moment, dtype: keys.dtype.map(DType::from) };
    let exported = export::export(&options)?;
    let size = HumanBytes(exported.bytes);
    print_summary(args.common.json, &exported, &format!("{} ({size})", exported.model.display()))
}
