//! How a Recalibrator begins: fresh weights from a seed, or the student's last blocks.

use std::collections::BTreeMap;

use candle_core::{Device, Result, Tensor, Var};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::{Recalibrator, RecalibratorSpec};

/// Gives a student decoder weight by its name under the layer, such as `self_attn.q_proj.weight`; the first argument
/// counts layers from the last: 0 is the last one.
pub type StudentWeights<'a> = &'a dyn Fn(usize, &str) -> Result<Tensor>;

/// How the blocks begin; the projections are always fresh, as the student has none of their shape.
#[derive(Clone, Copy)]
pub enum Init<'a> {
    /// Normal weights, norms 1, biases 0.
    Fresh,
    /// The student's last blocks, in their order.
    Student(StudentWeights<'a>),
}

impl Recalibrator {
    /// A new Recalibrator: the same seed gives the same parameters, whatever the order they are asked in.
    ///
    /// # Errors
    /// Those of the student's weights, and when a shape of theirs differs.
    pub fn new(spec: &RecalibratorSpec, init: Init, seed: u64, device: &Device) -> Result<Recalibrator> {
        let mut vars = BTreeMap::new();
        for (i, (name, shape)) in spec.parameters()?.into_iter().enumerate() {
            let copied = match (init, block_parameter(&name)) {
                (Init::Student(get), Some((block, inner))) => Some(get(spec.num_blocks - 1 - block, inner)?),
                _ => None,
            };
            let tensor = match copied {
                Some(tensor) => tensor.detach().to_device(device)?.to_dtype(candle_core::DType::F32)?,
                None if spec.decoder.gemma.is_some() && is_block_norm(&name) => {
                    Tensor::zeros(shape, candle_core::DType::F32, device)?
                }
                None => fresh(&name, &shape, spec.init_std, seed, i as u64, device)?,
            };
            // A copy of its own: the student's weight must not change with it.
            vars.insert(name, Var::from_tensor(&tensor.copy()?)?);
        }
        Recalibrator::from_vars(spec, vars, device)
    }
}

/// `blocks.N.rest` as (N, rest).
fn block_parameter(name: &str) -> Option<(usize, &str)> {
    let (index, rest) = name.strip_prefix("blocks.")?.split_once('.')?;
    Some((index.parse().ok()?, rest))
}

/// Whether this is the weight of a norm inside a block; Gemma's are differences from 1.
fn is_block_norm(name: &str) -> bool {
    block_parameter(name).is_some_and(|(_, inner)| inner.ends_with("norm.weight"))
}

/// Norm weights 1, biases 0, all else normal; each parameter draws from a stream of its own.
pub(crate) fn fresh(
    name: &str,
    shape: &[usize],
    std: f64,
    seed: u64,
    stream: u64,
    device: &Device,
) -> Result<Tensor> {
    let count = shape.iter().product();
    let values = if name.ends_with(".bias") {
        vec![0f32; count]
    } else if name.ends_with("norm.weight") {
        vec![1f32; count]
    } else {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        normal(&mut rng, count, std)
    };
    Tensor::from_vec(values, shape, device)
}

/// Normal numbers by Box and Muller's transform.
fn normal(rng: &mut ChaCha8Rng, count: usize, std: f64) -> Vec<f32> {
    // (0, 1]: the logarithm of 0 never comes up.
    let mut uniform = move || (f64::from(rng.next_u32()) + 1.0) / (f64::from(u32::MAX) + 1.0);
    let mut values = Vec::with_capacity(count + 1);
    while values.len() < count {
        let (radius, angle) = ((-2.0 * uniform().ln()).sqrt() * std, std::f64::consts::TAU * uniform());
        values.extend([(radius * angle.cos()) as f32, (radius * angle.sin()) as f32]);
    }
    values.truncate(count);
    values
}
