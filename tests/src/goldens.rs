//! Larger goldens beside the reference checkpoints: image processors at their published settings, real tokenizers, and
//! published chat templates.
//!
//! ```text
//! REF/preproc_real.json, REF/images_png/          sha256 of float32 pixel values
//! REF/../tokenizers/golden.json, <name>/          ids of some texts
//! REF/../chat_templates/golden.json               renderings of some conversations
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use shared::dataset::{Message, Part, Role};
use shared::image::decode;
use shared::models::{Processor, config_of};
use shared::text::{ChatTemplate, TextTokenizer};

/// How many of one golden's cases come out equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What was compared.
    pub name: String,
    /// Equal cases.
    pub equal: usize,
    /// All cases.
    pub total: usize,
}

impl Row {
    fn new(name: &str, outcomes: impl IntoIterator<Item = bool>) -> Self {
        let outcomes: Vec<bool> = outcomes.into_iter().collect();
        let equal = outcomes.iter().filter(|equal| **equal).count();
        Self { name: name.to_owned(), equal, total: outcomes.len() }
    }

    /// All equal, and something was compared.
    pub fn passes(&self) -> bool {
        self.total > 0 && self.equal == self.total
    }
}

/// Every golden that lies beside `reference`.
///
/// # Errors
/// When a file is damaged or a checkout cannot be read.
pub fn rows(reference: &Path) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    if let Some(golden) = read::<Processors>(&reference.join("preproc_real.json"))? {
        for (name, case) in &golden.cases {
            if config_of(&reference.join(host(case)?.0)).is_err() {
                continue;
            }
            rows.push(processor(reference, name, case).with_context(|| format!("processor `{name}`"))?);
        }
    }
    let tokenizers = reference.join("../tokenizers");
    if let Some(golden) = read::<Tokenizers>(&tokenizers.join("golden.json"))? {
        for (name, expected) in &golden.ids {
            rows.push(tokenizer(&tokenizers.join(name), &golden.texts, name, expected)?);
        }
    }
    if let Some(golden) = read::<Templates>(&reference.join("../chat_templates/golden.json"))? {
        rows.extend(golden.templates.iter().map(|(name, case)| template(&golden.conversations, name, case)));
    }
    Ok(rows)
}

fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Option<T>> {
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    Ok(Some(serde_json::from_str(&text).with_context(|| format!("in `{}`", path.display()))?))
}

#[derive(Deserialize)]
struct Processors {
    cases: BTreeMap<String, ProcessorCase>,
}

#[derive(Deserialize)]
struct ProcessorCase {
    class: String,
    settings: serde_json::Map<String, Value>,
    images: BTreeMap<String, ProcessedImage>,
}

#[derive(Deserialize)]
struct ProcessedImage {
    sha256: String,
}

/// The reference checkpoint whose tokenizer and template serve an image processor, and what its other file must say.
fn host(case: &ProcessorCase) -> Result<(&'static str, Value)> {
    let qwen3 = case.settings.get("patch_size") == Some(&json!(16));
    let merged = case.settings.get("patch_size") == Some(&json!({"height": 28, "width": 28}));
    Ok(match case.class.as_str() {
        "Qwen2VLImageProcessor" if qwen3 => ("qwen3_vl", json!({})),
        "Qwen2VLImageProcessor" => ("qwen2_vl", json!({})),
        "CLIPImageProcessor" => ("llava15", json!({})),
        "LlavaNextImageProcessor" => ("llava_next", json!({})),
        "LlavaOnevisionImageProcessor" => ("llava_onevision", json!({"num_image_tokens": 729})),
        "GotOcr2ImageProcessor" => ("internvl", json!({})),
        "Idefics3ImageProcessor" => ("smolvlm", json!({})),
        "SiglipImageProcessor" => ("paligemma", json!({})),
        "Gemma3ImageProcessor" => ("gemma3", json!({})),
        // The golden's patch is one of the processor's merged ones.
        "PixtralImageProcessor" if merged => ("mistral3", json!({"patch_size": 14, "spatial_merge_size": 2})),
        "PixtralImageProcessor" => ("pixtral", json!({"patch_size": 16})),
        other => bail!("no reference checkpoint with a `{other}`"),
    })
}

