//! Which rotary embedding a decoder has, and how far it reaches.

use candle_core::{Device, Result, bail};
use serde::{Serialize, Serializer};

use super::DecoderConfig;
use super::layers::{Axes, Rope, frequencies};

mod yarn;

pub(super) use yarn::{Unscaled, Yarn};

/// The rotary embedding of a decoder; its base is [`DecoderConfig::rope_theta`].
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rotary {
    /// Which positions the angles follow.
    pub axes: Axes,
    /// What becomes of the frequencies.
    pub scaling: Scaling,
    /// Positions from here on would be rotated differently, so they are refused: where `dynamic` scaling sets in.
    pub limit: Option<usize>,
}

/// How frequencies are scaled.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Scaling {
    /// They are as they are.
    Plain,
    /// All are divided.
    Linear {
        /// By what.
        factor: f64,
    },
    /// Low ones are slowed down.
    Llama3(Llama3),
    /// Low ones are slowed down, and all angles' cosines and sines multiplied.
    Yarn(Yarn),
}

/// For fingerprints: one word or object says both as long as one of the two is plain, as it does in caches from when one had to be.
impl Serialize for Rotary {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(untagged)]
        enum Kind<'a> {
            Axes(&'a Axes),
            Scaling(&'a Scaling),
        }
        #[derive(Serialize)]
        struct Fields<'a> {
            kind: Kind<'a>,
            #[serde(skip_serializing_if = "Option::is_none")]
            scaling: Option<&'a Scaling>,
            limit: Option<usize>,
        }
        let Rotary { axes, scaling, limit } = self;
        let (kind, scaling) = match (axes, scaling) {
            (Axes::Plain, scaling) => (Kind::Scaling(scaling), None),
            (axes, Scaling::Plain) => (Kind::Axes(axes), None),
            (axes, scaling) => (Kind::Axes(axes), Some(scaling)),
        };
        Fields { kind, scaling, limit: *limit }.serialize(serializer)
    }
}

/// Llama 3.1's scaling: wavelengths above `original / low` are `factor` times as long, those below `original / high`
/// as they are, and between the two it goes smoothly.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Llama3 {
    pub factor: f64,
    pub low: f64,
    pub high: f64,
    /// Positions the model was first trained on.
    pub original: f64,
}

impl Llama3 {
    fn scale(&self, frequency: f32) -> f32 {
        let turns = self.original as f32 * frequency / std::f32::consts::TAU;
        let (factor, low, high) = (self.factor as f32, self.low as f32, self.high as f32);
        if turns < low {
            return frequency / factor;
        }
        if turns > high {
            return frequency;
        }
        let kept = (turns - low) / (high - low);
        (1.0 - kept) * frequency / factor + kept * frequency
    }
}

impl Rotary {
    /// The angles of packed tokens.
    ///
    /// # Errors
    /// When a position is past the limit, or the device fails.
    pub(super) fn rope(
        &self,
        positions: &[[u32; 3]],
        config: &DecoderConfig,
        device: &Device,
    ) -> Result<Rope> {
        if let (Some(limit), Some(&last)) = (self.limit, positions.iter().flatten().max())
            && last as usize >= limit
        {
            bail!(
                "a sample of {} tokens: this model's rotary scaling is supported up to {limit}\n\
                 hint: limit the length of samples",
                last + 1
            )
        }
        let frequencies = self.scaling.scale(frequencies(config.head_dim, config.rope_theta)?);
        let rope = Rope::along(positions, &self.axes, &frequencies, device)?;
        match &self.scaling {
            Scaling::Yarn(yarn) => rope.times(yarn.attention_factor()),
            _ => Ok(rope),
        }
    }
}

impl Scaling {
    fn scale(&self, frequencies: Vec<f32>) -> Vec<f32> {
        match self {
            Self::Plain => frequencies,
            Self::Linear { factor } => frequencies.into_iter().map(|f| f / *factor as f32).collect(),
            Self::Llama3(llama3) => frequencies.into_iter().map(|f| llama3.scale(f)).collect(),
            Self::Yarn(yarn) => yarn.scale(&frequencies),
        }
    }
}
