//! A run as decided: every setting with its default, checked before anything is read or written.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use shared::cache::{Codec, Part};
use shared::dataset::Format;
use shared::models::{DeviceName, checkout};
use shared::settings;

use crate::answers::AnswersSettings;
use crate::cli::{CommonArgs, RunArgs};
use crate::error::Usage;
use crate::part::{self, PartChoice};
use crate::units::{ByteSize, Interval, MaxBad, MemoryLimit};

/// Which tokens' features a sample keeps. The last question position is among them in each case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// Each answer's tokens, and the position before it that predicts its first token.
    #[default]
    Answer,
    /// Every token that is not an image placeholder.
    Text,
    /// Every token.
    All,
}

/// The type features are stored in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum DtypeChoice {
    /// f32 on a CPU, the checkpoint's own type on a GPU.
    #[default]
    Auto,
    /// 32-bit floats.
    F32,
    /// 16-bit floats with the range of f32.
    Bf16,
    /// IEEE half precision: refuses features beyond 65,504.
    F16,
}

/// Writes an enum the way clap and serde name its values.
macro_rules! display_as_value {
    ($type:ty) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&format!("{self:?}").to_lowercase())
            }
        }
    };
}

/// Reads an enum by the names that clap knows.
macro_rules! from_value {
    ($type:ty) => {
        impl std::str::FromStr for $type {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                clap::ValueEnum::from_str(text, false)
            }
        }
    };
}

from_value!(Keep);
from_value!(DtypeChoice);
display_as_value!(Keep);
display_as_value!(DtypeChoice);

/// The configuration file. One file serves all commands; each reads the sections it needs.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The model whose features are kept.
    pub teacher: TeacherSettings,
    /// The model that `pair` compares with.
    pub student: StudentSettings,
    /// What is read.
    pub data: DataSettings,
    /// What is kept of each sample.
    pub features: FeatureSettings,
    /// What runs at once.
    pub batch: BatchSettings,
    /// What is written.
    pub cache: CacheSettings,
    /// How `answers` generates and what it accepts.
    pub answers: AnswersSettings,
}

/// `[teacher]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TeacherSettings {
    /// The teacher's checkout, or its name on the hub.
    pub dir: Option<PathBuf>,
    /// `auto`, `cpu` or `cuda:N`.
    pub device: String,
    /// What features are stored in.
    pub dtype: DtypeChoice,
    /// A GGUF file whose quantised matrices take the place of the language model's.
    pub gguf: Option<PathBuf>,
}

impl Default for TeacherSettings {
    fn default() -> Self {
        TeacherSettings { dir: None, device: "auto".to_owned(), dtype: DtypeChoice::Auto, gguf: None }
    }
}

/// `[student]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StudentSettings {
    /// The student's checkout, or its name on the hub.
    pub dir: Option<PathBuf>,
}

/// `[data]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataSettings {
    /// Files, folders or globs.
    pub sources: Vec<String>,
    /// Where relative image paths start.
    pub image_root: Option<PathBuf>,
    /// The format, where it is not to be told by content.
    pub format: Option<Format>,
    /// Put images without a placeholder at the front of the first question.
    pub prepend_image: bool,
    /// Longest sample in tokens; by default what the teacher was made for.
    pub max_length: Option<usize>,
    /// Bad rows to tolerate.
    pub max_bad: MaxBad,
}

impl Default for DataSettings {
    fn default() -> Self {
        DataSettings {
            sources: Vec::new(),
            image_root: None,
            format: None,
            prepend_image: false,
            max_length: None,
            max_bad: MaxBad::Percent(1.0),
        }
    }
}

/// `[features]`
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FeatureSettings {
    /// Which tokens have their features kept.
    pub keep: Keep,
    /// All tokens for the first so many samples by key order.
    pub all_for: usize,
    /// How they are encoded.
    pub codec: Codec,
}

/// `[batch]`
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BatchSettings {
    /// Tokens in one forward pass; a longer sample runs alone.
    pub max_tokens: usize,
    /// Memory to keep to: the teacher's blocks are read from the checkpoint as they are needed.
    pub memory_limit: Option<MemoryLimit>,
}

impl Default for BatchSettings {
    fn default() -> Self {
        BatchSettings { max_tokens: 4096, memory_limit: None }
    }
}

/// `[cache]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheSettings {
    /// The cache's folder.
    pub dir: Option<PathBuf>,
    /// Feature bytes in one shard.
    pub shard_size: ByteSize,
    /// The longest time between two commits.
    pub commit_every: Interval,
    /// Keep the image files beside the features.
    pub embed_images: bool,
    /// Which of several processes on this cache this is.
    pub part: Option<PartChoice>,
    /// Room to leave on the disk.
    pub keep_free: ByteSize,
}

impl Default for CacheSettings {
    fn default() -> Self {
        let commit_every = Interval(Duration::from_secs(600));
        CacheSettings {
            dir: None,
            shard_size: ByteSize(256 << 20),
            commit_every,
            embed_images: false,
            part: None,
            keep_free: ByteSize(1 << 30),
        }
    }
}

