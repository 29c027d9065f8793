//! `extract inspect`: what a cache holds, and one sample of it with its spans as text.

use std::collections::BTreeMap;
use std::fmt;
use std::io::IsTerminal;

use anyhow::{Context, Result, bail};
use indicatif::{HumanBytes, HumanCount};
use serde::Serialize;
use shared::cache::{CacheReader, CachedTurn, Manifest, SampleMeta};

use crate::cli::{InspectArgs, Overrides, path};
use crate::config::{Settings, required};
use crate::page::page;
use crate::paint;

/// Longest text shown of a turn, in characters.
const SHOWN_CHARS: usize = 160;

/// Channels named as the largest.
const SHOWN_CHANNELS: usize = 3;

/// What `inspect` found.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Inspected {
    /// Without `--sample`.
    Cache(Box<CacheFacts>),
    /// With it.
    Sample(Box<SampleFacts>),
}

/// A cache at a glance.
#[derive(Debug, Serialize)]
pub struct CacheFacts {
    /// What `manifest.json` says.
    pub manifest: Manifest,
    /// Name, type and shape of the head's tensors.
    pub head: Vec<String>,
    /// How many rows are in quarantine for each reason, digits left out of the reason.
    pub quarantine_reasons: BTreeMap<String, u64>,
}

/// One sample at a glance.
#[derive(Debug, Serialize)]
pub struct SampleFacts {
    /// The sample's key, in hexadecimal digits.
    pub key: String,
    /// The row's own id.
    pub row_id: Option<String>,
    /// Where it came from.
    pub source: String,
    /// The row there.
    pub row: u64,
    /// Tokens of the prompt, those of images included.
    pub num_tokens: usize,
    /// Tokens with features.
    pub num_positions: usize,
    /// One line an image.
    pub images: Vec<String>,
    /// One a turn, in order.
    pub turns: Vec<TurnFacts>,
    /// Numbers about the features.
    pub features: FeatureFacts,
    /// The text with its spans, for people.
    #[serde(skip)]
    pub shown: String,
}

/// One turn at a glance.
#[derive(Debug, Serialize)]
pub struct TurnFacts {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// First token and the one after the last.
    pub tokens: (u32, u32),
    /// The same for the answer.
    pub answer: Option<(u32, u32)>,
    /// The text of the answer's tokens, or of the whole turn.
    pub text: String,
}

/// Numbers about a sample's features.
#[derive(Debug, Serialize)]
pub struct FeatureFacts {
    /// Values per position.
    pub width: usize,
    /// Mean of all values.
    pub mean: f64,
    /// Standard deviation of all values.
    pub std: f64,
    /// Largest magnitude.
    pub max_abs: f64,
    /// Smallest and largest Euclidean length of a position's vector.
    pub norms: (f64, f64),
    /// The channels with the largest magnitudes, and these.
    pub massive: Vec<(usize, f64)>,
}

/// Opens the cache and looks.
///
/// # Errors
/// When there is no cache, no such sample, or damage.
pub fn inspect(args: &InspectArgs) -> Result<Inspected> {
    let mut flags = Overrides::default();
    flags.put("cache", "dir", args.cache.as_deref().map(path));
    let settings = Settings::load(&args.common, flags.0)?;
    let dir = required(settings.cache.dir, "the cache", "CACHE", "cache.dir")?;
    let reader = CacheReader::open(&dir)?;
    match &args.sample {
        Some(key) => Ok(Inspected::Sample(Box::new(inspect_sample(&reader, find(&reader, key)?, args)?))),
        None => Ok(Inspected::Cache(Box::new(cache_facts(&reader)?))),
    }
}

fn cache_facts(reader: &CacheReader) -> Result<CacheFacts> {
    let tensors = reader.head().tensors()?;
    let head =
        tensors.iter().map(|(name, view)| format!("{name} {:?} {:?}", view.dtype(), view.shape())).collect();
    let mut quarantine_reasons = BTreeMap::new();
    for row in reader.quarantined()? {
        let reason =
            row.reason.split(char::is_numeric).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("#");
        *quarantine_reasons.entry(reason).or_insert(0) += 1;
    }
    Ok(CacheFacts { manifest: reader.manifest().clone(), head, quarantine_reasons })
}

