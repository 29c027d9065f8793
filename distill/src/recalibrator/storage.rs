//! Saving and loading a Recalibrator as safetensors, under its own parameter names.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Result, Tensor, Var, bail};

use super::{Recalibrator, RecalibratorSpec};

impl Recalibrator {
    /// Writes the parameters, float32.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let tensors: HashMap<String, Tensor> =
            self.vars.iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect();
        candle_core::safetensors::save(&tensors, path)
    }

    /// Reads what [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// When the file cannot be read, or its names or shapes are not those of `spec`.
    pub fn load(spec: &RecalibratorSpec, path: &Path, device: &Device) -> Result<Recalibrator> {
        let tensors = candle_core::safetensors::load(path, device)?;
        Recalibrator::from_tensors(spec, tensors, device)
    }

    /// A Recalibrator of given values, such as a checkpoint's.
    ///
    /// # Errors
    /// When a name is missing or unknown, or a shape differs.
    pub fn from_tensors(
        spec: &RecalibratorSpec,
        tensors: impl IntoIterator<Item = (String, Tensor)>,
        device: &Device,
    ) -> Result<Recalibrator> {
        let known = spec.parameters()?;
        let mut vars = BTreeMap::new();
        for (name, tensor) in tensors {
            if !known.contains_key(&name) {
                bail!("recalibrator parameter `{name}` is unknown")
            }
            let tensor = tensor.to_device(device)?.to_dtype(DType::F32)?.copy()?;
            vars.insert(name, Var::from_tensor(&tensor)?);
        }
        Recalibrator::from_vars(spec, vars, device)
    }
}
