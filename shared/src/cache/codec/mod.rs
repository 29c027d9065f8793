//! How features become the values of a page. One file per codec, one line in the table for each.
//!
//! Whatever the codec, the column holds ordinary float32 that any Parquet reader opens: a codec may
//! round the values and choose the page's encoding, nothing else.

mod frame;
mod huffman;
mod int8;
mod lossless;
mod none;
mod planes;
pub(super) mod widen;

pub(super) use planes::decode_plainly;

use std::fmt;
use std::io;
use std::ops::Range;
use std::str::FromStr;

use parquet::basic::{Compression, Encoding, ZstdLevel};
use serde::{Deserialize, Serialize};

use super::sample::{FeatureBlock, FeatureDtype};

/// Every codec; a new one is a file and a line here.
static CODECS: [&dyn Coding; 3] = [&lossless::Lossless, &int8::Int8, &none::None];

/// How a page's values lie in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// BYTE_STREAM_SPLIT in a zstd frame.
    Planes,
    /// PLAIN: little-endian float32, one after another.
    Plain,
}

impl Layout {
    /// The encoding of the values.
    pub(super) fn encoding(self) -> Encoding {
        match self {
            Self::Planes => Encoding::BYTE_STREAM_SPLIT,
            Self::Plain => Encoding::PLAIN,
        }
    }

    /// What is done to the encoded values.
    pub(super) fn compression(self) -> Compression {
        match self {
            Self::Planes => Compression::ZSTD(ZstdLevel::default()),
            Self::Plain => Compression::UNCOMPRESSED,
        }
    }
}

/// What a codec does.
pub(super) trait Coding: Sync {
    /// Its name in manifests and on the command line.
    fn name(&self) -> &'static str;

    /// How values are stored, for people: continues "number type bf16, ".
    fn about(&self) -> &'static str;

    /// How pages lie on disk.
    fn layout(&self) -> Layout;

    /// The values that are stored instead of the block's own, in its own number type; none if they are the same.
    /// Rounding what is rounded already changes nothing.
    fn round(&self, _block: &FeatureBlock) -> Option<Vec<u8>> {
        None
    }

    /// Whether [`Coding::round`] may change values.
    fn is_lossy(&self) -> bool {
        false
    }

    /// How many bytes [`Coding::encode`] may need for these values, at the most.
    fn room(&self, dtype: FeatureDtype, values: usize) -> usize;

    /// Appends the page's values to `out`, from little-endian values of `dtype`.
    fn encode(&self, dtype: FeatureDtype, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()>;

    /// Hands the wanted values of a page to `take`, in order and in pieces, as little-endian values of their own type.
    /// After an error what was taken means nothing.
    fn decode(&self, body: &[u8], wanted: &Wanted, take: &mut dyn FnMut(&[u8])) -> io::Result<()>;
}

/// Which values of a page are to be decoded.
pub(super) struct Wanted {
    /// Their own type, from which they were widened.
    pub(super) dtype: FeatureDtype,
    /// How many the page holds.
    pub(super) total: usize,
    /// The wanted ones.
    pub(super) values: Range<usize>,
}

/// Values handed on at a time: they stay in the first cache on their way through checksum and conversion.
const PIECE: usize = 4 * 1024;

/// A codec by its name: `lossless`, `int8` or `none`.
#[derive(Clone, Copy)]
pub struct Codec(&'static dyn Coding);

impl Codec {
    /// The teacher's values bit for bit; the default.
    pub const LOSSLESS: Codec = Codec(&lossless::Lossless);
    /// Rounded to 8 bits for each token and 64 channels.
    pub const INT8: Codec = Codec(&int8::Int8);
    /// Bit for bit and uncompressed.
    pub const NONE: Codec = Codec(&none::None);

    /// All codecs.
    pub fn all() -> impl Iterator<Item = Codec> {
        CODECS.into_iter().map(Codec)
    }

    /// Its name in manifests and on the command line.
    pub fn name(self) -> &'static str {
        self.0.name()
    }

    /// Whether values may come back changed.
    pub fn is_lossy(self) -> bool {
        self.0.is_lossy()
    }

    /// The values as the codec stores them, in the block's own number type.
    pub fn rounded(self, block: &FeatureBlock) -> FeatureBlock {
        let bytes = self.0.round(block).unwrap_or_else(|| block.bytes.clone());
        FeatureBlock { bytes, ..*block }
    }

    pub(super) fn coding(self) -> &'static dyn Coding {
        self.0
    }
}

impl Default for Codec {
    fn default() -> Self {
        Self::LOSSLESS
    }
}

impl PartialEq for Codec {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Codec {}

impl fmt::Debug for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Codec({})", self.name())
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Codec {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let names: Vec<&str> = CODECS.iter().map(|codec| codec.name()).collect();
        let found = Self::all().find(|codec| codec.name() == name);
        found.ok_or_else(|| format!("there is no codec `{name}`, only {}", names.join(", ")))
    }
}

impl Serialize for Codec {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Codec {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

fn damaged(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests;
