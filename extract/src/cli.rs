//! The command line as typed; what it means is decided in [`config`](crate::config).

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueHint};

use crate::conditions::Condition;
use crate::units::ImageSize;

mod answers;
mod overrides;
mod run;
mod source;

pub use answers::AnswersArgs;
pub(crate) use overrides::{Overrides, path};
pub use run::RunArgs;
pub use source::SourceArgs;

use answers::ANSWERS_EXAMPLES;
use overrides::utf8;
use run::RUN_EXAMPLES;

/// Runs a teacher VLM once over a dataset and keeps its token-aligned last-layer features.
///
/// Exit codes: 0 done, 1 failed (what was written stays valid), 2 wrong usage.
#[derive(Debug, Parser)]
#[command(name = "extract", version, max_term_width = 110, args_override_self = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the teacher over a dataset and write the cache; the same command again continues or does nothing.
    #[command(after_help = RUN_EXAMPLES)]
    Run(Box<RunArgs>),
    /// Let the teacher answer a dataset's questions and keep what agrees with the reference answers, as a new dataset.
    #[command(after_help = ANSWERS_EXAMPLES)]
    Answers(Box<AnswersArgs>),
    /// Check every checksum and invariant of a cache.
    #[command(after_help = "Example:\n  extract verify caches/teacher")]
    Verify(VerifyArgs),
    /// Say what a run would give and cost: samples, tokens, bytes under each codec, files, hours, free space.
    #[command(after_help = ESTIMATE_EXAMPLES)]
    Estimate(Box<RunArgs>),
    /// Take what is damaged out of a cache and extract just those samples again.
    #[command(
        // The cache may come after it.
        mut_arg("data", |arg| arg.num_args(1)),
        after_help = "Example:\n  extract repair caches/teacher --teacher teachers/qwen2-vl --data train.jsonl \
                      --image-root images"
    )]
    Repair(Box<RepairArgs>),
    /// Unite caches of one fingerprint in a new one.
    #[command(after_help = "Example:\n  extract merge caches/all caches/a caches/b")]
    Merge(MergeArgs),
    /// Copy the samples that meet some conditions into a new cache.
    #[command(after_help = SUBSET_EXAMPLES)]
    Subset(SubsetArgs),
    /// Show what a cache holds: manifest, counts, quarantine; or one sample with its spans and feature statistics.
    #[command(after_help = INSPECT_EXAMPLES)]
    Inspect(InspectArgs),
    /// Show the same prompt and images under a teacher's and a student's processors side by side, and the methods for the pair.
    #[command(after_help = PAIR_EXAMPLES)]
    Pair(PairArgs),
    /// Print a completion script for a shell.
    #[command(
        after_help = "Example:\n  extract completions bash > ~/.local/share/bash-completion/completions/extract"
    )]
    Completions {
        /// bash, elvish, fish, powershell or zsh.
        shell: clap_complete::Shell,
    },
}

const ESTIMATE_EXAMPLES: &str = "\
Examples:
  extract estimate --teacher teachers/qwen2-vl --data train.jsonl --image-root images
  extract estimate ... --out caches/teacher --features-all-for 10000

It takes the options of `extract run`; free space is that of --out. A sample of the rows is prepared, a few of them \
go through the teacher, and the real writer writes them to a temporary folder under each codec. Hours are for this \
machine, one process, and leave out loading the teacher.";

const SUBSET_EXAMPLES: &str = "\
Examples:
  extract subset caches/short caches/all --where 'num_tokens<=1024'
  extract subset caches/pairs caches/all --where num_images=2 --where source~nlvr";

const INSPECT_EXAMPLES: &str = "\
Examples:
  extract inspect caches/teacher
  extract inspect caches/teacher --sample 0f3c9a     an unambiguous beginning of a key is enough
  extract inspect caches/teacher --sample 0f3c9a --html sample.html";

const PAIR_EXAMPLES: &str = "\
Examples:
  extract pair --teacher teachers/qwen2-vl --student students/internvl
  extract pair --teacher ... --student ... --text 'What is this?' --image photo.jpg
  extract pair --teacher ... --student ... --image-size 1024x768 --image-size 4000x3000
  extract pair --teacher tokenizers/qwen2 --student tokenizers/phi-3     folders with a tokenizer.json alone";

