//! Reading config.json fields with the class defaults of transformers.

use serde_json::Value;

use super::layers::Activation;

/// A value, or what is wrong with the field.
pub(super) type Parsed<T> = std::result::Result<T, String>;

/// A count; `default` where the field is absent or null.
pub(super) fn count(json: &Value, key: &str, default: usize) -> Parsed<usize> {
    match &json[key] {
        Value::Null => Ok(default),
        value => value.as_u64().map(|n| n as usize).ok_or_else(|| format!("`{key}` is {value}, not a count")),
    }
}

/// A list of counts; `default` where the field is absent or null.
pub(super) fn counts(json: &Value, key: &str, default: &[usize]) -> Parsed<Vec<usize>> {
    match &json[key] {
        Value::Null => Ok(default.to_vec()),
        value => serde_json::from_value(value.clone())
            .map_err(|_| format!("`{key}` is {value}, not a list of counts")),
    }
}

/// A number; `default` where the field is absent or null.
pub(super) fn number(json: &Value, key: &str, default: f64) -> Parsed<f64> {
    match &json[key] {
        Value::Null => Ok(default),
        value => value.as_f64().ok_or_else(|| format!("`{key}` is {value}, not a number")),
    }
}

/// True or false; `default` where the field is absent or null.
pub(super) fn flag(json: &Value, key: &str, default: bool) -> Parsed<bool> {
    match &json[key] {
        Value::Null => Ok(default),
        value => value.as_bool().ok_or_else(|| format!("`{key}` is {value}, not true or false")),
    }
}

/// A word; `default` where the field is absent or null.
pub(super) fn word<'a>(json: &'a Value, key: &str, default: &'a str) -> Parsed<&'a str> {
    match &json[key] {
        Value::Null => Ok(default),
        value => value.as_str().ok_or_else(|| format!("`{key}` is {value}, not a string")),
    }
}

/// A number that may also be written as a (height, width) pair.
pub(super) fn pair(json: &Value, key: &str, default: usize) -> Parsed<[usize; 2]> {
    let value = &json[key];
    let parsed = match value {
        Value::Null => Some([default; 2]),
        Value::Number(_) => value.as_u64().map(|n| [n as usize; 2]),
        _ => serde_json::from_value(value.clone()).ok(),
    };
    parsed.ok_or_else(|| format!("`{key}` is {value}, not a number or a pair"))
}

/// Refuses what is not implemented, by name.
pub(super) fn only(holds: bool, what: impl Into<String>) -> Parsed<()> {
    if holds { Ok(()) } else { Err(format!("{} is not supported", what.into())) }
}

/// Rotary parameters in both spellings: `rope_scaling` beside `rope_theta`, and transformers 5's `rope_parameters`.
pub(super) struct RopeFields<'a> {
    /// Base of the angles.
    pub theta: f64,
    /// `default`, `mrope`, `dynamic`, ...
    pub kind: &'a str,
    /// The whole object, for fields of a kind.
    pub json: &'a Value,
}

impl<'a> RopeFields<'a> {
    /// Reads them from a text configuration.
    pub(super) fn read(text: &'a Value, default_theta: f64) -> Parsed<Self> {
        let json =
            if text["rope_scaling"].is_object() { &text["rope_scaling"] } else { &text["rope_parameters"] };
        let theta = number(json, "rope_theta", number(text, "rope_theta", default_theta)?)?;
        let kind = word(json, "rope_type", word(json, "type", "default")?)?;
        Ok(Self { theta, kind, json })
    }
}

impl Activation {
    /// Reads the field `key`.
    pub(super) fn read(json: &Value, key: &str, default: &str) -> Parsed<Self> {
        match word(json, key, default)? {
            "gelu" => Ok(Self::Gelu),
            "gelu_pytorch_tanh" | "gelu_new" => Ok(Self::GeluTanh),
            "quick_gelu" => Ok(Self::QuickGelu),
            "silu" | "swish" => Ok(Self::Silu),
            other => Err(format!("activation `{other}` is not supported")),
        }
    }
}
