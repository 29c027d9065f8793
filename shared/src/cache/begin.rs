//! Opening a cache for writing: a new one is created, a known one continued, anything else refused.

use std::path::Path;

use super::commit::{ASIDE, NEXT, Part, Staged, commit, entry_of, list, refuse_unlisted, roll_forward};
use super::error::{CacheError, Result};
use super::head::write_head;
use super::identity::CacheIdentity;
use super::lossy::LossyError;
use super::manifest::{FeatureFormat, Manifest};
use super::{DATA, FORMAT_VERSION, HEAD, MANIFEST};
use crate::ids::Fingerprint;

/// A directory with anything but a cache in it is left alone: also with shards, whose manifest is lost.
pub(super) fn refuse_foreign(dir: &Path) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    if !dir.is_dir() {
        return Err(CacheError::NotACache {
            path: dir.into(),
            reason: "it is a file".into(),
            hint: "give `--out` a directory, which need not exist",
        });
    }
    let mut found = list(dir)?;
    if dir.join(DATA).is_dir() {
        found.extend(list(&dir.join(DATA))?);
    }
    // What hides itself, and what a process leaves that is killed while it creates a cache.
    let unfinished =
        [format!("{HEAD}{ASIDE}"), format!("{HEAD}{NEXT}"), format!("{MANIFEST}{ASIDE}"), DATA.into()];
    let ours = |path: &Path| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
            || unfinished.iter().any(|name| path == Path::new(name))
    };
    let foreign = found.iter().filter_map(|path| path.strip_prefix(dir).ok()).find(|path| !ours(path));
    match foreign {
        // Looked for after the list is made: another part may be creating the cache at this moment.
        Some(name) if !dir.join(MANIFEST).exists() => Err(CacheError::NotACache {
            path: dir.into(),
            reason: format!("it has no `{MANIFEST}` but holds `{}`", name.display()),
            hint: "give `--out` a new or empty directory, or put the manifest back if this is a cache that lost it",
        }),
        _ => Ok(()),
    }
}

/// The identity with the facts of the format itself.
pub(super) fn full_fingerprint(identity: &CacheIdentity) -> Fingerprint {
    let mut fingerprint = identity.fingerprint.clone();
    fingerprint.insert("format_version", FORMAT_VERSION);
    fingerprint.insert("dtype", identity.dtype);
    fingerprint.insert("width", identity.width);
    fingerprint.insert("codec", identity.codec);
    fingerprint
}

pub(super) fn create(dir: &Path, identity: &CacheIdentity, part: Part) -> Result<Manifest> {
    roll_forward(dir, None, part)?;
    let aside = dir.join(format!("{HEAD}.tmp"));
    write_head(&aside, &identity.head)?;
    let format = FeatureFormat { dtype: identity.dtype, width: identity.width, codec: identity.codec };
    let mut manifest = Manifest::new(full_fingerprint(identity), format, entry_of(&aside, HEAD)?);
    manifest.lossy_error = identity.lossy_error.filter(|error| error.positions > 0);
    manifest.about = identity.about.clone();
    manifest.dataset = identity.dataset.clone();
    manifest.selected = identity.selected.clone();
    commit(dir, &[Staged { aside, file: HEAD.into() }], &manifest)?;
    Ok(manifest)
}

pub(super) fn resume(dir: &Path, identity: &CacheIdentity, part: Part) -> Result<Manifest> {
    let mut manifest = Manifest::load(dir)?;
    refuse_other(dir, &manifest, &full_fingerprint(identity))?;
    roll_forward(dir, Some(&manifest), part)?;
    refuse_unlisted(dir, &manifest)?;
    let before = manifest.clone();
    manifest.dataset.extend(identity.dataset.clone());
    // Of two measurements of one teacher and codec the larger one counts; a copy that is continued brings the same again.
    let positions = |error: &Option<LossyError>| error.map_or(0, |error| error.positions);
    if positions(&identity.lossy_error) > positions(&manifest.lossy_error) {
        manifest.lossy_error = identity.lossy_error;
    }
    // This part begins again: whoever finishes last must not take its earlier end for its present one.
    manifest.parts_done.remove(&part.to_string());
    if manifest != before {
        commit(dir, &[], &manifest)?;
    }
    Ok(manifest)
}

/// Refuses a cache that was made with another fingerprint than `expected`.
pub(super) fn refuse_other(dir: &Path, manifest: &Manifest, expected: &Fingerprint) -> Result<()> {
    let differences = manifest.fingerprint.differences(expected);
    match differences.is_empty() {
        true => Ok(()),
        false => Err(CacheError::OtherFingerprint { path: dir.into(), differences }),
    }
}
