//! Content hashes: fixed-size bytes that read, print and serialise as lower-case hexadecimal.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Separates sample keys from every other use of BLAKE3; a change of the recipe needs a new string.
const SAMPLE_KEY_CONTEXT: &str = "genrecal 2026-11-23 sample key v1";

/// BLAKE3-256 of some bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(blake3::hash(bytes).into())
    }

    /// The digest of a file's content, read in pieces on all threads: memory does not grow with the file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn of_file(path: &Path) -> std::io::Result<Self> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_mmap_rayon(path)?;
        Ok(Self(hasher.finalize().into()))
    }

    /// A digest computed elsewhere, such as by a streaming hasher.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// 128 bits that identify a sample: a hash of its canonical messages and its images' bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SampleKey([u8; 16]);

impl SampleKey {
    /// The key of a sample, from [`canonical_json`](crate::dataset::canonical_json) of its messages
    /// and the digest of each image's encoded bytes, in order.
    pub fn of(canonical_messages_json: &str, images: &[Digest]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(SAMPLE_KEY_CONTEXT);
        // The length in front keeps text and images apart: no two samples share one byte stream.
        hasher.update(&(canonical_messages_json.len() as u64).to_le_bytes());
        hasher.update(canonical_messages_json.as_bytes());
        for image in images {
            hasher.update(image.as_bytes());
        }
        let mut key = [0; 16];
        hasher.finalize_xof().fill(&mut key);
        Self(key)
    }

    /// A key read back from storage.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// A text that is not the hexadecimal form of a hash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} hexadecimal digits, got `{got}`")]
pub struct ParseHexError {
    expected: usize,
    got: String,
}

/// The value of each hexadecimal digit, of either case; 255 for what is none. Opening a cache reads a key for each sample, and
/// a processor guesses wrong whether the next digit is a letter.
const DIGITS: [u8; 256] = {
    let mut digits = [255; 256];
    let mut value = 0;
    while value < 16 {
        let digit = b"0123456789abcdef"[value];
        digits[digit as usize] = value as u8;
        digits[digit.to_ascii_uppercase() as usize] = value as u8;
        value += 1;
    }
    digits
};

fn parse_hex<const N: usize>(text: &str) -> Result<[u8; N], ParseHexError> {
    let error = || ParseHexError { expected: 2 * N, got: text.to_owned() };
    if text.len() != 2 * N {
        return Err(error());
    }
    let (mut bytes, mut seen) = ([0; N], 0);
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let [high, low] = [DIGITS[pair[0] as usize], DIGITS[pair[1] as usize]];
        seen |= high | low;
        *byte = high << 4 | (low & 15);
    }
    if seen > 15 {
        return Err(error());
    }
    Ok(bytes)
}

/// Text and serde forms are the same for both hashes.
macro_rules! hexadecimal {
    ($type:ident) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($type))
            }
        }

        impl FromStr for $type {
            type Err = ParseHexError;

            fn from_str(text: &str) -> Result<Self, ParseHexError> {
                parse_hex(text).map(Self)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}

hexadecimal!(Digest);
hexadecimal!(SampleKey);
