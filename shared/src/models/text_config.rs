//! The decoders that several families are built around, as their `text_config` describes them.
//!
//! Defaults are those of transformers 5.23's `LlamaConfig`, `MistralConfig` and `Qwen2Config`.

use candle_core::{Device, Result, bail};
use serde::Serialize;
use serde_json::Value;

use super::DecoderConfig;
use super::fields::{RopeFields, count, flag, number, only, word};
use super::layers::Rope;

type Parsed<T> = std::result::Result<T, String>;

/// A decoder with one-dimensional rotary positions.
#[derive(Clone, Debug, Serialize)]
pub(super) struct TextConfig {
    pub decoder: DecoderConfig,
    /// From this position on, `dynamic` rotary scaling or a sliding window would change the result.
    pub position_limit: Option<usize>,
    #[serde(skip)]
    pub max_positions: usize,
}

/// What the class of a `model_type` assumes where its configuration is silent.
struct Defaults {
    intermediate_size: usize,
    num_kv_heads: Option<usize>,
    vocab_size: usize,
    max_positions: usize,
    qkv_bias: bool,
    sliding_window: Option<usize>,
}

const LLAMA: Defaults = Defaults {
    intermediate_size: 11_008,
    num_kv_heads: None,
    vocab_size: 32_000,
    max_positions: 2048,
    qkv_bias: false,
    sliding_window: None,
};
const MISTRAL: Defaults = Defaults {
    intermediate_size: 14_336,
    num_kv_heads: Some(8),
    vocab_size: 32_000,
    max_positions: 4096 * 32,
    qkv_bias: false,
    sliding_window: Some(4096),
};
const QWEN2: Defaults = Defaults {
    intermediate_size: 22_016,
    num_kv_heads: Some(32),
    vocab_size: 151_936,
    max_positions: 32_768,
    qkv_bias: true,
    sliding_window: None,
};

impl TextConfig {
    /// Reads a `text_config` whose `model_type` is `default_type` where none is given.
    pub(super) fn parse(text: &Value, default_type: &str, tie_word_embeddings: bool) -> Parsed<Self> {
        let model_type = word(text, "model_type", default_type)?;
        let defaults = match model_type {
            "llama" => LLAMA,
            "mistral" => MISTRAL,
            "qwen2" => QWEN2,
            other => {
                return Err(format!(
                    "a text model of type `{other}` is not supported (llama, mistral and qwen2 are)"
                ));
            }
        };
        only(word(text, "hidden_act", "silu")? == "silu", "a text activation other than silu")?;
        only(!flag(text, "use_sliding_window", false)?, "`use_sliding_window`")?;
        only(model_type == "qwen2" || !flag(text, "attention_bias", false)?, "`attention_bias`")?;
        only(!flag(text, "mlp_bias", false)?, "`mlp_bias`")?;
        let max_positions = count(text, "max_position_embeddings", defaults.max_positions)?;
        let rope = RopeFields::read(text, 10_000.0)?;
        only(matches!(rope.kind, "default" | "dynamic"), format!("rotary scaling `{}`", rope.kind))?;
        let dynamic = (rope.kind == "dynamic").then_some(max_positions);
        let window = sliding_window(text, &defaults)?.filter(|window| *window < max_positions);
        Ok(Self {
            decoder: decoder(text, &defaults, rope.theta, tie_word_embeddings)?,
            position_limit: dynamic.into_iter().chain(window).min(),
            max_positions,
        })
    }

    /// The rotary embedding of packed tokens by the first of their position axes.
    pub(super) fn rope(&self, positions: &[[u32; 3]], device: &Device) -> Result<Rope> {
        let positions: Vec<u32> = positions.iter().map(|position| position[0]).collect();
        if let (Some(limit), Some(&last)) = (self.position_limit, positions.iter().max())
            && last as usize >= limit
        {
            bail!(
                "a sample of {} tokens: this decoder's rotary scaling or sliding window is supported up to {limit}\n\
                 hint: limit the length of samples",
                last + 1
            )
        }
        Rope::new(&positions, self.decoder.head_dim, self.decoder.rope_theta, device)
    }
}

/// Mistral's window; the Qwen2 class has one too, which `use_sliding_window` turns on.
fn sliding_window(text: &Value, defaults: &Defaults) -> Parsed<Option<usize>> {
    match (defaults.sliding_window, text.get("sliding_window")) {
        (None, _) | (_, Some(Value::Null)) => Ok(None),
        (Some(default), _) => count(text, "sliding_window", default).map(Some),
    }
}

fn decoder(text: &Value, defaults: &Defaults, rope_theta: f64, tied: bool) -> Parsed<DecoderConfig> {
    let hidden_size = count(text, "hidden_size", 4096)?;
    let num_heads = count(text, "num_attention_heads", 32)?.max(1);
    let num_kv_heads = match text.get("num_key_value_heads") {
        Some(Value::Null) => num_heads,
        _ => count(text, "num_key_value_heads", defaults.num_kv_heads.unwrap_or(num_heads))?,
    };
    only(
        num_kv_heads > 0 && num_heads.is_multiple_of(num_kv_heads),
        format!("{num_heads} heads over {num_kv_heads} key-value heads"),
    )?;
    Ok(DecoderConfig {
        hidden_size,
        intermediate_size: count(text, "intermediate_size", defaults.intermediate_size)?,
        num_layers: count(text, "num_hidden_layers", 32)?,
        num_heads,
        num_kv_heads,
        head_dim: count(text, "head_dim", hidden_size / num_heads)?,
        qkv_bias: defaults.qkv_bias,
        rms_norm_eps: number(text, "rms_norm_eps", 1e-6)?,
        rope_theta,
        vocab_size: count(text, "vocab_size", defaults.vocab_size)?,
        tie_word_embeddings: tied,
    })
}
