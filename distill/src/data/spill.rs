//! Images that came inside rows, as in Parquet files, moved to one file of the run: memory then does not grow with the dataset.
//!
//! The file is written anew whenever the data is read, and goes with the run's end.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use shared::dataset::ImageSource;

/// The file, begun with the first image.
pub struct Spill {
    path: Arc<Path>,
    file: Option<BufWriter<File>>,
    num_bytes: u64,
}

impl Spill {
    /// The file's place in a run's folder.
    #[must_use]
    pub fn path(out: &Path) -> PathBuf {
        out.join("images.bin")
    }

    /// Nothing yet, in the run's folder `out`.
    #[must_use]
    pub fn new(out: &Path) -> Self {
        Self { path: Self::path(out).into(), file: None, num_bytes: 0 }
    }

    /// Moves what these images hold in memory to the file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn take(&mut self, images: &mut [ImageSource]) -> Result<()> {
        for image in images {
            if let ImageSource::Bytes(bytes) = image {
                self.write(bytes).with_context(|| self.cannot())?;
                let (start, num_bytes) = (self.num_bytes, bytes.len() as u64);
                self.num_bytes += num_bytes;
                *image = ImageSource::Slice { path: self.path.clone(), start, num_bytes };
            }
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(BufWriter::new(File::create(&self.path)?)),
        };
        file.write_all(bytes)
    }

    /// Brings what is still in a buffer to the file; then the images can be read.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn finish(mut self) -> Result<()> {
        let flushed = self.file.as_mut().map_or(Ok(()), Write::flush);
        flushed.with_context(|| self.cannot())
    }

    fn cannot(&self) -> String {
        format!(
            "cannot write `{}`\nhint: with `extract run --embed-images` the cache has the images, and --data is not needed",
            self.path.display()
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn images_in_memory_move_to_the_file_and_read_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = ImageSource::Path("x.png".into());
        let held = |bytes: &[u8]| ImageSource::Bytes(bytes.into());
        let mut images = vec![held(b"first"), elsewhere.clone(), held(b""), held(b"third")];
        let mut spill = Spill::new(dir.path());
        spill.take(&mut images).unwrap();
        spill.finish().unwrap();
        assert_eq!(images[1], elsewhere, "what lies in a file stays there");
        for (place, bytes) in [(0, b"first".as_slice()), (2, b""), (3, b"third")] {
            assert!(matches!(images[place], ImageSource::Slice { .. }));
            assert_eq!(images[place].read().unwrap(), bytes);
        }
    }

    #[test]
    fn without_such_images_there_is_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut spill = Spill::new(dir.path());
        spill.take(&mut [ImageSource::Path("x.png".into())]).unwrap();
        spill.finish().unwrap();
        assert!(!Spill::path(dir.path()).exists());
    }
}
