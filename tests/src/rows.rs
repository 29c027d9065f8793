//! Datasets and caches for tests: rows made up or taken from reference samples, and a cache read back whole.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use shared::cache::{CacheReader, FeatureBlock, SampleMeta};
use shared::dataset::{Part, Role};
use shared::ids::SampleKey;

use crate::reference::Sample;

/// The checkpoint of our own that stands in `tests/fixtures/<name>`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// A reference sample as a LLaVA row; the sample's name becomes the row's id, and its images absolute paths.
pub fn llava_row(sample: &Sample) -> Value {
    let turns = sample.messages.iter().map(|message| {
        let from = match message.role {
            Role::System => "system",
            Role::User => "human",
            Role::Assistant => "gpt",
        };
        let value: String = message.content.iter().map(part_text).collect();
        json!({ "from": from, "value": value })
    });
    // A dataset's image paths may not climb: `fixture/../images` has to become what it means.
    let plain = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
    let images: Vec<PathBuf> = sample.images.iter().map(plain).collect();
    json!({ "id": sample.name, "images": images, "conversations": turns.collect::<Vec<_>>() })
}

/// LLaVA takes one newline off on both sides of a placeholder, so one is put there.
fn part_text(part: &Part) -> String {
    match part {
        Part::Text { text } => text.clone(),
        Part::Image => "\n<image>\n".to_owned(),
    }
}

/// A row about one image.
pub fn question(id: &str, image: &str, question: &str, answer: &str) -> Value {
    let turns = json!([
        { "from": "human", "value": format!("<image>\n{question}") },
        { "from": "gpt", "value": answer },
    ]);
    json!({ "id": id, "image": image, "conversations": turns })
}

/// Writes rows as JSON lines.
///
/// # Errors
/// When the file cannot be written.
pub fn write_rows(path: &Path, rows: &[Value]) -> Result<()> {
    let lines = rows.iter().fold(String::new(), |mut lines, row| {
        let _ = writeln!(lines, "{row}");
        lines
    });
    fs::write(path, lines).with_context(|| format!("cannot write `{}`", path.display()))
}

/// `count` distinct rows of different lengths about images of different sizes, with their images in `dir`; `rows.jsonl` in it names them.
///
/// # Errors
/// When a file cannot be written.
pub fn made_up(dir: &Path, count: usize) -> Result<PathBuf> {
    const SIZES: [(u32, u32); 5] = [(28, 28), (56, 28), (56, 84), (30, 100), (64, 64)];
    let mut rows = Vec::with_capacity(count);
    for number in 0..count {
        // What a picture shows follows from its name alone, so that more rows leave the earlier ones as they are.
        let picture = number % 16;
        let (width, height) = SIZES[picture % SIZES.len()];
        let name = format!("{picture}.bmp");
        fs::write(dir.join(&name), bmp(width, height, picture as u8))?;
        let text = format!("What is number {number}? {}", "Look again. ".repeat(number * 7 % 5));
        rows.push(question(
            &format!("row {number}"),
            &name,
            &text,
            &"It is a square. ".repeat(1 + number * 3 % 4),
        ));
    }
    let path = dir.join("rows.jsonl");
    write_rows(&path, &rows)?;
    Ok(path)
}

/// An uncompressed 24-bit bitmap with a pattern of its own for each seed.
pub fn bmp(width: u32, height: u32, seed: u8) -> Vec<u8> {
    let stride = (width * 3).div_ceil(4) * 4;
    let size = stride * height;
    let mut bytes = Vec::with_capacity(54 + size as usize);
    bytes.extend(b"BM");
    for number in [54 + size, 0, 54, 40, width, height, 1 | (24 << 16), 0, size, 2835, 2835, 0, 0] {
        bytes.extend(number.to_le_bytes());
    }
    for at in 0..size {
        bytes.push((at as u8).wrapping_mul(seed | 1).wrapping_add(seed) ^ (at >> 6) as u8);
    }
    bytes
}

/// Everything a cache holds, by key.
pub type Contents = BTreeMap<SampleKey, (SampleMeta, FeatureBlock)>;

/// Reads a cache whole, checksums verified.
///
/// # Errors
/// When it is no cache or damaged.
pub fn contents(cache: &Path) -> Result<Contents> {
    let reader = CacheReader::open(cache)?;
    let sample = |i| -> Result<_> { Ok((reader.key(i), (reader.meta(i)?, reader.features(i)?))) };
    (0..reader.len()).map(sample).collect()
}

/// The sample with this row id.
///
/// # Errors
/// When there is none.
pub fn by_id<'a>(contents: &'a Contents, id: &str) -> Result<&'a (SampleMeta, FeatureBlock)> {
    let found = contents.values().find(|(meta, _)| meta.row_id.as_deref() == Some(id));
    found.with_context(|| format!("no row `{id}` in the cache"))
}

/// A copy of the fixture checkpoint `name` at `to`, with one of its files changed.
///
/// # Errors
/// When a file cannot be read or written.
pub fn altered_checkpoint(
    name: &str,
    to: &Path,
    file: &str,
    change: impl FnOnce(Vec<u8>) -> Vec<u8>,
) -> Result<PathBuf> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(fixture(name))? {
        let path = entry?.path();
        if let (true, Some(name)) = (path.is_file(), path.file_name()) {
            fs::copy(&path, to.join(name))?;
        }
    }
    let bytes = fs::read(to.join(file)).with_context(|| format!("the fixture has no `{file}`"))?;
    fs::write(to.join(file), change(bytes))?;
    Ok(to.to_owned())
}

/// Changes a cache's manifest and signs it anew, as someone would who knows the format: its last member is the BLAKE3 of
/// everything before it.
///
/// # Errors
/// When the manifest cannot be read or written.
pub fn resign(cache: &Path, change: impl FnOnce(&mut Value)) -> Result<()> {
    let path = cache.join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path)?)?;
    change(&mut manifest);
    manifest.as_object_mut().context("not an object")?.shift_remove("digest");
    let text = serde_json::to_string_pretty(&manifest)?;
    let body = text.trim_end_matches(['}', '\n']);
    let digest = shared::ids::Digest::of(body.as_bytes());
    fs::write(path, format!("{body},\n  \"digest\": \"{digest}\"\n}}\n"))?;
    Ok(())
}
