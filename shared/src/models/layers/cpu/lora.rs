//! A frozen linear layer with a low-rank addition that trains, on the CPU: one output, and a backward that keeps the
//! input alone.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::linear::Sizes;
use super::{add_to, for_row_blocks, slice, tensor, with_slices};

/// y = x W^T + b + scale (x A^T) B^T, as an operation on x (.., I), A (R, I) and B (O, R).
pub(in super::super) struct Adapted {
    /// W (O, I), frozen.
    pub(in super::super) weight: Tensor,
    /// b (O), frozen.
    pub(in super::super) bias: Option<Tensor>,
    pub(in super::super) scale: f32,
}

/// The three products: x W^T, x A^T, and (x A^T) B^T.
struct Products {
    whole: Sizes,
    down: Sizes,
    up: Sizes,
}

impl Adapted {
    fn products(&self, x: &Shape, a: &Shape, b: &Shape) -> Result<(Products, Shape)> {
        let (whole, shape) = Sizes::of(x, self.weight.shape())?;
        let (down, inner) = Sizes::of(x, a)?;
        let (up, out) = Sizes::of(&inner, b)?;
        if out != shape {
            bail!("an adapter of {b:?} stands beside a weight {:?}", self.weight.shape())
        }
        Ok((Products { whole, down, up }, shape))
    }

    /// scale (x A^T), (N, R).
    fn inner(&self, products: &Products, x: &[f32], a: &[f32]) -> Vec<f32> {
        self.scaled(products.down.forward(x, a, None))
    }

    fn scaled(&self, mut values: Vec<f32>) -> Vec<f32> {
        values.iter_mut().for_each(|value| *value *= self.scale);
        values
    }
}

/// `out += x`, both of rows of `width` values.
fn add_rows(out: &mut [f32], x: &[f32], width: usize) {
    for_row_blocks(out, width, |row, out| {
        let start = row * width;
        add_to(out, &x[start..start + out.len()]);
    });
}

impl CustomOp3 for Adapted {
    fn name(&self) -> &'static str {
        "linear-adapted"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        a: &CpuStorage,
        la: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (products, shape) = self.products(lx.shape(), la.shape(), lb.shape())?;
        let (x, a, b) = (slice(x, lx)?, slice(a, la)?, slice(b, lb)?);
        let whole = products.whole;
        let mut y = match &self.bias {
            None => with_slices([&self.weight], |[w]| Ok(whole.forward(x, w, None)))?,
            Some(bias) => with_slices([&self.weight, bias], |[w, bias]| Ok(whole.forward(x, w, Some(bias))))?,
        };
        let added = products.up.forward(&self.inner(&products, x, a), b, None);
        add_rows(&mut y, &added, whole.outputs());
        Ok((CpuStorage::F32(y), shape))
    }

    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        gy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (products, _) = self.products(x.shape(), a.shape(), b.shape())?;
        let Products { whole, down, up } = products;
        let gy = gy.contiguous()?;
        let (gx, ga, gb) = with_slices([x, a, b, &self.weight, &gy], |[xs, aas, bs, ws, gy]| {
            // The inner product is as cheap to form again as it is narrow.
            let inner = self.inner(&products, xs, aas);
            let by_inner = self.scaled(up.input_gradient(bs, gy));
            let gx = x.track_op().then(|| {
                let mut gx = whole.input_gradient(ws, gy);
                add_rows(&mut gx, &down.input_gradient(aas, &by_inner), whole.inputs());
                gx
            });
            Ok((gx, down.weight_gradient(xs, &by_inner), up.weight_gradient(&inner, gy)))
        })?;
        let gx = gx.map(|gx| tensor(gx, x.shape())).transpose()?;
        Ok((gx, Some(tensor(ga, a.shape())?), Some(tensor(gb, b.shape())?)))
    }
}
