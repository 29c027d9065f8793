//! Where a model under construction gets its weights: from a checkpoint, or from nowhere, to learn their shapes.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{DType, Device, Result, Tensor, Var};

use super::checkpoint::Checkpoint;
use super::gguf::Gguf;
use super::layers::{BlockWeights, LayerNorm, RmsNorm, Weight};
use super::params::{ParamSet, TrainableParts};
use super::registry::Family;
use super::stored::Stored;

/// Hands out weights by canonical name.
pub trait WeightSource: BlockWeights {
    /// Names a weight that checkpoints have and the forward pass never reads: it is neither loaded nor trained.
    ///
    /// # Errors
    /// When there is no such weight.
    fn pass_over(&mut self, name: &str, shape: &[usize]) -> Result<()>;

    /// What blocks and tables can be read from later, whenever they are needed; none where all weights are loaded at once.
    fn stored(&self) -> Option<Stored> {
        None
    }

    /// Where the weights go.
    fn device(&self) -> &Device;

    /// The compute dtype.
    fn dtype(&self) -> DType;
}

/// The weights whose names begin with a prefix, under the rest of their names.
pub struct Under<'a> {
    source: &'a mut dyn WeightSource,
    prefix: String,
}

impl<'a> Under<'a> {
    /// Those of `source` that begin with `prefix` and a dot.
    pub fn new(source: &'a mut dyn WeightSource, prefix: String) -> Self {
        Self { source, prefix }
    }
}

impl BlockWeights for Under<'_> {
    fn get(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.source.get(&format!("{}.{name}", self.prefix), shape)
    }

    fn matrix(&mut self, name: &str, shape: [usize; 2]) -> Result<Weight> {
        self.source.matrix(&format!("{}.{name}", self.prefix), shape)
    }

    fn has_qkv_apart(&self) -> bool {
        self.source.has_qkv_apart()
    }
}

/// The layer norm called `name`.
///
/// # Errors
/// Those of the source.
pub fn layer_norm(source: &mut dyn WeightSource, name: &str, width: usize, eps: f64) -> Result<LayerNorm> {
    let weight = source.get(&format!("{name}.weight"), &[width])?;
    Ok(LayerNorm::new(weight, source.get(&format!("{name}.bias"), &[width])?, eps))
}

/// The RMS norm called `name`.
///
/// # Errors
/// Those of the source.
pub fn rms_norm(source: &mut dyn WeightSource, name: &str, width: usize, eps: f64) -> Result<RmsNorm> {
    Ok(RmsNorm::new(source.get(&format!("{name}.weight"), &[width])?, eps))
}

/// Passes over all weights that are asked of it: what is built from it has shapes and no numbers.
pub struct PassedOver<'a>(pub &'a mut dyn WeightSource);

impl BlockWeights for PassedOver<'_> {
    fn get(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.0.pass_over(name, shape)?;
        Tensor::zeros((), DType::F32, &Device::Cpu)?.broadcast_as(shape)
    }
}

impl WeightSource for PassedOver<'_> {
    fn pass_over(&mut self, name: &str, shape: &[usize]) -> Result<()> {
        self.0.pass_over(name, shape)
    }

    fn device(&self) -> &Device {
        self.0.device()
    }

    fn dtype(&self) -> DType {
        self.0.dtype()
    }
}

/// Learns which weights a model asks for; gives zeros that take no memory.
#[derive(Default)]
pub struct Recorder {
    /// Shape by canonical name.
    pub shapes: BTreeMap<String, Vec<usize>>,
}

impl BlockWeights for Recorder {
    fn get(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.shapes.insert(name.to_owned(), shape.to_vec());
        Tensor::zeros((), DType::F32, &Device::Cpu)?.broadcast_as(shape)
    }
}

impl WeightSource for Recorder {
    fn pass_over(&mut self, name: &str, shape: &[usize]) -> Result<()> {
        self.shapes.insert(name.to_owned(), shape.to_vec());
        Ok(())
    }

    fn device(&self) -> &Device {
        &Device::Cpu
    }

