//! Logits of features under a head, some rows at a time, and what a score of them sends back.
//!
//! A score sees the logits of a few rows and returns their gradient, which is multiplied back by the head at once. So
//! (tokens x vocabulary) never exists, and what is kept is one gradient of the features' size (and one of the head's,
//! where it trains).

use std::ops::Range;

use candle_core::{D, DType, Result, Tensor, bail};

/// Bytes of one chunk's logits.
const CHUNK_BYTES: usize = 64 << 20;

/// Rows whose logits are formed at a time.
pub(super) fn chunk_rows(vocab: usize) -> usize {
    (CHUNK_BYTES / (4 * vocab.max(1))).max(1)
}

/// The chunks of `num_rows` rows.
pub(super) fn chunks(num_rows: usize, rows: usize) -> impl Iterator<Item = Range<usize>> {
    (0..num_rows).step_by(rows.max(1)).map(move |start| start..num_rows.min(start + rows))
}

/// Logits (n, V), float32, of features (n, D) under a head (V, D) of any type.
///
/// # Errors
/// When the widths differ or the device fails.
pub fn logits(features: &Tensor, head: &Tensor) -> Result<Tensor> {
    features.matmul(&head.to_dtype(features.dtype())?.t()?)?.to_dtype(DType::F32)
}

/// Scores the logits (n, V) of some rows: the value, and its gradient with respect to those logits.
pub type Score<'a> = dyn FnMut(Range<usize>, &Tensor) -> Result<(f64, Tensor)> + 'a;

/// The sum of what `score` returns for each chunk of rows, as a number and as a differentiable scalar.
///
/// Logits are float32 whatever the features are. `features` (N, D) and `head` (V, D) receive gradients where they track them.
///
/// # Errors
/// When the shapes differ, and those of `score`.
pub fn through_head(features: &Tensor, head: &Tensor, score: &mut Score) -> Result<(Tensor, f64)> {
    let (num_rows, width) = features.dims2()?;
    let (vocab, head_width) = head.dims2()?;
    if width != head_width {
        bail!("features of width {width} and a head of width {head_width}")
    }
    let (x, w) = (features.detach(), head.detach().to_dtype(features.dtype())?);
    let mut gradients = HeadGradients::new(Wants::of(features, head));
    let mut total = 0.0;
    for rows in chunks(num_rows, chunk_rows(vocab)) {
        let x = x.narrow(0, rows.start, rows.len())?;
        let (value, gradient) = score(rows, &logits(&x, &w)?)?;
        total += value;
        gradients.push(&gradient, &x, &w)?;
    }
    let (of_features, of_head) = gradients.finish()?;
    Ok((attach(total, [(features, &of_features), (head, &of_head)])?, total))
}

/// Which gradients someone will ask for.
#[derive(Clone, Copy)]
pub(super) struct Wants {
    pub(super) features: bool,
    pub(super) head: bool,
}

impl Wants {
    /// Those that the inputs track.
    pub(super) fn of(features: &Tensor, head: &Tensor) -> Self {
        Self { features: features.track_op(), head: head.track_op() }
    }
}

/// The gradients of features and head, float32, added up chunk by chunk.
pub(super) struct HeadGradients {
    wants: Wants,
    features: Vec<Tensor>,
    head: Option<Tensor>,
}

impl HeadGradients {
    /// Nothing sent back yet.
    pub(super) fn new(wants: Wants) -> Self {
        Self { wants, features: Vec::new(), head: None }
    }

    /// Sends back the gradient of the next rows' logits (n, V); `x` (n, D) and `w` (V, D) made them.
    pub(super) fn push(&mut self, gradient: &Tensor, x: &Tensor, w: &Tensor) -> Result<()> {
        let gradient = gradient.to_dtype(w.dtype())?;
        if self.wants.features {
            self.features.push(gradient.matmul(w)?.to_dtype(DType::F32)?);
        }
        if self.wants.head {
            let part = gradient.t()?.matmul(x)?.to_dtype(DType::F32)?;
            self.head = Some(match self.head.take() {
                Some(head) => (head + part)?,
                None => part,
            });
        }
        Ok(())
    }

    /// The gradients of (features, head).
    pub(super) fn finish(self) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let features = (!self.features.is_empty()).then(|| Tensor::cat(&self.features, 0)).transpose()?;
        Ok((features, self.head))
    }
}

/// A scalar of this value whose gradient with respect to each input is the one beside it.
pub(super) fn attach(value: f64, inputs: [(&Tensor, &Option<Tensor>); 2]) -> Result<Tensor> {
    let mut loss = Tensor::new(value as f32, inputs[0].0.device())?;
    for (input, gradient) in inputs {
        if let Some(gradient) = gradient {
            loss = (loss + carrier(input, gradient)?)?;
        }
    }
    Ok(loss)
}

/// The sum of all values of a matrix, a scalar. Row by row first: on a GPU candle gives a sum over all axes to one block of threads.
pub(crate) fn total(x: &Tensor) -> Result<Tensor> {
    x.sum(D::Minus1)?.sum_all()
}

/// A scalar 0 whose gradient with respect to `input` is `gradient`.
fn carrier(input: &Tensor, gradient: &Tensor) -> Result<Tensor> {
    let product = total(&input.to_dtype(DType::F32)?.mul(gradient)?)?;
    &product - product.detach()
}
