//! Cross entropy and forward divergence through a head, never holding (tokens x vocabulary).
//!
//! Logits exist for one chunk of tokens at a time. While they do, their gradient is formed and multiplied back by the
//! head, so that what is kept is one gradient of the features' size (and one of the head's, where it trains), and the
//! backward only scales it. The trade: the gradient is computed even if `backward` never comes, unless nothing
//! is tracked.
//!
//! The divergence is KL(p || q) with p the teacher's distribution (GenRecal, arXiv 2506.15681, section 3.2), its
//! softmax at `temperature`, multiplied by the temperature's square so that gradients keep their size
//! (arXiv 1503.02531, section 2.1). The cross entropy is always at temperature 1.

use candle_core::{D, DType, Result, Tensor, bail};

use super::chunks::{HeadGradients, Wants, attach, chunk_rows, chunks, logits as logits_of, total};
use super::divergence::divergence;
use super::frozen_head::{HeadWeight, MappedHead};

mod rows;

/// Weights of the two terms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadLossOptions {
    /// Weight of the cross entropy.
    pub ce_weight: f64,
    /// Weight of the divergence; without teacher features it is not computed.
    pub kl_weight: f64,
    /// Of both softmaxes in the divergence.
    pub temperature: f64,
}

impl Default for HeadLossOptions {
    fn default() -> Self {
        HeadLossOptions { ce_weight: 1.0, kl_weight: 1.0, temperature: 1.0 }
    }
}

/// Sums over tokens.
#[derive(Clone, Debug)]
pub struct HeadLossOutput {
    /// `ce_weight * ce + kl_weight * kl`, differentiable, a scalar.
    pub loss: Tensor,
    /// Sum of the tokens' cross entropies, in nats.
    pub ce: f64,
    /// Sum of the tokens' divergences, in nats; 0 without a teacher.
    pub kl: f64,
}

/// Cross entropy of `targets` (N) and divergence from the teacher, through one head (V, D).
///
/// `features` (N, D) receive a gradient if they track one, and so does `head`, whose float32 master is cast to the
/// features' type; `teacher` (N, D) are the teacher's features under the same head and never get a gradient.
///
/// # Errors
/// When the shapes differ, a target is not in the vocabulary, or a mapped head meets features that are not float32 on a
/// CPU.
pub fn head_loss<'a>(
    features: &Tensor,
    head: impl Into<HeadWeight<'a>>,
    targets: &[u32],
    teacher: Option<&Tensor>,
    options: &HeadLossOptions,
) -> Result<HeadLossOutput> {
    let (tokens, width) = features.dims2()?;
    let head = head.into();
    let (vocab, head_width) = match head {
        HeadWeight::Tensor(head) => head.dims2()?,
        HeadWeight::Mapped(head) => head.dims(),
    };
    if head_width != width || targets.len() != tokens || teacher.is_some_and(|t| t.dims() != features.dims())
    {
        bail!(
            "features {:?}, head ({vocab}, {head_width}), {} targets and teacher features {:?} do not fit",
            features.dims(),
            targets.len(),
            teacher.map(Tensor::dims)
        )
    }
    if let Some(bad) = targets.iter().find(|&&t| t as usize >= vocab) {
        bail!("target {bad} is not among the head's {vocab} tokens")
    }
    let problem = Problem {
        features: features.detach().contiguous()?,
        head: match head {
            HeadWeight::Tensor(head) => {
                Weight::Tensor(head.detach().to_dtype(features.dtype())?.contiguous()?)
            }
            HeadWeight::Mapped(head) => Weight::Mapped(head),
        },
        dims: (vocab, head_width),
        teacher: teacher.map(|t| t.detach().to_dtype(features.dtype())?.contiguous()).transpose()?,
        targets,
        options: *options,
        wants: Wants {
            features: features.track_op(),
            head: matches!(head, HeadWeight::Tensor(head) if head.track_op()),
        },
        // There are two buffers of this size with a teacher.
        chunk: chunk_rows(vocab),
    };
    let sums = problem.solve()?;
    let value = options.ce_weight * sums.ce + options.kl_weight * sums.kl;
    let loss = match head {
        HeadWeight::Tensor(head) => attach(value, [(features, &sums.features), (head, &sums.head)])?,
        HeadWeight::Mapped(_) => attach(value, [(features, &sums.features), (features, &None)])?,
    };
    Ok(HeadLossOutput { loss, ce: sums.ce, kl: sums.kl })
}