    fn dtype(&self) -> DType {
        DType::F32
    }
}

/// Loads weights from a checkpoint: trainable ones as float32 Vars, frozen ones in the compute dtype.
pub struct Loader<'a> {
    /// Where the weights lie.
    pub checkpoint: &'a Checkpoint,
    /// Says which part a name belongs to.
    pub family: &'a Family,
    /// Which parts train.
    pub trainable: &'a TrainableParts,
    /// The head shares the input embedding, which then trains with either.
    pub tied: bool,
    /// Where the weights go.
    pub device: &'a Device,
    /// The compute dtype.
    pub dtype: DType,
    /// Quantised matrices that take the place of the checkpoint's.
    pub gguf: Option<&'a Gguf>,
    /// What has been loaded to train.
    pub params: ParamSet,
}

impl BlockWeights for Loader<'_> {
    fn get(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let entry = self.checkpoint.find(name, shape)?;
        let part = self.family.part_of(name);
        let trains = self.trainable.contains(part)
            || (self.tied
                && name == self.family.embedding
                && self.trainable.contains(super::ModelPart::Head));
        if !trains {
            return self.checkpoint.tensor(entry, self.dtype, self.device);
        }
        let var = Var::from_tensor(&self.checkpoint.tensor(entry, DType::F32, self.device)?)?;
        let tensor = var.as_tensor().clone();
        self.params.insert(name, var, part);
        Ok(tensor)
    }

    fn matrix(&mut self, name: &str, shape: [usize; 2]) -> Result<Weight> {
        match self.gguf.map(|gguf| gguf.matrix(name, shape, self.device)).transpose()?.flatten() {
            Some(matrix) => Ok(matrix),
            None => self.get(name, &shape).map(Weight::from),
        }
    }

    fn has_qkv_apart(&self) -> bool {
        self.gguf.is_some()
    }
}

impl WeightSource for Loader<'_> {
    fn pass_over(&mut self, name: &str, shape: &[usize]) -> Result<()> {
        self.checkpoint.find(name, shape).map(|_| ())
    }

    fn device(&self) -> &Device {
        self.device
    }

    fn dtype(&self) -> DType {
        self.dtype
    }
}

/// How the stored weights differ from the expected ones, one line each; empty when they fit.
///
/// A stored head is no surprise where it is `tied`: it equals the embedding.
pub fn differences(
    expected: &BTreeMap<String, Vec<usize>>,
    checkpoint: &Checkpoint,
    family: &Family,
    tied: bool,
) -> Vec<String> {
    let stored = checkpoint.entries();
    let mut problems = Vec::new();
    let missing: Vec<&str> =
        expected.keys().filter(|name| !stored.contains_key(*name)).map(String::as_str).collect();
    if !missing.is_empty() {
        problems.push(format!("missing weights: {}", listed(&missing)));
    }
    let expected_names: BTreeSet<&str> = expected.keys().map(String::as_str).collect();
    let unknown: Vec<&str> = stored
        .iter()
        .filter(|(name, _)| {
            let tied_head = tied && *name == family.head;
            !(expected_names.contains(name.as_str()) || family.is_ignored(name) || tied_head)
        })
        .map(|(_, entry)| entry.stored_name.as_str())
        .collect();
    if !unknown.is_empty() {
        problems.push(format!("unknown weights: {}", listed(&unknown)));
    }
    for (name, shape) in expected {
        match stored.get(name) {
            Some(entry) if &entry.shape != shape => problems.push(format!(
                "`{}` has shape {:?}, config.json asks for {shape:?}",
                entry.stored_name, entry.shape
            )),
            Some(entry) => problems.extend(entry.float_type().err().map(|error| error.to_string())),
            None => {}
        }
    }
    problems
}

/// Up to eight names, and how many more.
pub(super) fn listed(names: &[impl AsRef<str>]) -> String {
    const SHOWN: usize = 8;
    let shown =
        names.iter().take(SHOWN).map(|name| format!("`{}`", name.as_ref())).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