/// What every command takes.
#[derive(Clone, Debug, Default, Args)]
pub struct CommonArgs {
    /// Settings of the run, in TOML. Of several files, each overrides those before it.
    #[arg(long, value_name = "FILE.toml", value_hint = ValueHint::FilePath)]
    pub config: Vec<PathBuf>,
    /// Override one setting; may be given several times.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub sets: Vec<String>,
    /// Print exactly one JSON object on standard output; everything else goes to standard error.
    #[arg(long)]
    pub json: bool,
}

/// Flags of `extract repair`.
#[derive(Debug, Default, Args)]
pub struct RepairArgs {
    /// The cache.
    #[arg(value_parser = utf8(), value_hint = ValueHint::DirPath)]
    pub cache: Option<PathBuf>,
    /// What the cache was made from; what decides its features is taken from the cache itself.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Flags of `extract merge`.
#[derive(Debug, Default, Args)]
pub struct MergeArgs {
    /// The cache to write or to continue.
    #[arg(value_hint = ValueHint::DirPath)]
    pub out: PathBuf,
    /// The caches to unite.
    #[arg(value_name = "CACHE", required = true, value_hint = ValueHint::DirPath)]
    pub caches: Vec<PathBuf>,
    /// Common flags.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// Flags of `extract subset`.
#[derive(Debug, Default, Args)]
pub struct SubsetArgs {
    /// The cache to write or to continue.
    #[arg(value_hint = ValueHint::DirPath)]
    pub out: PathBuf,
    /// The cache to choose from.
    #[arg(value_hint = ValueHint::DirPath)]
    pub cache: PathBuf,
    /// A condition that each sample meets, FIELD=VALUE or with != < <= > >= or ~ (contains); several must all hold.
    /// Fields: key, row_id, source, row, text, num_tokens, num_positions, num_images, num_turns.
    #[arg(long = "where", value_name = "CONDITION")]
    pub conditions: Vec<Condition>,
    /// Common flags.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// Flags of `extract verify`.
#[derive(Debug, Default, Args)]
pub struct VerifyArgs {
    /// The cache.
    #[arg(value_parser = utf8(), value_hint = ValueHint::DirPath)]
    pub cache: Option<PathBuf>,
    /// Common flags.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// Flags of `extract inspect`.
#[derive(Debug, Default, Args)]
pub struct InspectArgs {
    /// The cache.
    #[arg(value_parser = utf8(), value_hint = ValueHint::DirPath)]
    pub cache: Option<PathBuf>,
    /// One sample, by its key or the beginning of it.
    #[arg(long, value_name = "KEY")]
    pub sample: Option<String>,
    /// Write the sample as a page: its images under the grid of their tokens, its text token by token.
    #[arg(long, value_name = "FILE", requires = "sample", value_hint = ValueHint::FilePath)]
    pub html: Option<PathBuf>,
    /// An image of the sample, where the cache does not embed it; may be given several times.
    #[arg(long, value_name = "FILE", requires = "html", value_hint = ValueHint::FilePath)]
    pub image: Vec<PathBuf>,
    /// Common flags.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// Flags of `extract pair`.
#[derive(Debug, Default, Args)]
pub struct PairArgs {
    /// The teacher's checkout, or its name on the hub.
    #[arg(long, value_name = "DIR", value_parser = utf8(), value_hint = ValueHint::DirPath)]
    pub teacher: Option<PathBuf>,
    /// The student's checkout, or its name on the hub.
    #[arg(long, value_name = "DIR", value_parser = utf8(), value_hint = ValueHint::DirPath)]
    pub student: Option<PathBuf>,
    /// The question to compare [default: a short sentence].
    #[arg(long)]
    pub text: Option<String>,
    /// An image that the question is about; may be given several times.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub image: Vec<PathBuf>,
    /// A size of images to count the tokens of; may be given several times [default: five common ones].
    #[arg(long, value_name = "WxH")]
    pub image_size: Vec<ImageSize>,
    /// Common flags.
    #[command(flatten)]
    pub common: CommonArgs,
}

#[cfg(test)]
mod tests {
    // A failed unwrap is a failed test.
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use toml::Table;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn only_what_was_typed_overrides() {
        let cli = Cli::try_parse_from(["extract", "run", "--teacher", "t", "--data", "a", "--max-bad", "2%"])
            .unwrap();
        let Command::Run(args) = cli.command else { panic!("not a run") };
        let expected = "[data]\nmax_bad = \"2%\"\nsources = [\"a\"]\n[teacher]\ndir = \"t\"\n";
        assert_eq!(args.overrides(), toml::from_str::<Table>(expected).unwrap());
    }
}
