//! The frozen student's features, kept on disk by the first pass over the samples, so that later passes run no forward of it.
//!
//! ```text
//! RUN/student_features/identity.json     the student, its processor and the device that they were made with
//! RUN/student_features/features.bin      records: key (16 bytes), rows (8), BLAKE3 of the values (32), values (float32)
//! ```
//!
//! A feature's bits do not depend on the other samples of a microbatch (a promise of the CPU kernels), so losses are the
//! same with it and without. Records are only appended; a last one that is cut off is dropped, and one whose values do not
//! fit their hash is made again. Another student's folder is made anew. It goes once stage align is done.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use indicatif::HumanBytes;
use shared::ids::{Digest, Fingerprint, SampleKey};

use super::checkpoint::publish_file;
use crate::data::batch::Microbatch;

const VALUES: &str = "features.bin";
const HEADER_BYTES: usize = 16 + 8 + 32;

/// The folder, open.
pub struct StudentFeatures {
    path: PathBuf,
    width: usize,
    device: Device,
    dtype: DType,
    records: Mutex<Records>,
}

struct Records {
    file: File,
    /// Where a sample's values begin, how many rows they are, and their hash.
    places: HashMap<SampleKey, (u64, usize, Digest)>,
    end: u64,
}

impl StudentFeatures {
    /// The folder's place in a run's folder.
    #[must_use]
    pub fn path(run: &Path) -> PathBuf {
        run.join("student_features")
    }

    /// Removes the folder, if there is one, and says how much room that gives back.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(run: &Path) -> Result<()> {
        let dir = Self::path(run);
        if !dir.exists() {
            return Ok(());
        }
        let num_bytes = fs::metadata(dir.join(VALUES)).map_or(0, |it| it.len());
        fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        shared::say!("removed {}, {}: no later stage reads it", dir.display(), HumanBytes(num_bytes));
        Ok(())
    }

    /// Opens the folder, or makes it for a student of this identity and width that computes on `device` in `dtype`.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn open(
        dir: &Path,
        identity: &Fingerprint,
        width: usize,
        (device, dtype): (&Device, DType),
    ) -> Result<Self> {
        let cannot = || format!("cannot write {}", dir.display());
        let (named, path) = (dir.join("identity.json"), dir.join(VALUES));
        let there =
            fs::read(&named).ok().and_then(|bytes| serde_json::from_slice::<Fingerprint>(&bytes).ok());
        if there.as_ref() != Some(identity) {
            if dir.exists() {
                fs::remove_dir_all(dir).with_context(cannot)?;
            }
            fs::create_dir_all(dir).with_context(cannot)?;
            File::create(&path).with_context(cannot)?;
            publish_file(&named, &serde_json::to_vec_pretty(identity)?)?;
        }
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = open.with_context(cannot)?;
        let records =
            Records::scan(file, width).with_context(|| format!("cannot read {}", path.display()))?;
        let (device, records) = (device.clone(), Mutex::new(records));
        Ok(Self { path, width, device, dtype, records })
    }

    /// The features (T, D) of a microbatch: the kept ones, or what `compute` makes, which are then kept.
    ///
    /// # Errors
    /// Those of `compute`, and when the file cannot be read or written.
    pub fn of(
        &self,
        microbatch: &Microbatch,
        compute: impl FnOnce() -> candle_core::Result<Tensor>,
    ) -> Result<Tensor> {
        // A panic while holding it leaves a valid map: take it.
        let mut records = self.records.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let bounds: Vec<usize> = microbatch.student.cu_seqlens.clone();
        let samples = || microbatch.keys.iter().zip(bounds.windows(2).map(|pair| pair[1] - pair[0]));
        let mut values = Vec::new();
        if samples().all(|(key, rows)| records.read(key, rows, self.width, &mut values)) {
            let tensor =
                Tensor::from_vec(values, (microbatch.student.num_tokens(), self.width), &self.device)?;
            return Ok(tensor.to_dtype(self.dtype)?);
        }
        let features = compute()?.detach();
        let wide = features.to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
        for ((key, rows), start) in samples().zip(&bounds) {
            let values = wide.narrow(0, *start, rows)?.flatten_all()?.to_vec1::<f32>()?;
            records.append(key, rows, &values).with_context(|| {
                format!(
                    "cannot write {}\nhint: `align.keep_student_features=never` needs no space",
                    self.path.display()
                )
            })?;
        }
        Ok(features)
    }
}

impl Records {
    /// Finds the whole records of a file and cuts off what follows them.
    fn scan(mut file: File, width: usize) -> std::io::Result<Self> {
        let (mut places, mut end, length) = (HashMap::new(), 0, file.metadata()?.len());
        let mut header = [0u8; HEADER_BYTES];
        while length - end >= HEADER_BYTES as u64 {
            file.seek(SeekFrom::Start(end))?;
            file.read_exact(&mut header)?;
            let (key, rest) = header.split_at(16);
            let (rows, digest) = rest.split_at(8);
            let (Ok(key), Ok(rows), Ok(digest)) = (key.try_into(), rows.try_into(), digest.try_into()) else {
                break;
            };
            let (rows, values) = (u64::from_le_bytes(rows), end + HEADER_BYTES as u64);
            let Some(next) = rows.checked_mul(4 * width as u64).and_then(|bytes| values.checked_add(bytes))
            else {
                break;
            };
            if next > length {
                break;
            }
            let place = (values, rows as usize, Digest::from_bytes(digest));
            places.insert(SampleKey::from_bytes(key), place);
            end = next;
        }
        file.set_len(end)?;
        Ok(Self { file, places, end })
    }

    /// Adds a sample's values to `out`; whether they are there, whole.
    fn read(&mut self, key: &SampleKey, rows: usize, width: usize, out: &mut Vec<f32>) -> bool {
        let Some((start, kept, digest)) = self.places.get(key).filter(|place| place.1 == rows) else {
            return false;
        };
        let mut bytes = vec![0u8; kept * width * 4];
        let read = self.file.seek(SeekFrom::Start(*start)).and_then(|_| self.file.read_exact(&mut bytes));
        if read.is_err() || Digest::of(&bytes) != *digest {
            return false;
        }
        let (values, _) = bytes.as_chunks::<4>();
        out.extend(values.iter().map(|value| f32::from_le_bytes(*value)));
        true
    }

    fn append(&mut self, key: &SampleKey, rows: usize, values: &[f32]) -> std::io::Result<()> {
        let values: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let digest = Digest::of(&values);
        let rows_bytes = (rows as u64).to_le_bytes();
        let record = [key.as_bytes().as_slice(), &rows_bytes, digest.as_bytes(), &values].concat();
        self.file.seek(SeekFrom::Start(self.end))?;
        self.file.write_all(&record)?;
        self.places.insert(*key, (self.end + HEADER_BYTES as u64, rows, digest));
        self.end += record.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
