//! The families, one line each: add a folder, add its line, add a parity fixture.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use candle_core::Result;
use serde_json::Value;

use super::error::ModelError;
use super::params::ModelPart;
use super::processor::{FamilyProcessor, ProcessorFiles};
use super::weights::WeightSource;
use super::{
    DecoderConfig, VlmBody, gemma3, idefics3, internvl, internvl_chat, llava, llava_next, llava_onevision,
    mistral3, paligemma, pixtral, qwen2_5_vl, qwen2_vl, qwen3_vl, text_only,
};
use crate::image::ImageInput;

/// Every family there is.
pub static FAMILIES: &[&Family] = &[
    &qwen2_vl::FAMILY,
    &qwen2_5_vl::FAMILY,
    &qwen3_vl::FAMILY,
    &internvl::FAMILY,
    &internvl_chat::FAMILY,
    &pixtral::FAMILY,
    &mistral3::FAMILY,
    // After Pixtral, which calls itself LLaVA.
    &llava::FAMILY,
    &llava_next::FAMILY,
    &llava_onevision::FAMILY,
    &idefics3::FAMILY,
    &idefics3::SMOLVLM,
    &gemma3::FAMILY,
    &paligemma::FAMILY,
    &text_only::QWEN2,
    &text_only::QWEN3,
    &text_only::LLAMA,
    &text_only::MISTRAL,
];

/// Reads a family's config.json; the error says what it cannot do.
pub type ParseConfig = fn(&Value) -> std::result::Result<Box<dyn FamilyConfig>, String>;

/// Reads a family's processor files.
pub(super) type ParseProcessor =
    fn(&ProcessorFiles<'_>) -> std::result::Result<Box<dyn FamilyProcessor>, String>;

/// What the registry knows of a family.
pub struct Family {
    /// The `model_type` of its config.json.
    pub model_type: &'static str,
    /// The `architectures` entry of its config.json.
    pub architecture: &'static str,
    /// The `model_type` of its vision encoder, where several families share the two names above.
    pub vision_type: Option<&'static str>,
    /// Prefixes of stored names and what they become in the canonical naming, which is one for all namings that a
    /// family is stored under; the first match counts.
    pub renames: &'static [(&'static str, &'static str)],
    /// Inner parts of names and what they become, after the prefix: all of them count.
    pub infixes: &'static [(&'static str, &'static str)],
    /// Prefixes of canonical names and the part they belong to; the first match counts.
    pub parts: &'static [(&'static str, ModelPart)],
    /// Suffixes of buffers and weights that some checkpoints store and no model needs.
    pub ignored: &'static [&'static str],
    /// The canonical name of the input embedding.
    pub embedding: &'static str,
    /// The canonical name of the head.
    pub head: &'static str,
    /// Reads config.json, which may be as sparse as the hub's.
    pub parse: ParseConfig,
    /// Reads the processor's files.
    pub(super) processor: ParseProcessor,
}

/// A family's configuration with every default resolved.
pub trait FamilyConfig: Send + Sync {
    /// Sizes of the decoder.
    fn decoder(&self) -> &DecoderConfig;

    /// Builds vision encoder, projector and body.
    ///
    /// # Errors
    /// Those of the source.
    fn build(&self, source: &mut dyn WeightSource) -> Result<Box<dyn VlmBody>>;

    /// The token id that image features replace, where config.json says it.
    fn image_token_id(&self) -> Option<u32>;

    /// How many rows the vision encoder makes of an image for as many image tokens, or why it takes none like it.
    ///
    /// # Errors
    /// What does not fit.
    fn num_image_rows(&self, image: &ImageInput) -> std::result::Result<usize, String>;

    /// The longest sample the model was made for, in tokens.
    fn max_positions(&self) -> usize;

    /// Every resolved value, for the fingerprint: two config.json that mean the same give the same text.
    fn canonical(&self) -> Value;
}

impl Family {
    /// A text model whose weights keep the names that transformers gives them; other families say what differs.
    pub(super) const fn text(
        model_type: &'static str,
        architecture: &'static str,
        parse: ParseConfig,
        processor: ParseProcessor,
    ) -> Family {
        Family {
            model_type,
            architecture,
            vision_type: None,
            renames: &[],
            infixes: &[],
            parts: &[("lm_head.", ModelPart::Head)],
            ignored: &["rotary_emb.inv_freq"],
            embedding: "model.embed_tokens.weight",
            head: "lm_head.weight",
            parse,
            processor,
        }
    }

