//! A manifest in which one bit has flipped becomes what it was, because its digest says when it has.
//!
//! Every bit is tried. BLAKE3 is a tree over chunks of 1 KiB, so that a try costs its own chunk and the nodes above it: an
//! instant for a manifest of kilobytes, minutes for one of the ten megabytes that tens of thousands of shards take.

use std::fs;
use std::path::Path;

use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};
use blake3::{CHUNK_LEN, Hasher};
use rayon::prelude::*;

use super::commit::{Part, WriterLock, is_shard, list, lock_manifest, replace_manifest};
use super::error::{CacheError, IoContext, Result};
use super::manifest::{Manifest, SIGNATURE_BYTES, signature, signed_digest};
use super::{DATA, MANIFEST};
use crate::ids::Digest;

/// Makes the manifest of the cache at `dir` what it was, if one bit of it has flipped; whether one had.
///
/// # Errors
/// [`CacheError::BeyondRepair`] if more than that is wrong with it, or it is gone from where shards are;
/// [`CacheError::Locked`], and what the system refuses.
pub fn mend_manifest(dir: &Path) -> Result<bool> {
    let refused = match Manifest::load(dir) {
        Ok(_) => return Ok(false),
        Err(error) => error,
    };
    let path = dir.join(MANIFEST);
    if !path.exists() {
        let has_shards = list(&dir.join(DATA)).is_ok_and(|files| files.iter().any(|file| is_shard(file)));
        let gone = || CacheError::BeyondRepair { path, reason: "it is missing".into() };
        return Err(if has_shards { gone() } else { refused });
    }
    let _lock = WriterLock::take(dir, Part::default())?;
    let _guard = lock_manifest(dir)?;
    let bytes = mended(&fs::read(&path).at("read", &path)?);
    match bytes.filter(|bytes| Manifest::parse(&path, bytes).is_ok()) {
        Some(bytes) => replace_manifest(dir, &bytes).map(|()| true),
        None => match refused {
            CacheError::Damaged { reason, .. } => Err(CacheError::BeyondRepair { path, reason }),
            other => Err(other),
        },
    }
}

/// The bytes of which these differ in one bit and whose digest is the one they say.
fn mended(bytes: &[u8]) -> Option<Vec<u8>> {
    let (body, written) = bytes.split_at_checked(bytes.len().checked_sub(SIGNATURE_BYTES)?)?;
    let sound = signature(body);
    if bits_apart(sound.as_bytes(), written) == 1 {
        return Some([body, sound.as_bytes()].concat());
    }
    let wanted = signed_digest(written)?;
    let mut chunks = Vec::new();
    split(body, 0, &mut Vec::new(), &mut chunks);
    let (byte, flipped) = chunks.par_iter().find_map_any(|chunk| chunk.find(body, &wanted))?;
    let mut bytes = bytes.to_vec();
    bytes[byte] = flipped;
    Some(bytes)
}

fn bits_apart(a: &[u8], b: &[u8]) -> u32 {
    a.iter().zip(b).map(|(a, b)| (a ^ b).count_ones()).sum()
}

/// What lies beside a node on the way to the root.
#[derive(Clone)]
enum Beside {
    Left(ChainingValue),
    Right(ChainingValue),
}

/// One chunk of the body, and the tree around it.
struct Chunk {
    start: usize,
    len: usize,
    /// From the root down.
    beside: Vec<Beside>,
}

/// Takes the tree over some bytes of the body apart, which begin at `start`.
fn split(bytes: &[u8], start: usize, beside: &mut Vec<Beside>, chunks: &mut Vec<Chunk>) {
    if bytes.len() <= CHUNK_LEN {
        chunks.push(Chunk { start, len: bytes.len(), beside: beside.clone() });
        return;
    }
    let (left, right) = bytes.split_at(left_subtree_len(bytes.len() as u64) as usize);
    let middle = start + left.len();
    beside.push(Beside::Right(subtree(right, middle)));
    split(left, start, beside, chunks);
    beside.pop();
    beside.push(Beside::Left(subtree(left, start)));
    split(right, middle, beside, chunks);
    beside.pop();
}

fn subtree(bytes: &[u8], start: usize) -> ChainingValue {
    Hasher::new().set_input_offset(start as u64).update(bytes).finalize_non_root()
}

impl Chunk {
    /// The place and the value of a byte that has a bit flipped, so that the body's digest is `wanted`.
    fn find(&self, body: &[u8], wanted: &Digest) -> Option<(usize, u8)> {
        let mut chunk = body[self.start..self.start + self.len].to_vec();
        for at in 0..self.len {
            for bit in 0..8 {
                chunk[at] ^= 1 << bit;
                if self.root(&chunk) == *wanted {
                    return Some((self.start + at, chunk[at]));
                }
                chunk[at] ^= 1 << bit;
            }
        }
        None
    }

    /// The digest of the body with this chunk in it.
    fn root(&self, chunk: &[u8]) -> Digest {
        let Some((top, below)) = self.beside.split_first() else { return Digest::of(chunk) };
        let leaf = subtree(chunk, self.start);
        let node = below.iter().rev().fold(leaf, |node, beside| match beside {
            Beside::Left(left) => merge_subtrees_non_root(left, &node, Mode::Hash),
            Beside::Right(right) => merge_subtrees_non_root(&node, right, Mode::Hash),
        });
        Digest::from_bytes(match top {
            Beside::Left(left) => merge_subtrees_root(left, &node, Mode::Hash).into(),
            Beside::Right(right) => merge_subtrees_root(&node, right, Mode::Hash).into(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    /// A body of each shape of tree: one chunk, whole chunks, and chunks of which the last is short.
    #[test]
    fn any_flipped_bit_is_found_and_two_are_not() {
        for len in [10, 1024, 3 * 1024, 5 * 1024 + 7] {
            let body: Vec<u8> = (0..len).map(|i| (i * 7 % 251) as u8).collect();
            let sound = [&body, signature(&body).as_bytes()].concat();
            for bit in (0..8 * sound.len()).step_by(8 * sound.len() / 11).chain([8 * sound.len() - 1]) {
                let mut bytes = sound.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(mended(&bytes).as_ref(), Some(&sound), "bit {bit} of {len} bytes");
            }
            let mut bytes = sound.clone();
            (bytes[1], bytes[2]) = (bytes[1] ^ 1, bytes[2] ^ 1);
            assert_eq!(mended(&bytes), None);
        }
        assert_eq!(mended(b"{}"), None);
    }
}