impl Settings {
    /// The settings of a command that has no flags for them.
    ///
    /// # Errors
    /// When the file or a `--set` is wrong.
    pub fn load(common: &CommonArgs, flags: toml::Table) -> Result<Settings> {
        let settings = settings::resolve(&common.config, &common.sets, flags);
        settings.map_err(|e| Usage(e.to_string()).into())
    }
}

/// What `extract run` needs to know, complete and checked.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// The teacher's checkout.
    pub teacher: PathBuf,
    /// The cache's folder.
    pub out: PathBuf,
    /// Which share of the samples is this process's.
    pub part: Part,
    /// All the rest.
    pub settings: Settings,
}

impl RunConfig {
    /// Decides what the typed flags mean.
    ///
    /// # Errors
    /// A [`Usage`] error when something indispensable is missing or a setting makes no sense.
    pub fn decide(args: &RunArgs) -> Result<RunConfig> {
        let config = Self::from_flags(&args.common, args.overrides(), "a cache", "--out CACHE")?;
        let part = part::decide(config.settings.cache.part, |name| std::env::var(name).ok())?;
        Ok(RunConfig { part, ..config })
    }

    /// The same for a command that has no parts and writes something else than a cache: what, and the flag that says where.
    pub(crate) fn from_flags(
        common: &CommonArgs,
        flags: toml::Table,
        what: &str,
        out: &str,
    ) -> Result<RunConfig> {
        let settings = Settings::load(common, flags)?;
        settings.teacher.device.parse::<DeviceName>().map_err(|error| Usage(error.to_string()))?;
        let teacher = required(settings.teacher.dir.clone(), "a teacher", "--teacher DIR", "teacher.dir")?;
        let teacher = checkout(&teacher)?;
        let out = required(settings.cache.dir.clone(), what, out, "cache.dir")?;
        let sources = Some(&settings.data.sources).filter(|sources| !sources.is_empty());
        required(sources, "a dataset", "--data SRC", "data.sources")?;
        positive(settings.cache.shard_size.0 as usize, "cache.shard_size")?;
        positive(settings.batch.max_tokens, "batch.max_tokens")?;
        positive(settings.data.max_length.unwrap_or(1), "data.max_length")?;
        Ok(RunConfig { teacher, out, part: Part::default(), settings })
    }
}

/// The value, or a usage error that says which flag and which key give it.
pub(crate) fn required<T>(value: Option<T>, what: &str, flag: &str, key: &str) -> Result<T> {
    let missing =
        || Usage(format!("{what} is missing\nhint: give `{flag}`, or `{key}` in the configuration file"));
    value.ok_or_else(|| missing().into())
}

pub(crate) fn positive(number: usize, key: &str) -> Result<()> {
    if number == 0 {
        return Err(Usage(format!("`{key}` is 0\nhint: give a positive number")).into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    // A failed unwrap is a failed test.
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;
    use crate::cli::SourceArgs;

    fn args() -> RunArgs {
        let data = vec!["d.jsonl".to_owned()];
        let source = SourceArgs { teacher: Some("t".into()), data, ..SourceArgs::default() };
        RunArgs { source, out: Some("c".into()), ..RunArgs::default() }
    }

    #[test]
    fn defaults_are_those_of_the_help() {
        let config = RunConfig::decide(&args()).unwrap();
        let settings = config.settings;
        assert_eq!((settings.features.keep, settings.features.codec), (Keep::Answer, Codec::LOSSLESS));
        assert_eq!((settings.batch.max_tokens, settings.data.max_length), (4096, None));
        assert_eq!(
            (settings.cache.shard_size.to_string(), settings.data.max_bad.to_string()),
            ("256MiB".into(), "1%".into())
        );
    }

    #[test]
    fn no_room_need_be_left_but_shards_hold_something() {
        let with = |shard_size: &str, keep_free: &str| {
            RunConfig::decide(&RunArgs {
                shard_size: Some(shard_size.parse().unwrap()),
                keep_free: Some(keep_free.parse().unwrap()),
                ..args()
            })
        };
        assert_eq!(with("1KiB", "0").unwrap().settings.cache.keep_free, ByteSize(0));
        let error = with("0", "0").unwrap_err();
        assert!(error.is::<Usage>() && error.to_string().contains("`cache.shard_size` is 0"), "{error}");
    }

    #[test]
    fn what_is_missing_is_named_with_its_flag() {
        let error = RunConfig::decide(&RunArgs { out: None, ..args() }).unwrap_err();
        assert!(error.is::<Usage>() && error.to_string().contains("`--out CACHE`"), "{error}");
        let error = RunConfig::decide(&RunArgs {
            source: SourceArgs { data: Vec::new(), ..args().source },
            ..args()
        })
        .unwrap_err();
        assert!(error.to_string().contains("`data.sources`"), "{error}");
    }

    #[test]
    fn other_codecs_are_refused_by_name() {
        let mut args = args();
        args.common.sets = vec!["features.codec=zfp".to_owned()];
        let error = RunConfig::decide(&args).unwrap_err().to_string();
        assert!(error.contains("there is no codec `zfp`"), "{error}");
    }
}
