//! `extract verify`: every checksum and invariant of a cache.

use std::fmt;

use anyhow::{Result, bail};
use serde::Serialize;
use shared::cache;
use shared::explained::Explained;

use crate::cli::{Overrides, VerifyArgs, path};
use crate::config::{Settings, required};
use crate::progress::{self, Unit};

/// What was checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Files compared with their digests.
    pub files: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Samples decoded and checked.
    pub samples: u64,
    /// How many things are wrong.
    pub problems: usize,
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sound: {} files, {} bytes, {} samples", self.files, self.bytes, self.samples)
    }
}

/// Verifies the cache; each problem goes to standard error as it is.
///
/// # Errors
/// When there is no cache, or anything in it is wrong.
pub fn verify(args: &VerifyArgs) -> Result<Verified> {
    let mut flags = Overrides::default();
    flags.put("cache", "dir", args.cache.as_deref().map(path));
    let settings = Settings::load(&args.common, flags.0)?;
    let dir = required(settings.cache.dir, "the cache", "CACHE", "cache.dir")?;
    let report = cache::verify(&dir, progress::bar(Unit::Bytes))?;
    let num_problems = report.problems.len();
    for problem in report.problems {
        shared::say!("{}", Explained::of(&problem).message);
    }
    if num_problems > 0 {
        bail!(
            "`{}` has {num_problems} problem(s)\nhint: `extract repair {} --teacher DIR --data SRC` extracts what is damaged again, or restore the files \
             named above from a copy",
            dir.display(),
            dir.display()
        );
    }
    Ok(Verified { files: report.files, bytes: report.bytes, samples: report.samples, problems: 0 })
}
