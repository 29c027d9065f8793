//! Whether a cache embeds its images: in all samples or in none, so that `distill` knows before it begins whether it needs
//! the data.

use anyhow::{Result, bail};
use shared::cache::CacheReader;

/// Samples looked at for one with an image: a dataset of text alone is not read through.
const LOOKED_AT: usize = 1024;

/// Whether the images of this cache are embedded; none if no sample has any.
///
/// # Errors
/// When a sample cannot be read.
pub fn embeds_images(cache: &CacheReader) -> Result<Option<bool>> {
    for sample in 0..cache.len().min(LOOKED_AT) {
        let embeds = cache.embeds_images(sample)?;
        if embeds.is_some() {
            return Ok(embeds);
        }
    }
    Ok(None)
}

/// Whether new samples of this cache are to embed their images, of which `wanted` is what a flag says: without it they
/// follow those that are there.
///
/// # Errors
/// When the flag was given and the cache was made without it, or a sample cannot be read.
pub fn settle(cache: &CacheReader, wanted: bool) -> Result<bool> {
    match (embeds_images(cache)?, wanted) {
        (None, _) => Ok(wanted),
        (Some(false), true) => bail!(
            "`{}` was made without `--embed-images`\nhint: leave it out, or choose another `--out`: a cache embeds the \
             images of all samples or of none",
            cache.dir().display()
        ),
        (Some(embeds), _) => Ok(embeds),
    }
}

/// Refuses caches of which some embed their images and others do not.
///
/// # Errors
/// Naming one of each kind, or when a sample cannot be read.
pub fn require_alike<'a>(caches: impl IntoIterator<Item = &'a CacheReader>) -> Result<()> {
    let (mut with, mut without) = (None, None);
    for cache in caches {
        match embeds_images(cache)? {
            Some(true) => with = Some(cache.dir()),
            Some(false) => without = Some(cache.dir()),
            None => {}
        }
    }
    if let (Some(with), Some(without)) = (with, without) {
        bail!(
            "`{}` embeds its images and `{}` does not\nhint: extract the latter again with `--embed-images`",
            with.display(),
            without.display()
        );
    }
    Ok(())
}
