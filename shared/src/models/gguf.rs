//! The language model's linear layers from a GGUF file, quantised as llama.cpp writes them.
//!
//! Only the blocks' matrices come from the file; embedding, norms, biases, vision encoder and head stay those of the
//! checkout, whose configuration and float weights the file is held to. A matrix stays quantised in memory and is
//! dequantised where it is used, so results are those of the dequantised weights and do not depend on the batch.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{Content, TensorInfo, Value};
use candle_core::quantized::{QStorage, QTensor};
use candle_core::{DType, Device, Result, Tensor, bail};

use super::DecoderConfig;
use super::checkpoint::{Checkpoint, Entry};
use super::error::ModelError;
use super::layers::Weight;
use super::registry::ModelConfig;
use super::weights::listed;

/// A block's matrices: as on the hub, and as in a GGUF file.
const MATRICES: [(&str, &str); 7] = [
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// llama.cpp's names of the architectures whose blocks are ours, and whether it turns pairs of a head's rows, which its
/// rotary embedding has beside each other, from where the hub has them: half a head apart.
const ARCHITECTURES: [(&str, bool); 9] = [
    ("gemma", false),
    ("gemma3", false),
    ("internlm2", true),
    ("llama", true),
    ("mistral3", true),
    ("qwen2", false),
    ("qwen2vl", false),
    ("qwen3", false),
    ("qwen3vl", false),
];

/// Rows of a matrix, or whole heads of them, that are compared with the float weights.
const COMPARED_ROWS: usize = 32;
/// The cosine between a quantised matrix and the one it was made from; that of another model's is near 0, two bits a weight
/// leave more than 0.9.
const LEAST_COSINE: f64 = 0.8;

/// A GGUF file that was held to a checkout.
pub struct Gguf {
    path: PathBuf,
    content: Content,
    /// What canonical names of the blocks' weights begin with, before the block's number.
    prefix: String,
    decoder: DecoderConfig,
    is_paired: bool,
}

impl Gguf {
    /// Opens a file and holds it to the checkout: every matrix of every block is there, in its shape, and some rows of the
    /// first and the last block resemble the float weights.
    ///
    /// # Errors
    /// When the file is not GGUF, or was made from another model: all that differs is named in one error.
    pub fn open(
        path: &Path,
        config: &ModelConfig,
        checkpoint: &Checkpoint,
    ) -> std::result::Result<Self, ModelError> {
        let file = File::open(path).map_err(|error| ModelError::read(path, error))?;
        let content = Content::read(&mut BufReader::new(file)).map_err(|error| {
            ModelError::invalid(path, format!("not a GGUF file: {error}"), "download the file again")
        })?;
        let decoder = config.config.decoder().clone();
        let is_paired = is_paired(path, &content)?;
        let prefix = config.family.embedding.trim_end_matches("embed_tokens.weight");
        let gguf =
            Self { path: path.to_owned(), content, prefix: format!("{prefix}layers."), decoder, is_paired };
        gguf.refuse_truncated()?;
        let mut problems = gguf.misfits(checkpoint);
        if problems.is_empty() {
            problems = gguf.strangers(checkpoint)?;
        }
        match problems.is_empty() {
            true => Ok(gguf),
            false => {
                let hint = format!(
                    "give a GGUF file that llama.cpp made from the language model of `{}`",
                    checkpoint.dir().display()
                );
                Err(ModelError::invalid(path, problems.join("\n  "), hint))
            }
        }
    }

    /// The matrix of this canonical name, if the file has it.
    ///
    /// # Errors
    /// When it has another shape than (O, I), the file cannot be read or the device fails.
    pub(super) fn matrix(
        &self,
        canonical: &str,
        shape: [usize; 2],
        device: &Device,
    ) -> Result<Option<Weight>> {
        let Some(name) = self.stored_name(canonical) else { return Ok(None) };
        let Some(info) = self.info(&name) else { return Ok(None) };
        if info.shape.dims() != shape {
            bail!("`{name}` of `{}` has shape {:?}, not {shape:?}", self.path.display(), info.shape)
        }
        self.rows(&name, info, shape[0], device).map(|matrix| Some(matrix.into()))
    }

    /// Canonical and stored names of all matrices.
    fn matrices(&self) -> impl Iterator<Item = (String, String)> + '_ {
        let of_block = |block| MATRICES.iter().map(move |(ours, theirs)| (block, ours, theirs));
        (0..self.decoder.num_layers).flat_map(of_block).map(|(block, ours, theirs)| {
            (format!("{}{block}.{ours}.weight", self.prefix), format!("blk.{block}.{theirs}.weight"))
        })
    }

    /// What a matrix of the file was made of.
    fn original<'a>(&self, checkpoint: &'a Checkpoint, canonical: &str) -> Option<Original<'a>> {
        if let Some(entry) = checkpoint.entries().get(canonical) {
            return Some(Original { entry, shape: entry.shape.clone(), part: None });
        }
        let DecoderConfig { num_heads, num_kv_heads, head_dim, .. } = self.decoder;
        let group = num_heads / num_kv_heads.max(1);
        let (name, from, count) = ["q_proj", "k_proj", "v_proj"]
            .into_iter()
            .zip([(0, group), (group, 1), (group + 1, 1)])
            .find_map(|(name, (from, count))| canonical.contains(name).then_some((name, from, count)))?;
        let entry = checkpoint.entries().get(&canonical.replace(name, "qkv_proj"))?;
        let width = *entry.shape.get(1)?;
        let shape = vec![num_kv_heads * count * head_dim, width];
        let whole = [num_kv_heads, group + 2, head_dim, width];
        Some(Original { entry, shape, part: Some(Part { whole, from, count }) })
    }

    fn stored_name(&self, canonical: &str) -> Option<String> {
        let (block, rest) = canonical.strip_prefix(&self.prefix)?.split_once('.')?;
        let part = rest.strip_suffix(".weight")?;
        let (_, theirs) = MATRICES.iter().find(|(ours, _)| *ours == part)?;
        Some(format!("blk.{block}.{theirs}.weight"))
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.content.tensor_infos.get(name)
    }

    fn refuse_truncated(&self) -> std::result::Result<(), ModelError> {
        let length =
            std::fs::metadata(&self.path).map_err(|error| ModelError::read(&self.path, error))?.len();
        let end = |info: &TensorInfo| {
            let blocks = info.shape.elem_count() / info.ggml_dtype.block_size();
            self.content
                .tensor_data_offset
                .saturating_add(info.offset)
                .saturating_add((blocks * info.ggml_dtype.type_size()) as u64)
        };
        let expected = self.content.tensor_infos.values().map(end).max().unwrap_or(0);
        match expected > length {
            true => {
                let reason = format!("it ends after {length} of {expected} bytes");
                Err(ModelError::invalid(&self.path, reason, "download the file again"))
            }
            false => Ok(()),
        }
    }

    /// What is missing, too much or misshapen.
    fn misfits(&self, checkpoint: &Checkpoint) -> Vec<String> {
        let mut problems = Vec::new();
        let mut missing = Vec::new();
        for (canonical, name) in self.matrices() {
            match (self.info(&name), self.original(checkpoint, &canonical)) {
                (None, _) => missing.push(name),
                (Some(info), Some(original)) if info.shape.dims() != original.shape => {
                    problems.push(format!(
                        "`{name}` has shape {:?}, `{}` has {:?}",
                        info.shape.dims(),
                        original.entry.stored_name,
                        original.shape
                    ))
                }
                _ => {}
            }
        }
        if !missing.is_empty() {
            problems.insert(0, format!("missing: {}", listed(&missing)));
        }
        let beyond = format!("blk.{}.", self.decoder.num_layers);
        if self.content.tensor_infos.keys().any(|name| name.starts_with(&beyond)) {
            problems.push(format!("it has more blocks than the {} of config.json", self.decoder.num_layers));
        }
        problems
    }

    /// Matrices of the first and the last block that do not resemble the checkout's.
    fn strangers(&self, checkpoint: &Checkpoint) -> Result<Vec<String>> {
        let last = self.decoder.num_layers.saturating_sub(1) * MATRICES.len();
        let mut problems = Vec::new();
        for (canonical, name) in self
            .matrices()
            .enumerate()
            .filter(|(i, _)| *i < MATRICES.len() || *i >= last)
            .map(|(_, names)| names)
        {
            let (Some(info), Some(original)) = (self.info(&name), self.original(checkpoint, &canonical))
            else {
                continue;
            };
            let head = self.decoder.head_dim;
            let rows = COMPARED_ROWS.next_multiple_of(head.max(1)).min(original.shape[0]);
            let floats = original.read(checkpoint)?.narrow(0, 0, rows)?;
            let quantised = self.rows(&name, info, rows, &Device::Cpu)?.dequantize(&Device::Cpu)?;
            let cosine = cosine(&floats, &quantised)?;
            // A matrix of zeros has no direction.
            if cosine.is_some_and(|cosine| cosine < LEAST_COSINE) {
                problems.push(format!(
                    "`{name}` is not a quantised `{}`: their cosine is {:.3}",
                    original.entry.stored_name,
                    cosine.unwrap_or_default()
                ));
            }
        }
        Ok(problems)
    }

    /// The first `rows` rows of a matrix, in the hub's order.
    fn rows(&self, name: &str, info: &TensorInfo, rows: usize, device: &Device) -> Result<QTensor> {
        let inputs = info.shape.dims2()?.1;
        let block = info.ggml_dtype.block_size();
        if !inputs.is_multiple_of(block) {
            bail!("`{name}` has rows of {inputs} values in blocks of {block}")
        }
        let row_bytes = inputs / block * info.ggml_dtype.type_size();
        let mut bytes = vec![0; rows * row_bytes];
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.content.tensor_data_offset + info.offset))?;
        file.read_exact(&mut bytes)?;
        if self.is_paired && (name.ends_with("attn_q.weight") || name.ends_with("attn_k.weight")) {
            bytes = unpaired(&bytes, row_bytes, self.decoder.head_dim);
        }
        QTensor::new(QStorage::from_data(bytes.into(), device, info.ggml_dtype)?, (rows, inputs))
    }
}

