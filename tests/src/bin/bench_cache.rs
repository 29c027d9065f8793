//! `bench_cache CACHE warm|cold [map|plain]`: how fast our reader takes the samples of a cache, in random order, on one thread.
//! One JSON object; `tests/peers/bench_cache.py` calls it beside the peers. `cold` reads everything once: whoever asks for it has
//! dropped the files from the page cache before. Rates are gigabytes of the teacher's own values per second.

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::json;
use shared::cache::{Access, CacheReader, ReaderOptions};

/// Warm passes, of which the fastest counts.
const PASSES: usize = 5;
/// Samples fetched ahead of a cold read.
const AHEAD: usize = 8;

#[allow(clippy::print_stdout, reason = "the figures are what this program is for")]
fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [dir, mode, rest @ ..] = args.as_slice() else {
        bail!("usage: bench_cache CACHE warm|cold [map|plain]")
    };
    let access = if rest.first().is_some_and(|word| word == "plain") { Access::Plain } else { Access::Map };
    let start = Instant::now();
    let reader = CacheReader::open_with(dir, ReaderOptions { access, ..ReaderOptions::default() })?;
    let open_ms = start.elapsed().as_secs_f64() * 1e3;
    let after_open = anonymous_kib()?;
    // Mixed over all row groups: the worst order for a disk.
    let order: Vec<usize> =
        reader.block_shuffled(1, 0, usize::MAX).into_iter().map(|sample| sample as usize).collect();
    let row_bytes = reader.width() * reader.dtype().size();
    let raw: usize = order.iter().map(|&sample| reader.num_positions(sample) * row_bytes).sum();
    let rate = |seconds: f64| raw as f64 / seconds / 1e9;
    let shards = reader.manifest().shards.len();
    let mut found = json!({
        "samples": reader.len(), "shards": shards, "raw_bytes": raw, "open_ms_a_shard": open_ms / shards as f64,
        "anonymous_bytes_a_sample_after_open": after_open as f64 * 1024.0 / reader.len() as f64,
    });
    let mut peak = after_open;
    let mut pass = || -> Result<f64> {
        let start = Instant::now();
        for (at, &sample) in order.iter().enumerate() {
            if mode == "cold" {
                reader.will_need(order.get(at + AHEAD).copied());
            }
            black_box(reader.features(sample)?);
            if at % 64 == 0 {
                peak = peak.max(anonymous_kib()?);
            }
        }
        Ok(start.elapsed().as_secs_f64())
    };
    if mode == "cold" {
        found["cold"] = rate(pass()?).into();
    } else {
        let mut best = f64::INFINITY;
        for _ in 0..PASSES {
            best = best.min(pass()?);
        }
        found["warm"] = rate(best).into();
        found["memcpy"] =
            rate(memcpy_seconds(&order, |sample| reader.num_positions(sample) * row_bytes)).into();
    }
    found["peak_anonymous_mib"] = (peak as f64 / 1024.0).into();
    println!("{found}");
    Ok(())
}

/// Copies of as many bytes as the samples have, each from a place of its own, into fresh memory as the reader's results are.
fn memcpy_seconds(order: &[usize], bytes_of: impl Fn(usize) -> usize) -> f64 {
    let mut starts = vec![0];
    (0..order.len()).for_each(|sample| starts.push(starts[sample] + bytes_of(sample)));
    let source = vec![1u8; starts[order.len()]];
    let pass = || {
        let start = Instant::now();
        order.iter().for_each(|&sample| drop(black_box(source[starts[sample]..starts[sample + 1]].to_vec())));
        start.elapsed().as_secs_f64()
    };
    (0..PASSES).map(|_| pass()).fold(f64::INFINITY, f64::min)
}

/// Memory of this process that no file backs.
fn anonymous_kib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