/// One call, without gradient tracking.
struct Problem<'a> {
    features: Tensor,
    head: Weight<'a>,
    /// (V, D).
    dims: (usize, usize),
    teacher: Option<Tensor>,
    targets: &'a [u32],
    options: HeadLossOptions,
    wants: Wants,
    /// Tokens whose logits are formed at a time.
    chunk: usize,
}

/// The head, in the features' type unless it is mapped.
enum Weight<'a> {
    Tensor(Tensor),
    Mapped(&'a MappedHead),
}

/// What a call adds up; gradients are float32.
struct Sums {
    ce: f64,
    kl: f64,
    features: Option<Tensor>,
    head: Option<Tensor>,
}

impl Problem<'_> {
    fn solve(&self) -> Result<Sums> {
        // Head and teacher have the features' type.
        let on_slices = self.features.device().is_cpu() && self.features.dtype() == DType::F32;
        match &self.head {
            _ if on_slices => rows::solve(self),
            Weight::Tensor(head) => self.solve_composite(head),
            Weight::Mapped(_) => bail!("a mapped head serves float32 features on a CPU alone"),
        }
    }

    /// The chunks as candle operations, for a GPU and for other types.
    fn solve_composite(&self, head: &Tensor) -> Result<Sums> {
        let (mut ce, mut kl) = (0.0, 0.0);
        let mut gradients = HeadGradients::new(self.wants);
        for rows in chunks(self.targets.len(), self.chunk) {
            let x = self.features.narrow(0, rows.start, rows.len())?;
            let (sums, gradient) = self.chunk_composite(&logits_of(&x, head)?, head, rows.start)?;
            ce += sums.0;
            kl += sums.1;
            gradients.push(&gradient, &x, head)?;
        }
        let (features, head) = gradients.finish()?;
        Ok(Sums { ce, kl, features, head })
    }

    /// One chunk's (ce, kl) and the gradient of its logits (n, V).
    fn chunk_composite(&self, logits: &Tensor, head: &Tensor, start: usize) -> Result<((f64, f64), Tensor)> {
        let (n, vocab) = logits.dims2()?;
        let options = &self.options;
        let targets = Tensor::new(&self.targets[start..start + n], logits.device())?.unsqueeze(1)?;
        let log_q = candle_nn::ops::log_softmax(logits, D::Minus1)?;
        let ce = -f64::from(log_q.gather(&targets, 1)?.sum_all()?.to_scalar::<f32>()?);
        let classes = Tensor::arange(0u32, vocab as u32, logits.device())?.unsqueeze(0)?;
        let hit = classes.broadcast_eq(&targets)?.to_dtype(DType::F32)?;
        let mut gradient = ((log_q.exp()? - hit)? * options.ce_weight)?;
        let Some(teacher) = &self.teacher else { return Ok(((ce, 0.0), gradient)) };
        let t = options.temperature;
        let teacher = logits_of(&teacher.narrow(0, start, n)?, head)?;
        let log_p = candle_nn::ops::log_softmax(&(teacher / t)?, D::Minus1)?;
        let log_q = candle_nn::ops::log_softmax(&(logits / t)?, D::Minus1)?;
        let kl = total(&divergence(&log_p, &log_q)?)?.to_scalar::<f32>()?;
        gradient = (gradient + ((log_q.exp()? - log_p.exp()?)? * (options.kl_weight * t))?)?;
        Ok(((ce, f64::from(kl) * t * t), gradient))
    }
}

#[cfg(test)]
mod tests;
