//! `extract run`, and what `estimate` and `repair` take of it.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use shared::cache::{Codec, Manifest};
use toml::Table;

use super::overrides::{integer, path, utf8};
use super::{CommonArgs, SourceArgs};
use crate::config::{DtypeChoice, Keep};
use crate::part::PartChoice;
use crate::units::{ByteSize, Interval, MemoryLimit};

pub(super) const RUN_EXAMPLES: &str = "\
Examples:
  extract run --teacher teachers/qwen2-vl --data train.jsonl --image-root images --out caches/teacher
  extract run --config run.toml --set batch.max_tokens=2048 --json > summary.json
  extract run ... --part 0/8                   the first of eight processes on one cache
  extract run ... --features-all-for 10000     keep question features too, for stage 1's subset
  extract run ... --memory-limit 8GiB          a teacher of 30 GB of weights, in 8 GiB of memory
  extract run ... --gguf qwen2-vl-q4_k.gguf    a teacher with quantised matrices

Configuration file: the sections and keys are [teacher] dir, gguf, device, dtype; [data] sources, image_root, \
format, prepend_image, max_length, max_bad; [features] keep, all_for, codec; [batch] max_tokens, memory_limit; \
[cache] dir, shard_size, commit_every, embed_images, part, keep_free. A flag wins over --set, --set over the file.

Precision: --dtype is what is stored and, on a GPU, what the teacher computes in. On a CPU the teacher always \
computes in f32, and features are rounded to the nearest stored value. `auto` is f32 on a CPU and the checkpoint's \
own type on a GPU.

Quantised matrices: what --gguf changes in the features is measured first, and kept in the manifest.

Memory: with --memory-limit the weights of one block at a time are in memory, read from the checkpoint while the \
block before it computes, and used for as many batches as the limit has room for. Features are the same bit for \
bit. The limit is for memory of the process itself, on a CPU as on a GPU; mapped files, which the system can drop \
at any time, come on top.";

/// Flags of `extract run`.
#[derive(Clone, Debug, Default, Args)]
pub struct RunArgs {
    /// Teacher and dataset.
    #[command(flatten)]
    pub source: SourceArgs,
    /// The cache to write or to continue.
    #[arg(long, value_name = "CACHE", value_parser = utf8(), value_hint = ValueHint::DirPath)]
    pub out: Option<PathBuf>,
    /// Which tokens' features to keep [default: answer]. The last question position is always kept.
    #[arg(long, value_enum)]
    pub features: Option<Keep>,
    /// Keep all tokens' features for the first N samples by key order: what stage 1 regularises on [default: 0].
    #[arg(long, value_name = "N")]
    pub features_all_for: Option<usize>,
    /// Keep to this much memory, however large the teacher is: its blocks are read from the checkpoint as they are needed
    /// [default: all of the teacher is in memory]. A number alone is in GiB.
    #[arg(long, value_name = "GiB|SIZE")]
    pub memory_limit: Option<MemoryLimit>,
    /// How features are stored: lossless, int8 (rounded, about half the size) or none (uncompressed) [default: lossless].
    #[arg(long, value_name = "CODEC")]
    pub codec: Option<Codec>,
    /// Type of the features [default: auto].
    #[arg(long, value_enum)]
    pub dtype: Option<DtypeChoice>,
    /// Samples longer than this are quarantined, never cut [default: the teacher's maximum].
    #[arg(long, value_name = "TOKENS")]
    pub max_length: Option<usize>,
    /// Feature bytes in one shard file, as stored before compression [default: 256MiB].
    #[arg(long, value_name = "SIZE")]
    pub shard_size: Option<ByteSize>,
    /// Commit at least this often, even when a shard is not full [default: 10min].
    #[arg(long, value_name = "TIME")]
    pub commit_every: Option<Interval>,
    /// Keep the image files in the cache, so that `distill` needs no `--data` [default: as the cache has it, else not].
    #[arg(long)]
    pub embed_images: bool,
    /// Take every N-th sample only, as process I of N (from 0) on the same cache [default: what a Slurm array or
    /// RANK and WORLD_SIZE say, else all]. `auto/N` takes I from the environment.
    #[arg(long, value_name = "I/N")]
    pub part: Option<PartChoice>,
    /// Stop, with everything committed, before the disk has less room than this; 0 for no limit [default: 1GiB].
    #[arg(long, value_name = "SIZE")]
    pub keep_free: Option<ByteSize>,
    /// Common flags.
    #[command(flatten)]
    pub common: CommonArgs,
}

impl RunArgs {
    /// The flags that were typed, as the tables of [`Settings`](crate::config::Settings).
    pub fn overrides(&self) -> Table {
        let mut flags = self.source.overrides();
        flags.put("teacher", "dtype", self.dtype.map(|dtype| dtype.to_string()));
        flags.put("data", "max_length", self.max_length.map(integer));
        flags.put("features", "keep", self.features.map(|keep| keep.to_string()));
        flags.put("features", "all_for", self.features_all_for.map(integer));
        flags.put("features", "codec", self.codec.map(|codec| codec.to_string()));
        flags.put("batch", "memory_limit", self.memory_limit.map(|limit| limit.to_string()));
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