/// A checkout with the processor's published settings around a reference checkpoint's other files.
fn checkout(reference: &Path, case: &ProcessorCase) -> Result<tempfile::TempDir> {
    let (host, processor) = host(case)?;
    let dir = tempfile::tempdir()?;
    for entry in fs::read_dir(reference.join(host))? {
        let path = entry?.path();
        let is_small = path.extension().is_some_and(|extension| extension != "safetensors");
        if let (true, true, Some(name)) = (path.is_file(), is_small, path.file_name()) {
            fs::write(dir.path().join(name), fs::read(&path)?)?;
        }
    }
    let merged = |file: &str, over: &serde_json::Map<String, Value>| -> Result<()> {
        let path = dir.path().join(file);
        let mut json = read::<serde_json::Map<String, Value>>(&path)?.unwrap_or_default();
        json.remove("image_processor");
        if file.starts_with("preprocessor") {
            // Only what a family does not process by, such as a number of tokens, is the host's.
            json.retain(|key, _| key == "image_seq_length");
        }
        json.extend(over.clone());
        Ok(fs::write(&path, serde_json::to_string(&json)?)?)
    };
    merged("preprocessor_config.json", &case.settings)?;
    merged("processor_config.json", processor.as_object().unwrap_or(&serde_json::Map::new()))?;
    Ok(dir)
}

fn processor(reference: &Path, name: &str, case: &ProcessorCase) -> Result<Row> {
    let dir = checkout(reference, case)?;
    // The other files are those of a small model, whose vision encoder takes smaller images.
    let processor = Processor::load_alone(dir.path())?;
    let mut outcomes = Vec::new();
    for (file, expected) in &case.images {
        let image = decode(&fs::read(reference.join("images_png").join(file))?)?;
        let content = vec![Part::Image, Part::Text { text: "?".into() }];
        let encoded = processor.encode_question(&[Message::new(Role::User, content)], &[image])?;
        let mut hasher = Sha256::new();
        for value in encoded.images.iter().flat_map(|image| &image.pixels) {
            hasher.update(value.to_le_bytes());
        }
        outcomes.push(format!("{:x}", hasher.finalize()) == expected.sha256);
    }
    Ok(Row::new(&format!("processor {name}"), outcomes))
}

#[derive(Deserialize)]
struct Tokenizers {
    texts: Vec<String>,
    ids: BTreeMap<String, TokenizerCase>,
}

#[derive(Deserialize)]
struct TokenizerCase {
    with_special: Vec<Vec<u32>>,
    no_special: Vec<Vec<u32>>,
    decode: Vec<String>,
}

fn tokenizer(dir: &Path, texts: &[String], name: &str, expected: &TokenizerCase) -> Result<Row> {
    let tokenizer = TextTokenizer::load(dir)?;
    let mut outcomes = Vec::new();
    for (i, text) in texts.iter().enumerate() {
        let (with, without) = (tokenizer.encode_with(text, true)?, tokenizer.encode_with(text, false)?);
        outcomes.push(
            Some(&with.ids) == expected.with_special.get(i)
                && Some(&without.ids) == expected.no_special.get(i)
                && Some(&tokenizer.decode_with(&without.ids, false)?) == expected.decode.get(i),
        );
    }
    Ok(Row::new(&format!("tokenizer {name}"), outcomes))
}

#[derive(Deserialize)]
struct Templates {
    conversations: BTreeMap<String, Value>,
    templates: BTreeMap<String, TemplateCase>,
}

#[derive(Deserialize)]
struct TemplateCase {
    bos_token: Option<String>,
    eos_token: Option<String>,
    template: String,
    /// By `conversation|full` or `conversation|gen`; an object with `error` where transformers fails.
    rendered: BTreeMap<String, Value>,
}

fn template(conversations: &BTreeMap<String, Value>, name: &str, case: &TemplateCase) -> Row {
    let special = |token: &Option<String>| token.clone().unwrap_or_default();
    let template =
        ChatTemplate::compile(&case.template, &special(&case.bos_token), &special(&case.eos_token));
    let outcome = |(key, expected): (&String, &Value)| {
        let (conversation, kind) = key.split_once('|')?;
        let template = template.as_ref().ok()?;
        let ours = template.render_any(conversations.get(conversation)?, kind == "gen");
        Some(match (expected.as_str(), ours) {
            (Some(expected), Ok(ours)) => ours == expected,
            (None, ours) => ours.is_err(),
            _ => false,
        })
    };
    Row::new(&format!("template {name}"), case.rendered.iter().map(|case| outcome(case).unwrap_or(false)))
}
