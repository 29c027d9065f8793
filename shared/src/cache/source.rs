//! The bytes of a file of a cache: a memory map, or plain reads of what is asked for.
//!
//! A map is the faster on a local disk: decoders read straight from the page cache. On a network disk each touched page may be
//! a round trip of its own, and a file cut short elsewhere ends the process; there plain reads ask for whole pages of
//! the format, and what fails is an error.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::buf::Reader;
use bytes::{Buf, Bytes};
use memmap2::{Advice, Mmap, MmapMut};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::reader::{ChunkReader, Length};
use serde::{Deserialize, Serialize};

use super::error::{IoContext, Result};

/// How the files of a cache are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Through a memory map.
    #[default]
    Map,
    /// With a positioned read for each page: for network disks.
    Plain,
}

/// Bytes that are advised at a time: Linux fetches of each advice no more than the device's read-ahead or its largest request,
/// which are 128 KiB where nobody has set them, and silently leaves the rest.
const FETCHED_AT_ONCE: usize = 128 << 10;

/// One opened file.
pub(super) enum FileBytes {
    Map { map: Arc<Mmap>, bytes: Bytes },
    Plain { file: File, len: usize },
}

/// Lets [`Bytes`] share a map that can still be advised.
struct Shared(Arc<Mmap>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl FileBytes {
    /// Opens a file for reading.
    pub(super) fn open(path: &Path, access: Access) -> Result<Self> {
        let file = open_one_more(path).at("open", path)?;
        match access {
            Access::Map => {
                // SAFETY: a cache's files are never changed in place, only replaced by rename, so the map stays
                // what it was; a file truncated from outside ends the process, which the format document states.
                let map = Arc::new(unsafe { Mmap::map(&file) }.at("map", path)?);
                Ok(Self::Map { bytes: Bytes::from_owner(Shared(map.clone())), map })
            }
            Access::Plain => {
                let len = file.metadata().at("read", path)?.len() as usize;
                Ok(Self::Plain { file, len })
            }
        }
    }

    /// The first `len` bytes, where there are as many.
    pub(super) fn first(self, len: usize) -> Self {
        match self {
            Self::Map { map, bytes } => Self::Map { bytes: bytes.slice(..len.min(bytes.len())), map },
            Self::Plain { file, len: all } => Self::Plain { file, len: len.min(all) },
        }
    }

    /// Bytes that are in no file.
    ///
    /// # Errors
    /// If there is no memory for them.
    pub(super) fn of(bytes: &[u8]) -> io::Result<Self> {
        let mut map = MmapMut::map_anon(bytes.len().max(1))?;
        map[..bytes.len()].copy_from_slice(bytes);
        let map = Arc::new(map.make_read_only()?);
        Ok(Self::Map { bytes: Bytes::from_owner(Shared(map.clone())).slice(..bytes.len()), map })
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Map { bytes, .. } => bytes.len(),
            Self::Plain { len, .. } => *len,
        }
    }

    /// Some of the bytes, without a copy from a map.
    pub(super) fn get(&self, range: Range<usize>) -> io::Result<Bytes> {
        if range.start > range.end || range.end > self.len() {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, "it lies outside the file"));
        }
        match self {
            Self::Map { bytes, .. } => Ok(bytes.slice(range)),
            Self::Plain { file, .. } => {
                let mut bytes = vec![0; range.len()];
                file.read_exact_at(&mut bytes, range.start as u64)?;
                Ok(bytes.into())
            }
        }
    }

    /// Tells the system that these bytes will soon be read. Advice only: whether it is taken does not matter.
    ///
    /// Never `MADV_RANDOM`, which turns the system's own read-ahead off and makes cold reads many times slower.
    pub(super) fn will_need(&self, range: Range<usize>) {
        for start in range.clone().step_by(FETCHED_AT_ONCE) {
            let len = FETCHED_AT_ONCE.min(range.end - start);
            match self {
                Self::Map { map, .. } if start + len <= map.len() => {
                    let _ = map.advise_range(Advice::WillNeed, start, len);
                }
                Self::Map { .. } => return,
                Self::Plain { file, .. } => fetch_ahead(file, start, len),
            }
        }
    }
}

/// Opens a file for reading. A process may commonly have 1,024 of them, fewer than a large cache has shards that are read without
/// a map, until it asks for as many as its administrator allows.
fn open_one_more(path: &Path) -> io::Result<File> {
    match File::open(path) {
        Err(error) if error.raw_os_error() == Some(libc::EMFILE) && allow_all_files() => File::open(path),
        outcome => outcome,
    }
}

/// Whether this process may now have more files open than before.
fn allow_all_files() -> bool {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a place for the answer, alive during the call.
    let is_known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0;
    let has_room = limit.rlim_cur < limit.rlim_max;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is read during the call; a limit that is refused changes nothing.
    is_known && has_room && unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } == 0
}

#[cfg(target_os = "linux")]
fn fetch_ahead(file: &File, start: usize, len: usize) {
    use std::os::fd::AsRawFd;
    let (offset, len) = (start as libc::off_t, len as libc::off_t);
    // SAFETY: the descriptor is open for as long as `file` is borrowed; advice changes no memory of ours.
    let _ = unsafe { libc::posix_fadvise(file.as_raw_fd(), offset, len, libc::POSIX_FADV_WILLNEED) };
}

#[cfg(not(target_os = "linux"))]
fn fetch_ahead(_file: &File, _start: usize, _len: usize) {}

impl Length for FileBytes {
    fn len(&self) -> u64 {
        FileBytes::len(self) as u64
    }
}

impl ChunkReader for FileBytes {
    type T = Reader<Bytes>;

    /// The `parquet` crate asks for a stream at the footer's last bytes alone: where there is a page index, it gets its pages
    /// by [`ChunkReader::get_bytes`].
    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        let len = FileBytes::len(self);
        self.get(start as usize..len).map(Buf::reader).map_err(foreign)
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        self.get(start as usize..(start as usize).saturating_add(length)).map_err(foreign)
    }
}

fn foreign(error: io::Error) -> ParquetError {
    ParquetError::External(error.into())
}
