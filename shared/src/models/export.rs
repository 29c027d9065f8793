//! Writing a checkpoint: a copy of the one it started from, with trained weights in their place.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;
use serde_json::{Value, json};

use super::checkpoint::{Checkpoint, Entry};
use super::error::ModelError;
use super::layers::Adapter;
use super::load::is_tied;
use super::registry::{ModelConfig, config_of};

/// What takes the place of a stored weight.
#[derive(Clone, Debug)]
pub enum Replacement {
    /// A trained weight of the same shape.
    Weight(Tensor),
    /// The stored weight and what an adapter adds to it.
    Added(Adapter),
}

impl Replacement {
    fn dims(&self) -> candle_core::Result<Vec<usize>> {
        match self {
            Self::Weight(tensor) => Ok(tensor.dims().to_vec()),
            Self::Added(adapter) => adapter.shape().map(Vec::from),
        }
    }
}

/// Copies the checkpoint `base` to the new folder `out` with the weights of `replaced` (by canonical name, as in
/// [`ParamSet`](super::ParamSet)) in place of its own: same files, same names, stored type kept, or `dtype` for all
/// weights, which config.json then names. A tied head is not written beside the embedding; where config.json ties a head that
/// differs, it does so no more.
///
/// The folder appears complete, by one rename.
///
/// # Errors
/// When `out` exists, a replaced weight is not in the checkpoint or has another shape, or a file cannot be written.
pub fn export_checkout(
    base: &Path,
    out: &Path,
    replaced: &BTreeMap<String, Replacement>,
    dtype: Option<DType>,
) -> Result<(), ModelError> {
    if out.exists() {
        return Err(ModelError::invalid(out, "already exists", "choose another folder, or remove this one"));
    }
    let config = config_of(base)?;
    let checkpoint = Checkpoint::open(base, config.family)?;
    check_replaced(base, &checkpoint, replaced)?;
    let partial = partial_path(out);
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(|error| ModelError::write(&partial, error))?;
    }
    fs::create_dir_all(&partial).map_err(|error| ModelError::write(&partial, error))?;
    copy_small_files(base, &partial)?;
    if let Some(json) = restated(&config, &checkpoint, dtype) {
        write_json(&partial.join("config.json"), &json)?;
    }
    write_weights(&partial, &config, &checkpoint, replaced, dtype)?;
    fs::rename(&partial, out).map_err(|error| ModelError::write(out, error))
}

/// The folder beside `out` that is being filled.
fn partial_path(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    out.with_file_name(name)
}

fn check_replaced(
    base: &Path,
    checkpoint: &Checkpoint,
    replaced: &BTreeMap<String, Replacement>,
) -> Result<(), ModelError> {
    let mut problems = Vec::new();
    for (name, replacement) in replaced {
        let dims = replacement.dims()?;
        match checkpoint.entries().get(name) {
            None => problems.push(format!("no weight `{name}` to replace")),
            Some(entry) if entry.shape != dims => {
                problems.push(format!("`{name}` has shape {:?} here and {dims:?} in its place", entry.shape));
            }
            Some(_) => {}
        }
    }
    match problems.is_empty() {
        true => Ok(()),
        false => Err(ModelError::Weights { path: base.to_owned(), problems }),
    }
}

/// Tokenizer, template, processor and configuration files: everything at the top that is not weights.
fn copy_small_files(base: &Path, out: &Path) -> Result<(), ModelError> {
    const WEIGHTS: [&str; 6] = ["safetensors", "bin", "pt", "pth", "gguf", "msgpack"];
    let entries = fs::read_dir(base).map_err(|error| ModelError::read(base, error))?;
    for entry in entries {
        let path = entry.map_err(|error| ModelError::read(base, error))?.path();
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        let name = path.file_name().unwrap_or_default();
        let is_index = name.to_string_lossy().ends_with(".index.json");
        if !path.is_file() || is_index || WEIGHTS.contains(&extension) {
            continue;
        }
        fs::copy(&path, out.join(name)).map_err(|error| ModelError::write(&out.join(name), error))?;
    }
    Ok(())
}

/// config.json, where it must say other things than the checkpoint's: the type of the weights, which loaders cast to what it
/// says, and that a head which differs from the embedding is not tied, which transformers finds out with a warning.
fn restated(config: &ModelConfig, checkpoint: &Checkpoint, dtype: Option<DType>) -> Option<Value> {
    let is_untied = config.config.decoder().tie_word_embeddings && !is_tied(config, checkpoint);
    let mut json = config.json.clone();
    if is_untied {
        // Absent, it may mean true.
        json["tie_word_embeddings"] = Value::Bool(false);
        restate(&mut json, &["tie_word_embeddings"], &Value::Bool(false));
    }
    if let Some(dtype) = dtype {
        let name = match dtype {
            DType::BF16 => "bfloat16",
            DType::F16 => "float16",
            _ => "float32",
        };
        restate(&mut json, &["dtype", "torch_dtype"], &Value::from(name));
    }
    (is_untied || dtype.is_some()).then_some(json)
}

/// Gives the fields called one of `keys` another value, in a configuration and in those of its parts.
fn restate(config: &mut Value, keys: &[&str], value: &Value) {
    for (key, field) in config.as_object_mut().into_iter().flatten() {
        match key.as_str() {
            key if keys.contains(&key) => *field = value.clone(),
            "text_config" | "llm_config" | "vision_config" => restate(field, keys, value),
            _ => {}
        }
    }
}

