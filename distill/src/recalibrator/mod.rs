//! The Recalibrator: it turns the student's question features and the teacher's answer features into features that the
//! teacher's head reads (GenRecal, arXiv 2506.15681, section 3.1).
//!
//! ```text
//! student features of the question (d_s) ---------------+
//!                                                        +--> decoder blocks --> proj_post --> LayerNorm --> (d_l)
//! teacher features of the answer (d_l) --> proj_pre -----+        (d_s)         d_s -> d_l
//! ```
//!
//! The blocks have the student decoder's own sizes, a causal mask and a rotary embedding of their own, one-dimensional,
//! with positions 0..n-1 assigned anew over the concatenation. The regularisation pass takes the teacher's features for
//! the question too. [`plan`] decides which row goes where; [`Recalibrator`] only follows it.
//!
//! Where the paper is silent, a key of [`RecalibratorSpec`] decides.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result, Tensor, Var, bail};
use serde::{Deserialize, Serialize};
use shared::models::DecoderConfig;
use shared::models::layers::{BlockWeights, DecoderLayer, LayerNorm, Linear, Recomputed, Rope, recomputed};

mod init;
pub mod plan;
mod storage;

pub(crate) use init::fresh;
pub use init::{Init, StudentWeights};
pub use plan::{Plan, SampleStarts, SampleTurns, Source};

/// Where the Recalibrator's last norm stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NormPlace {
    /// Behind the projection to the teacher's width, and of that width.
    After,
    /// Before it, of the student's width.
    Before,
    /// There is none.
    None,
}

/// Shape and choices of a Recalibrator.
#[derive(Clone, Debug, PartialEq)]
pub struct RecalibratorSpec {
    /// The student's decoder, whose sizes the blocks take; `num_layers` is not read.
    pub decoder: DecoderConfig,
    /// d_l, the width of the teacher's features.
    pub teacher_width: usize,
    /// Number of decoder blocks; the paper uses 2 (1/2/5/10/20 blocks score 74.9/76.4/76.4/76.6/76.7).
    pub num_blocks: usize,
    /// Positions 0..n-1 over the concatenation; off, each row keeps its position in its own sequence (the paper's
    /// ablation: 70.5 against 76.4).
    pub new_positions: bool,
    /// Biases on the two projections; off, as the paper calls each one linear layer and counts its matrix.
    pub projection_bias: bool,
    /// Where the last norm stands; the paper names it without its place.
    pub norm: NormPlace,
    /// Epsilon of the last norm.
    pub norm_eps: f64,
    /// Standard deviation of fresh weights.
    pub init_std: f64,
}

impl RecalibratorSpec {
    /// The defaults for a student decoder and a teacher width.
    pub fn new(decoder: DecoderConfig, teacher_width: usize) -> RecalibratorSpec {
        RecalibratorSpec {
            decoder,
            teacher_width,
            num_blocks: 2,
            new_positions: true,
            projection_bias: false,
            norm: NormPlace::After,
            norm_eps: 1e-5,
            init_std: 0.02,
        }
    }

    /// Name and shape of every parameter, in the order of names.
    pub fn parameters(&self) -> Result<BTreeMap<String, Vec<usize>>> {
        let mut shapes = BTreeMap::new();
        // Tensors of no memory: only names and shapes are wanted.
        let nothing = Tensor::zeros(1, DType::F32, &Device::Cpu)?;
        self.build(&mut |name: &str, shape: &[usize]| {
            shapes.insert(name.to_string(), shape.to_vec());
            Ok(nothing.clone())
        })?;
        Ok(shapes)
    }

    /// Number of parameters.
    pub fn num_parameters(&self) -> Result<usize> {
        Ok(self.parameters()?.values().map(|shape| shape.iter().product::<usize>()).sum())
    }

    /// The layers: the one place that names the parameters.
    fn build(&self, weights: &mut impl BlockWeights) -> Result<Layers> {
        let (s, l) = (self.decoder.hidden_size, self.teacher_width);
        let bias = self.projection_bias;
        let proj_pre = weights.linear("proj_pre", [s, l], bias)?;
        let proj_post = weights.linear("proj_post", [l, s], bias)?;
        let mut blocks = Vec::with_capacity(self.num_blocks);
        for i in 0..self.num_blocks {
            let mut get_block =
                |name: &str, shape: &[usize]| weights.get(&format!("blocks.{i}.{name}"), shape);
            blocks.push(DecoderLayer::new(&self.decoder, &mut get_block)?);
        }
        let width = match self.norm {
            NormPlace::After => Some(l),
            NormPlace::Before => Some(s),
            NormPlace::None => None,
        };
        let mut new_norm = |width: usize| -> Result<LayerNorm> {
            Ok(LayerNorm::new(
                weights.get("norm.weight", &[width])?,
                weights.get("norm.bias", &[width])?,
                self.norm_eps,
            ))
        };
        let norm = width.map(&mut new_norm).transpose()?;
        Ok(Layers { proj_pre, blocks, proj_post, norm })
    }
}