/// The one sample whose key begins with `prefix`.
fn find(reader: &CacheReader, prefix: &str) -> Result<usize> {
    let mut found = (0..reader.len()).filter(|&i| reader.key(i).to_string().starts_with(prefix));
    match (found.next(), found.next()) {
        (Some(only), None) => Ok(only),
        (Some(_), Some(_)) => {
            bail!("several samples have a key that begins with `{prefix}`\nhint: give more of it")
        }
        (None, _) => bail!(
            "no sample has a key that begins with `{prefix}`\nhint: the column `key` of the shards has them all"
        ),
    }
}

fn inspect_sample(reader: &CacheReader, sample: usize, args: &InspectArgs) -> Result<SampleFacts> {
    let meta = reader.meta(sample)?;
    let mut values = Vec::new();
    reader.features_f32(sample, &mut values)?;
    if let Some(file) = &args.html {
        let mut images = reader.image_files(sample)?;
        for path in &args.image {
            images.push(std::fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?);
        }
        let html = page(&meta, &images, &values, reader.width());
        std::fs::write(file, html).with_context(|| format!("cannot write `{}`", file.display()))?;
    }
    Ok(sample_facts(meta, &values, reader.width()))
}

fn sample_facts(meta: SampleMeta, values: &[f32], width: usize) -> SampleFacts {
    let image = |image: &shared::cache::CachedImage| {
        let (start, end) = (image.token_start, image.token_start + image.num_tokens);
        format!(
            "{} x {} pixels, tokens {start}..{end}, grid {:?}, {}",
            image.width, image.height, image.grid, image.digest
        )
    };
    SampleFacts {
        key: meta.key.to_string(),
        num_tokens: meta.input_ids.len(),
        num_positions: meta.positions.len(),
        images: meta.images.iter().map(image).collect(),
        turns: meta.turns.iter().map(|turn| turn_facts(&meta, turn)).collect(),
        features: feature_facts(values, width),
        shown: shown(&meta),
        row_id: meta.row_id,
        source: meta.source,
        row: meta.row,
    }
}

/// In colours for a person at a terminal, unless `NO_COLOR` (no-color.org) is set.
fn shown(meta: &SampleMeta) -> String {
    let in_colour =
        std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let legend = if in_colour { format!("{}\n", paint::legend()) } else { String::new() };
    format!("{legend}{}", paint::painted(meta, in_colour))
}

fn turn_facts(meta: &SampleMeta, turn: &CachedTurn) -> TurnFacts {
    let span = |start: u32, count: u32| (start, start + count);
    let tokens = span(turn.token_start, turn.num_tokens);
    let answer = (turn.num_answer_tokens > 0).then(|| span(turn.answer_start, turn.num_answer_tokens));
    TurnFacts { role: turn.role.clone(), tokens, answer, text: text_of(meta, answer.unwrap_or(tokens)) }
}

/// The characters that some tokens came from.
fn text_of(meta: &SampleMeta, (start, end): (u32, u32)) -> String {
    let offsets = &meta.offsets[start as usize..end as usize];
    let from = offsets.first().map_or(0, |offset| offset.0) as usize;
    let to = offsets.last().map_or(0, |offset| offset.1) as usize;
    meta.text.chars().skip(from).take(to.saturating_sub(from)).collect()
}

fn feature_facts(values: &[f32], width: usize) -> FeatureFacts {
    let count = values.len().max(1) as f64;
    let mean = values.iter().map(|value| f64::from(*value)).sum::<f64>() / count;
    let variance = values.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum::<f64>() / count;
    let squares = |row: &[f32]| row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>();
    let norms = values.chunks_exact(width.max(1)).map(|row| squares(row).sqrt());
    let mut massive: Vec<(usize, f64)> = (0..width)
        .map(|channel| {
            let values = values.iter().skip(channel).step_by(width.max(1));
            (channel, values.map(|value| f64::from(value.abs())).fold(0.0, f64::max))
        })
        .collect();
    massive.sort_by(|a, b| b.1.total_cmp(&a.1));
    massive.truncate(SHOWN_CHANNELS);
    FeatureFacts {
        width,
        massive,
        mean,
        std: variance.sqrt(),
        max_abs: values.iter().map(|value| f64::from(value.abs())).fold(0.0, f64::max),
        norms: norms.fold((f64::INFINITY, 0.0), |(low, high), norm| (low.min(norm), high.max(norm))),
    }
}

