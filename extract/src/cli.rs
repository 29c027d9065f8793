//! The command line as typed; what it means is decided in [`config`](crate::config).

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueHint};
use toml::{Table, Value};

use shared::agreement::Metric;
use shared::cache::{Codec, Manifest};
use shared::dataset::Format;

use crate::answers::Sample;
use crate::conditions::Condition;
use crate::config::{DtypeChoice, Keep};
use crate::part::PartChoice;
use crate::units::{ByteSize, ImageSize, Interval, MaxBad};

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
        after_help = "Example:\n  extract repair caches/teacher --teacher teachers/qwen2-vl --data train.jsonl --image-root images"
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

const RUN_EXAMPLES: &str = "\
Examples:
  extract run --teacher teachers/qwen2-vl --data train.jsonl --image-root images --out caches/teacher
  extract run --config run.toml --set batch.max_tokens=2048 --json > summary.json
  extract run ... --part 0/8                   the first of eight processes that fill one cache; start all eight
  extract run ... --features-all-for 10000     keep question features too for stage 1's subset

Configuration file: the sections and keys are [teacher] dir, device, dtype; [data] sources, image_root, format,
prepend_image, max_length, max_bad; [features] keep, all_for, codec; [batch] max_tokens; [cache] dir, shard_size,
commit_every, embed_images, part, keep_free. A flag wins over --set, --set over the file.

Precision: --dtype is what is stored and, on a GPU, what the teacher computes in. On a CPU the teacher always computes in
f32 and features are rounded to the nearest stored value. `auto` is f32 on a CPU and the checkpoint's own type on a GPU.";

const ESTIMATE_EXAMPLES: &str = "\
Examples:
  extract estimate --teacher teachers/qwen2-vl --data train.jsonl --image-root images
  extract estimate ... --out caches/teacher --features-all-for 10000     with the options of the run; free space is that of --out

A sample of the rows is prepared, a few of them go through the teacher, and the real writer writes them to a temporary
folder under each codec. Hours are for this machine, one process, and leave out loading the teacher.";

const ANSWERS_EXAMPLES: &str = "\
Examples:
  extract answers --teacher teachers/qwen2-vl --data train.jsonl --image-root images --out answers.jsonl
  extract run --teacher teachers/qwen2-vl --data answers.jsonl --image-root images --out caches/teacher
  extract answers ... --tries 8 --temperature 0.7 --metric relaxed

The first try generates as the checkpoint's generation_config.json says, the others sample. A response that agrees with the
reference answer takes its place; otherwise the original stays, and `provenance` in the row says so, as it does of a
response that was cut off at --max-new-tokens. The same command again continues, or does nothing when done.

Metrics: auto reads a response for an option letter, a number, yes or no, or the reference's words; relaxed bears 5 % in
numbers; exact, choice and contains are those of `distill eval`. Keys: [answers] metric, tries, max_new_tokens, sample,
temperature, top_k, top_p, seed, and those of [teacher], [data] and [batch]; cache.dir is the file.";

const SUBSET_EXAMPLES: &str = "\
Examples:
  extract subset caches/short caches/all --where 'num_tokens<=1024'
  extract subset caches/pairs caches/all --where num_images=2 --where source~nlvr";

const INSPECT_EXAMPLES: &str = "\
Examples:
  extract inspect caches/teacher
  extract inspect caches/teacher --sample 0f3c9a     the beginning of a key is enough where it is unambiguous
  extract inspect caches/teacher --sample 0f3c9a --html sample.html";

const PAIR_EXAMPLES: &str = "\
Examples:
  extract pair --teacher teachers/qwen2-vl --student students/internvl --text 'How many red cubes are there?'
  extract pair --teacher teachers/qwen2-vl --student students/internvl --text 'What is this?' --image photo.jpg
  extract pair --teacher teachers/qwen2-vl --student students/internvl --image-size 1024x768 --image-size 4000x3000";

