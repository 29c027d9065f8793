//! From a conversation and its images to what a model takes: template, image processing, tokenisation, positions.
//!
//! Everything here is read from the checkpoint and runs on the CPU; the weights are not needed. What differs between
//! families is behind [`FamilyProcessor`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

mod common;
mod square;

pub(super) use common::{
    CLIP_MEAN, CLIP_STD, CommonSettings, HALF, IMAGENET_MEAN, IMAGENET_STD, Size, named_token,
    with_default_filter,
};
pub(super) use square::SquareTile;

use super::batch::Encoded;
use super::error::ModelError;
use super::registry::{ModelConfig, config_of};
use crate::dataset::{Message, Question};
use crate::image::{ImageError, ImageInput, RgbImage, decode};
use crate::text::{ChatTemplate, Expansion, Placeholder, Prompt, TextTokenizer, layout};

#[cfg(test)]
mod tests;

/// How one family treats images: a folder's `processor.rs` implements it.
pub(super) trait FamilyProcessor: Send + Sync {
    /// The token that image features replace; none for a text model.
    fn image_token(&self) -> Option<&str>;

    /// What the chat template writes once for each image; mostly the image token.
    fn placeholder(&self) -> Option<&str> {
        self.image_token()
    }

    /// The template of a family whose checkouts have none. It then writes all special tokens itself.
    fn own_template(&self) -> Option<&'static str> {
        None
    }

    /// The text that stands for an image, `num_tokens` image tokens among it.
    fn expansion(&self, image: &ImageInput) -> String;

    /// A token that ends a turn though neither the tokenizer nor a configuration says so.
    fn turn_end(&self) -> Option<&str> {
        None
    }

    /// The pixels of an image as the vision encoder takes them.
    fn image(&self, image: &RgbImage) -> Result<ImageInput, ImageError>;

    /// The same for one of `num_images` images of a sample, which some families treat unlike a single one.
    fn image_among(&self, image: &RgbImage, _num_images: usize) -> Result<ImageInput, ImageError> {
        self.image(image)
    }

    /// (temporal, height, width) position of each token; most families count tokens, whatever they are.
    fn positions(&self, prompt: &Prompt) -> Vec<[u32; 3]> {
        (0..prompt.input_ids.len() as u32).map(|token| [token; 3]).collect()
    }

    /// The resolved settings, defaults included, for the fingerprint.
    fn settings(&self) -> Value;
}

/// What a family's processor is made from.
pub(super) struct ProcessorFiles<'a> {
    /// config.json.
    pub config: &'a Value,
    /// Image processing: preprocessor_config.json, or the part of processor_config.json that replaced it; null if there
    /// is neither.
    pub image: &'a Value,
    /// processor_config.json; null if there is none.
    pub processor: &'a Value,
    /// The tokenizer and its configuration.
    pub tokenizer: &'a TextTokenizer,
}

impl ProcessorFiles<'_> {
    /// Image processing, which a family with a vision encoder cannot do without.
    pub(super) fn image(&self) -> Result<&Value, String> {
        if self.image.is_null() { Err("is missing".into()) } else { Ok(self.image) }
    }
}

/// Width and height of the image that a processor is tried on.
const TRIED_SIDES: [u32; 2] = [64, 48];

/// Makes what a model takes from conversations, exactly as the checkpoint's own processor does in transformers.
pub struct Processor {
    template: ChatTemplate,
    tokenizer: TextTokenizer,
    family: Box<dyn FamilyProcessor>,
    placeholder: Option<Placeholder>,
    eos_ids: Vec<u32>,
}

impl Processor {
    /// Loads the processor of the checkpoint in `dir`.
    ///
    /// # Errors
    /// When a file is missing or damaged, the family is unknown, the tokenizer lacks the image token, or the vision encoder of
    /// config.json does not take what the processor makes of an image.
    pub fn load(dir: &Path) -> Result<Self, ModelError> {
        let config = config_of(dir)?;
        let files = ImageFiles::read(dir)?;
        let processor = Self::of(dir, &config, &files)?;
        fits(processor.family.as_ref(), &config).map_err(|reason| files.invalid(reason))?;
        Ok(processor)
    }

    /// The same without a look at the vision encoder: a processor alone.
    ///
    /// # Errors
    /// As [`Processor::load`], but for the vision encoder.
    pub fn load_alone(dir: &Path) -> Result<Self, ModelError> {
        Self::of(dir, &config_of(dir)?, &ImageFiles::read(dir)?)
    }

