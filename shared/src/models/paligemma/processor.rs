//! PaliGemma's processor: all images first, then one question on a line of its own, then its answer.

use serde_json::Value;

use crate::image::{ImageError, ImageInput, RgbImage};
use crate::models::fields::count;
use crate::models::processor::{FamilyProcessor, HALF, ProcessorFiles, SquareTile, named_token};

/// PaliGemma has no chat template, and its processor in transformers no conversations: this is how that processor writes a
/// prefix and a suffix. Pieces of text are joined by a space.
const TEMPLATE: &str = "\
{%- if messages | length > 2 or messages[0].role != 'user' -%}\
{{ raise_exception('PaliGemma takes one question and one answer') }}\
{%- endif -%}\
{%- if not messages[0].content | selectattr('type', 'equalto', 'image') | list -%}\
{{ raise_exception('PaliGemma takes no question without an image') }}\
{%- endif -%}\
{%- for part in messages[0].content if part.type == 'image' -%}<image>{%- endfor -%}\
{{ bos_token }}\
{{ messages[0].content | selectattr('type', 'equalto', 'text') | map(attribute='text') | join(' ') }}{{ '\\n' }}\
{%- for message in messages[1:] -%}\
{{ message.content | map(attribute='text') | join(' ') }}{{ eos_token }}\
{%- endfor -%}";

struct PaliGemmaProcessor {
    tile: SquareTile,
    image_token: String,
}

/// Reads the processor's files.
pub(super) fn parse(files: &ProcessorFiles<'_>) -> Result<Box<dyn FamilyProcessor>, String> {
    let num_tokens = count(files.image()?, "image_seq_length", 0)?;
    if num_tokens == 0 {
        return Err("has no `image_seq_length`".into());
    }
    Ok(Box::new(PaliGemmaProcessor {
        tile: SquareTile::parse(files.image()?, HALF, num_tokens)?,
        image_token: named_token(files, "image_token", "<image>"),
    }))
}

impl FamilyProcessor for PaliGemmaProcessor {
    fn image_token(&self) -> Option<&str> {
        Some(&self.image_token)
    }

    fn own_template(&self) -> Option<&'static str> {
        Some(TEMPLATE)
    }

    fn expansion(&self, image: &ImageInput) -> String {
        self.image_token.repeat(image.num_tokens)
    }

    fn image(&self, image: &RgbImage) -> Result<ImageInput, ImageError> {
        self.tile.image(image)
    }

    /// Counted from 1, as in transformers.
    fn positions(&self, prompt: &crate::text::Prompt) -> Vec<[u32; 3]> {
        (1..=prompt.input_ids.len() as u32).map(|token| [token; 3]).collect()
    }

    fn settings(&self) -> Value {
        self.tile.settings("paligemma")
    }
}