    /// The canonical name of a stored weight.
    pub fn canonical_name<'a>(&self, stored: &'a str) -> Cow<'a, str> {
        let renamed = self.renames.iter().find_map(|(from, to)| Some((to, stored.strip_prefix(from)?)));
        let mut name = match renamed {
            Some((to, rest)) => Cow::Owned(format!("{to}{rest}")),
            None => Cow::Borrowed(stored),
        };
        for (from, to) in self.infixes {
            if name.contains(from) {
                name = Cow::Owned(name.replace(from, to));
            }
        }
        name
    }

    /// The part a canonical name belongs to; what no prefix claims is body.
    pub fn part_of(&self, canonical: &str) -> ModelPart {
        let claimed = self.parts.iter().find(|(prefix, _)| canonical.starts_with(prefix));
        claimed.map_or(ModelPart::Body, |(_, part)| *part)
    }

    /// Whether no model needs a stored weight.
    pub fn is_ignored(&self, canonical: &str) -> bool {
        self.ignored.iter().any(|suffix| canonical.ends_with(suffix))
    }
}

/// A checkpoint's config.json and the family that reads it.
pub struct ModelConfig {
    /// Where the config.json lies.
    pub path: PathBuf,
    /// The file as it is.
    pub json: Value,
    /// The family that reads it.
    pub family: &'static Family,
    /// What it resolves to, every default included.
    pub config: Box<dyn FamilyConfig>,
}

/// Reads the config.json of a checkpoint.
///
/// # Errors
/// When it is missing or not JSON, of a family that is not in the registry, or asks for what the family cannot do.
pub fn config_of(dir: &Path) -> std::result::Result<ModelConfig, ModelError> {
    let path = dir.join("config.json");
    let text = std::fs::read_to_string(&path).map_err(|error| ModelError::read(&path, error))?;
    let json: Value = serde_json::from_str(&text).map_err(|error| {
        ModelError::invalid(&path, format!("not JSON: {error}"), "download the file again")
    })?;
    let family = family_of(&path, &json)?;
    refuse_quantised(&path, &json)?;
    let config = (family.parse)(&json).map_err(|reason| {
        ModelError::invalid(
            &path,
            reason,
            "this variant of the architecture is not implemented, or the file is damaged",
        )
    })?;
    Ok(ModelConfig { path, json, family, config })
}

/// Weights that transformers would quantise or has quantised: of matrices stored so none is read, and plain ones would give other
/// features than there.
fn refuse_quantised(path: &Path, json: &Value) -> std::result::Result<(), ModelError> {
    let said = [json, &json["text_config"], &json["llm_config"]]
        .into_iter()
        .flat_map(|part| ["quantization_config", "compression_config"].map(|key| (key, &part[key])));
    let Some((key, found)) = said.into_iter().find(|(_, found)| found.is_object()) else { return Ok(()) };
    let method = found["quant_method"].as_str().unwrap_or("a method that it does not name");
    Err(ModelError::invalid(
        path,
        format!("`{key}` says that the weights are quantised by `{method}`, which is not supported"),
        "take the checkpoint that it was made of, in float32, float16 or bfloat16; `extract run --gguf FILE` takes \
         quantised matrices from a GGUF file beside it",
    ))
}

fn family_of(path: &Path, json: &Value) -> std::result::Result<&'static Family, ModelError> {
    let model_type = json["model_type"].as_str().unwrap_or_default();
    let architecture = json["architectures"][0].as_str().unwrap_or_default();
    let vision_type = json["vision_config"]["model_type"].as_str();
    let named = |family: &&&Family| {
        (family.model_type == model_type || family.architecture == architecture)
            && (family.vision_type.is_none() || family.vision_type == vision_type)
    };
    FAMILIES.iter().find(named).copied().ok_or_else(|| {
        let name = |family: &&Family| match family.vision_type {
            Some(vision) => format!("{} (vision `{vision}`)", family.architecture),
            None => family.architecture.to_owned(),
        };
        let supported = FAMILIES.iter().map(name).collect::<Vec<_>>().join(", ");
        let found = if architecture.is_empty() { model_type } else { architecture };
        ModelError::UnknownArchitecture {
            path: path.to_owned(),
            found: if found.is_empty() { "(none named)" } else { found }.to_owned(),
            supported,
        }
    })
}
