//! The linear layer, trainable or frozen.

use std::sync::Arc;

use candle_core::quantized::QTensor;
use candle_core::{DType, Device, Result, Tensor, bail};

use super::cpu::linear::{Frozen, Trained, TrainedWithBias};
use super::cpu::quantised::{Quantised, dequantised};
use super::{Adapter, Kernels, frozen, kernels, plain};

/// What a block is built from: weights by name. A closure from name and shape to weight is one.
pub trait BlockWeights {
    /// The weight of this name and shape.
    ///
    /// # Errors
    /// When there is no such weight or the device fails.
    fn get(&mut self, name: &str, shape: &[usize]) -> Result<Tensor>;

    /// The weight of a linear layer, in whatever form there is of it.
    ///
    /// # Errors
    /// Those of [`get`](Self::get).
    fn matrix(&mut self, name: &str, shape: [usize; 2]) -> Result<Weight> {
        self.get(name, &shape).map(Weight::from)
    }

    /// Whether queries, keys and values have a matrix each here, though the checkpoint has one for all of them.
    fn has_qkv_apart(&self) -> bool {
        false
    }

    /// The linear layer called `name`, of `shape` (O, I).
    ///
    /// # Errors
    /// Those of [`get`](Self::get).
    fn linear(&mut self, name: &str, shape: [usize; 2], bias: bool) -> Result<Linear> {
        let weight = self.matrix(&format!("{name}.weight"), shape)?;
        let bias = bias.then(|| self.get(&format!("{name}.bias"), &shape[..1])).transpose()?;
        Ok(Linear::new(weight, bias))
    }
}

impl<F: FnMut(&str, &[usize]) -> Result<Tensor>> BlockWeights for F {
    fn get(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self(name, shape)
    }
}

/// The matrix of a linear layer, (O, I).
#[derive(Clone, Debug)]
pub enum Weight {
    /// Floats, trainable or frozen.
    Plain(Tensor),
    /// Blocks of integers and their scales, frozen, made floats of where they are used.
    Quantised(Arc<QTensor>),
}

impl From<Tensor> for Weight {
    fn from(tensor: Tensor) -> Self {
        Self::Plain(tensor)
    }
}

impl From<QTensor> for Weight {
    fn from(tensor: QTensor) -> Self {
        Self::Quantised(Arc::new(tensor))
    }
}

impl Weight {
    /// O and I.
    pub fn dims(&self) -> &[usize] {
        match self {
            Self::Plain(tensor) => tensor.dims(),
            Self::Quantised(tensor) => tensor.shape().dims(),
        }
    }

    /// Floats of this type, (O, I).
    ///
    /// # Errors
    /// When the device fails.
    pub fn to_dtype(&self, dtype: DType) -> Result<Tensor> {
        match self {
            Self::Plain(tensor) => tensor.to_dtype(dtype),
            Self::Quantised(tensor) => match tensor.device() {
                Device::Cpu => dequantised(tensor)?.to_dtype(dtype),
                device => tensor.dequantize(&device)?.to_dtype(dtype),
            },
        }
    }
}

/// y = x W^T + b. A weight that tracks gradients (a `Var`) is trained; any other is frozen, and may have an adapter.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
    adapter: Option<Adapter>,
}

impl Linear {
    /// A layer of `weight` (O, I) and `bias` (O).
    pub fn new(weight: impl Into<Weight>, bias: Option<Tensor>) -> Linear {
        Linear { weight: weight.into(), bias, adapter: None }
    }

    /// The weight as given, (O, I).
    pub fn weight(&self) -> &Weight {
        &self.weight
    }

    /// The bias as given, (O).
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// From now on the layer learns through `adapter`, and not through its weight.
    ///
    /// # Errors
    /// When the weight is trained, or the adapter is of another shape.
    pub fn adapt(&mut self, adapter: Adapter) -> Result<()> {
        let trains = matches!(&self.weight, Weight::Plain(weight) if weight.track_op());
        if trains || self.bias.as_ref().is_some_and(Tensor::track_op) {
            bail!("an adapter beside a weight that trains")
        }
        let shape = adapter.shape()?;
        if self.weight.dims() != shape {
            bail!("an adapter of {shape:?} beside a weight {:?}", self.weight.dims())
        }
        self.adapter = Some(adapter);
        Ok(())
    }

    /// N layers of O / N outputs each, which make what this one makes; none where its weight trains, is quantised or has an adapter.
    ///
    /// # Errors
    /// When N does not divide O.
    #[cfg(any(test, feature = "cuda"))]
    pub(super) fn apart<const N: usize>(&self) -> Result<Option<[Linear; N]>> {
        let (Weight::Plain(weight), None) = (&self.weight, &self.adapter) else { return Ok(None) };
        if weight.track_op() || self.bias.as_ref().is_some_and(Tensor::track_op) {
            return Ok(None);
        }
        let outputs = weight.dim(0)? / N;
        let part = |i: usize| -> Result<Linear> {
            let of = |tensor: &Tensor| tensor.narrow(0, i * outputs, outputs);
            Ok(Linear::new(of(weight)?, self.bias.as_ref().map(of).transpose()?))
        };
        let parts = (0..N).map(part).collect::<Result<Vec<_>>>()?;
        Ok(parts.try_into().ok())
    }

    /// x (.., I) -> (.., O), in x's type: master weights are cast here.
    ///
    /// # Errors
    /// When the widths differ or the device fails.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match &self.adapter {
            Some(adapter) => adapter.forward(x, &self.weight, self.bias.as_ref()),
            None => self.unadapted(x),
        }
    }

    fn unadapted(&self, x: &Tensor) -> Result<Tensor> {
        let bias = self.bias.as_ref().map(|bias| bias.to_dtype(x.dtype())).transpose()?;
        if let (Weight::Quantised(weight), Kernels::Cpu) = (&self.weight, kernels(&[x])) {
            let op = Quantised { weight: Arc::clone(weight), bias };
            return x.contiguous()?.apply_op1(op);
        }
        let weight = self.weight.to_dtype(x.dtype())?;
        let operands: Vec<&Tensor> = [x, &weight].into_iter().chain(&bias).collect();
        let is_frozen = !weight.track_op() && !bias.as_ref().is_some_and(Tensor::track_op);
        if kernels(&operands) != Kernels::Cpu {
            let linear = if is_frozen { frozen::linear } else { plain::linear };
            return linear(x, &weight, bias.as_ref());
        }
        let (x, weight) = (x.contiguous()?, weight.contiguous()?);
        match bias {
            bias if is_frozen => x.apply_op1(Frozen { weight, bias }),
            None => x.apply_op2(&weight, Trained),
            Some(bias) => x.apply_op3(&weight, &bias, TrainedWithBias),
        }
    }
}