/// What every command takes.
#[derive(Clone, Debug, Default, Args)]
pub struct CommonArgs {
    /// Settings of the run, in TOML.
    #[arg(long, value_name = "FILE.toml", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// Override one setting; may be given several times.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub sets: Vec<String>,
    /// Print exactly one JSON object on standard output; everything else goes to standard error.
    #[arg(long)]
    pub json: bool,
}

/// Flags of `extract run`.
#[derive(Clone, Debug, Default, Args)]
pub struct RunArgs {
    /// The teacher: a checkout laid out as on the Hugging Face hub, or the name of one there: `org/name@revision`, the revision optional.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub teacher: Option<PathBuf>,
    /// The dataset: a file, a folder or a glob; may be given several times.
    #[arg(long, value_name = "SRC", value_hint = ValueHint::AnyPath)]
    pub data: Vec<String>,
    /// The cache to write or to continue.
    #[arg(long, value_name = "CACHE", value_hint = ValueHint::DirPath)]
    pub out: Option<PathBuf>,
    /// Where relative image paths of the dataset start.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub image_root: Option<PathBuf>,
    /// Which tokens' features to keep [default: answer]. The last question position is always kept.
    #[arg(long, value_enum)]
    pub features: Option<Keep>,
    /// Keep all tokens' features for the first N samples by key order: what stage 1 regularises on [default: 0].
    #[arg(long, value_name = "N")]
    pub features_all_for: Option<usize>,
    /// How features are stored: lossless, int8 (rounded, about half the size) or none (uncompressed) [default: lossless].
    #[arg(long, value_name = "CODEC")]
    pub codec: Option<Codec>,
    /// Type of the features [default: auto].
    #[arg(long, value_enum)]
    pub dtype: Option<DtypeChoice>,
    /// auto, cpu or cuda:N [default: auto].
    #[arg(long)]
    pub device: Option<String>,
    /// Tokens in one forward pass; changes speed and memory, never the result [default: 4096].
    #[arg(long, value_name = "TOKENS")]
    pub max_tokens_per_batch: Option<usize>,
    /// Samples longer than this are quarantined, never cut [default: the teacher's maximum].
    #[arg(long, value_name = "TOKENS")]
    pub max_length: Option<usize>,
    /// Bad rows to bear, as a share of the rows read or as a number, before the run fails [default: 1%].
    #[arg(long, value_name = "1%|ROWS")]
    pub max_bad: Option<MaxBad>,
    /// Feature bytes in one shard file, as stored before compression [default: 256MiB].
    #[arg(long, value_name = "SIZE")]
    pub shard_size: Option<ByteSize>,
    /// Commit at least this often, even when a shard is not full [default: 10min].
    #[arg(long, value_name = "TIME")]
    pub commit_every: Option<Interval>,
    /// Keep the image files in the cache, so that `distill` needs no `--data`.
    #[arg(long)]
    pub embed_images: bool,
    /// Take every N-th sample only, as process I of N (from 0) on the same cache [default: what a Slurm array or
    /// RANK and WORLD_SIZE say, else all]. `auto/N` takes I from the environment.
    #[arg(long, value_name = "I/N")]
    pub part: Option<PartChoice>,
    /// Stop, with everything committed, before the disk has less room than this [default: 1GiB].
    #[arg(long, value_name = "SIZE")]
    pub keep_free: Option<ByteSize>,
    /// Read the dataset as this format instead of telling it by its content.
    #[arg(long)]
    pub format: Option<Format>,
    /// Put images that no placeholder asks for at the front of the first question instead of refusing the row.
    #[arg(long)]
    pub prepend_image: bool,
    /// Common flags.
    #[command(flatten)]
    pub common: CommonArgs,
}