#[derive(Clone, Debug)]
struct Layers {
    proj_pre: Linear,
    blocks: Vec<DecoderLayer>,
    proj_post: Linear,
    norm: Option<LayerNorm>,
}

/// A Recalibrator with its parameters: float32 masters, cast to the features' type in the forward pass.
#[derive(Clone, Debug)]
pub struct Recalibrator {
    spec: RecalibratorSpec,
    layers: Layers,
    vars: BTreeMap<String, Var>,
    device: Device,
    recompute: Option<Recomputed>,
}

impl Recalibrator {
    /// Shape and choices.
    pub fn spec(&self) -> &RecalibratorSpec {
        &self.spec
    }

    /// The parameters in the order of names; `proj_pre.weight`, `blocks.0.self_attn.q_proj.weight`, ...
    pub fn vars(&self) -> &BTreeMap<String, Var> {
        &self.vars
    }

    /// The same parameters as constants: used, not trained, with no gradient computed for them.
    ///
    /// # Errors
    /// When the device fails.
    pub fn frozen(&self) -> Result<Recalibrator> {
        let layers =
            self.spec.build(&mut |name: &str, _: &[usize]| Ok(self.vars[name].as_detached_tensor()))?;
        Ok(Recalibrator { layers, ..self.clone() })
    }

    /// From now on blocks keep their input alone and run again in the backward pass, which leaves their weights'
    /// gradients in `gradients`.
    pub fn recompute(&mut self, gradients: Recomputed) {
        self.recompute = Some(gradients);
    }

    /// A Recalibrator over given parameters.
    fn from_vars(
        spec: &RecalibratorSpec,
        vars: BTreeMap<String, Var>,
        device: &Device,
    ) -> Result<Recalibrator> {
        let layers = spec.build(&mut |name: &str, shape: &[usize]| match vars.get(name) {
            Some(var) if var.dims() == shape => Ok(var.as_tensor().clone()),
            Some(var) => bail!("recalibrator parameter `{name}`: expected {shape:?}, got {:?}", var.dims()),
            None => bail!("recalibrator parameter `{name}` is missing"),
        })?;
        Ok(Recalibrator { spec: spec.clone(), layers, vars, device: device.clone(), recompute: None })
    }

    /// Features of the scored rows, (scored, d_l), in the order of `plan.scored`; the teacher's head follows.
    ///
    /// `student` (rows, d_s) are packed student features: the rows that the plan's student runs name; `None` in the
    /// regularisation pass. `teacher` (rows, d_l) are packed teacher features.
    ///
    /// # Errors
    /// When a row is out of range, a width differs or the device fails.
    pub fn forward(&self, student: Option<&Tensor>, teacher: &Tensor, plan: &Plan) -> Result<Tensor> {
        let x = self.assemble(student, teacher, plan)?;
        let positions = if self.spec.new_positions { plan.new_positions() } else { plan.old_positions() };
        let decoder = &self.spec.decoder;
        let rope = Rope::new(&positions, decoder.head_dim, decoder.rope_theta, &self.device)?;
        let mut x = x;
        for block in &self.layers.blocks {
            x = match &self.recompute {
                Some(gradients) => recomputed(block, &x, &rope, None, &plan.cu_seqlens, gradients)?,
                None => block.forward(&x, &rope, &plan.cu_seqlens, None)?,
            };
        }
        // Only scored rows go on: the projection to the teacher's width is the widest product here.
        let scored = Tensor::new(plan.scored.as_slice(), &self.device)?;
        let x = x.index_select(&scored, 0)?;
        let Layers { proj_post, norm, .. } = &self.layers;
        match (norm, self.spec.norm) {
            (Some(norm), NormPlace::Before) => proj_post.forward(&norm.forward(&x)?),
            (Some(norm), _) => norm.forward(&proj_post.forward(&x)?),
            (None, _) => proj_post.forward(&x),
        }
    }

    /// The blocks' input, (T, d_s): the plan's rows, the teacher's through proj_pre.
    fn assemble(&self, student: Option<&Tensor>, teacher: &Tensor, plan: &Plan) -> Result<Tensor> {
        let (rows, order) = plan.gather(student.map_or(Ok(0), |s| s.dim(0))?);
        let order = Tensor::new(order.as_slice(), &self.device)?;
        if let (Some(student), true) = (student, rows.is_empty()) {
            return student.index_select(&order, 0);
        }
        let teacher = teacher.index_select(&Tensor::new(rows.as_slice(), &self.device)?, 0)?;
        let teacher = self.layers.proj_pre.forward(&teacher)?;
        let sources = match student {
            Some(student) => Tensor::cat(&[student, &teacher], 0)?,
            None => teacher,
        };
        sources.index_select(&order, 0)
    }
}

#[cfg(test)]
mod tests;
