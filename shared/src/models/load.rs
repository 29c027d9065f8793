//! From a folder to a model.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device};

use super::VlmBody;
use super::checkpoint::Checkpoint;
use super::error::ModelError;
use super::head::Head;
use super::layers::BlockWeights;
use super::params::{ParamSet, TrainableParts};
use super::registry::{ModelConfig, config_of};
use super::weights::{Loader, Recorder, differences};

/// How to load a checkpoint.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Where the weights go.
    pub device: Device,
    /// The compute dtype: F32, BF16 or F16. Trainable weights are float32 whatever it is.
    pub dtype: DType,
    /// What trains.
    pub trainable: TrainableParts,
}

/// A loaded checkpoint.
pub struct Model {
    /// Vision encoder, projector and body.
    pub body: Box<dyn VlmBody>,
    /// Features to logits.
    pub head: Head,
    /// What trains.
    pub params: ParamSet,
    /// As resolved from config.json.
    pub config: ModelConfig,
    /// Where the weights are.
    pub device: Device,
    /// The compute dtype.
    pub dtype: DType,
}

/// Loads a hub-style checkpoint: config.json and safetensors, single or sharded, in any of the namings that
/// transformers reads.
///
/// # Errors
/// When a file is missing or damaged, the architecture is unknown, or a weight is missing, unknown or misshapen;
/// all such weights are named in one error.
pub fn load(dir: &Path, options: &LoadOptions) -> Result<Model, ModelError> {
    let config = config_of(dir)?;
    let checkpoint = Checkpoint::open(dir, config.family)?;
    let tied = is_tied(&config, &checkpoint);
    let problems = differences(&expected(&config, tied)?, &checkpoint, config.family, tied);
    if !problems.is_empty() {
        return Err(ModelError::Weights { path: dir.to_owned(), problems });
    }
    let mut loader = Loader {
        checkpoint: &checkpoint,
        family: config.family,
        trainable: &options.trainable,
        tied,
        device: &options.device,
        dtype: options.dtype,
        params: ParamSet::default(),
    };
    let body = config.config.build(&mut loader)?;
    let weight = match tied {
        true => body.embedding().clone(),
        false => loader.get(config.family.head, body.embedding().dims())?,
    };
    let params = loader.params;
    let head = Head { weight, tied };
    Ok(Model { body, head, params, config, device: options.device.clone(), dtype: options.dtype })
}

/// Whether the head is the input embedding. A checkpoint that stores a different head is not tied whatever its
/// config.json says: transformers 5 reads it so, because InternVL's class default is tied.
pub(super) fn is_tied(config: &ModelConfig, checkpoint: &Checkpoint) -> bool {
    let stored = |name| checkpoint.entries().get(name);
    config.config.decoder().tie_word_embeddings
        && match (stored(config.family.embedding), stored(config.family.head)) {
            (Some(embedding), Some(head)) => checkpoint.bytes(embedding) == checkpoint.bytes(head),
            _ => true,
        }
}

fn expected(config: &ModelConfig, tied: bool) -> candle_core::Result<BTreeMap<String, Vec<usize>>> {
    let mut recorder = Recorder::default();
    let body = config.config.build(&mut recorder)?;
    if !tied {
        recorder.get(config.family.head, body.embedding().dims())?;
    }
    Ok(recorder.shapes)
}

/// The shape of every weight that a configuration asks for, by canonical name.
///
/// # Errors
/// When the configuration contradicts itself.
pub fn expected_weights(config: &ModelConfig) -> Result<BTreeMap<String, Vec<usize>>, ModelError> {
    Ok(expected(config, config.config.decoder().tie_word_embeddings)?)
}