impl RunArgs {
    /// The flags that were typed, as the tables of [`Settings`](crate::config::Settings).
    pub fn overrides(&self) -> Table {
        let mut flags = Overrides::default();
        flags.put("teacher", "dir", self.teacher.as_deref().map(path));
        flags.put("teacher", "device", self.device.clone());
        flags.put("teacher", "dtype", self.dtype.map(|dtype| dtype.to_string()));
        let sources = self.data.iter().cloned().map(Value::String).collect::<Vec<_>>();
        flags.put("data", "sources", (!sources.is_empty()).then_some(sources));
        flags.put("data", "image_root", self.image_root.as_deref().map(path));
        flags.put("data", "format", self.format.map(|format| format.to_string()));
        flags.put("data", "prepend_image", self.prepend_image.then_some(true));
        flags.put("data", "max_length", self.max_length.map(integer));
        flags.put("data", "max_bad", self.max_bad.map(|max| max.to_string()));
        flags.put("features", "keep", self.features.map(|keep| keep.to_string()));
        flags.put("features", "all_for", self.features_all_for.map(integer));
        flags.put("features", "codec", self.codec.map(|codec| codec.to_string()));
        flags.put("batch", "max_tokens", self.max_tokens_per_batch.map(integer));
        flags.put("cache", "dir", self.out.as_deref().map(path));
        flags.put("cache", "shard_size", self.shard_size.map(|size| size.to_string()));
        flags.put("cache", "commit_every", self.commit_every.map(|every| every.to_string()));
        flags.put("cache", "embed_images", self.embed_images.then_some(true));
        flags.put("cache", "part", self.part.map(|part| part.to_string()));
        flags.put("cache", "keep_free", self.keep_free.map(|size| size.to_string()));
        flags.0
    }
}

impl RunArgs {
    /// Takes from a cache what decides its features, wherever no flag says otherwise.
    ///
    /// # Errors
    /// When the manifest holds a setting that this program does not have.
    pub fn take_from(&mut self, manifest: &Manifest) -> anyhow::Result<()> {
        fn parsed<T: std::str::FromStr>(manifest: &Manifest, field: &str) -> anyhow::Result<Option<T>> {
            let Some(text) = manifest.fingerprint.fields.get(field) else { return Ok(None) };
            let wrong = |_| {
                anyhow::anyhow!("the cache has `{field}` = `{text}`, which is no setting of this program")
            };
            text.parse().map(Some).map_err(wrong)
        }
        self.features = self.features.or(parsed(manifest, "features")?);
        self.features_all_for = self.features_all_for.or(parsed(manifest, "features_all_for")?);
        self.codec = self.codec.or(Some(manifest.features.codec));
        self.dtype = self.dtype.or(parsed(manifest, "dtype")?);
        Ok(())
    }
}

/// Flags of `extract answers`.
#[derive(Clone, Debug, Default, Args)]
pub struct AnswersArgs {
    /// The teacher: a checkout laid out as on the Hugging Face hub.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub teacher: Option<PathBuf>,
    /// The dataset: a file, a folder or a glob; may be given several times.
    #[arg(long, value_name = "SRC", value_hint = ValueHint::AnyPath)]
    pub data: Vec<String>,
    /// The dataset to write or to continue.
    #[arg(long, value_name = "FILE.jsonl", value_hint = ValueHint::FilePath)]
    pub out: Option<PathBuf>,
    /// Where relative image paths of the dataset start; the output's start there too.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub image_root: Option<PathBuf>,
    /// Ask a question so often at most, until the response agrees [default: 4].
    #[arg(long, value_name = "N")]
    pub tries: Option<usize>,
    /// When a response agrees: auto, exact, relaxed, choice or contains [default: auto].
    #[arg(long)]
    pub metric: Option<Metric>,
    /// Whether the first try samples [default: auto, as the checkpoint says].
    #[arg(long, value_enum)]
    pub sample: Option<Sample>,
    /// What scores are divided by before a token is drawn [default: the checkpoint's].
    #[arg(long, value_name = "T")]
    pub temperature: Option<f64>,
    /// Draw among the N likeliest tokens, 0 for all [default: the checkpoint's].
    #[arg(long, value_name = "N")]
    pub top_k: Option<usize>,
    /// Draw among the likeliest tokens that reach this probability [default: the checkpoint's].
    #[arg(long, value_name = "P")]
    pub top_p: Option<f64>,
    /// Seed of the random numbers [default: 0].
    #[arg(long, value_name = "N")]
    pub seed: Option<u32>,
    /// A response has at most N tokens [default: 512].
    #[arg(long, value_name = "N")]
    pub max_new_tokens: Option<usize>,
    /// Questions run together up to so many tokens, answers counted at their longest [default: 4096].
    #[arg(long, value_name = "TOKENS")]
    pub max_tokens_per_batch: Option<usize>,
    /// Bad rows to bear, as a share of the rows read or as a number, before the command fails [default: 1%].
    #[arg(long, value_name = "1%|ROWS")]
    pub max_bad: Option<MaxBad>,
    /// auto, cpu or cuda:N [default: auto].
    #[arg(long)]
    pub device: Option<String>,
    /// Read the dataset as this format instead of telling it by its content.
    #[arg(long)]
    pub format: Option<Format>,
    /// Put images that no placeholder asks for at the front of the first question instead of refusing the row.
    #[arg(long)]
    pub prepend_image: bool,
    /// Common flags.
    #[command(flatten)]
    pub common: CommonArgs,
}

