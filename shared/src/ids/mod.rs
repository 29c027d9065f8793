//! Identity by content: sample keys, image digests and fingerprints.
//!
//! Nothing is identified by where it lies or by its row number: a cache indexed by row pairs the
//! wrong features with the wrong samples as soon as somebody filters the dataset again.

mod fingerprint;
mod hash;

pub use fingerprint::{Difference, Fingerprint};
pub use hash::{Digest, ParseHexError, SampleKey};

#[cfg(test)]
mod tests;
