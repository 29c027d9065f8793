//! `extract run`: the dataset through the teacher into the cache.
//!
//! ```text
//! feed thread                                   main thread                   collect thread       sink thread
//! rows -> identify -> plan -> prepare -> window =batches=> passes -> teacher =features=> rows =rows=> writer -> shards
//!         (rayon)             (rayon)           bounded            one at a time       bounded
//! ```

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::ScopedJoinHandle;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::Device;
use shared::cache::{
    CacheIdentity, CacheReader, CacheWriter, FeatureDtype, Manifest, WriterOptions, most_positions,
};
use shared::dataset::{self, Dataset, DatasetOptions};
use shared::ids::{Digest, Fingerprint};
use shared::memory;
use shared::models::{self, ModelConfig, Processor};

use crate::batch::BatchSize;
use crate::collect::{self, Collector};
use crate::config::{DtypeChoice, RunConfig};
use crate::embedded;
use crate::error::Interrupted;
use crate::feed::{self, Feed};
use crate::forward::{Started, Teacher, TeacherWeights};
use crate::gguf::{self, GgufError};
use crate::head::StoredHead;
use crate::passes::{Batch, Passes, Question};
use crate::plan::{Plan, last_of_first_keys};
use crate::progress;
use crate::sample::{Limits, Prepared};
use crate::scope::Scope;
use crate::sink;
use crate::stop::{self, Stop, StopReason};
use crate::stream::Streamed;
use crate::summary::Summary;
use crate::tally::Tally;

/// Everything about the teacher but its loaded weights, which wait until there is something to run.
pub(crate) struct TeacherFiles {
    pub(crate) config: ModelConfig,
    pub(crate) device: Device,
    pub(crate) dtype: FeatureDtype,
    pub(crate) head: StoredHead,
    pub(crate) processor: Processor,
    /// The digest of the GGUF file, where there is one.
    gguf: Option<Digest>,
}

/// Runs the teacher over what the cache does not have yet.
///
/// # Errors
/// When something of the teacher, the dataset or the cache cannot be used, when the error budget is spent, or when a signal
/// ended the run. What was written is committed in each case.
pub fn run(config: &RunConfig) -> Result<Summary> {
    run_within(config, &Scope::default())
}

/// The same over a part of the dataset.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_within(config: &RunConfig, scope: &Scope) -> Result<Summary> {
    let started = Instant::now();
    // Under a limit what is freed goes back to the system at once.
    if config.settings.batch.memory_limit.is_none() {
        memory::keep_freed();
    }
    stop::on_signals();
    let stop = Stop::default();
    let files = TeacherFiles::open(config)?;
    let streamed = Streamed::open(config, &files)?;
    let dataset = open_dataset(config)?;
    let made_from = if scope.is_new_data { digests(&dataset)? } else { BTreeMap::new() };
    let writer = open_cache(config, &files, scope, made_from)?;
    let resumed_from = writer.manifest().totals.samples;
    if resumed_from > 0 {
        shared::say!("continuing: `{}` has {resumed_from} samples", config.out.display());
    }
    let wanted = config.settings.cache.embed_images;
    let embed_images = match resumed_from {
        0 => wanted,
        _ => embedded::settle(&CacheReader::open(&config.out)?, wanted)?,
    };
    let features = config.settings.features;
    let all_up_to = last_of_first_keys(open_dataset(config)?, features.all_for, &stop)?;
    let plan = Plan::new(writer.committed_keys(), features.keep, all_up_to, config.part);
    if config.part.count > 1 {
        shared::say!("part {} of {}, counted from 0", config.part.index, config.part.count);
    }
    let tally = Tally::default();
    let streamed = streamed.map(|streamed| streamed.settled(config, &files)).transpose()?;
    let watch = streamed.as_ref().map(|streamed| streamed.watch());
    let run = Run { config, files: &files, tally: &tally, stop: &stop, streamed, embed_images, scope };
    let manifest = run.all(dataset, plan, writer)?;
    if let Some(owed) = manifest.owed.as_ref().filter(|owed| scope.is_new_data && owed.samples() > 0) {
        shared::say!(
            "{} samples that a repair found lost are still missing, without which the cache is not complete\nhint: `extract \
             repair` gives them back; `extract merge OUT {}` makes a cache without them",
            owed.samples(),
            config.out.display()
        );
    }
    let counts = tally.counts();
    let mut summary = Summary::new(&manifest, &counts, resumed_from, started.elapsed().as_secs_f64());
    summary.streaming = watch.map(|watch| watch.end(&counts));
    judge(config, &summary, &stop)?;
    Ok(summary)
}

