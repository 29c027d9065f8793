//! `head.safetensors`: the teacher's head as it was, so that logits can be rebuilt from features.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use bytes::Bytes;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use super::error::{CacheError, IoContext, Result};
use super::sample::FeatureDtype;
use super::source::{Access, FileBytes};

/// One tensor of the head, as it lies in memory.
#[derive(Clone, Debug)]
pub struct HeadTensor<'a> {
    /// `lm_head.weight`, of shape (V, D); further tensors keep the checkpoint's names.
    pub name: String,
    /// The checkpoint's own number type.
    pub dtype: FeatureDtype,
    /// The tensor's shape.
    pub shape: Vec<usize>,
    /// Its values, little-endian, row by row.
    pub bytes: &'a [u8],
}

/// Writes the head, without holding it a second time in memory, and syncs it.
///
/// The crate's own way to a file goes through another one of a random name, which nobody but its owner may read and a killed
/// process leaves behind.
pub(super) fn write_head(path: &Path, head: &[HeadTensor]) -> Result<()> {
    let mut head: Vec<(Dtype, &HeadTensor)> =
        head.iter().map(|tensor| (stored_type(tensor.dtype), tensor)).collect();
    // As every writer of the format orders them: by alignment, then by name.
    head.sort_by(|(a, first), (b, second)| b.cmp(a).then(first.name.cmp(&second.name)));
    let mut end = 0;
    let place = |&(dtype, tensor): &(Dtype, &HeadTensor)| {
        let start = end;
        end += tensor.bytes.len();
        let info = TensorInfo { dtype, shape: tensor.shape.clone(), data_offsets: (start, end) };
        (tensor.name.clone(), info)
    };
    let places = head.iter().map(place).collect();
    let about = [("format".to_string(), "pt".to_string())].into();
    let encode = |reason: String| CacheError::Encode { path: path.into(), reason };
    let header = Metadata::new(Some(about), places).map_err(|error| encode(error.to_string()))?;
    let mut header = serde_json::to_vec(&header).map_err(|error| encode(error.to_string()))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let write = || -> io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        head.iter().try_for_each(|(_, tensor)| file.write_all(tensor.bytes))?;
        file.sync_all()
    };
    write().at("write", path)
}

/// The teacher's head, mapped, or in memory where files are read plainly.
pub struct HeadFile {
    bytes: Bytes,
}

impl HeadFile {
    pub(super) fn open(path: &Path, access: Access) -> Result<Self> {
        let file = FileBytes::open(path, access)?;
        let head = Self { bytes: file.get(0..file.len()).at("read", path)? };
        head.parse().map_err(|error| CacheError::damaged(path, None, error))?;
        Ok(head)
    }

    /// The file's bytes, a whole safetensors file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The tensors, as views into the map. Usually one, `lm_head.weight` of shape (V, D).
    ///
    /// # Errors
    /// Only if the file has changed since it was opened.
    pub fn tensors(&self) -> Result<SafeTensors<'_>> {
        self.parse().map_err(|error| CacheError::damaged(Path::new(super::HEAD), None, error))
    }

    /// The tensors for another cache of the same teacher.
    ///
    /// # Errors
    /// If one of them is no tensor of floats that a cache stores.
    pub fn to_write(&self) -> Result<Vec<HeadTensor<'_>>> {
        let mut tensors = Vec::new();
        for (name, view) in self.tensors()?.iter() {
            let Some(dtype) = float_type(view.dtype()) else {
                let reason = format!("`{name}` is stored as {:?}", view.dtype());
                return Err(CacheError::damaged(Path::new(super::HEAD), None, reason));
            };
            tensors.push(HeadTensor {
                name: name.to_owned(),
                dtype,
                shape: view.shape().to_vec(),
                bytes: view.data(),
            });
        }
        Ok(tensors)
    }

    fn parse(&self) -> std::result::Result<SafeTensors<'_>, safetensors::SafeTensorError> {
        SafeTensors::deserialize(&self.bytes)
    }
}

fn stored_type(dtype: FeatureDtype) -> Dtype {
    match dtype {
        FeatureDtype::F32 => Dtype::F32,
        FeatureDtype::F16 => Dtype::F16,
        FeatureDtype::Bf16 => Dtype::BF16,
    }
}

/// The number types that a head may have.
pub(super) fn float_type(dtype: Dtype) -> Option<FeatureDtype> {
    match dtype {
        Dtype::F32 => Some(FeatureDtype::F32),
        Dtype::F16 => Some(FeatureDtype::F16),
        Dtype::BF16 => Some(FeatureDtype::Bf16),
        _ => None,
    }
}
