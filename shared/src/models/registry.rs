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
    DecoderConfig, VlmBody, gemma3, idefics3, internvl, llava, llava_next, llava_onevision, paligemma,
    qwen2_5_vl, qwen2_vl, qwen3_vl,
};

/// Every family there is.
pub static FAMILIES: &[&Family] = &[
    &qwen2_vl::FAMILY,
    &qwen2_5_vl::FAMILY,
    &qwen3_vl::FAMILY,
    &internvl::FAMILY,
    &llava::FAMILY,
    &llava_next::FAMILY,
    &llava_onevision::FAMILY,
    &idefics3::FAMILY,
    &idefics3::SMOLVLM,
    &gemma3::FAMILY,
    &paligemma::FAMILY,
];

/// What the registry knows of a family.
pub struct Family {
    /// The `model_type` of its config.json.
    pub model_type: &'static str,
    /// The `architectures` entry of its config.json.
    pub architecture: &'static str,
    /// Prefixes of stored names and what they become in the canonical naming, which is one for all namings that a
    /// family is stored under; the first match counts.
    pub renames: &'static [(&'static str, &'static str)],
    /// Prefixes of canonical names and the part they belong to; the first match counts.
    pub parts: &'static [(&'static str, ModelPart)],
    /// Suffixes of buffers that some checkpoints store and no model needs.
    pub ignored: &'static [&'static str],
    /// The canonical name of the input embedding.
    pub embedding: &'static str,
    /// The canonical name of the head.
    pub head: &'static str,
    /// Reads config.json, which may be as sparse as the hub's.
    pub parse: fn(&Value) -> std::result::Result<Box<dyn FamilyConfig>, String>,
    /// Reads the processor's files.
    pub(super) processor: fn(&ProcessorFiles<'_>) -> std::result::Result<Box<dyn FamilyProcessor>, String>,
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

    /// The token id that image features replace.
    fn image_token_id(&self) -> u32;

    /// The longest sample the model was made for, in tokens.
    fn max_positions(&self) -> usize;

    /// Every resolved value, for the fingerprint: two config.json that mean the same give the same text.
    fn canonical(&self) -> Value;
}

impl Family {
    /// The canonical name of a stored weight.
    pub fn canonical_name<'a>(&self, stored: &'a str) -> Cow<'a, str> {
        for (from, to) in self.renames {
            if let Some(rest) = stored.strip_prefix(from) {
                return Cow::Owned(format!("{to}{rest}"));
            }
        }
        Cow::Borrowed(stored)
    }

    /// The part a canonical name belongs to; what no prefix claims is body.
    pub fn part_of(&self, canonical: &str) -> ModelPart {
        let claimed = self.parts.iter().find(|(prefix, _)| canonical.starts_with(prefix));
        claimed.map_or(ModelPart::Body, |(_, part)| *part)
    }

    /// Whether a stored weight is a buffer that no model needs.
    pub fn is_ignored(&self, canonical: &str) -> bool {
        self.ignored.iter().any(|suffix| canonical.ends_with(suffix))
    }
}

/// A checkpoint's config.json and the family that reads it.
pub struct ModelConfig {
    /// The file.
    pub path: PathBuf,
    /// As stored.
    pub json: Value,
    /// Which family.
    pub family: &'static Family,
    /// As resolved.
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
    let config = (family.parse)(&json).map_err(|reason| {
        ModelError::invalid(
            &path,
            reason,
            "this variant of the architecture is not implemented, or the file is damaged",
        )
    })?;
    Ok(ModelConfig { path, json, family, config })
}

fn family_of(path: &Path, json: &Value) -> std::result::Result<&'static Family, ModelError> {
    let model_type = json["model_type"].as_str().unwrap_or_default();
    let architecture = json["architectures"][0].as_str().unwrap_or_default();
    let known =
        FAMILIES.iter().find(|family| family.model_type == model_type || family.architecture == architecture);
    known.copied().ok_or_else(|| {
        let supported = FAMILIES.iter().map(|family| family.architecture).collect::<Vec<_>>().join(", ");
        let note = match model_type {
            "internvl_chat" => {
                "; this is InternVL's original layout, use the checkpoint whose name ends in `-hf`"
            }
            _ => "",
        };
        let found = if architecture.is_empty() { model_type } else { architecture };
        ModelError::UnknownArchitecture {
            path: path.to_owned(),
            found: if found.is_empty() { "(none named)" } else { found }.to_owned(),
            supported: format!("{supported}{note}"),
        }
    })
}
