//! What a checkpoint is, for fingerprints.

use std::collections::BTreeMap;
use std::path::Path;

use super::checkpoint::Checkpoint;
use super::error::ModelError;
use super::registry::config_of;
use crate::ids::Digest;

/// Bytes that all cores hash together.
const HASHED_AT_ONCE: usize = 32 << 20;

/// What the weights are: names, types, shapes and bytes, however they are sharded and whichever naming they use.
///
/// # Errors
/// When the checkpoint cannot be read.
pub fn weights_digest(dir: &Path) -> Result<Digest, ModelError> {
    let config = config_of(dir)?;
    let checkpoint = Checkpoint::open(dir, config.family)?;
    let mut hasher = blake3::Hasher::new();
    for (name, entry) in checkpoint.entries() {
        hasher.update(format!("{name} {:?} {:?} ", entry.dtype, entry.shape).as_bytes());
        checkpoint.for_each_piece(entry, HASHED_AT_ONCE, |bytes| {
            hasher.update_rayon(bytes);
        });
    }
    Ok(Digest::from_bytes(*hasher.finalize().as_bytes()))
}

/// The fingerprint fields of a checkpoint: `architecture`, `config`, `weights` and `norm_state`.
///
/// # Errors
/// When the checkpoint cannot be read.
pub fn identity(dir: &Path) -> Result<BTreeMap<String, String>, ModelError> {
    let config = config_of(dir)?;
    let canonical = config.config.canonical().to_string();
    let fields = [
        ("architecture", config.family.architecture.to_owned()),
        ("config", Digest::of(canonical.as_bytes()).to_string()),
        ("weights", weights_digest(dir)?.to_string()),
        ("norm_state", "after final norm".to_owned()),
    ];
    Ok(fields.into_iter().map(|(field, value)| (field.to_owned(), value)).collect())
}
