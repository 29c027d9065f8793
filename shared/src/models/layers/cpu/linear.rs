//! The linear layer on the CPU: bias inside the product, and only the gradients that someone wants.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};
use gemm::Parallelism;

use super::{Mat, MatMut, Product, add_to, matmul, parallelism, slice, sum_row_blocks, tensor, with_slices};

/// Rows of x up to which the product is formed column by column: `gemm` then packs x and reads W as it lies. Otherwise it packs W, which
/// takes longer than all else where few rows are multiplied: a step of generation was two to eight times slower. A sum is formed in the
/// same order either way.
const FEW_ROWS: usize = 96;

/// Sizes of y = x W^T: N rows, I inputs, O outputs.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    n: usize,
    i: usize,
    o: usize,
}

impl Sizes {
    pub(super) fn of(x: &Shape, w: &Shape) -> Result<(Sizes, Shape)> {
        let (o, i) = w.dims2()?;
        let mut dims = x.dims().to_vec();
        match dims.last_mut() {
            Some(last) if *last == i => *last = o,
            _ => bail!("a linear layer of weight {w:?} was given {x:?}"),
        }
        Ok((Sizes { n: x.elem_count() / i.max(1), i, o }, Shape::from(dims)))
    }

    pub(super) fn rows(self) -> usize {
        self.n
    }

    /// Whether reading the weight, and not multiplying, takes most of the time.
    pub(super) fn has_few_rows(self) -> bool {
        self.n <= FEW_ROWS
    }

    pub(super) fn inputs(self) -> usize {
        self.i
    }

    pub(super) fn outputs(self) -> usize {
        self.o
    }

    /// The same for so many rows of the weight.
    pub(super) fn with_outputs(self, o: usize) -> Sizes {
        Sizes { o, ..self }
    }

    /// The least number of rows for which `gemm` takes its general path, where a row's sum is formed in the same
    /// order whatever the number of rows: it has other paths for one row, for products of at most 16 x 16, and
    /// another split of long sums for products within 64 x 64.
    fn least_rows(self) -> usize {
        let tiny = 256 / self.o.max(1) + 1;
        let small = if self.o <= 64 && self.i > 512 { 65 } else { 0 };
        tiny.max(small).max(2)
    }

    /// y (N, O) = x W^T + b.
    pub(super) fn forward(self, x: &[f32], w: &[f32], b: Option<&[f32]>) -> Vec<f32> {
        self.forward_on(x, w, b, parallelism())
    }

    /// [`forward`](Self::forward), for callers that have threads of their own.
    pub(super) fn forward_on(
        self,
        x: &[f32],
        w: &[f32],
        b: Option<&[f32]>,
        parallelism: Parallelism,
    ) -> Vec<f32> {
        let Sizes { n, i, o } = self;
        let rows = n.max(if n == 0 { 0 } else { self.least_rows() });
        let padded;
        let x = if rows > n {
            padded = [x, &vec![0f32; (rows - n) * i]].concat();
            &padded
        } else {
            x
        };
        let keep = if b.is_some() { 1.0 } else { 0.0 };
        let (x, w) = (Mat::new(x, rows, i, i), Mat::new(w, o, i, i));
        let mut y = vec![0f32; rows * o];
        if rows <= FEW_ROWS {
            if let Some(b) = b {
                y.chunks_exact_mut(rows.max(1)).zip(b).for_each(|(column, b)| column.fill(*b));
            }
            let product = Product::of(w, x.t()).on(parallelism);
            matmul(MatMut::new(&mut y, o, rows, rows), Product { keep, ..product });
            let mut by_rows = vec![0f32; n * o];
            for (at, column) in y.chunks_exact(rows.max(1)).enumerate() {
                column.iter().take(n).enumerate().for_each(|(row, value)| by_rows[row * o + at] = *value);
            }
            return by_rows;
        }
        if let Some(b) = b {
            y.chunks_exact_mut(o.max(1)).for_each(|y| y.copy_from_slice(b));
        }
        matmul(MatMut::new(&mut y, rows, o, o), Product { keep, ..Product::of(x, w.t()).on(parallelism) });
        y.truncate(n * o);
        y
    }

