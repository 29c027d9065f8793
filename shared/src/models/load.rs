//! From a folder to a model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};

use super::VlmBody;
use super::checkpoint::Checkpoint;
use super::error::ModelError;
use super::gguf::Gguf;
use super::head::Head;
use super::params::{ModelPart, ParamSet, TrainableParts};
use super::registry::{ModelConfig, config_of};
use super::stored::{Footprint, Stored};
use super::table::Table;
use super::weights::{Loader, Recorder, WeightSource, differences};

/// How to load a checkpoint.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Where the weights go.
    pub device: Device,
    /// The compute dtype: F32, BF16 or F16. Trainable weights are float32 whatever it is.
    pub dtype: DType,
    /// The parts whose weights become trainable.
    pub trainable: TrainableParts,
    /// A GGUF file whose quantised matrices take the place of the frozen language model's.
    pub gguf: Option<PathBuf>,
}

impl LoadOptions {
    /// Everything frozen, with the checkpoint's own weights.
    pub fn frozen(device: Device, dtype: DType) -> Self {
        Self { device, dtype, trainable: TrainableParts::none(), gguf: None }
    }
}

/// A loaded checkpoint.
pub struct Model {
    /// Vision encoder, projector and body.
    pub body: Box<dyn VlmBody>,
    /// Features to logits.
    pub head: Head,
    /// The weights that train, by hub name.
    pub params: ParamSet,
    /// What config.json resolves to.
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
    let Opened { config, checkpoint, tied, gguf, .. } = Opened::checked(dir, options)?;
    let mut loader = Loader {
        checkpoint: &checkpoint,
        family: config.family,
        trainable: &options.trainable,
        tied,
        device: &options.device,
        dtype: options.dtype,
        gguf: gguf.as_ref(),
        params: ParamSet::default(),
    };
    let (body, head) = build(&config, tied, &mut loader)?;
    let params = loader.params;
    Ok(Model { body, head, params, config, device: options.device.clone(), dtype: options.dtype })
}

/// Loads a checkpoint as [`load`] does, frozen, but for its blocks, its input embedding and its head: these stay in the
/// mapped files, and are read block by block and row by row whenever a forward pass comes to them.
///
/// # Errors
/// As [`load`].
pub fn load_streamed(dir: &Path, options: &LoadOptions) -> Result<(Model, Footprint), ModelError> {
    let Opened { config, checkpoint, tied, shapes, gguf } = Opened::checked(dir, options)?;
    let (device, dtype) = (&options.device, options.dtype);
    let mut source = Stored::new(checkpoint, gguf, device.clone(), dtype);
    let (body, head) = build(&config, tied, &mut source)?;
    let elements: usize = shapes.values().map(|shape| shape.iter().product::<usize>()).sum();
    let [text, vision] = body.streamed().map(Option::unwrap_or_default);
    // A patch embedding is a convolution, the only weight of so many axes: (E, C, [frames,] height, width).
    let kernel = shapes.values().find(|shape| shape.len() >= 4);
    let footprint = Footprint {
        total_bytes: elements * dtype.size_in_bytes(),
        resident_bytes: source.loaded_bytes(),
        number_bytes: dtype.size_in_bytes(),
        width: body.decoder().hidden_size,
        head_dim: body.decoder().head_dim,
        token_width: body.decoder().hidden_size * (1 + body.num_taps()),
        text,
        vision,
        patch_pixels: kernel.map_or(0, |shape| shape[1..].iter().product()),
        patch_width: kernel.map_or(0, |shape| shape[0]),
    };
    let params = ParamSet::default();
    Ok((Model { body, head, params, config, device: device.clone(), dtype }, footprint))
}

/// A checkpoint whose weights are those that its configuration asks for.
struct Opened {
    config: ModelConfig,
    checkpoint: Checkpoint,
    tied: bool,
    /// By canonical name.
    shapes: BTreeMap<String, Vec<usize>>,
    gguf: Option<Gguf>,
}

impl Opened {
    fn checked(dir: &Path, options: &LoadOptions) -> Result<Self, ModelError> {
        let config = config_of(dir)?;
        let checkpoint = Checkpoint::open(dir, config.family)?;
        let tied = is_tied(&config, &checkpoint);
        let shapes = expected(&config, tied)?;
        let problems = differences(&shapes, &checkpoint, config.family, tied);
        if !problems.is_empty() {
            return Err(ModelError::Weights { path: dir.to_owned(), problems });
        }
        let gguf = match &options.gguf {
            Some(path) if options.trainable.contains(ModelPart::Body) => {
                let reason = "quantised weights cannot be trained";
                return Err(ModelError::invalid(path, reason, "train the checkpoint's own weights"));
            }
            Some(path) => Some(Gguf::open(path, &config, &checkpoint)?),
            None => None,
        };
        Ok(Self { config, checkpoint, tied, shapes, gguf })
    }
}

/// Body and head from a source.
fn build(
    config: &ModelConfig,
    tied: bool,
    source: &mut dyn WeightSource,
) -> candle_core::Result<(Box<dyn VlmBody>, Head)> {
    let body = config.config.build(source)?;
    let table = match tied {
        true => body.embedding().clone(),
        false => Table::build(config.family.head, body.embedding().shape(), source)?,
    };
    Ok((body, Head { table, tied }))
}

/// Whether the head is the input embedding. A checkpoint that stores a different head is not tied whatever its
/// config.json says: transformers 5 reads it so, because InternVL's class default is tied.
pub(super) fn is_tied(config: &ModelConfig, checkpoint: &Checkpoint) -> bool {
    let stored = |name| checkpoint.entries().get(name);
    config.config.decoder().tie_word_embeddings
        && match (stored(config.family.embedding), stored(config.family.head)) {
            (Some(embedding), Some(head)) => {
                let are_equal = checkpoint.bytes(embedding) == checkpoint.bytes(head);
                [embedding, head].iter().for_each(|entry| checkpoint.release(entry));
                are_equal
            }
            _ => true,
        }
}

fn expected(config: &ModelConfig, tied: bool) -> candle_core::Result<BTreeMap<String, Vec<usize>>> {
    let mut recorder = Recorder::default();
    build(config, tied, &mut recorder)?;
    Ok(recorder.shapes)
}

/// The shape of every weight that a configuration asks for, by canonical name.
///
/// # Errors
/// When the configuration contradicts itself.
pub fn expected_weights(config: &ModelConfig) -> Result<BTreeMap<String, Vec<usize>>, ModelError> {
    Ok(expected(config, config.config.decoder().tie_word_embeddings)?)
}