impl AnswersArgs {
    /// The flags that were typed, as the tables of [`Settings`](crate::config::Settings).
    pub fn overrides(&self) -> Table {
        let shared = RunArgs {
            teacher: self.teacher.clone(),
            data: self.data.clone(),
            out: self.out.clone(),
            image_root: self.image_root.clone(),
            max_tokens_per_batch: self.max_tokens_per_batch,
            max_bad: self.max_bad,
            device: self.device.clone(),
            format: self.format,
            prepend_image: self.prepend_image,
            ..RunArgs::default()
        };
        let mut flags = Overrides(shared.overrides());
        flags.put("answers", "tries", self.tries.map(integer));
        flags.put("answers", "metric", self.metric.map(|metric| metric.to_string()));
        flags.put("answers", "sample", self.sample.map(|sample| format!("{sample:?}").to_lowercase()));
        flags.put("answers", "temperature", self.temperature);
        flags.put("answers", "top_k", self.top_k.map(integer));
        flags.put("answers", "top_p", self.top_p);
        flags.put("answers", "seed", self.seed.map(i64::from));
        flags.put("answers", "max_new_tokens", self.max_new_tokens.map(integer));
        flags.0
    }
}

/// Flags of `extract repair`.
#[derive(Debug, Default, Args)]
pub struct RepairArgs {
    /// The cache.
    #[arg(value_hint = ValueHint::DirPath)]
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
    #[arg(value_hint = ValueHint::DirPath)]
    pub cache: Option<PathBuf>,
    /// Common flags.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// Flags of `extract inspect`.
#[derive(Debug, Default, Args)]
pub struct InspectArgs {
    /// The cache.
    #[arg(value_hint = ValueHint::DirPath)]
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
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub teacher: Option<PathBuf>,
    /// The student's checkout, or its name on the hub.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
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

/// The tables of a TOML document, filled with what was typed.
#[derive(Default)]
pub(crate) struct Overrides(pub(crate) Table);

impl Overrides {
    /// Sets `section.key` unless nothing was typed.
    pub(crate) fn put(&mut self, section: &str, key: &str, value: Option<impl Into<Value>>) {
        let Some(value) = value else { return };
        let section = self.0.entry(section).or_insert_with(|| Value::Table(Table::new()));
        if let Some(table) = section.as_table_mut() {
            table.insert(key.to_owned(), value.into());
        }
    }
}

/// Paths travel through TOML as text.
pub(crate) fn path(path: &std::path::Path) -> String {
    path.to_string_lossy().into_owned()
}

fn integer(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    // A failed unwrap is a failed test.
    #![allow(clippy::unwrap_used, clippy::expect_used)]

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
