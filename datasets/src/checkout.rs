//! Untrained checkpoints, laid out like a checkout from the Hugging Face hub, from a manifest and its seeds.
//!
//! Weights are drawn with a spread of one over the square root of what they sum over, smaller where
//! a block adds to the residual stream. transformers' constant 0.02 suits widths in the thousands;
//! at a width of a hundred it starts the attention so flat that the toy is hardly learnt at all.

mod internvl;
mod qwen2_vl;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use half::f16;
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};

use crate::dice::Dice;
use crate::manifest::{Family, Manifest, Model, TextShape};
use crate::tokenizers::{special_id, special_tokens, train};

/// Pixels on each side of a patch, in both families.
const PATCH: usize = 14;
/// The rotary base of both decoders. Toy prompts are short.
const ROPE_THETA: f64 = 10_000.0;
/// Mean and standard deviation of the world's pixels, roughly; its pictures are darker than photographs.
const IMAGE_MEAN: [f64; 3] = [0.15; 3];
const IMAGE_STD: [f64; 3] = [0.2; 3];
/// The longest prompt the configurations allow.
const MAX_POSITIONS: usize = 1024;

/// How a tensor starts.
enum Start {
    Ones,
    Zeros,
    /// Random with this standard deviation.
    Spread(f64),
}

/// A tensor's name, shape and start.
struct Parameter {
    name: String,
    shape: Vec<usize>,
    start: Start,
}

/// The parameters of a model, collected in the order the random numbers are drawn.
#[derive(Default)]
struct Parameters(Vec<Parameter>);

impl Parameters {
    fn push(&mut self, name: impl Into<String>, shape: &[usize], start: Start) {
        self.0.push(Parameter { name: name.into(), shape: shape.to_vec(), start });
    }

    /// A weight (out, in...) whose outputs start with `gain` times the spread of its inputs.
    fn weight(&mut self, name: impl Into<String>, shape: &[usize], gain: f64) {
        let sums_over: usize = shape[1..].iter().product();
        self.push(name, shape, Start::Spread(gain / (sums_over as f64).sqrt()));
    }

    /// A weight with a zero bias, called `NAME.weight` and `NAME.bias`.
    fn linear(&mut self, name: &str, shape: &[usize], gain: f64) {
        self.weight(format!("{name}.weight"), shape, gain);
        self.push(format!("{name}.bias"), &shape[..1], Start::Zeros);
    }

    /// A layer norm.
    fn norm(&mut self, name: &str, width: usize) {
        self.push(format!("{name}.weight"), &[width], Start::Ones);
        self.push(format!("{name}.bias"), &[width], Start::Zeros);
    }

    /// A Qwen2 decoder under `prefix`, with its embedding, which is also its head.
    fn decoder(&mut self, prefix: &str, shape: &TextShape, vocab_size: usize) {
        let (width, ffn) = (shape.hidden_size, shape.intermediate_size);
        let kv_width = width / shape.num_heads * shape.num_kv_heads;
        let residual = residual_gain(shape.num_layers);
        self.push(format!("{prefix}.embed_tokens.weight"), &[vocab_size, width], Start::Spread(0.08));
        for i in 0..shape.num_layers {
            let layer = format!("{prefix}.layers.{i}");
            self.push(format!("{layer}.input_layernorm.weight"), &[width], Start::Ones);
            self.linear(&format!("{layer}.self_attn.q_proj"), &[width, width], 1.0);
            self.linear(&format!("{layer}.self_attn.k_proj"), &[kv_width, width], 1.0);
            self.linear(&format!("{layer}.self_attn.v_proj"), &[kv_width, width], 1.0);
            self.weight(format!("{layer}.self_attn.o_proj.weight"), &[width, width], residual);
            self.push(format!("{layer}.post_attention_layernorm.weight"), &[width], Start::Ones);
            self.weight(format!("{layer}.mlp.gate_proj.weight"), &[ffn, width], 1.0);
            self.weight(format!("{layer}.mlp.up_proj.weight"), &[ffn, width], 1.0);
            self.weight(format!("{layer}.mlp.down_proj.weight"), &[width, ffn], residual);
        }
        self.push(format!("{prefix}.norm.weight"), &[width], Start::Ones);
    }
}

/// What keeps the residual stream's spread the same however many blocks add to it, two times each.
fn residual_gain(num_layers: usize) -> f64 {
    1.0 / (2.0 * num_layers as f64).sqrt()
}

