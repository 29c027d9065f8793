//! The safetensors files of a checkpoint: one, or several with an index.
//!
//! Files are mapped and read tensor by tensor, and pages are given back once read, so loading takes the memory
//! of the loaded weights and little more.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use memmap2::{Mmap, UncheckedAdvice};
use safetensors::{Dtype, SafeTensors};

use super::error::ModelError;
use super::registry::Family;
use super::transfer::upload_stored;

/// A weight in a file.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The name the file gives it; the checkpoint's key is the canonical one.
    pub stored_name: String,
    /// The stored type.
    pub dtype: Dtype,
    /// The stored shape.
    pub shape: Vec<usize>,
    /// Which file, as an index of [`Checkpoint::files`].
    pub file: usize,
    offset: usize,
    num_bytes: usize,
}

impl Entry {
    /// The stored type.
    ///
    /// # Errors
    /// When it is not float32, float16 or bfloat16.
    pub(super) fn float_type(&self) -> candle_core::Result<DType> {
        Ok(match self.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => candle_core::bail!(
                "`{}` is stored as {other:?}: only F32, F16 and BF16 are read",
                self.stored_name
            ),
        })
    }

    /// Some of its bytes as numbers of `dtype` on `device`.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    pub(super) fn decode(
        &self,
        bytes: &[u8],
        shape: &[usize],
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let stored = self.float_type()?;
        let bytes = aligned(bytes, stored.size_in_bytes());
        upload_stored(&bytes, stored, shape, device)?.to_dtype(dtype)
    }
}

/// The mapped files of one checkpoint with an index by canonical name.
pub struct Checkpoint {
    dir: PathBuf,
    files: Vec<(PathBuf, Mmap)>,
    entries: BTreeMap<String, Entry>,
}

impl Checkpoint {
    /// Maps the files of `dir` and translates their names by the family's table.
    ///
    /// # Errors
    /// When a file is missing, is not safetensors, or two stored names mean the same weight.
    pub fn open(dir: &Path, family: &Family) -> Result<Self, ModelError> {
        let mut checkpoint = Self { dir: dir.to_owned(), files: Vec::new(), entries: BTreeMap::new() };
        for path in weight_files(dir)? {
            checkpoint.add(path, family)?;
        }
        Ok(checkpoint)
    }

    fn add(&mut self, path: PathBuf, family: &Family) -> Result<(), ModelError> {
        let file = File::open(&path).map_err(|error| ModelError::read(&path, error))?;
        // SAFETY: checkpoints are not modified while they are read; a file truncated meanwhile ends the process.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| ModelError::read(&path, error))?;
        let tensors = SafeTensors::deserialize(&map).map_err(|error| {
            ModelError::invalid(&path, format!("not a safetensors file: {error}"), "download the file again")
        })?;
        for (stored_name, view) in tensors.iter() {
            let canonical = family.canonical_name(stored_name).into_owned();
            let entry = Entry {
                stored_name: stored_name.to_owned(),
                dtype: view.dtype(),
                shape: view.shape().to_vec(),
                file: self.files.len(),
                offset: view.data().as_ptr() as usize - map.as_ptr() as usize,
                num_bytes: view.data().len(),
            };
            if let Some(other) = self.entries.insert(canonical, entry) {
                let reason = format!("`{stored_name}` and `{}` are the same weight", other.stored_name);
                return Err(ModelError::invalid(
                    &path,
                    reason,
                    "remove the file that belongs to another checkpoint",
                ));
            }
        }
        self.files.push((path, map));
        Ok(())
    }

    /// The checkpoint's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The files, in name order.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    /// All weights by canonical name.
    pub fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.entries
    }

    /// The stored bytes of a weight, little-endian.
    pub fn bytes(&self, entry: &Entry) -> &[u8] {
        &self.files[entry.file].1[entry.offset..entry.offset + entry.num_bytes]
    }

    /// The weight of this canonical name and shape.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(&self, name: &str, shape: &[usize]) -> candle_core::Result<&Entry> {
        let Some(entry) = self.entries.get(name) else {
            candle_core::bail!("no weight `{name}` in `{}`", self.dir.display())
        };
        if entry.shape != shape {
            candle_core::bail!("`{name}` has shape {:?}, not {shape:?}", entry.shape)
        }
        Ok(entry)
    }

    /// Reads a weight into `dtype` on `device`.
    ///
    /// # Errors
    /// When the stored type is not float32, float16 or bfloat16, or the device fails.
    pub fn tensor(&self, entry: &Entry, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let tensor = entry.decode(self.bytes(entry), &entry.shape, dtype, device)?;
        self.release(entry);
        Ok(tensor)
    }

    /// The stored bytes of a weight in pieces of up to `size` bytes, in order. Each is given back to the system once `take` has
    /// read it, so that a large weight never is in memory as a whole.
    pub fn for_each_piece(&self, entry: &Entry, size: usize, take: impl FnMut(&[u8])) {
        self.bytes(entry).chunks(size.max(1)).map(take).for_each(|()| self.release(entry));
    }

    /// Gives the pages of a weight back to the system; reading them again only costs time.
    pub fn release(&self, entry: &Entry) {
        let map = &self.files[entry.file].1;
        // SAFETY: the map is private, read-only and file-backed: dropped pages come back from the file unchanged.
        let _ =
            unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, entry.offset, entry.num_bytes) };
    }
}

/// The bytes at an address that `size`-byte numbers may be read from: safetensors headers may have any length.
fn aligned(bytes: &[u8], size: usize) -> Cow<'_, [u8]> {
    if (bytes.as_ptr() as usize).is_multiple_of(size) {
        Cow::Borrowed(bytes)
    } else {
        Cow::Owned(bytes.to_vec())
    }
}

/// `model.safetensors`, or the files that `model.safetensors.index.json` names.
fn weight_files(dir: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let single = dir.join("model.safetensors");
    if single.exists() {
        return Ok(vec![single]);
    }
    let index = dir.join("model.safetensors.index.json");
    if !index.exists() {
        let reason = "no model.safetensors and no model.safetensors.index.json";
        let hint =
            "a checkpoint is a folder as on the hub; PyTorch `.bin` files are not read, convert them first";
        return Err(ModelError::invalid(dir, reason, hint));
    }
    let text = std::fs::read_to_string(&index).map_err(|error| ModelError::read(&index, error))?;
    let names: Index = serde_json::from_str(&text)
        .map_err(|error| ModelError::invalid(&index, error.to_string(), "download the file again"))?;
    let files: std::collections::BTreeSet<String> = names.weight_map.into_values().collect();
    let paths: Vec<PathBuf> = files.into_iter().map(|name| dir.join(name)).collect();
    match paths.iter().find(|path| !path.exists()) {
        Some(path) => {
            let reason = "the index names this file, and it is not there";
            Err(ModelError::invalid(path, reason, "download the whole checkpoint"))
        }
        None => Ok(paths),
    }
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}
