//! Writes `tests/fixtures/cache_v1`: a small cache of each dtype and one of each further codec, and their features as
//! plain float32.
//!
//! `make_cache_fixture OUT` writes what is not there yet; what it wrote once is never written again.
#![allow(dead_code, reason = "the rows serve the tests and the benchmark as well")]

use std::path::PathBuf;

use anyhow::Context;
use shared::cache::{CacheIdentity, CacheReader, CacheWriter, WriterOptions};

#[path = "../../tests/cache/rows.rs"]
mod rows;

fn main() -> anyhow::Result<()> {
    let out = PathBuf::from(std::env::args().nth(1).context("usage: make_cache_fixture OUT")?);
    for (name, dtype, codec) in rows::FIXTURES {
        let dir = out.join(name);
        if dir.exists() {
            continue;
        }
        let head = rows::head(dtype, 12);
        let options = WriterOptions { shard_bytes: 6000, row_group_bytes: 2000, ..WriterOptions::default() };
        let mut writer =
            CacheWriter::open(&dir, CacheIdentity { codec, ..rows::identity(dtype, 12, &head) }, options)?;
        rows::quarantined().into_iter().for_each(|row| writer.quarantine(row));
        writer.append_batch(rows::rows(1, 12, dtype, 12))?;
        writer.finish()?;
        let reader = CacheReader::open(&dir)?;
        let (mut all, mut one) = (Vec::new(), Vec::new());
        for i in 0..reader.len() {
            reader.features_f32(i, &mut one)?;
            all.extend(one.iter().flat_map(|value| value.to_le_bytes()));
        }
        std::fs::write(out.join(format!("{name}.expected")), all)?;
        for lock in [".lock", ".lock-manifest"] {
            std::fs::remove_file(dir.join(lock))?;
        }
    }
    Ok(())
}
