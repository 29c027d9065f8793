//! The teacher's head: kept as it lies in the checkpoint, and used to test that features mean what the cache says.

use std::path::Path;

use anyhow::{Result, bail};
use half::{bf16, f16};
use rayon::prelude::*;
use shared::cache::{FeatureDtype, HeadTensor};
use shared::models::{Checkpoint, Entry, ModelConfig};

/// Name of the head in the cache, whatever the checkpoint calls it.
const HEAD_NAME: &str = "lm_head.weight";

/// Bytes of the head that are read together.
const READ_AT_ONCE: usize = 16 << 20;

/// The head of a checkpoint, mapped: (V, D) in the type it was stored in.
pub struct StoredHead {
    checkpoint: Checkpoint,
    stored_name: String,
    dtype: FeatureDtype,
    shape: Vec<usize>,
}

impl StoredHead {
    /// Finds the head; a checkpoint that stores none has it tied to the input embedding.
    ///
    /// # Errors
    /// When the checkpoint cannot be read, or stores neither tensor as floats.
    pub fn open(dir: &Path, config: &ModelConfig) -> Result<StoredHead> {
        let checkpoint = Checkpoint::open(dir, config.family)?;
        let names = [config.family.head, config.family.embedding];
        let found = names.into_iter().find_map(|name| Some((name, checkpoint.entries().get(name)?)));
        let Some((name, entry)) = found else {
            bail!(
                "`{}` has neither `{}` nor `{}`\nhint: is the download complete?",
                dir.display(),
                names[0],
                names[1]
            );
        };
        let dtype = match format!("{:?}", entry.dtype).as_str() {
            "F32" => FeatureDtype::F32,
            "F16" => FeatureDtype::F16,
            "BF16" => FeatureDtype::Bf16,
            other => {
                bail!("`{name}` is stored as {other}\nhint: use a checkpoint with f32, bf16 or f16 weights")
            }
        };
        let (stored_name, shape) = (name.to_owned(), entry.shape.clone());
        Ok(StoredHead { checkpoint, stored_name, dtype, shape })
    }

    /// The type of the weights.
    pub fn dtype(&self) -> FeatureDtype {
        self.dtype
    }

    /// The tensor for the cache.
    pub fn tensor(&self) -> HeadTensor<'_> {
        HeadTensor {
            name: HEAD_NAME.to_owned(),
            dtype: self.dtype,
            shape: self.shape.clone(),
            bytes: self.bytes(),
        }
    }

    fn entry(&self) -> &Entry {
        &self.checkpoint.entries()[&self.stored_name]
    }

    fn bytes(&self) -> &[u8] {
        self.checkpoint.bytes(self.entry())
    }

    /// Logits (V) of one feature (D), in plain double precision: it shares no code with the models.
    pub fn logits(&self, feature: &[f32]) -> Vec<f64> {
        let row_bytes = (feature.len() * self.dtype.size()).max(1);
        let dot = |row: &[u8]| {
            values(row, self.dtype).zip(feature).map(|(w, x)| f64::from(w) * f64::from(*x)).sum::<f64>()
        };
        let mut logits = Vec::with_capacity(self.shape[0]);
        let rows_at_once = (READ_AT_ONCE / row_bytes).max(1);
        self.checkpoint.for_each_piece(self.entry(), rows_at_once * row_bytes, |rows| {
            logits.par_extend(rows.par_chunks_exact(row_bytes).map(dot));
        });
        logits
    }

    /// Gives the pages of the head back to the system; reading them again only costs time.
    pub fn release(&self) {
        self.checkpoint.release(self.entry());
    }
}

/// Little-endian floats of any stored type, widened.
pub fn values(bytes: &[u8], dtype: FeatureDtype) -> impl Iterator<Item = f32> + '_ {
    let size = dtype.size();
    bytes.chunks_exact(size).map(move |b| match dtype {
        FeatureDtype::F32 => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        FeatureDtype::F16 => f16::from_le_bytes([b[0], b[1]]).to_f32(),
        FeatureDtype::Bf16 => bf16::from_le_bytes([b[0], b[1]]).to_f32(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_values_widen_exactly() {
        // 1.5 is 0x3fc00000, 0x3e00 and 0x3fc0 in IEEE single, half and bfloat16.
        let single: Vec<f32> = values(&[0, 0, 0xc0, 0x3f], FeatureDtype::F32).collect();
        let half: Vec<f32> = values(&[0, 0x3e], FeatureDtype::F16).collect();
        let brain: Vec<f32> = values(&[0xc0, 0x3f], FeatureDtype::Bf16).collect();
        assert_eq!([single, half, brain].concat(), [1.5; 3]);
    }
}