impl TeacherFiles {
    /// Looks at everything that can be wrong before anything expensive is done.
    pub(crate) fn open(config: &RunConfig) -> Result<TeacherFiles> {
        let dir = &config.teacher;
        let settings = &config.settings.teacher;
        let model = models::config_of(dir)?;
        let device = models::device(&settings.device)?;
        let head = StoredHead::open(dir, &model)?;
        let dtype = match (settings.dtype, &device) {
            (DtypeChoice::F32, _) | (DtypeChoice::Auto, Device::Cpu) => FeatureDtype::F32,
            (DtypeChoice::Bf16, _) => FeatureDtype::Bf16,
            (DtypeChoice::F16, _) => FeatureDtype::F16,
            (DtypeChoice::Auto, _) => head.dtype(),
        };
        let processor = Processor::load(dir)?;
        let gguf = settings.gguf.as_deref().map(gguf::digest).transpose()?;
        Ok(TeacherFiles { config: model, device, dtype, head, processor, gguf })
    }

    /// What the teacher is loaded from.
    pub(crate) fn weights<'a>(&'a self, config: &'a RunConfig) -> TeacherWeights<'a> {
        let gguf = config.settings.teacher.gguf.as_deref();
        TeacherWeights { dir: &config.teacher, gguf, device: &self.device, dtype: self.dtype }
    }

    /// What a sample may have at most.
    pub(crate) fn limits(&self, config: &RunConfig) -> Limits {
        let model = &self.config.config;
        Limits {
            tokens: config.settings.data.max_length.unwrap_or_else(|| model.max_positions()),
            positions: most_positions(model.decoder().hidden_size),
        }
    }

    /// What decides the features: two runs with the same answer may write into one cache.
    fn fingerprint(&self, config: &RunConfig) -> Result<Fingerprint> {
        let mut fingerprint = Fingerprint::default();
        fingerprint.extend(models::identity(&config.teacher)?);
        fingerprint.extend(self.processor.identity());
        if let Some(digest) = self.gguf {
            fingerprint.insert("gguf", digest);
        }
        fingerprint.insert("features", config.settings.features.keep);
        fingerprint.insert("features_all_for", config.settings.features.all_for);
        Ok(fingerprint)
    }
}

pub(crate) fn open_dataset(config: &RunConfig) -> Result<Dataset> {
    let data = &config.settings.data;
    let options = DatasetOptions {
        image_root: data.image_root.clone(),
        prepend_image: data.prepend_image,
        format: data.format,
    };
    Ok(dataset::open(&data.sources, &options)?)
}

/// What the cache of this run is made from, but for the dataset.
pub(crate) fn identity<'a>(config: &RunConfig, files: &'a TeacherFiles) -> Result<CacheIdentity<'a>> {
    Ok(CacheIdentity {
        fingerprint: files.fingerprint(config)?,
        dtype: files.dtype,
        width: files.config.config.decoder().hidden_size,
        codec: config.settings.features.codec,
        lossy_error: None,
        head: vec![files.head.tensor()],
        about: BTreeMap::from([("teacher".to_owned(), models::checkout_name(&config.teacher))]),
        dataset: BTreeMap::new(),
        selected: Vec::new(),
    })
}

