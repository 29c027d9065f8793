//! Log-probabilities of chosen tokens, never holding (tokens x vocabulary).
//!
//! For losses that look at a few tokens of each row. Logits are formed twice, chunk by chunk: once to read the chosen
//! log-probabilities, and once to send their gradient back.

use candle_core::{D, Result, Tensor};
use candle_nn::ops::{log_softmax, softmax};

use super::chunks::{HeadGradients, Wants, attach, chunk_rows, chunks, logits};

/// log softmax(W x / t) of features (N, D) under a head (V, D), at `chosen` (N, k) tokens: (N, k), float32, without
/// gradient.
///
/// # Errors
/// When a shape does not fit or a token is not in the vocabulary.
pub fn log_probs(features: &Tensor, head: &Tensor, chosen: &Tensor, temperature: f64) -> Result<Tensor> {
    let (x, w) = (features.detach(), head.detach().to_dtype(features.dtype())?);
    let mut parts = Vec::new();
    for rows in chunks(x.dim(0)?, chunk_rows(w.dim(0)?)) {
        let logits = logits(&x.narrow(0, rows.start, rows.len())?, &w)?;
        let chosen = chosen.narrow(0, rows.start, rows.len())?.contiguous()?;
        parts.push(log_softmax(&(logits / temperature)?, D::Minus1)?.gather(&chosen, D::Minus1)?);
    }
    match parts.is_empty() {
        true => Tensor::zeros(chosen.shape(), candle_core::DType::F32, x.device()),
        false => Tensor::cat(&parts, 0),
    }
}

/// A score of chosen log-probabilities, as a number and as a differentiable scalar.
///
/// `score` is given [`log_probs`], (N, k), and returns their score and its gradient with respect to them. `features`
/// (N, D) and `head` (V, D) receive gradients where they track them.
///
/// # Errors
/// Those of [`log_probs`] and of `score`.
pub fn from_log_probs(
    features: &Tensor,
    head: &Tensor,
    chosen: &Tensor,
    temperature: f64,
    score: impl FnOnce(&Tensor) -> Result<(f64, Tensor)>,
) -> Result<(Tensor, f64)> {
    let (value, by_log_prob) = score(&log_probs(features, head, chosen, temperature)?)?;
    // A gradient that candle made still hangs on the graph it came through.
    let by_log_prob = by_log_prob.detach();
    let wants = Wants::of(features, head);
    let mut gradients = HeadGradients::new(wants);
    if wants.features || wants.head {
        let (x, w) = (features.detach(), head.detach().to_dtype(features.dtype())?);
        for rows in chunks(x.dim(0)?, chunk_rows(w.dim(0)?)) {
            let x = x.narrow(0, rows.start, rows.len())?;
            let logits = (logits(&x, &w)? / temperature)?;
            let gradient = by_log_prob.narrow(0, rows.start, rows.len())?.contiguous()?;
            let chosen = chosen.narrow(0, rows.start, rows.len())?.contiguous()?;
            // d log p_i / d z_j = [i = j] - p_j, over the temperature.
            let spread = softmax(&logits, D::Minus1)?.broadcast_mul(&gradient.sum_keepdim(D::Minus1)?)?;
            let gradient = (spread.neg()?.scatter_add(&chosen, &gradient, D::Minus1)? / temperature)?;
            gradients.push(&gradient, &x, &w)?;
        }
    }
    let (of_features, of_head) = gradients.finish()?;
    Ok((attach(value, [(features, &of_features), (head, &of_head)])?, value))
}

/// The sum over rows of softmax(W x / t): (V), float32, without gradient.
///
/// # Errors
/// When the widths differ or the device fails.
pub fn summed_probabilities(features: &Tensor, head: &Tensor, temperature: f64) -> Result<Tensor> {
    let (x, w) = (features.detach(), head.detach().to_dtype(features.dtype())?);
    let mut sums = Tensor::zeros(w.dim(0)?, candle_core::DType::F32, x.device())?;
    for rows in chunks(x.dim(0)?, chunk_rows(w.dim(0)?)) {
        let logits = logits(&x.narrow(0, rows.start, rows.len())?, &w)?;
        sums = (sums + softmax(&(logits / temperature)?, D::Minus1)?.sum(0)?)?;
    }
    Ok(sums)
}
