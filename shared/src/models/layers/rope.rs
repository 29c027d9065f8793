//! Rotary position embedding (arXiv 2104.09864): one axis, the three of M-RoPE (arXiv 2409.12191), or a grid.

use candle_core::{Device, Result, Tensor, bail};

use super::cpu::rope::RopeOp;
use super::{fused, plain};

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
        let inverse = inverse_frequencies(head_dim, theta);
        let angles = positions.iter().flat_map(|&p| inverse.iter().map(move |f| p as f32 * f));
        Rope::from_angles(angles.collect(), positions.len(), head_dim, device)
    }

    /// M-RoPE: (temporal, height, width) per token; `sections` says how many of the K/2 angles, in order, follow
    /// each axis in turn (16, 24, 24 in Qwen2-VL).
    ///
    /// # Errors
    /// When the sections do not sum to K/2.
    pub fn sectioned(
        positions: &[[u32; 3]],
        head_dim: usize,
        theta: f64,
        sections: &[usize],
        device: &Device,
    ) -> Result<Rope> {
        if sections.iter().sum::<usize>() * 2 != head_dim {
            bail!("rotary sections {sections:?} do not sum to half the head width {head_dim}")
        }
        let inverse = inverse_frequencies(head_dim, theta);
        let axes: Vec<usize> =
            sections.iter().enumerate().flat_map(|(i, &n)| std::iter::repeat_n(i % 3, n)).collect();
        let angles = positions
            .iter()
            .flat_map(|p| inverse.iter().zip(&axes).map(move |(f, &axis)| p[axis] as f32 * f));
        Rope::from_angles(angles.collect(), positions.len(), head_dim, device)
    }

    /// (row, column) per token: the first K/4 angles follow the row, the others the column, as vision
    /// encoders have it.
    ///
    /// # Errors
    /// When `head_dim` is not a multiple of 4.
    pub fn grid(positions: &[[u32; 2]], head_dim: usize, theta: f64, device: &Device) -> Result<Rope> {
        if !head_dim.is_multiple_of(4) {
            bail!("a rotary grid needs a head width that is a multiple of 4, not {head_dim}")
        }
        let inverse = inverse_frequencies(head_dim / 2, theta);
        let angles =
            positions.iter().flat_map(|p| p.iter().flat_map(|&p| inverse.iter().map(move |f| p as f32 * f)));
        Rope::from_angles(angles.collect(), positions.len(), head_dim, device)
    }

    /// From angles in radians, (T, K/2).
    fn from_angles(angles: Vec<f32>, tokens: usize, head_dim: usize, device: &Device) -> Result<Rope> {
        if !head_dim.is_multiple_of(2) {
            bail!("a rotary embedding needs an even head width, not {head_dim}")
        }
        let shape = (tokens, head_dim / 2);
        let cos = angles.iter().map(|a| a.cos()).collect();
        let sin = angles.iter().map(|a| a.sin()).collect();
        Ok(Rope { cos: Tensor::from_vec(cos, shape, device)?, sin: Tensor::from_vec(sin, shape, device)? })
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
        if fused(&[x]) {
            return x.contiguous()?.apply_op1(RopeOp { cos: self.cos.clone(), sin: self.sin.clone() });
        }
        plain::rope(x, self)
    }
}

/// theta^(-2j/dim) for j below dim/2, in float32 as the reference implementations compute it.
fn inverse_frequencies(dim: usize, theta: f64) -> Vec<f32> {
    (0..dim / 2).map(|j| 1.0 / (theta as f32).powf(2.0 * j as f32 / dim as f32)).collect()
}
