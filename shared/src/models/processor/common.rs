//! What every family's image processor has: channel statistics, a scale and a filter.

use serde_json::{Value, json};

use crate::image::{Normalization, ResizeFilter};
use crate::models::fields::{count, flag, number, only};

/// CLIP's channel means.
pub(in crate::models) const CLIP_MEAN: [f64; 3] = [0.48145466, 0.4578275, 0.40821073];
/// CLIP's channel standard deviations.
pub(in crate::models) const CLIP_STD: [f64; 3] = [0.26862954, 0.26130258, 0.27577711];

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
    /// Filter.
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
