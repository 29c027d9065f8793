//! LoRA on a student: adapters beside the body's frozen linear layers while a stage trains, merged into the weights
//! when it ends.
//!
//! A trained pair is called `<layer>.lora_A.weight` and `<layer>.lora_B.weight`, as in peft. B begins at zero, so the first
//! step sees the student as it was; A is normal with the variance 1 / (3 I) that the authors' code has for I inputs.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Tensor, Var};
use shared::models::layers::Adapter;
use shared::models::{Model, ModelPart, Replacement};
use shared::wildcard;

use crate::config::LoraConfig;
use crate::recalibrator::fresh;

const A: &str = ".lora_A.weight";
const B: &str = ".lora_B.weight";
const WEIGHT: &str = ".weight";
/// Streams of random numbers below are a Recalibrator's.
const FIRST_STREAM: u64 = 1 << 32;

/// Puts adapters beside the layers that the keys name, and their matrices among the model's trained weights. The same
/// `seed` gives the same matrices.
///
/// # Errors
/// When a pattern names no layer of the body, or the device fails.
pub fn adapt(model: &mut Model, keys: &LoraConfig, seed: u64) -> Result<()> {
    check(model, keys)?;
    let device = model.device.clone();
    for (stream, (name, linear)) in model.body.linears_mut().into_iter().enumerate() {
        if keys.linears.iter().any(|pattern| is_meant(pattern, &name)) {
            let [outputs, inputs] = *linear.weight().dims() else { bail!("`{name}` has no matrix") };
            let std = (3.0 * inputs as f64).sqrt().recip();
            let a = fresh(A, &[keys.rank, inputs], std, seed, FIRST_STREAM + stream as u64, &device)?;
            let (a, b) = (Var::from_tensor(&a)?, Var::zeros((outputs, keys.rank), DType::F32, &device)?);
            linear.adapt(Adapter {
                a: a.as_tensor().clone(),
                b: b.as_tensor().clone(),
                scale: keys.scale(),
            })?;
            model.params.insert(format!("{name}{A}"), a, ModelPart::Body);
            model.params.insert(format!("{name}{B}"), b, ModelPart::Body);
        }
    }
    Ok(())
}

/// Refuses keys of which a pattern names no layer of this student's body.
///
/// # Errors
/// Naming the pattern, and layers that there are.
pub fn check(model: &mut Model, keys: &LoraConfig) -> Result<()> {
    let names: Vec<String> = model.body.linears_mut().into_iter().map(|(name, _)| name).collect();
    let is_unmatched = |pattern: &&String| !names.iter().any(|name| is_meant(pattern, name));
    match keys.linears.iter().find(is_unmatched) {
        None => Ok(()),
        Some(pattern) => bail!(
            "`lora.linears` names `{pattern}`, and no linear layer of the student's body is called so\n\
             hint: its first block has {}",
            first_block(&names).join(", ")
        ),
    }
}

fn is_meant(pattern: &str, name: &str) -> bool {
    wildcard::matches(&format!("*{pattern}"), name)
}

/// The names of the first block's layers, for a hint.
fn first_block(names: &[String]) -> Vec<&str> {
    let block = |name: &str| name.rsplitn(3, '.').last().map(str::to_owned);
    let first = names.first().and_then(|name| block(name));
    names.iter().filter(|name| block(name) == first).map(String::as_str).collect()
}

/// What takes the place of a checkout's weights, from trained ones by canonical name: pairs of matrices become additions.
///
/// # Errors
/// When a matrix is there without the other, or there is no `lora` to say how they are scaled.
pub fn replacements(
    trained: impl IntoIterator<Item = (String, Tensor)>,
    lora: Option<&LoraConfig>,
) -> Result<BTreeMap<String, Replacement>> {
    let mut trained: BTreeMap<String, Tensor> = trained.into_iter().collect();
    let layers: Vec<String> =
        trained.keys().filter_map(|name| Some(name.strip_suffix(A)?.to_owned())).collect();
    let mut replaced = BTreeMap::new();
    for layer in layers {
        let scale = lora.context("matrices of LoRA in a run without it")?.scale();
        let mut take = |end: &str| trained.remove(&format!("{layer}{end}"));
        let (Some(a), Some(b)) = (take(A), take(B)) else { bail!("`{layer}` has half an adapter") };
        replaced.insert(format!("{layer}{WEIGHT}"), Replacement::Added(Adapter { a, b, scale }));
    }
    replaced.extend(trained.into_iter().map(|(name, tensor)| (name, Replacement::Weight(tensor))));
    Ok(replaced)
}
