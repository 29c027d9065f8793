//! Which rotary embedding a decoder has, and how far it reaches.

use candle_core::{Device, Result, bail};
use serde::Serialize;

use super::DecoderConfig;
use super::layers::{Rope, frequencies};

mod yarn;

pub(super) use yarn::{Unscaled, Yarn};

/// The rotary embedding of a decoder; its base is [`DecoderConfig::rope_theta`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Rotary {
    /// How positions become angles.
    pub kind: RotaryKind,
    /// Positions from here on would be rotated differently, so they are refused: where `dynamic` scaling sets in.
    pub limit: Option<usize>,
}

/// How positions become angles.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RotaryKind {
    /// One position per token.
    Plain,
    /// One position per token, all frequencies divided.
    Linear {
        /// What frequencies are divided by.
        factor: f64,
    },
    /// One position per token, low frequencies slowed down.
    Llama3(Llama3),
    /// One position per token, low frequencies slowed down and all angles' cosines and sines multiplied.
    Yarn(Yarn),
    /// Three positions per token; sections of the angles follow one each.
    Sectioned(Vec<usize>),
    /// Three positions per token, which the angles follow in turn.
    Interleaved(Vec<usize>),
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
        let DecoderConfig { head_dim, rope_theta, .. } = *config;
        let time = || positions.iter().map(|position| position[0]).collect::<Vec<_>>();
        match &self.kind {
            RotaryKind::Plain => Rope::new(&time(), head_dim, rope_theta, device),
            RotaryKind::Linear { factor } => {
                let scaled = frequencies(head_dim, rope_theta)?.into_iter().map(|f| f / *factor as f32);
                Rope::with_frequencies(&time(), &scaled.collect::<Vec<_>>(), device)
            }
            RotaryKind::Llama3(scaling) => {
                let scaled = frequencies(head_dim, rope_theta)?.into_iter().map(|f| scaling.scale(f));
                Rope::with_frequencies(&time(), &scaled.collect::<Vec<_>>(), device)
            }
            RotaryKind::Yarn(scaling) => {
                let scaled = scaling.scale(&frequencies(head_dim, rope_theta)?);
                Rope::with_frequencies(&time(), &scaled, device)?.times(scaling.attention_factor())
            }
            RotaryKind::Sectioned(sections) => {
                Rope::sectioned(positions, head_dim, rope_theta, sections, device)
            }
            RotaryKind::Interleaved(sections) => {
                Rope::interleaved(positions, head_dim, rope_theta, sections, device)
            }
        }
    }
}