    /// gx (N, I) = gy W.
    pub(super) fn input_gradient(self, w: &[f32], gy: &[f32]) -> Vec<f32> {
        let Sizes { n, i, o } = self;
        let mut gx = vec![0f32; n * i];
        let out = MatMut::new(&mut gx, n, i, i);
        matmul(out, Product::of(Mat::new(gy, n, o, o), Mat::new(w, o, i, i)).on(parallelism()));
        gx
    }

    /// gW (O, I) = gy^T x.
    pub(super) fn weight_gradient(self, x: &[f32], gy: &[f32]) -> Vec<f32> {
        let Sizes { n, i, o } = self;
        let mut gw = vec![0f32; o * i];
        let out = MatMut::new(&mut gw, o, i, i);
        matmul(out, Product::of(Mat::new(gy, n, o, o).t(), Mat::new(x, n, i, i)).on(parallelism()));
        gw
    }

    /// gb (O), the column sums of gy.
    fn bias_gradient(self, gy: &[f32]) -> Vec<f32> {
        let o = self.o;
        sum_row_blocks(self.n, o, |rows, out| {
            gy[rows.start * o..rows.end * o].chunks_exact(o).for_each(|row| add_to(out, row));
        })
    }
}

/// Nothing is trained: the graph keeps no weight gradient, and the backward computes none.
pub(in super::super) struct Frozen {
    pub(in super::super) weight: Tensor,
    pub(in super::super) bias: Option<Tensor>,
}

impl CustomOp1 for Frozen {
    fn name(&self) -> &'static str {
        "linear-frozen"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> Result<(CpuStorage, Shape)> {
        let (sizes, shape) = Sizes::of(lx.shape(), self.weight.shape())?;
        let x = slice(x, lx)?;
        let y = match &self.bias {
            None => with_slices([&self.weight], |[w]| Ok(sizes.forward(x, w, None)))?,
            Some(b) => with_slices([&self.weight, b], |[w, b]| Ok(sizes.forward(x, w, Some(b))))?,
        };
        Ok((CpuStorage::F32(y), shape))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, gy: &Tensor) -> Result<Option<Tensor>> {
        input_gradient(x, &self.weight, gy).map(Some)
    }
}

/// The gradient of x under a frozen weight.
pub(super) fn input_gradient(x: &Tensor, weight: &Tensor, gy: &Tensor) -> Result<Tensor> {
    let (sizes, _) = Sizes::of(x.shape(), weight.shape())?;
    let gy = gy.contiguous()?;
    let gx = with_slices([weight, &gy], |[w, gy]| Ok(sizes.input_gradient(w, gy)))?;
    tensor(gx, x.shape())
}

/// A trained weight without a bias.
pub(in super::super) struct Trained;

impl CustomOp2 for Trained {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (sizes, shape) = Sizes::of(lx.shape(), lw.shape())?;
        Ok((CpuStorage::F32(sizes.forward(slice(x, lx)?, slice(w, lw)?, None)), shape))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        gy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (gx, gw, _) = gradients(x, w, &gy.contiguous()?, false)?;
        Ok((gx, gw))
    }
}

/// A trained weight, bias or both.
pub(in super::super) struct TrainedWithBias;

impl CustomOp3 for TrainedWithBias {
    fn name(&self) -> &'static str {
        "linear-bias"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (sizes, shape) = Sizes::of(lx.shape(), lw.shape())?;
        Ok((CpuStorage::F32(sizes.forward(slice(x, lx)?, slice(w, lw)?, Some(slice(b, lb)?))), shape))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        gy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        gradients(x, w, &gy.contiguous()?, b.track_op())
    }
}

/// Gradients of x, the weight and the bias, each only where it is tracked.
fn gradients(
    x: &Tensor,
    w: &Tensor,
    gy: &Tensor,
    bias: bool,
) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
    let (sizes, _) = Sizes::of(x.shape(), w.shape())?;
    let (gx, gw, gb) = with_slices([x, w, gy], |[xs, ws, gy]| {
        Ok((
            x.track_op().then(|| sizes.input_gradient(ws, gy)),
            w.track_op().then(|| sizes.weight_gradient(xs, gy)),
            bias.then(|| sizes.bias_gradient(gy)),
        ))
    })?;
    let gx = gx.map(|gx| tensor(gx, x.shape())).transpose()?;
    let gw = gw.map(|gw| tensor(gw, w.shape())).transpose()?;
    Ok((gx, gw, gb.map(|gb| tensor(gb, &Shape::from(sizes.o))).transpose()?))
}