    fn of(dir: &Path, config: &ModelConfig, files: &ImageFiles) -> Result<Self, ModelError> {
        let tokenizer = TextTokenizer::load(dir)?;
        let ImageFiles { image, processor, .. } = files;
        let parts = ProcessorFiles { config: &config.json, image, processor, tokenizer: &tokenizer };
        let family = (config.family.processor)(&parts).map_err(|reason| files.invalid(reason))?;
        let (template, tokenizer) = match family.own_template() {
            Some(source) => (compile(dir, source, &tokenizer)?, tokenizer.verbatim()),
            None => (ChatTemplate::load(dir)?, tokenizer),
        };
        let path = dir.join("tokenizer.json");
        let placeholder = match family.image_token() {
            Some(token) => Some(placeholder(&path, token, family.placeholder(), config, &tokenizer)?),
            None => None,
        };
        let image_text = family.image_token().map(|token| format!("{token}\n"));
        let template = template.with_image_text(image_text.unwrap_or_default());
        let eos_ids = eos_ids(dir, &config.json, &tokenizer, family.turn_end())?;
        Ok(Self { template, tokenizer, family, placeholder, eos_ids })
    }

    /// A whole conversation with its answers.
    ///
    /// # Errors
    /// When an image or the conversation does not suit the model; the sample is then quarantined.
    pub fn encode(&self, messages: &[Message], images: &[RgbImage]) -> Result<Encoded, ModelError> {
        self.encode_messages(messages, images, false)
    }

    /// A conversation up to where its next answer begins; the messages end with a question.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_question(&self, messages: &[Message], images: &[RgbImage]) -> Result<Encoded, ModelError> {
        self.encode_messages(messages, images, true)
    }

    /// A dataset's question with its images, read and decoded here.
    ///
    /// # Errors
    /// When an image cannot be read or decoded, and as [`encode`](Self::encode); the text is one reason.
    pub fn encode_asked(&self, question: &Question) -> Result<Encoded, String> {
        let mut images = Vec::with_capacity(question.images.len());
        for source in &question.images {
            let bytes = source.read().map_err(|error| error.to_string())?;
            images.push(decode(&bytes).map_err(|error| error.to_string())?);
        }
        self.encode_question(&question.messages, &images).map_err(|error| error.to_string())
    }

    fn encode_messages(
        &self,
        messages: &[Message],
        images: &[RgbImage],
        add_generation_prompt: bool,
    ) -> Result<Encoded, ModelError> {
        let layout = layout(&self.template, messages, add_generation_prompt)?;
        let process = |(index, image): (usize, &RgbImage)| {
            let processed = self.family.image_among(image, images.len());
            processed.map_err(|source| ModelError::Image { index, source })
        };
        let images = images.iter().enumerate().map(process).collect::<Result<Vec<_>, _>>()?;
        let expand = |image: &ImageInput| Expansion {
            text: self.family.expansion(image),
            num_tokens: image.num_tokens,
            grid: image.grid,
        };
        let expansions: Vec<_> = images.iter().map(expand).collect();
        let prompt =
            layout.into_prompt(&self.tokenizer, self.placeholder.as_ref(), &expansions, &self.eos_ids)?;
        let positions = self.family.positions(&prompt);
        Ok(Encoded { prompt, images, positions })
    }

    /// Fingerprint fields: what else must be equal for two caches to hold the same tokens and pixels.
    pub fn identity(&self) -> BTreeMap<String, String> {
        let fields = [
            ("tokenizer", self.tokenizer.digest().to_string()),
            ("chat_template", self.template.digest().to_string()),
            ("image_processor", self.family.settings().to_string()),
        ];
        fields.map(|(field, value)| (field.to_owned(), value)).into()
    }

    /// Ids from text and back, the checkpoint's added tokens included.
    pub fn tokenizer(&self) -> &TextTokenizer {
        &self.tokenizer
    }

    /// The token that image features replace; none for a text model.
    pub fn image_token_id(&self) -> Option<u32> {
        self.placeholder.as_ref().map(|placeholder| placeholder.id)
    }

    /// The tokens that end an answer.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos_ids
    }
}

/// How a checkpoint's folder says that images are processed.
struct ImageFiles {
    /// The file that says it.
    path: PathBuf,
    image: Value,
    processor: Value,
}