fn write_json(path: &Path, value: &Value) -> Result<(), ModelError> {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    fs::write(path, text + "\n").map_err(|error| ModelError::write(path, error))
}

/// The weight files, of the same names and with the same weights in each, and their index if there was one.
fn write_weights(
    out: &Path,
    config: &ModelConfig,
    checkpoint: &Checkpoint,
    replaced: &BTreeMap<String, Replacement>,
    dtype: Option<DType>,
) -> Result<(), ModelError> {
    let tied = is_tied(config, checkpoint);
    let mut weight_map = BTreeMap::new();
    let mut total_bytes = 0;
    for (index, source) in checkpoint.files().enumerate() {
        let file = source.file_name().unwrap_or_default();
        let mut weights: Vec<Written> = checkpoint
            .entries()
            .iter()
            .filter(|(name, entry)| entry.file == index && !(tied && *name == config.family.head))
            .map(|(name, entry)| Written {
                entry,
                replaced: replaced.get(name),
                dtype: dtype_of(entry, dtype),
            })
            .collect();
        // Wide types first, so that every weight is aligned in the file.
        weights.sort_by_key(|weight| std::cmp::Reverse(width_of(weight.dtype)));
        for weight in &weights {
            weight_map.insert(weight.entry.stored_name.clone(), file.to_string_lossy().into_owned());
            total_bytes += weight.num_bytes();
        }
        write_file(&out.join(file), checkpoint, &weights)?;
    }
    if checkpoint.dir().join("model.safetensors").exists() {
        return Ok(());
    }
    let index = json!({"metadata": {"total_size": total_bytes}, "weight_map": weight_map});
    write_json(&out.join("model.safetensors.index.json"), &index)
}

/// Only floating-point weights are converted; buffers of indices, which old files have, stay as they are.
fn dtype_of(entry: &Entry, asked: Option<DType>) -> Dtype {
    match asked.filter(|_| entry.float_type().is_ok()) {
        None => entry.dtype,
        Some(DType::BF16) => Dtype::BF16,
        Some(DType::F16) => Dtype::F16,
        Some(_) => Dtype::F32,
    }
}

/// Bytes of a number.
fn width_of(dtype: Dtype) -> usize {
    dtype.bitsize() / 8
}

/// A weight on its way into a file.
struct Written<'a> {
    entry: &'a Entry,
    replaced: Option<&'a Replacement>,
    dtype: Dtype,
}

impl Written<'_> {
    fn num_bytes(&self) -> usize {
        self.entry.shape.iter().product::<usize>() * width_of(self.dtype)
    }

    /// The bytes to write: the stored ones where nothing changes.
    fn bytes<'c>(&self, checkpoint: &'c Checkpoint) -> candle_core::Result<Cow<'c, [u8]>> {
        if self.replaced.is_none() && self.dtype == self.entry.dtype {
            return Ok(Cow::Borrowed(checkpoint.bytes(self.entry)));
        }
        let stored = || checkpoint.tensor(self.entry, DType::F32, &Device::Cpu);
        let tensor = match self.replaced {
            Some(Replacement::Weight(tensor)) => tensor.to_dtype(DType::F32)?,
            Some(Replacement::Added(adapter)) => adapter.to_cpu()?.merged(&stored()?)?,
            None => stored()?,
        };
        let tensor = tensor.flatten_all()?;
        Ok(Cow::Owned(match self.dtype {
            Dtype::BF16 => bytes_of(&tensor.to_dtype(DType::BF16)?.to_vec1::<half::bf16>()?),
            Dtype::F16 => bytes_of(&tensor.to_dtype(DType::F16)?.to_vec1::<half::f16>()?),
            _ => bytes_of(&tensor.to_vec1::<f32>()?),
        }))
    }
}

/// The numbers' bytes; every machine this runs on is little-endian, as safetensors is.
fn bytes_of<T: bytemuck::Pod>(numbers: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(numbers).to_vec()
}

/// A safetensors file, one weight in memory at a time: the header's length in 8 bytes, the header, the bytes.
fn write_file(path: &Path, checkpoint: &Checkpoint, weights: &[Written]) -> Result<(), ModelError> {
    let mut header = serde_json::Map::from_iter([("__metadata__".to_owned(), json!({"format": "pt"}))]);
    let mut end = 0;
    for weight in weights {
        let start = end;
        end += weight.num_bytes();
        let dtype = weight.dtype;
        let field = json!({"dtype": dtype, "shape": weight.entry.shape, "data_offsets": [start, end]});
        header.insert(weight.entry.stored_name.clone(), field);
    }
    let mut header = Value::Object(header).to_string();
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    let failed = |error| ModelError::write(path, error);
    let mut file = BufWriter::new(File::create(path).map_err(failed)?);
    file.write_all(&(header.len() as u64).to_le_bytes()).map_err(failed)?;
    file.write_all(header.as_bytes()).map_err(failed)?;
    for weight in weights {
        file.write_all(&weight.bytes(checkpoint)?).map_err(failed)?;
        checkpoint.release(weight.entry);
    }
    file.into_inner().map_err(|error| failed(error.into_error()))?.sync_all().map_err(failed)
}
