//! The samples of a run: by key order, the last ones held out, each encoded for the student when asked for.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use anyhow::{Result, bail};
use shared::cache::{CacheReader, SampleMeta};
use shared::dataset::{canonical_json, parse_canonical};
use shared::explained::Explained;
use shared::ids::{Digest, SampleKey};
use shared::image::decode;
use shared::models::{Encoded, Processor};

use super::disk_order::DiskOrder;
use super::index::{Conversation, Index, Skipped};
use super::mixture::{Caches, MixedOrder};
use super::sampler::Order;
use super::teacher_sample::{TeacherNeed, TeacherSample};
use crate::config::{Answers, RunConfig};
use crate::methods::{self, Refusal};

/// One sample, ready for a batch.
#[derive(Debug)]
pub struct Sample {
    /// By what it is, wherever it lies.
    pub key: SampleKey,
    /// As the student takes it.
    pub student: Encoded,
    /// As the teacher saw it, when the stage needs it.
    pub teacher: Option<TeacherSample>,
}

struct Entry {
    key: SampleKey,
    /// Absent when the cache's own messages and images serve.
    conversation: Option<Conversation>,
    /// The sample's place in the caches.
    place: Option<Place>,
}

/// Where a sample's features lie.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Which of the run's caches.
    cache: usize,
    /// Its number there.
    row: usize,
}

/// All samples of a run.
pub struct Source {
    entries: Vec<Entry>,
    holdout: usize,
    processor: Processor,
    caches: Option<Arc<Caches>>,
    max_length: usize,
    answers: Answers,
    refusal: Refusal,
    /// Rows that never became a sample.
    pub skipped: Vec<Skipped>,
    kept: Mutex<Kept>,
}

/// Encoded samples in memory. With epochs of random order, keeping the first that fit is as good as any rule.
struct Kept {
    samples: HashMap<(usize, TeacherNeed), Arc<Sample>>,
    num_bytes: usize,
    max_bytes: usize,
}

impl Source {
    /// Matches the caches with the datasets. A sample that several caches have is the first one's.
    ///
    /// # Errors
    /// When a dataset cannot be read, or samples of a cache are not in it.
    pub fn open(
        config: &RunConfig,
        processor: Processor,
        caches: Option<Arc<Caches>>,
        progress: &dyn Fn(usize),
    ) -> Result<Self> {
        let mut index = match config.data.sources.is_empty() {
            true => Index::default(),
            false => Index::build(&config.data, &config.out, progress)?,
        };
        let mut entries = match &caches {
            Some(caches) => cached_entries(caches, &mut index)?,
            None => index
                .samples
                .drain()
                .map(|(key, conversation)| Entry { key, conversation: Some(conversation), place: None })
                .collect(),
        };
        entries.sort_unstable_by_key(|entry| entry.key);
        let holdout = config.eval.holdout;
        if entries.len() <= holdout {
            bail!(
                "{} samples, and `eval.holdout` keeps {holdout} out of training\nhint: --set eval.holdout=0, or more data",
                entries.len()
            );
        }
        if config.data.max_samples > 0 {
            // Keys are hashes: in their order any first part is a random one.
            let num_train = entries.len() - holdout;
            entries.drain(config.data.max_samples.min(num_train)..num_train);
        }
        let max_bytes = config.data.half_memory_bytes();
        Ok(Self {
            entries,
            holdout,
            processor,
            caches,
            max_length: config.data.max_length,
            answers: config.data.answers,
            refusal: methods::refusal(config),
            skipped: index.skipped,
            kept: Mutex::new(Kept { samples: HashMap::new(), num_bytes: 0, max_bytes }),
        })
    }

    /// Samples that train: `0..num_train()`.
    #[must_use]
    pub fn num_train(&self) -> usize {
        self.entries.len() - self.holdout
    }

    /// What encodes samples for the student.
    #[must_use]
    pub fn processor(&self) -> &Processor {
        &self.processor
    }

    /// Samples held out for evaluation.
    #[must_use]
    pub fn held_out(&self) -> Range<usize> {
        self.num_train()..self.entries.len()
    }