impl ImageFiles {
    fn read(dir: &Path) -> Result<Self, ModelError> {
        let path = dir.join("processor_config.json");
        let processor = read_optional_json(&path)?;
        // transformers 5 nests the image processor; what it nests wins over the older file.
        if let Some(nested) = processor.get("image_processor") {
            return Ok(Self { path, image: nested.clone(), processor });
        }
        let path = dir.join("preprocessor_config.json");
        Ok(Self { image: read_optional_json(&path)?, path, processor })
    }

    fn invalid(&self, reason: String) -> ModelError {
        let hint = "copy preprocessor_config.json and processor_config.json from the original checkpoint";
        ModelError::invalid(&self.path, reason, hint)
    }
}

/// Tries a small grey image, so that a processor of another checkpoint is refused before anything is done with it.
fn fits(family: &dyn FamilyProcessor, config: &ModelConfig) -> Result<(), String> {
    if family.image_token().is_none() {
        return Ok(());
    }
    let [width, height] = TRIED_SIDES;
    let grey = RgbImage { width, height, data: vec![128; 3 * (width * height) as usize] };
    let image = family.image(&grey).map_err(|error| error.to_string())?;
    let tokens = image.num_tokens;
    let tried = format!("of a picture of {width} x {height} pixels the processor makes");
    match config.config.num_image_rows(&image) {
        Ok(rows) if rows == tokens => Ok(()),
        Ok(rows) => {
            Err(format!("{tried} {tokens} image tokens, the vision encoder of config.json {rows} rows"))
        }
        Err(reason) => Err(format!("{tried} what the vision encoder of config.json does not take: {reason}")),
    }
}

/// A family's own template, for the tokenizer's special tokens.
fn compile(dir: &Path, source: &str, tokenizer: &TextTokenizer) -> Result<ChatTemplate, ModelError> {
    let special = |name: &str| tokenizer.special(name).unwrap_or_default();
    ChatTemplate::compile(source, special("bos_token"), special("eos_token")).map_err(|error| {
        ModelError::invalid(dir, format!("{error:#}"), "this is an error of this program, please report it")
    })
}

fn placeholder(
    path: &Path,
    token: &str,
    written: Option<&str>,
    config: &ModelConfig,
    tokenizer: &TextTokenizer,
) -> Result<Placeholder, ModelError> {
    let Some(id) = tokenizer.token_id(token) else {
        let hint = "this is the tokenizer of a text model; take the one of the vision-language checkpoint";
        return Err(ModelError::invalid(path, format!("has no image placeholder token `{token}`"), hint));
    };
    match config.config.image_token_id() {
        Some(expected) if expected != id => {
            let reason = format!("`{token}` is {id}, but config.json says {expected}");
            Err(ModelError::invalid(path, reason, "tokenizer and config.json must come from one checkpoint"))
        }
        _ => Ok(Placeholder { text: written.unwrap_or(token).to_owned(), id }),
    }
}

/// Every token that may end a turn: generation_config.json and config.json name ids, tokenizer_config.json a text, and
/// `turn_end` is the family's.
fn eos_ids(
    dir: &Path,
    config: &Value,
    tokenizer: &TextTokenizer,
    turn_end: Option<&str>,
) -> Result<Vec<u32>, ModelError> {
    let generation = read_optional_json(&dir.join("generation_config.json"))?;
    let parts = [&generation, config, &config["text_config"], &config["llm_config"]];
    let named = parts.map(|part| &part["eos_token_id"]);
    let listed = named.into_iter().flat_map(|value| match value {
        Value::Array(ids) => ids.iter().collect(),
        id => vec![id],
    });
    let texts = [tokenizer.special("eos_token"), turn_end].into_iter().flatten();
    let text = texts.filter_map(|token| tokenizer.token_id(token));
    let mut ids: Vec<u32> = listed.filter_map(|id| u32::try_from(id.as_u64()?).ok()).chain(text).collect();
    ids.sort_unstable();
    ids.dedup();
    if ids.is_empty() {
        let hint = "tokenizer_config.json must name an `eos_token`";
        return Err(ModelError::invalid(dir, "no token ends a turn", hint));
    }
    Ok(ids)
}

/// A JSON file of a checkpoint; null if there is no such file.
pub(super) fn read_optional_json(path: &Path) -> Result<Value, ModelError> {
    match std::fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text).map_err(|error| {
            ModelError::invalid(path, format!("not JSON: {error}"), "download the file again")
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Value::Null),
        Err(error) => Err(ModelError::read(path, error)),
    }
}