/// Writes the untrained checkpoint called `name` in the manifest to the folder `out`.
///
/// # Errors
/// When the manifest has no such model, its tokenizer cannot be trained, or a file cannot be written.
pub fn write(manifest: &Manifest, name: &str, out: &Path) -> Result<()> {
    let known = || manifest.model.keys().cloned().collect::<Vec<_>>().join(", ");
    let model = manifest
        .model
        .get(name)
        .with_context(|| format!("no model `{name}` in the manifest\nhint: there are {}", known()))?;
    fs::create_dir_all(out).with_context(|| format!("cannot make `{}`", out.display()))?;
    let (files, parameters) = match model.family {
        Family::Qwen2Vl => (qwen2_vl::files(model)?, qwen2_vl::parameters(model)),
        Family::Internvl => (internvl::files(model)?, internvl::parameters(model)),
    };
    for (file, content) in files {
        write_file(&out.join(file), content.as_bytes())?;
    }
    write_file(&out.join("tokenizer.json"), train(manifest, model.family, model.vocab_size)?.as_bytes())?;
    write_file(&out.join("model.safetensors"), &weights(model.seed, name, &parameters)?)
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("cannot write `{}`", path.display()))
}

/// The float16 weights as a safetensors file.
fn weights(seed: u64, name: &str, parameters: &Parameters) -> Result<Vec<u8>> {
    let mut dice = Dice::new(seed, name);
    let mut tensors: BTreeMap<&str, (Vec<usize>, Vec<u8>)> = BTreeMap::new();
    for parameter in &parameters.0 {
        let count = parameter.shape.iter().product();
        let bytes = (0..count)
            .map(|_| match parameter.start {
                Start::Ones => 1.0,
                Start::Zeros => 0.0,
                Start::Spread(spread) => (f64::from(dice.normal()) * spread) as f32,
            })
            .flat_map(|value| f16::from_f32(value).to_le_bytes())
            .collect();
        tensors.insert(&parameter.name, (parameter.shape.clone(), bytes));
    }
    let views = tensors
        .iter()
        .map(|(name, (shape, bytes))| Ok((*name, TensorView::new(Dtype::F16, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>>>()?;
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    Ok(safetensors::serialize(views, Some(metadata))?)
}

/// A JSON file's text.
fn pretty(value: &Value) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

/// `tokenizer_config.json`, with what a processor looks for in `more`.
fn tokenizer_config(model: &Model, more: Value) -> Result<String> {
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": MAX_POSITIONS,
        "clean_up_tokenization_spaces": false,
        "bos_token": null,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": null,
        "additional_special_tokens": special_tokens(model.family),
    });
    pretty(&joined([config, more]))
}

/// The fields of all objects, in order, as one object.
fn joined(objects: impl IntoIterator<Item = Value>) -> Value {
    let fields = objects.into_iter().filter_map(|object| match object {
        Value::Object(fields) => Some(fields),
        _ => None,
    });
    Value::Object(fields.flatten().collect())
}

/// What a configuration says of the decoder, a Qwen2 with its embedding as its head, and of its rotary embedding in `rope`.
fn decoder_fields(model: &Model, rope: Value) -> Value {
    let text = &model.text;
    let sizes = json!({
        "hidden_act": "silu",
        "hidden_size": text.hidden_size,
        "intermediate_size": text.intermediate_size,
        "num_hidden_layers": text.num_layers,
        "num_attention_heads": text.num_heads,
        "num_key_value_heads": text.num_kv_heads,
        "max_position_embeddings": MAX_POSITIONS,
        "rms_norm_eps": 1e-6,
        "rope_theta": ROPE_THETA,
    });
    let rest = json!({
        "use_sliding_window": false,
        "tie_word_embeddings": true,
        "vocab_size": model.vocab_size,
    });
    joined([sizes, rope, rest])
}

/// `generation_config.json`.
fn generation_config(family: Family) -> Result<String> {
    let id = |token| special_id(family, token);
    pretty(&json!({
        "eos_token_id": [id("<|im_end|>")?, id("<|endoftext|>")?],
        "pad_token_id": id("<|endoftext|>")?,
        "do_sample": false,
    }))
}

/// A short ChatML: no default system turn, no line break between turns. `image` is what stands for one image.
fn chat_template(image: &str) -> String {
    [
        "{%- for message in messages -%}",
        "{{- '<|im_start|>' + message['role'] + '\\n' -}}",
        "{%- if message['content'] is string -%}{{- message['content'] -}}",
        "{%- else -%}{%- for part in message['content'] -%}",
        &format!("{{%- if part['type'] == 'image' -%}}{{{{- '{image}' -}}}}"),
        "{%- elif part['type'] == 'text' -%}{{- part['text'] -}}{%- endif -%}",
        "{%- endfor -%}{%- endif -%}",
        "{{- '<|im_end|>' -}}",
        "{%- endfor -%}",
        "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}",
        "",
    ]
    .join("\n")
}

#[cfg(test)]
mod tests;
