//! What every family's image processor has: channel statistics, a scale and a filter.

use serde_json::{Value, json};

use super::ProcessorFiles;
use crate::image::{Normalization, ResizeFilter};
use crate::models::fields::{count, flag, number, only};

/// CLIP's channel means.
pub(in crate::models) const CLIP_MEAN: [f64; 3] = [0.48145466, 0.4578275, 0.40821073];
/// CLIP's channel standard deviations.
pub(in crate::models) const CLIP_STD: [f64; 3] = [0.26862954, 0.26130258, 0.27577711];

/// Mean and standard deviation of SigLIP's processors, which go from -1 to 1.
pub(in crate::models) const HALF: [f64; 3] = [0.5; 3];

/// What `size` and `crop_size` say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::models) enum Size {
    /// (height, width) in pixels.
    Exact([u32; 2]),
    /// The shorter side in pixels.
    ShortestEdge(u32),
}

impl Size {
    /// Reads `{height, width}`, `{shortest_edge}`, or one number, which means what `default` is.
    pub(in crate::models) fn read(json: &Value, default: Self) -> Result<Self, String> {
        let side = |value: &Value| {
            let side = value.as_u64().and_then(|side| u32::try_from(side).ok()).filter(|side| *side > 0);
            side.ok_or_else(|| format!("`size` is {json}, not sides in pixels"))
        };
        match (json, default) {
            (Value::Null, _) => Ok(default),
            (Value::Object(sides), _) if sides.contains_key("shortest_edge") => {
                Ok(Self::ShortestEdge(side(&json["shortest_edge"])?))
            }
            (Value::Object(_), _) => Ok(Self::Exact([side(&json["height"])?, side(&json["width"])?])),
            (number, Self::ShortestEdge(_)) => Ok(Self::ShortestEdge(side(number)?)),
            (number, Self::Exact(_)) => side(number).map(|side| Self::Exact([side; 2])),
        }
    }

    /// (height, width), the shorter edge being both.
    pub(in crate::models) fn sides(self) -> [u32; 2] {
        match self {
            Self::Exact(sides) => sides,
            Self::ShortestEdge(side) => [side; 2],
        }
    }

    /// For the fingerprint.
    pub(in crate::models) fn settings(self) -> Value {
        match self {
            Self::Exact(sides) => json!(sides),
            Self::ShortestEdge(side) => json!({ "shortest_edge": side }),
        }
    }
}
/// ImageNet's channel means.
pub(in crate::models) const IMAGENET_MEAN: [f64; 3] = [0.485, 0.456, 0.406];
/// ImageNet's channel standard deviations.
pub(in crate::models) const IMAGENET_STD: [f64; 3] = [0.229, 0.224, 0.225];

/// The settings that every image processor shares.
pub(in crate::models) struct CommonSettings {
    /// Channel means.
    pub mean: [f64; 3],
    /// Channel standard deviations.
    pub std: [f64; 3],
    /// From bytes to 0..1.
    pub rescale_factor: f64,
    /// How pixels are interpolated when an image is resized.
    pub filter: ResizeFilter,
}

impl CommonSettings {
    /// Reads them; `mean` and `std` are the class defaults.
    pub(in crate::models) fn parse(json: &Value, mean: [f64; 3], std: [f64; 3]) -> Result<Self, String> {
        for step in ["do_resize", "do_rescale", "do_normalize"] {
            only(flag(json, step, true)?, format!("`{step}` false"))?;
        }
        let resample = count(json, "resample", 3)? as u64;
        let filter = ResizeFilter::from_pillow(resample)
            .ok_or_else(|| format!("`resample` {resample} is not supported"))?;
        let statistics = |key: &str, default: [f64; 3]| match &json[key] {
            Value::Null => Ok(default),
            value => serde_json::from_value(value.clone())
                .map_err(|_| format!("`{key}` is {value}, not three numbers")),
        };
        Ok(Self {
            mean: statistics("image_mean", mean)?,
            std: statistics("image_std", std)?,
            rescale_factor: number(json, "rescale_factor", 1.0 / 255.0)?,
            filter,
        })
    }

    /// The table from bytes to floats.
    pub(in crate::models) fn normalization(&self) -> Normalization {
        Normalization::new(self.mean, self.std, self.rescale_factor)
    }

    /// For the fingerprint.
    pub(in crate::models) fn settings(&self) -> Value {
        json!({
            "filter": format!("{:?}", self.filter).to_lowercase(),
            "mean": self.mean,
            "std": self.std,
            "rescale_factor": self.rescale_factor,
        })
    }
}

/// The settings with Pillow's number of a class' own filter where none is named.
pub(in crate::models) fn with_default_filter(json: &Value, filter: u64) -> Value {
    let mut json = json.clone();
    if json["resample"].is_null() {
        json["resample"] = filter.into();
    }
    json
}

/// A token that tokenizer_config.json names, else processor_config.json.
pub(in crate::models) fn named_token(files: &ProcessorFiles<'_>, name: &str, default: &str) -> String {
    let token = files.tokenizer.named(name).or_else(|| files.processor[name].as_str());
    token.unwrap_or(default).to_owned()
}
