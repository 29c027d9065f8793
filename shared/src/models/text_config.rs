//! The text model's part of config.json, with the class defaults of transformers 5.23: one line of the table below for
//! each `model_type`.

use serde_json::Value;

use super::fields::{Parsed, RopeFields, count, counts, flag, number, only, word};
use super::layers::Axes;
use super::pattern::{LocalBlocks, Pattern};
use super::rotary::{Llama3, Rotary, Scaling, Unscaled, Yarn};
use super::{DecoderConfig, GemmaBlocks};

/// What a decoder's configuration resolves to.
pub(super) struct TextConfig {
    /// Its sizes.
    pub decoder: DecoderConfig,
    /// Its rotary embedding.
    pub rotary: Rotary,
    /// Which tokens see which.
    pub pattern: Pattern,
    /// The longest sample the model was made for, in tokens.
    pub max_positions: usize,
}

/// What a configuration class says where config.json says nothing.
struct Class {
    model_type: &'static str,
    hidden_size: usize,
    intermediate_size: usize,
    num_layers: usize,
    num_heads: usize,
    /// As many as there are heads where there is no default.
    num_kv_heads: Option<usize>,
    /// The width divided by the heads where there is no default.
    head_dim: Option<usize>,
    rms_norm_eps: f64,
    rope_theta: f64,
    vocab_size: usize,
    max_positions: usize,
    qkv_bias: bool,
    fused_qkv: bool,
    qk_norm: bool,
    gemma: Option<GemmaClass>,
    /// Switches that must be off: what they add is not implemented.
    off: &'static [&'static str],
    /// For classes with three positions per token.
    mrope: Option<Mrope>,
    /// Which blocks may have a sliding window, of [`SLIDING_WINDOW`] tokens where config.json does not say otherwise.
    windows: Windows,
}

/// A class' blocks with a sliding window.
#[derive(Clone, Copy)]
enum Windows {
    None,
    /// All of them.
    All,
    /// Those from `max_window_layers` on, which is this where config.json does not say it, once `use_sliding_window` is on.
    From(usize),
}

/// The class default of all classes that have one.
const SLIDING_WINDOW: usize = 4096;

/// What Gemma's classes add.
#[derive(Clone, Copy)]
struct GemmaClass {
    /// The default of `query_pre_attn_scalar`, for classes that have it; others take the head width.
    query_scalar: Option<f64>,
    added_norms: bool,
}

/// How angles follow time, height and width.
#[derive(Clone, Copy)]
struct Mrope {
    sections: [usize; 3],
    interleaved: bool,
}

const LLAMA: Class = Class {
    model_type: "llama",
    hidden_size: 4096,
    intermediate_size: 11_008,
    num_layers: 32,
    num_heads: 32,
    num_kv_heads: None,
    head_dim: None,
    rms_norm_eps: 1e-6,
    rope_theta: 10_000.0,
    vocab_size: 32_000,
    max_positions: 2048,
    qkv_bias: false,
    fused_qkv: false,
    qk_norm: false,
    gemma: None,
    off: &["attention_bias", "mlp_bias"],
    mrope: None,
    windows: Windows::None,
};
const QWEN2: Class = Class {
    model_type: "qwen2",
    intermediate_size: 22_016,
    num_kv_heads: Some(32),
    vocab_size: 151_936,
    max_positions: 32_768,
    qkv_bias: true,
    off: &[],
    windows: Windows::From(28),
    ..LLAMA
};
const QWEN3: Class = Class {
    model_type: "qwen3",
    head_dim: Some(128),
    qkv_bias: false,
    qk_norm: true,
    off: &["attention_bias"],
    ..QWEN2
};
const MISTRAL: Class = Class {
    model_type: "mistral",
    intermediate_size: 14_336,
    num_kv_heads: Some(8),
    max_positions: 131_072,
    off: &[],
    windows: Windows::All,
    ..LLAMA
};
const GEMMA: Class = Class {
    model_type: "gemma",
    hidden_size: 3072,
    intermediate_size: 24_576,
    num_layers: 28,
    num_heads: 16,
    num_kv_heads: Some(16),
    head_dim: Some(256),
    vocab_size: 256_000,
    max_positions: 8192,
    gemma: Some(GemmaClass { query_scalar: None, added_norms: false }),
    off: &["attention_bias"],
    ..LLAMA
};
const GEMMA3: Class = Class {
    model_type: "gemma3_text",
    hidden_size: 2304,
    intermediate_size: 9216,
    num_layers: 26,
    num_heads: 8,
    num_kv_heads: Some(4),
    rope_theta: 1_000_000.0,
    vocab_size: 262_208,
    max_positions: 131_072,
    qk_norm: true,
    gemma: Some(GemmaClass { query_scalar: Some(256.0), added_norms: true }),
    ..GEMMA
};
const QWEN2_VL: Class = Class {
    model_type: "qwen2_vl_text",
    hidden_size: 8192,
    intermediate_size: 29_568,
    num_layers: 80,
    num_heads: 64,
    num_kv_heads: Some(8),
    rms_norm_eps: 1e-5,
    rope_theta: 1_000_000.0,
    vocab_size: 152_064,
    mrope: Some(Mrope { sections: [16, 24, 24], interleaved: false }),
    windows: Windows::From(80),
    ..QWEN2
};
const QWEN3_VL: Class = Class {
    model_type: "qwen3_vl_text",
    rope_theta: 500_000.0,
    max_positions: 128_000,
    off: &["attention_bias"],
    mrope: Some(Mrope { sections: [24, 20, 20], interleaved: true }),
    windows: Windows::None,
    ..QWEN3
};
static CLASSES: &[Class] = &[
    LLAMA,
    // `InternLM2Config`, which comes with its checkpoints.
    Class { model_type: "internlm2", vocab_size: 103_168, fused_qkv: true, off: &["bias"], ..LLAMA },
    QWEN2,
    QWEN3,
    MISTRAL,
    GEMMA,
    GEMMA3,
    QWEN2_VL,
    Class { model_type: "qwen2_5_vl_text", ..QWEN2_VL },
    QWEN3_VL,
];