/// How the cache of this run is written.
pub(crate) fn writer_options(config: &RunConfig) -> WriterOptions {
    let cache = &config.settings.cache;
    let shard_bytes = usize::try_from(cache.shard_size.0).unwrap_or(usize::MAX);
    let within = config.settings.batch.memory_limit.map_or(usize::MAX, |limit| row_group_within(limit.0));
    let row_group_bytes = WriterOptions::default().row_group_bytes.min(shard_bytes).min(within);
    WriterOptions { shard_bytes, row_group_bytes, part: config.part, keep_free: cache.keep_free.0 }
}

/// The dataset's files and their digests.
pub(crate) fn digests(dataset: &Dataset) -> Result<BTreeMap<String, String>> {
    let digest = |path: &Path| -> Result<(String, String)> {
        let digest = Digest::of_file(path).with_context(|| format!("cannot read `{}`", path.display()))?;
        Ok((path.display().to_string(), digest.to_string()))
    };
    dataset.paths().map(digest).collect()
}

pub(crate) fn open_cache(
    config: &RunConfig,
    files: &TeacherFiles,
    scope: &Scope,
    dataset: BTreeMap<String, String>,
) -> Result<CacheWriter> {
    let selected = scope.selected.clone();
    let mut identity = CacheIdentity { dataset, selected, ..identity(config, files)? };
    // A cache that exists says what was measured when it was made.
    if let Some(path) = config.settings.teacher.gguf.as_ref().filter(|_| Manifest::load(&config.out).is_err())
    {
        let error = GgufError::measure(config, files)?;
        shared::say!("{}: {error}", path.display());
        identity.about.extend(error.about(path));
    }
    let writer = CacheWriter::open(&config.out, identity, writer_options(config))?;
    // A new cache has a copy now.
    files.head.release();
    Ok(writer)
}

/// A row group for a run that keeps to `limit` bytes.
fn row_group_within(limit: u64) -> usize {
    const LEAST: usize = 1 << 20;
    usize::try_from(limit / 32).unwrap_or(usize::MAX).max(LEAST)
}
/// Tells the other threads to stop when this one has failed.
fn failing<T, E>(stop: &Stop, outcome: Result<T, E>) -> Result<T, E> {
    outcome.inspect_err(|_| stop.raise(StopReason::Failed))
}

fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Declares the cache complete if the run got to the end; a cache that was complete and has nothing new is left untouched.
fn close(writer: CacheWriter, tally: &Tally, stop: &Stop) -> Result<Manifest> {
    let counts = tally.counts();
    if stop.is_raised() || (writer.manifest().complete && counts.written == 0) {
        return Ok(writer.manifest().clone());
    }
    if counts.settled() != counts.read {
        bail!(
            "{} rows were read, {} are accounted for\nhint: please report this",
            counts.read,
            counts.settled()
        );
    }
    Ok(writer.finish()?)
}

/// What the threads of a run share.
struct Run<'a> {
    config: &'a RunConfig,
    files: &'a TeacherFiles,
    tally: &'a Tally,
    stop: &'a Stop,
    /// The teacher, where it keeps to a memory limit.
    streamed: Option<Streamed>,
    /// Whether image files go into the cache.
    embed_images: bool,
    /// Which rows it is after.
    scope: &'a Scope,
}

