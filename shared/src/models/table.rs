//! A table with a row for each token, such as the input embedding and the head: in memory, or in its file, of which single
//! rows are read then.

use std::ops::Range;

use candle_core::{Device, Result, Tensor, bail};

use super::checkpoint::Entry;
use super::layers::Linear;
use super::stored::Stored;
use super::weights::WeightSource;

/// Numbers of a stored table that are in memory at a time when all of it is read.
const CHUNK: usize = 4 << 20;

/// V rows of D numbers.
#[derive(Clone)]
pub enum Table {
    /// In memory.
    Resident(Tensor),
    /// In the checkpoint.
    Stored(StoredTable),
}

/// A table that stays in the checkpoint.
#[derive(Clone)]
pub struct StoredTable {
    source: Stored,
    entry: Entry,
}

impl Table {
    /// The weight `name` as the source has it: in memory or in its file.
    ///
    /// # Errors
    /// Those of the source.
    pub(super) fn build(name: &str, shape: [usize; 2], source: &mut dyn WeightSource) -> Result<Self> {
        match source.stored() {
            None => Ok(Self::Resident(source.get(name, &shape)?)),
            Some(stored) => {
                let entry = stored.checkpoint.find(name, &shape)?.clone();
                Ok(Self::Stored(StoredTable { source: stored, entry }))
            }
        }
    }

    /// [V, D].
    pub fn shape(&self) -> [usize; 2] {
        let dims = match self {
            Self::Resident(tensor) => tensor.dims(),
            Self::Stored(table) => &table.entry.shape,
        };
        [dims[0], dims[1]]
    }

    /// Where rows go.
    pub(super) fn device(&self) -> &Device {
        match self {
            Self::Resident(tensor) => tensor.device(),
            Self::Stored(table) => &table.source.device,
        }
    }

    /// The whole table, (V, D).
    ///
    /// # Errors
    /// When it is not in memory.
    pub fn tensor(&self) -> Result<&Tensor> {
        match self {
            Self::Resident(tensor) => Ok(tensor),
            Self::Stored(table) => bail!("`{}` is not in memory", table.entry.stored_name),
        }
    }

    /// The rows of these tokens, (ids, D).
    ///
    /// # Errors
    /// When there is no such token, or the device fails.
    pub(super) fn rows(&self, ids: &[u32]) -> Result<Tensor> {
        match self {
            Self::Resident(tensor) => tensor.index_select(&Tensor::new(ids, tensor.device())?, 0),
            Self::Stored(table) => table.rows(ids),
        }
    }

    /// x (T, D) -> (T, V): the product of each row of x with each row of the table.
    ///
    /// # Errors
    /// When the widths differ or the device fails.
    pub(super) fn product(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Resident(tensor) => Linear::new(tensor.clone(), None).forward(x),
            Self::Stored(table) => table.product(x),
        }
    }
}

impl StoredTable {
    fn rows(&self, ids: &[u32]) -> Result<Tensor> {
        let Stored { checkpoint, device, dtype, .. } = &self.source;
        let bytes = checkpoint.bytes(&self.entry);
        let [rows, width] = [self.entry.shape[0], self.entry.shape[1]];
        let row_bytes = bytes.len() / rows.max(1);
        let mut picked = Vec::with_capacity(ids.len() * row_bytes);
        for &id in ids {
            match bytes.chunks_exact(row_bytes.max(1)).nth(id as usize) {
                Some(row) => picked.extend_from_slice(row),
                None => bail!("token {id} of a table with {rows} rows"),
            }
        }
        let tensor = self.entry.decode(&picked, &[ids.len(), width], *dtype, device)?;
        checkpoint.release(&self.entry);
        Ok(tensor)
    }

    fn product(&self, x: &Tensor) -> Result<Tensor> {
        let [rows, width] = [self.entry.shape[0], self.entry.shape[1]];
        let step = (CHUNK / width.max(1)).max(1);
        let parts = (0..rows).step_by(step).map(|start| {
            let chunk = self.chunk(start..(start + step).min(rows))?;
            Linear::new(chunk, None).forward(x)
        });
        Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 1)
    }

    /// Consecutive rows, (rows, D).
    fn chunk(&self, rows: Range<usize>) -> Result<Tensor> {
        let Stored { checkpoint, device, dtype, .. } = &self.source;
        let bytes = checkpoint.bytes(&self.entry);
        let row_bytes = bytes.len() / self.entry.shape[0].max(1);
        let shape = [rows.len(), self.entry.shape[1]];
        let bytes = &bytes[rows.start * row_bytes..rows.end * row_bytes];
        let chunk = self.entry.decode(bytes, &shape, *dtype, device)?;
        checkpoint.release(&self.entry);
        Ok(chunk)
    }
}