/// Reads a text model of type `model_type` from `text`; `tied` says whether its head is the input embedding.
pub(super) fn parse(text: &Value, model_type: &str, tied: bool) -> Parsed<TextConfig> {
    let class = CLASSES.iter().find(|class| class.model_type == model_type).ok_or_else(|| {
        let known: Vec<_> = CLASSES.iter().map(|class| class.model_type).collect();
        format!("a text model of type `{model_type}` is not supported ({} are)", known.join(", "))
    })?;
    activation(text, class)?;
    for switch in class.off {
        only(!flag(text, switch, false)?, format!("`{switch}` of a text model"))?;
    }
    let rope = RopeFields::read(text, class.rope_theta)?;
    let decoder = decoder(text, class, rope.theta, tied)?;
    let max_positions = count(text, "max_position_embeddings", class.max_positions)?;
    let rotary = rotary(text, class, &rope, &decoder, max_positions)?;
    let pattern = pattern(text, class, decoder.num_layers)?;
    Ok(TextConfig { decoder, rotary, pattern, max_positions })
}

/// What the blocks see, where a family does not know better.
fn pattern(text: &Value, class: &Class, num_layers: usize) -> Parsed<Pattern> {
    let has_window = text.get("sliding_window") != Some(&Value::Null);
    let is_local = match class.windows {
        Windows::None => return Ok(Pattern::Causal),
        Windows::All => vec![has_window; num_layers],
        Windows::From(first) => {
            let (first, is_on) =
                (count(text, "max_window_layers", first)?, flag(text, "use_sliding_window", false)?);
            let is_local = local_layers(text, num_layers, |layer| is_on && has_window && layer >= first)?;
            only(
                is_on && has_window || !is_local.contains(&true),
                "a sliding layer of `layer_types` without a window",
            )?;
            is_local
        }
    };
    if !is_local.contains(&true) {
        return Ok(Pattern::Causal);
    }
    let window = count(text, "sliding_window", SLIDING_WINDOW)?;
    only(window > 0, "`sliding_window` 0")?;
    Ok(Pattern::Windows(LocalBlocks { is_local, window, rope_theta: None }))
}

/// Which of the blocks have a window, one answer for each: `layer_types` where it is there, else `by_default` of each index.
pub(super) fn local_layers(
    text: &Value,
    num_layers: usize,
    by_default: impl Fn(usize) -> bool,
) -> Parsed<Vec<bool>> {
    let types = &text["layer_types"];
    if types.is_null() {
        return Ok((0..num_layers).map(by_default).collect());
    }
    let types: Vec<String> = serde_json::from_value(types.clone())
        .map_err(|_| format!("`layer_types` is {types}, not a list of words"))?;
    only(types.len() == num_layers, format!("{} `layer_types` of {num_layers} layers", types.len()))?;
    let is_local = |kind: &String| match kind.as_str() {
        "sliding_attention" => Ok(true),
        "full_attention" => Ok(false),
        other => Err(format!("`layer_types` with `{other}` is not supported")),
    };
    types.iter().map(is_local).collect()
}