impl fmt::Display for Inspected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Inspected::Cache(facts) => facts.fmt(f),
            Inspected::Sample(facts) => facts.fmt(f),
        }
    }
}

impl fmt::Display for CacheFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Manifest { features, totals, shards, fingerprint, complete, .. } = &self.manifest;
        let state = if *complete { "complete" } else { "unfinished" };
        writeln!(f, "format version {}, {state}", self.manifest.format_version)?;
        let (samples, tokens, rows) = (totals.samples, totals.tokens, totals.feature_rows);
        writeln!(
            f,
            "{} samples, {} tokens, {} with features",
            HumanCount(samples),
            HumanCount(tokens),
            HumanCount(rows)
        )?;
        let raw = rows * (features.width * features.dtype.size()) as u64;
        let ratio = raw as f64 / totals.bytes.max(1) as f64;
        writeln!(f, "features {} of width {}, {}", features.dtype, features.width, features.codec)?;
        writeln!(
            f,
            "{} in {} shard(s), {ratio:.2} times smaller than the features alone",
            HumanBytes(totals.bytes),
            shards.len()
        )?;
        if let Some(owed) = &self.manifest.owed {
            writeln!(f, "damage took {} samples that no run has given back", HumanCount(owed.samples()))?;
        }
        self.manifest.selected.iter().try_for_each(|condition| writeln!(f, "chosen where {condition}"))?;
        if let Some(error) = &self.manifest.lossy_error {
            writeln!(f, "{error}")?;
        }
        self.head.iter().try_for_each(|tensor| writeln!(f, "head {tensor}"))?;
        writeln!(f, "fingerprint {}", self.manifest.fingerprint_digest)?;
        fingerprint.fields.iter().try_for_each(|(name, value)| writeln!(f, "  {name} {value}"))?;
        write!(f, "{} rows in quarantine", totals.quarantined)?;
        self.quarantine_reasons.iter().try_for_each(|(reason, count)| write!(f, "\n  {count} x {reason}"))
    }
}

impl fmt::Display for SampleFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.row_id.as_deref().unwrap_or("without an id");
        writeln!(f, "sample {} ({id}), row {} of `{}`", self.key, self.row, self.source)?;
        writeln!(f, "{} tokens, {} with features", self.num_tokens, self.num_positions)?;
        self.images.iter().try_for_each(|image| writeln!(f, "image {image}"))?;
        for turn in &self.turns {
            let (start, end) = turn.answer.unwrap_or(turn.tokens);
            let what = if turn.answer.is_some() { "answer" } else { "turn" };
            writeln!(f, "{} {what} {start}..{end}: {}", turn.role, shorten(&turn.text))?;
        }
        let FeatureFacts { width, mean, std, max_abs, norms, massive } = &self.features;
        writeln!(
            f,
            "width {width}, mean {mean:.4}, std {std:.4}, largest {max_abs:.4}, norms {:.4} to {:.4}",
            norms.0, norms.1
        )?;
        let massive: Vec<String> =
            massive.iter().map(|(channel, value)| format!("{channel} ({value:.4})")).collect();
        writeln!(f, "largest channels {}", massive.join(", "))?;
        write!(f, "{}", self.shown.trim_end())
    }
}

/// One line of at most [`SHOWN_CHARS`] characters; runs of one repeated placeholder would fill the screen.
fn shorten(text: &str) -> String {
    let shown: String = text.chars().take(SHOWN_CHARS).collect();
    let more = if text.chars().count() > SHOWN_CHARS { " ..." } else { "" };
    format!("{shown:?}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_of_known_values() {
        // By hand: rows (3, 4) and (0, -1): mean 6/4, mean of squares 26/4, variance 6.5 - 2.25 = 4.25.
        let facts = feature_facts(&[3.0, 4.0, 0.0, -1.0], 2);
        assert_eq!((facts.mean, facts.max_abs, facts.norms), (1.5, 4.0, (1.0, 5.0)));
        assert_eq!(facts.massive, [(1, 4.0), (0, 3.0)]);
        assert!((facts.std - 4.25f64.sqrt()).abs() < 1e-12);
    }
}
