//! Rotary position embedding (arXiv 2104.09864): one axis, the three of M-RoPE (arXiv 2409.12191), or a grid.

use candle_core::{Device, Result, Tensor, bail};
use serde::Serialize;

use super::cpu::rope::RopeOp;
#[cfg(feature = "cuda")]
use super::cuda::ops;
use super::{Kernels, kernels, plain};
use crate::models::transfer::upload;

/// Cosines and sines of every token's angles, (T, K/2) each; the halves of a head are rotated against each other.
#[derive(Clone, Debug)]
pub struct Rope {
    cos: Tensor,
    sin: Tensor,
}

impl Rope {
    /// One position per token, (T): angle j is `position * theta^(-2j/K)`.
    ///
    /// # Errors
    /// When `head_dim` is odd.
    pub fn new(positions: &[u32], head_dim: usize, theta: f64, device: &Device) -> Result<Rope> {
        let angles: Vec<_> = frequencies(head_dim, theta)?.into_iter().map(|f| Angle::from((0, f))).collect();
        let positions: Vec<[u32; 1]> = positions.iter().map(|&position| [position]).collect();
        Rope::from_angles(&positions, &angles, device)
    }

    /// (temporal, height, width) per token: angle j is `frequencies[j]`, of which there are K/2, times the position on the
    /// axis that `axes` gives it.
    ///
    /// # Errors
    /// When the axes do not have as many angles.
    pub fn along(positions: &[[u32; 3]], axes: &Axes, frequencies: &[f32], device: &Device) -> Result<Rope> {
        axes.check(frequencies.len())?;
        let angle = |(j, &frequency): (usize, &f32)| Angle { axis: axes.of(j), frequency };
        let angles: Vec<_> = frequencies.iter().enumerate().map(angle).collect();
        Rope::from_angles(positions, &angles, device)
    }

    /// (row, column) per token: the first K/4 angles follow the row, the others the column, both with the same
    /// frequencies, as most vision encoders have it.
    ///
    /// # Errors
    /// When `head_dim` is not a multiple of 4.
    pub fn grid(positions: &[[u32; 2]], head_dim: usize, theta: f64, device: &Device) -> Result<Rope> {
        check_grid(head_dim)?;
        let frequencies = frequencies(head_dim / 2, theta)?;
        let angles: Vec<_> =
            (0..2).flat_map(|axis| frequencies.iter().map(move |&f| Angle::from((axis, f)))).collect();
        Rope::from_angles(positions, &angles, device)
    }

    /// (row, column) per token: as [`grid`](Self::grid), but the K/2 frequencies of a head are dealt out in turn, the
    /// even ones to the row and the odd ones to the column, as Pixtral has it.
    ///
    /// # Errors
    /// When `head_dim` is not a multiple of 4.
    pub fn dealt_grid(positions: &[[u32; 2]], head_dim: usize, theta: f64, device: &Device) -> Result<Rope> {
        check_grid(head_dim)?;
        let frequencies = frequencies(head_dim, theta)?;
        let dealt = |axis: usize| frequencies.iter().skip(axis).step_by(2).map(move |&f| (axis, f));
        let angles: Vec<_> = (0..2).flat_map(dealt).map(Angle::from).collect();
        Rope::from_angles(positions, &angles, device)
    }

    /// From positions on N axes and the K/2 angles of a head.
    fn from_angles<const N: usize>(
        positions: &[[u32; N]],
        angles: &[Angle],
        device: &Device,
    ) -> Result<Rope> {
        let shape = (positions.len(), angles.len());
        let of_token = |p: &[u32; N]| {
            let p = *p;
            angles.iter().map(move |angle| p[angle.axis] as f32 * angle.frequency)
        };
        let radians: Vec<f32> = positions.iter().flat_map(of_token).collect();
        let cos = radians.iter().map(|a| a.cos()).collect();
        let sin = radians.iter().map(|a| a.sin()).collect();
        Ok(Rope { cos: upload(cos, shape, device)?, sin: upload(sin, shape, device)? })
    }