impl Run<'_> {
    /// Starts the threads, works until there is nothing left or a reason to stop, and gives the cache's state back.
    fn all(self, dataset: Dataset, plan: Plan, writer: CacheWriter) -> Result<Manifest> {
        let Run { config, files, tally, stop, embed_images, scope, .. } = self;
        let settings = &config.settings;
        let (batches, to_run) = sync_channel(feed::QUEUE);
        let (deliveries, to_write) = sync_channel(sink::QUEUE);
        let (finished, show_until) = sync_channel(0);
        let feed = Feed {
            dataset,
            plan,
            scope,
            processor: &files.processor,
            limits: files.limits(config),
            embed_images,
            batch_size: self.batch_size(),
            max_bad: settings.data.max_bad,
            tally,
            stop,
            batches,
            deliveries: deliveries.clone(),
        };
        let (features, to_collect) = sync_channel(collect::QUEUE);
        let max_bad = settings.data.max_bad;
        let collector = Collector { dtype: files.dtype, max_bad, tally, stop, deliveries };
        std::thread::scope(|scope| {
            scope.spawn(|| progress::show(tally, show_until));
            let feed = scope.spawn(|| failing(stop, feed.run()));
            let every = settings.cache.commit_every.0;
            let sink = scope.spawn(move || failing(stop, sink::write(writer, to_write, every, tally)));
            let collector = scope.spawn(|| failing(stop, collector.run(to_collect)));
            let ran = failing(stop, self.passes(to_run, features));
            let collected = join(collector);
            let fed = join(feed);
            let written = join(sink);
            drop(finished);
            // A full disk explains why the others could not go on, so the writer is heard first.
            let writer = written?;
            collected?;
            ran?;
            fed?;
            let counts = tally.counts();
            if max_bad.is_spent(counts.quarantined, counts.read, true) {
                stop.raise(StopReason::BudgetSpent);
            }
            close(writer, tally, stop)
        })
    }

    fn batch_size(&self) -> BatchSize {
        match &self.streamed {
            Some(streamed) => streamed.budget.batch_size(),
            None => BatchSize::of_tokens(self.config.settings.batch.max_tokens),
        }
    }

    fn passes(mut self, to_run: Receiver<Vec<Prepared>>, features: SyncSender<Started>) -> Result<()> {
        let (mut teacher, budget) = match self.streamed.take() {
            Some(streamed) => (Some(streamed.teacher), Some(streamed.budget)),
            None => (None, None),
        };
        let mut passes = Passes::new(to_run.into_iter(), budget);
        let mut idle_since = None;
        while let Some(pass) = passes.next() {
            if let Some(since) = idle_since {
                Tally::add_time(&self.tally.wait_nanos, since);
            }
            if self.stop.is_raised() {
                break;
            }
            let teacher = match &mut teacher {
                Some(teacher) => teacher,
                none => none.insert(Teacher::load(self.files.weights(self.config))?),
            };
            if !self.pass(teacher, passes.take_questions(), pass, &features)? {
                break;
            }
            idle_since = Some(Instant::now());
        }
        Ok(())
    }

    /// Starts the batches of one pass; whether their features are still taken.
    fn pass(
        &self,
        teacher: &Teacher,
        mut questions: Vec<Question>,
        pass: Vec<Batch>,
        features: &SyncSender<Started>,
    ) -> Result<bool> {
        self.tally.first_batch.get_or_init(Instant::now);
        let mut is_open = true;
        teacher.start(pass, |mut started| {
            if !questions.is_empty() {
                let (questions, blocks) = (std::mem::take(&mut questions), started.blocks()?);
                teacher.self_test(&self.files.head, &questions, &started.samples, &blocks)?;
                // The device has done the test as well.
                started.asked = teacher.now()?;
            }
            is_open = features.send(started).is_ok();
            Ok(is_open)
        })?;
        Ok(is_open)
    }
}

/// Whether the run did what it should; the summary goes into the error otherwise.
fn judge(config: &RunConfig, summary: &Summary, stop: &Stop) -> Result<()> {
    let (bad, read) = (summary.quarantined, summary.read);
    let max_bad = config.settings.data.max_bad;
    match stop.reason() {
        Some(StopReason::Interrupted) => return Err(Interrupted { samples: summary.samples }.into()),
        Some(StopReason::Failed) => bail!("a thread failed without saying why\nhint: please report this"),
        Some(StopReason::BudgetSpent) => {}
        None => return Ok(()),
    }
    bail!(
        "{bad} of {read} rows are bad, more than the budget of {max_bad}; {} samples are committed\nhint: the reasons are in \
         `{}` (`extract inspect` shows them); mend the dataset or raise `--max-bad`, then run the same command",
        summary.samples,
        config.out.join("quarantine.parquet").display()
    )
}
