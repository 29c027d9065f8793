//! How a checkpoint's authors let it generate: `generation_config.json`, with transformers' defaults for what it leaves out.

use std::path::Path;

use serde_json::Value;

use super::Sampling;
use crate::models::error::ModelError;
use crate::models::fields::{Parsed, count, flag, number, only};
use crate::models::processor::read_optional_json;

/// What a checkpoint says about generation, but for the tokens that end it, which the processor knows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GenerationDefaults {
    /// Whether tokens are drawn; the likeliest is taken otherwise.
    pub do_sample: bool,
    /// How they are drawn when they are.
    pub sampling: Sampling,
    /// See [`super::Generation::repetition_penalty`].
    pub repetition_penalty: f64,
}

/// Keys that would change what is generated, and the values under which they do not.
const NEUTRAL: [(&str, &[f64]); 15] = [
    ("num_beams", &[1.0]),
    ("num_beam_groups", &[1.0]),
    ("min_p", &[0.0]),
    ("typical_p", &[1.0]),
    ("epsilon_cutoff", &[0.0]),
    ("eta_cutoff", &[0.0]),
    ("no_repeat_ngram_size", &[0.0]),
    ("encoder_no_repeat_ngram_size", &[0.0]),
    ("encoder_repetition_penalty", &[1.0]),
    ("diversity_penalty", &[0.0]),
    ("penalty_alpha", &[0.0]),
    ("guidance_scale", &[1.0]),
    ("min_length", &[0.0]),
    ("min_new_tokens", &[0.0]),
    ("top_h", &[]),
];

/// Keys that must be absent.
const ABSENT: [&str; 12] = [
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "sequence_bias",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "force_words_ids",
    "constraints",
    "stop_strings",
    "dola_layers",
    "watermarking_config",
];

impl GenerationDefaults {
    /// Reads those of the checkpoint in `dir`; without a file, the likeliest token is taken.
    ///
    /// # Errors
    /// When the file is damaged, or asks for a way of generating that is not implemented.
    pub fn load(dir: &Path) -> Result<Self, ModelError> {
        let path = dir.join("generation_config.json");
        let json = read_optional_json(&path)?;
        Self::parse(&json).map_err(|reason| {
            let hint = "remove the key from a copy of the checkpoint to generate without it";
            ModelError::invalid(&path, reason, hint)
        })
    }

    fn parse(json: &Value) -> Parsed<Self> {
        for (key, neutral) in NEUTRAL {
            let value = &json[key];
            only(
                value.is_null() || value.as_f64().is_some_and(|it| neutral.contains(&it)),
                format!("`{key}` = {value}"),
            )?;
        }
        for key in ABSENT {
            only(json[key].is_null() || json[key].as_array().is_some_and(Vec::is_empty), format!("`{key}`"))?;
        }
        let sampling = Sampling {
            temperature: number(json, "temperature", 1.0)?,
            top_k: count(json, "top_k", 50)?,
            top_p: number(json, "top_p", 1.0)?,
        };
        let defaults = Self {
            do_sample: flag(json, "do_sample", false)?,
            sampling,
            repetition_penalty: number(json, "repetition_penalty", 1.0)?,
        };
        // Files that never sample may say a temperature of 0.
        if defaults.do_sample {
            sampling.check()?;
        }
        match defaults.repetition_penalty {
            penalty if penalty > 0.0 && penalty.is_finite() => Ok(defaults),
            penalty => Err(format!("`repetition_penalty` is {penalty}, not positive")),
        }
    }
}

impl Sampling {
    /// Whether tokens can be drawn so; what is wrong otherwise.
    ///
    /// # Errors
    /// When the temperature is not positive, or top-p not a probability.
    pub fn check(&self) -> Result<(), String> {
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return Err(format!("`temperature` is {}, not positive", self.temperature));
        }
        if !(0.0..=1.0).contains(&self.top_p) {
            return Err(format!("`top_p` is {}, not between 0 and 1", self.top_p));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use serde_json::json;

    use super::*;

    #[test]
    fn absent_keys_have_the_defaults_of_transformers() {
        // GenerationConfig of transformers 5.23: do_sample False, temperature 1, top_k 50, top_p 1, repetition_penalty 1.
        let plain = GenerationDefaults::parse(&Value::Null).unwrap();
        let sampling = Sampling { temperature: 1.0, top_k: 50, top_p: 1.0 };
        assert_eq!(plain, GenerationDefaults { do_sample: false, sampling, repetition_penalty: 1.0 });
        // The file of Qwen2-VL-7B-Instruct.
        let qwen = json!({"pad_token_id": 151643, "do_sample": true, "eos_token_id": [151645, 151643],
            "repetition_penalty": 1.0, "temperature": 0.01, "top_p": 0.001, "top_k": 1});
        let sampling = Sampling { temperature: 0.01, top_k: 1, top_p: 0.001 };
        let expected = GenerationDefaults { do_sample: true, sampling, repetition_penalty: 1.0 };
        assert_eq!(GenerationDefaults::parse(&qwen).unwrap(), expected);
    }

    #[test]
    fn what_is_not_implemented_is_refused_by_name() {
        for (json, says) in [
            (json!({"num_beams": 4}), "`num_beams` = 4 is not supported"),
            (json!({"min_p": 0.1}), "`min_p`"),
            (json!({"bad_words_ids": [[3]]}), "`bad_words_ids`"),
            (json!({"stop_strings": ["\n"]}), "`stop_strings`"),
            (json!({"do_sample": true, "temperature": 0.0}), "`temperature` is 0"),
            (json!({"do_sample": true, "top_p": 2.0}), "`top_p` is 2"),
            (json!({"repetition_penalty": -1.0}), "`repetition_penalty`"),
        ] {
            let reason = GenerationDefaults::parse(&json).unwrap_err();
            assert!(reason.contains(says), "{reason}");
        }
        // transformers 5.23 loads these and generates greedily.
        for json in [json!({"temperature": 0.0}), json!({"do_sample": false, "top_p": 2.0})] {
            assert!(!GenerationDefaults::parse(&json).unwrap().do_sample);
        }
    }
}
