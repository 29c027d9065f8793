//! The samples of some opened shards: found through their index, read from the maps, checked.

use std::ops::Range;

use bytes::Bytes;

use super::codec::widen::widen_into;
use super::codec::{Coding, Wanted};
use super::error::{CacheError, Result};
use super::feature_page;
use super::index::{IndexEntry, Shard};
use super::manifest::FeatureFormat;
use super::sample::{FeatureBlock, Row, SampleMeta};
use super::schema::{Cell, IMAGE_FILES, NUM_CELLS, Take, cells_to_meta};
use super::xxh3::Xxh3;
use crate::ids::Digest;

/// Shards and what their rows are.
pub(super) struct Samples {
    pub(super) format: FeatureFormat,
    shards: Vec<Shard>,
    /// The number of each shard's first sample.
    starts: Vec<usize>,
    /// Of all shards, one after another.
    pub(super) index: Vec<IndexEntry>,
    /// Check page and value checksums on every read.
    pub(super) verify: bool,
}

impl Samples {
    /// The samples of some shards, with the index of each.
    pub(super) fn new(format: FeatureFormat, opened: Vec<(Shard, Vec<IndexEntry>)>, verify: bool) -> Self {
        let mut index = Vec::with_capacity(opened.iter().map(|(_, part)| part.len()).sum());
        let (mut shards, mut starts) = (Vec::with_capacity(opened.len()), Vec::with_capacity(opened.len()));
        for (shard, part) in opened {
            shards.push(shard);
            starts.push(index.len());
            index.extend(part);
        }
        Self { format, shards, starts, index, verify }
    }

    /// All of sample `i` but its features.
    pub(super) fn meta(&self, i: usize) -> Result<SampleMeta> {
        let cells = self.cells(i, 0..IMAGE_FILES)?;
        let meta = cells_to_meta(cells).map_err(|reason| self.damaged(i, reason))?;
        let key = self.index[i].key;
        if meta.key != key {
            return Err(self.damaged(i, format!("key {}, expected {key}", meta.key)));
        }
        Ok(meta)
    }

    /// The encoded images of sample `i`.
    pub(super) fn image_files(&self, i: usize) -> Result<Vec<Vec<u8>>> {
        let mut take = Take(self.cells(i, IMAGE_FILES..NUM_CELLS)?.into_iter());
        let read = take.bytes().and_then(|files| Ok((files, take.texts()?)));
        let (files, digests) = read.map_err(|reason| self.damaged(i, reason))?;
        let intact = |(file, digest): (&Vec<u8>, &String)| Digest::of(file).to_string() == *digest;
        let is_whole = files.len() == digests.len();
        match !is_whole || self.verify && !files.iter().zip(&digests).all(intact) {
            true => Err(self.damaged(i, "an embedded image does not match its digest")),
            false => Ok(files),
        }
    }

    /// The features of sample `i` in the teacher's number type.
    pub(super) fn features(&self, i: usize) -> Result<FeatureBlock> {
        let FeatureFormat { dtype, width, .. } = self.format;
        let mut bytes = Vec::new();
        self.decode(i, 0..self.num_positions(i), &mut bytes, dtype.size(), |piece, bytes| {
            bytes.extend_from_slice(piece);
        })?;
        Ok(FeatureBlock { dtype, width, bytes })
    }

    /// The features of some positions of sample `i`, counted from its first, widened to float32; `out` is replaced.
    pub(super) fn features_f32(&self, i: usize, positions: Range<usize>, out: &mut Vec<f32>) -> Result<()> {
        let dtype = self.format.dtype;
        out.clear();
        self.decode(i, positions, out, 1, |piece, out| widen_into(dtype, piece, out))
    }

    /// Decodes some positions of sample `i` piece by piece into `out`, of which a value takes `items`.
    ///
    /// The page's own checksum covers whatever is read of it; that of the values can be checked where all are.
    fn decode<T>(
        &self,
        i: usize,
        positions: Range<usize>,
        out: &mut Vec<T>,
        items: usize,
        push: impl Fn(&[u8], &mut Vec<T>),
    ) -> Result<()> {
        let FeatureFormat { dtype, width, .. } = self.format;
        let rows = self.num_positions(i);
        if positions.start >= positions.end || positions.end > rows {
            return Err(self.damaged(i, format!("positions {positions:?} of {rows}")));
        }
        let page = self.page(i)?;
        let body = self.values_of(i, &page)?;
        let values = positions.start * width..positions.end * width;
        // What the page announces has been compared with its length.
        out.reserve_exact(values.len() * items);
        let mut hasher = (self.verify && positions == (0..rows)).then(Xxh3::new);
        let mut take = |piece: &[u8]| {
            hasher.iter_mut().for_each(|hasher| hasher.update(piece));
            push(piece, out);
        };
        let wanted = Wanted { dtype, total: rows * width, values };
        self.coding().decode(body, &wanted, &mut take).map_err(|error| self.damaged(i, error))?;
        hasher.map_or(Ok(()), |hasher| self.check_hash(i, hasher.digest()))
    }

    /// The whole of sample `i`, as it was appended.
    pub(super) fn row(&self, i: usize) -> Result<Row> {
        Ok(Row { meta: self.meta(i)?, features: self.features(i)?, image_files: self.image_files(i)? })
    }

    fn num_positions(&self, i: usize) -> usize {
        self.index[i].num_positions as usize
    }

    fn coding(&self) -> &'static dyn Coding {
        self.format.codec.coding()
    }

    fn shard(&self, i: usize) -> &Shard {
        &self.shards[self.starts.partition_point(|&start| start <= i) - 1]
    }

    fn cells(&self, i: usize, leaves: Range<usize>) -> Result<Vec<Cell>> {
        self.shard(i).cells(self.index[i].row as usize, leaves)
    }

    /// Tells the system that the feature page of sample `i` will soon be read.
    pub(super) fn will_need(&self, i: usize) {
        self.shard(i).bytes().will_need(self.page_range(i));
    }

    /// The row groups, as ranges of sample numbers.
    pub(super) fn row_groups(&self) -> Vec<Range<u32>> {
        let mut start = 0;
        let lens = self.shards.iter().flat_map(Shard::group_lens);
        let block = |len: usize| {
            let block = start..start + len as u32;
            start = block.end;
            block
        };
        lens.map(block).collect()
    }

    fn page_range(&self, i: usize) -> Range<usize> {
        let entry = &self.index[i];
        let start = entry.page_offset as usize;
        start..start.saturating_add(entry.page_bytes as usize)
    }

    /// The feature page of sample `i`, header and all.
    fn page(&self, i: usize) -> Result<Bytes> {
        self.shard(i).bytes().get(self.page_range(i)).map_err(|error| self.damaged(i, error))
    }

    /// The values of sample `i`'s page, encoded.
    fn values_of<'a>(&self, i: usize, page: &'a [u8]) -> Result<&'a [u8]> {
        let shape = (self.num_positions(i), self.format.width);
        feature_page::open(self.coding(), page, shape, self.verify).map_err(|reason| self.damaged(i, reason))
    }

    fn check_hash(&self, i: usize, actual: u64) -> Result<()> {
        let expected = self.index[i].features_xxh3;
        if actual != expected {
            return Err(self.damaged(i, format!("feature checksum {actual:016x}, expected {expected:016x}")));
        }
        Ok(())
    }

    /// An error that names the shard and row of sample `i`.
    pub(super) fn damaged(&self, i: usize, reason: impl ToString) -> CacheError {
        CacheError::damaged(self.shard(i).path(), Some(u64::from(self.index[i].row)), reason)
    }
}