/// The first files of Gemma say `gelu` and mean its approximation; Gemma 3 means what it says, under another name.
fn activation(text: &Value, class: &Class) -> Parsed<()> {
    let (key, known): (_, &[&str]) = match class.gemma {
        Some(GemmaClass { added_norms: true, .. }) => ("hidden_activation", &["gelu_pytorch_tanh"]),
        Some(_) => ("hidden_act", &["gelu_pytorch_tanh", "gelu"]),
        None => ("hidden_act", &["silu"]),
    };
    let named = word(text, key, known[0])?;
    only(known.contains(&named), format!("the text activation `{named}` of `{}`", class.model_type))
}

fn gemma(text: &Value, class: GemmaClass, head_dim: usize) -> Parsed<GemmaBlocks> {
    let query_scalar = match class.query_scalar {
        Some(default) => number(text, "query_pre_attn_scalar", default)?,
        None => head_dim as f64,
    };
    Ok(GemmaBlocks { query_scalar, added_norms: class.added_norms })
}

fn decoder(text: &Value, class: &Class, rope_theta: f64, tied: bool) -> Parsed<DecoderConfig> {
    let hidden_size = count(text, "hidden_size", class.hidden_size)?;
    let num_heads = count(text, "num_attention_heads", class.num_heads)?;
    let num_kv_heads = match text.get("num_key_value_heads") {
        // Null means as many as there are heads, whatever the default.
        Some(Value::Null) => num_heads,
        _ => count(text, "num_key_value_heads", class.num_kv_heads.unwrap_or(num_heads))?,
    };
    if num_heads == 0 || num_kv_heads == 0 || num_heads % num_kv_heads != 0 {
        return Err(format!("{num_heads} heads over {num_kv_heads} key-value heads"));
    }
    let head_dim = match class.head_dim {
        Some(default) => count(text, "head_dim", default)?,
        None => count(text, "head_dim", hidden_size / num_heads)?,
    };
    let stated = class.head_dim.is_some() || !text["head_dim"].is_null();
    if !stated && hidden_size % num_heads != 0 {
        return Err(format!("{num_heads} heads of a width of {hidden_size}"));
    }
    if head_dim == 0 || head_dim % 2 != 0 {
        return Err(format!("a head width of {head_dim}, which must be even"));
    }
    Ok(DecoderConfig {
        hidden_size,
        intermediate_size: count(text, "intermediate_size", class.intermediate_size)?,
        num_layers: count(text, "num_hidden_layers", class.num_layers)?,
        num_heads,
        num_kv_heads,
        head_dim,
        qkv_bias: class.qkv_bias,
        fused_qkv: class.fused_qkv,
        qk_norm: class.qk_norm,
        gemma: class.gemma.map(|class| gemma(text, class, head_dim)).transpose()?,
        rms_norm_eps: number(text, "rms_norm_eps", class.rms_norm_eps)?,
        rope_theta,
        vocab_size: count(text, "vocab_size", class.vocab_size)?,
        tie_word_embeddings: tied,
    })
}

fn rotary(
    text: &Value,
    class: &Class,
    rope: &RopeFields<'_>,
    decoder: &DecoderConfig,
    max_positions: usize,
) -> Parsed<Rotary> {
    // Said beside the rotary parameters it wins over what they say.
    let original = number(rope.json, "original_max_position_embeddings", max_positions as f64)?;
    let original = number(text, "original_max_position_embeddings", original)?;
    let scaling = match rope.kind {
        "default" | "dynamic" => Scaling::Plain,
        // What Qwen2-VL's files call three positions without a scaling.
        "mrope" if class.mrope.is_some() => Scaling::Plain,
        "linear" => Scaling::Linear { factor: number(rope.json, "factor", 1.0)? },
        "llama3" => Scaling::Llama3(Llama3 {
            factor: number(rope.json, "factor", 8.0)?,
            low: number(rope.json, "low_freq_factor", 1.0)?,
            high: number(rope.json, "high_freq_factor", 4.0)?,
            original,
        }),
        "yarn" => {
            let (head_dim, theta) = (decoder.head_dim, decoder.rope_theta);
            Scaling::Yarn(Yarn::read(rope.json, &Unscaled { head_dim, theta, original, max_positions })?)
        }
        other => return Err(format!("rotary scaling `{other}` is not supported")),
    };
    let axes = class.mrope.map_or(Ok(Axes::Plain), |class| axes(rope, class, decoder.head_dim))?;
    Ok(Rotary { axes, scaling, limit: (rope.kind == "dynamic").then_some(max_positions) })
}

fn axes(rope: &RopeFields<'_>, class: Mrope, head_dim: usize) -> Parsed<Axes> {
    let sections = counts(rope.json, "mrope_section", &class.sections)?;
    if sections.iter().sum::<usize>() * 2 != head_dim {
        return Err(format!("`mrope_section` {sections:?} does not sum to half the head width {head_dim}"));
    }
    Ok(if class.interleaved { Axes::Interleaved(sections) } else { Axes::Sectioned(sections) })
}