    /// About how long each training sample is, in tokens: the teacher's number where there is a cache, else a guess
    /// from its text and images.
    #[must_use]
    pub fn lengths(&self) -> std::sync::Arc<[u32]> {
        /// Bytes of text a token, and tokens an image, as a guess.
        const TEXT_BYTES: usize = 4;
        const IMAGE_TOKENS: usize = 256;
        let guess = |conversation: &Conversation| {
            let text = canonical_json(&conversation.messages).len() / TEXT_BYTES;
            text + conversation.images.len() * IMAGE_TOKENS
        };
        let length = |entry: &Entry| match self.cached(entry) {
            Some((cache, row)) => cache.num_tokens(row),
            None => entry.conversation.as_ref().map_or(0, guess),
        };
        self.entries[..self.num_train()].iter().map(|entry| length(entry) as u32).collect()
    }

    /// The order of the training samples: a mixture's shares, and `groups_at_once` row groups of a cache mixed at a time, if
    /// any.
    ///
    /// # Errors
    /// When a cache of a mixture would never be drawn from.
    pub fn order(&self, groups_at_once: usize) -> Result<Order> {
        let Some(caches) = &self.caches else { return Ok(Order::Alike) };
        let places = |cache: usize| {
            let entries = (0..).zip(&self.entries[..self.num_train()]);
            let own = entries.filter_map(move |(sample, entry)| Some((sample, entry.place?)));
            own.filter(move |(_, place)| place.cache == cache).map(|(sample, place)| (sample, place.row))
        };
        let disk = |(cache, reader): (usize, &Arc<CacheReader>)| {
            (groups_at_once > 0).then(|| DiskOrder::new(reader.clone(), places(cache), groups_at_once))
        };
        let mut disks: Vec<_> = caches.readers().iter().enumerate().map(disk).collect();
        match caches.shares() {
            None => Ok(disks.pop().flatten().map_or(Order::Alike, Order::Disk)),
            Some(shares) => {
                let samples =
                    (0..shares.len()).map(|cache| places(cache).map(|(sample, _)| sample).collect());
                MixedOrder::new(samples.collect(), &shares, disks).map(Order::Mixed)
            }
        }
    }

    /// A digest of which samples there are.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let keys: Vec<u8> = self.entries.iter().flat_map(|entry| *entry.key.as_bytes()).collect();
        Digest::of(&keys)
    }

    /// One sample, encoded.
    ///
    /// # Errors
    /// Why it cannot be used: a broken image, no answer, too long.
    pub fn sample(&self, index: usize, need: TeacherNeed) -> Result<Arc<Sample>, Skipped> {
        if let Some(sample) = self.kept().samples.get(&(index, need)) {
            return Ok(sample.clone());
        }
        let sample = self.encode(index, need).map_err(|error| Skipped {
            place: self.place(index),
            reason: Explained::of(error.as_ref()).to_string(),
        })?;
        let sample = Arc::new(sample);
        self.kept().keep((index, need), &sample);
        Ok(sample)
    }

    /// Has the features of these samples fetched from the disk ahead of their use.
    pub fn will_need(&self, indices: &[usize], need: TeacherNeed) {
        if need == TeacherNeed::Nothing {
            return;
        }
        let kept = self.kept();
        let unread = indices.iter().filter(|&&index| !kept.samples.contains_key(&(index, need)));
        let cached = unread.filter_map(|&index| self.cached(&self.entries[index]));
        cached.for_each(|(cache, row)| cache.will_need([row]));
    }

    /// Where a sample came from, for messages to the user.
    #[must_use]
    pub fn place(&self, index: usize) -> String {
        let entry = &self.entries[index];
        match &entry.conversation {
            Some(conversation) => format!("{} (sample {})", conversation.place, entry.key),
            None => format!("sample {}", entry.key),
        }
    }

    /// Where a sample's features are.
    fn cached(&self, entry: &Entry) -> Option<(&CacheReader, usize)> {
        let place = entry.place?;
        Some((self.caches.as_ref()?.readers().get(place.cache)?, place.row))
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        // A panic while holding it leaves a valid map: take it.
        self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn encode(&self, index: usize, need: TeacherNeed) -> Result<Sample> {
        let entry = &self.entries[index];
        let mut meta = match self.cached(entry) {
            Some((cache, row)) => Some((cache, row, cache.meta(row)?)),
            None => None,
        };
        let (messages, images) = match (&entry.conversation, &meta) {
            (Some(conversation), _) => {
                let images: Result<Vec<_>, _> =
                    conversation.images.iter().map(|image| image.read()).collect();
                (conversation.messages.clone(), images?)
            }
            (None, Some((cache, row, meta))) => (parse_canonical(&meta.messages)?, cache.image_files(*row)?),
            (None, None) => bail!("neither in the cache nor in the data"),
        };
        let images: Result<Vec<_>, _> = images.iter().map(|bytes| decode(bytes)).collect();
        let mut student = self.processor.encode(&messages, &images?)?;
        if self.answers == Answers::Last {
            leave_the_last(&mut student, meta.as_mut().map(|(_, _, meta)| meta));
        }
        let num_tokens = student.prompt.input_ids.len();
        if num_tokens > self.max_length {
            bail!("{num_tokens} student tokens, `data.max_length` is {}", self.max_length);
        }
        let num_answers = student.prompt.turns.iter().filter(|turn| turn.answer.is_some()).count();
        if num_answers == 0 {
            bail!("no answer to learn from");
        }
        let teacher = match (need, meta) {
            (TeacherNeed::Nothing, _) | (_, None) => None,
            (_, Some((cache, row, meta))) => Some(TeacherSample::read(cache, row, &meta, need, &student)?),
        };
        if let Some(teacher) = teacher.as_ref().filter(|teacher| teacher.answers.len() != num_answers) {
            bail!("{num_answers} answers for the student, {} for the teacher", teacher.answers.len());
        }
        let sample = Sample { key: entry.key, student, teacher };
        match (self.refusal)(&sample) {
            Some(reason) => bail!(reason),
            None => Ok(sample),
        }
    }
}