/// The checkout's matrix that one of the file was made of: a weight, or its part of one that has queries, keys and values
/// together, as InternLM2's.
struct Original<'a> {
    entry: &'a Entry,
    /// (O, I).
    shape: Vec<usize>,
    part: Option<Part>,
}

/// Which heads of each group, the queries' and then the key and the value that they share.
struct Part {
    /// Groups, heads in one, rows of a head, I.
    whole: [usize; 4],
    from: usize,
    count: usize,
}

impl Original<'_> {
    /// (O, I), float32.
    fn read(&self, checkpoint: &Checkpoint) -> Result<Tensor> {
        let stored = checkpoint.tensor(self.entry, DType::F32, &Device::Cpu)?;
        match &self.part {
            Some(Part { whole, from, count }) => {
                stored.reshape(whole)?.narrow(1, *from, *count)?.contiguous()?.reshape(self.shape.as_slice())
            }
            None => Ok(stored),
        }
    }
}

/// Whether llama.cpp pairs the rows of this file's queries and keys.
fn is_paired(path: &Path, content: &Content) -> std::result::Result<bool, ModelError> {
    let found = match content.metadata.get("general.architecture") {
        Some(Value::String(name)) => name.as_str(),
        _ => "",
    };
    match ARCHITECTURES.iter().find(|(name, _)| *name == found) {
        Some((_, is_paired)) => Ok(*is_paired),
        None => {
            let known = ARCHITECTURES.map(|(name, _)| format!("`{name}`")).join(", ");
            let reason = format!("its `general.architecture` is `{found}`");
            Err(ModelError::invalid(path, reason, format!("language models of these are read: {known}")))
        }
    }
}

/// Rows of whole heads from the order in which the two of a rotated pair are neighbours to that in which they are half a head
/// apart.
fn unpaired(bytes: &[u8], row_bytes: usize, head_dim: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for head in bytes.chunks(head_dim * row_bytes) {
        let rows: Vec<&[u8]> = head.chunks_exact(row_bytes).collect();
        rows.iter()
            .step_by(2)
            .chain(rows.iter().skip(1).step_by(2))
            .for_each(|row| out.extend_from_slice(row));
    }
    out
}

/// The cosine of two tensors as vectors; none if one of them is zero.
fn cosine(a: &Tensor, b: &Tensor) -> Result<Option<f64>> {
    let dot = |a: &Tensor, b: &Tensor| {
        Ok::<f64, candle_core::Error>((a * b)?.sum_all()?.to_scalar::<f32>()?.into())
    };
    let norms = (dot(a, a)? * dot(b, b)?).sqrt();
    Ok((norms > 0.0).then_some(dot(a, b)? / norms))
}