    /// Cosines and sines multiplied by `factor`, which queries and keys then are as well.
    ///
    /// # Errors
    /// When the device fails.
    pub fn times(&self, factor: f64) -> Result<Rope> {
        Ok(Rope { cos: (&self.cos * factor)?, sin: (&self.sin * factor)? })
    }

    /// Cosines, (T, K/2), float32.
    pub fn cos(&self) -> &Tensor {
        &self.cos
    }

    /// Sines, (T, K/2), float32.
    pub fn sin(&self) -> &Tensor {
        &self.sin
    }

    /// x (T, H, K) rotated, differentiable.
    ///
    /// # Errors
    /// When the shapes do not fit the tables.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let (tokens, _, width) = x.dims3()?;
        if (tokens, width) != (self.cos.dim(0)?, 2 * self.cos.dim(1)?) {
            bail!("rotary tables of {:?} were applied to {:?}", self.cos.dims(), x.dims())
        }
        let (cos, sin) = (self.cos.clone(), self.sin.clone());
        match kernels(&[x]) {
            Kernels::Cpu => x.contiguous()?.apply_op1(RopeOp { cos, sin }),
            #[cfg(feature = "cuda")]
            Kernels::Gpu => x.contiguous()?.apply_op1(ops::RopeOp { cos, sin }),
            Kernels::None => plain::rope(x, self),
        }
    }
}

/// Which of a token's three positions, (temporal, height, width), each angle of a head follows.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Axes {
    /// All of them follow time, where the three are equal.
    Plain,
    /// So many angles, in order, follow each axis in turn (16, 24, 24 in Qwen2-VL).
    Sectioned(Vec<usize>),
    /// Angles go round the axes for as long as the height's and the width's sections last, and follow time from there on,
    /// as Qwen3-VL has it.
    Interleaved(Vec<usize>),
}

impl Axes {
    /// That of angle `j`.
    fn of(&self, j: usize) -> usize {
        match self {
            Axes::Plain => 0,
            Axes::Sectioned(sections) => {
                let mut ends = sections.iter().scan(0, |end, section| {
                    *end += section;
                    Some(*end)
                });
                ends.position(|end| j < end).unwrap_or(0) % 3
            }
            Axes::Interleaved(sections) => {
                let section = sections.get(j % 3).copied().unwrap_or_default();
                if j < 3 * section { j % 3 } else { 0 }
            }
        }
    }

    /// Sections must have as many angles as there are.
    fn check(&self, num_angles: usize) -> Result<()> {
        match self {
            Axes::Sectioned(sections) | Axes::Interleaved(sections)
                if sections.iter().sum::<usize>() != num_angles =>
            {
                bail!("rotary sections {sections:?} do not sum to the {num_angles} angles of a head")
            }
            _ => Ok(()),
        }
    }
}

/// What one pair of a head's values turns by.
struct Angle {
    axis: usize,
    /// Radians per position.
    frequency: f32,
}

impl From<(usize, f32)> for Angle {
    fn from((axis, frequency): (usize, f32)) -> Self {
        Self { axis, frequency }
    }
}

fn check_grid(head_dim: usize) -> Result<()> {
    if !head_dim.is_multiple_of(4) {
        bail!("a rotary grid needs a head width that is a multiple of 4, not {head_dim}")
    }
    Ok(())
}

/// theta^(-2j/dim) for j below dim/2, in float32 as the reference implementations compute it.
///
/// # Errors
/// When `dim` is odd.
pub fn frequencies(dim: usize, theta: f64) -> Result<Vec<f32>> {
    if !dim.is_multiple_of(2) {
        bail!("a rotary embedding needs an even head width, not {dim}")
    }
    Ok((0..dim / 2).map(|j| 1.0 / (theta as f32).powf(2.0 * j as f32 / dim as f32)).collect())
}