/// Makes all answers but the last part of the question, on both sides.
fn leave_the_last(student: &mut Encoded, teacher: Option<&mut SampleMeta>) {
    let answered = student.prompt.turns.iter_mut().rev().filter(|turn| turn.answer.is_some());
    answered.skip(1).for_each(|turn| turn.answer = None);
    let turns = teacher.into_iter().flat_map(|meta| meta.turns.iter_mut().rev());
    turns.filter(|turn| turn.num_answer_tokens > 0).skip(1).for_each(|turn| turn.num_answer_tokens = 0);
}

/// The caches' samples with their messages and images: the dataset's where it has them, else the cache's own.
fn cached_entries(caches: &Caches, index: &mut Index) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut seen = HashSet::new();
    for (cache, reader) in caches.readers().iter().enumerate() {
        let mut missing: Option<(usize, String)> = None;
        // Images are embedded in all rows of a cache or in none.
        let mut embedded = None;
        for row in (0..reader.len()).filter(|row| seen.insert(reader.key(*row))) {
            let key = reader.key(row);
            let conversation = index.samples.remove(&key);
            if conversation.is_none() {
                if embedded.is_none() {
                    embedded = reader.embeds_images(row)?;
                }
                let meta = reader.meta(row)?;
                if !meta.images.is_empty() && embedded == Some(false) {
                    let place = format!("{key} (`{}` row {})", meta.source, meta.row);
                    missing.get_or_insert((0, place)).0 += 1;
                }
            }
            entries.push(Entry { key, conversation, place: Some(Place { cache, row }) });
        }
        if let Some((count, place)) = missing {
            bail!(
                "the images of {count} of the {} samples of `{}` are neither in the cache nor in the data; the first: \
                 sample {place}\nhint: --data SRC --image-root DIR as given to `extract run`",
                reader.len(),
                reader.dir().display()
            );
        }
    }
    Ok(entries)
}

impl Kept {
    fn keep(&mut self, place: (usize, TeacherNeed), sample: &Arc<Sample>) {
        let num_bytes = sample.num_bytes();
        if self.num_bytes + num_bytes <= self.max_bytes
            && self.samples.insert(place, sample.clone()).is_none()
        {
            self.num_bytes += num_bytes;
        }
    }
}

impl Sample {
    /// About how much memory it takes.
    #[must_use]
    pub fn num_bytes(&self) -> usize {
        let teacher = self.teacher.as_ref().map_or(0, |t| t.features.len() * 4 + t.input_ids.len() * 4);
        self.student.num_bytes() + teacher + 256
    }
}
