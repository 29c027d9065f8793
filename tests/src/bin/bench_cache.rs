//! `bench_cache CACHE open|warm|cold|encode [map|plain]`: how fast a cache opens, gives its samples in random order, is written.
//! One JSON object; `tests/peers/bench_cache.py` calls it beside the peers. `cold` reads everything once: whoever asks for it has
//! dropped the files from the page cache before. Rates are gigabytes of the teacher's own values per second: warm ones of the
//! thread's processor time, so that what else the machine does counts less, cold ones of the time on the wall.

use std::hint::black_box;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Result, anyhow, bail};
use e2e::counting::{self, Counting};
use serde_json::json;
use shared::cache::{Access, CacheIdentity, CacheReader, CacheWriter, ReaderOptions, Row, WriterOptions};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Warm passes, of which the fastest counts.
const PASSES: usize = 5;
/// Threads of a cold read, as a loader has them, and the bytes of raw features that it has fetched ahead.
const THREADS: usize = 2;
const AHEAD_BYTES: usize = 64 << 20;

#[allow(clippy::print_stdout, reason = "the figures are what this program is for")]
fn main() -> Result<()> {
    // As the programs do.
    shared::memory::keep_freed();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [dir, mode, rest @ ..] = args.as_slice() else {
        bail!("usage: bench_cache CACHE open|warm|cold|encode [map|plain]")
    };
    let access = if rest.first().is_some_and(|word| word == "plain") { Access::Plain } else { Access::Map };
    let open = || CacheReader::open_with(dir, ReaderOptions { access, ..ReaderOptions::default() });
    if mode == "open" {
        return print_openings(open);
    }
    let reader = open()?;
    if mode == "encode" {
        return print_encoding(&reader);
    }
    // Mixed over all row groups: the worst order for a disk.
    let order: Vec<usize> =
        reader.block_shuffled(1, 0, usize::MAX).into_iter().map(|sample| sample as usize).collect();
    let row_bytes = reader.width() * reader.dtype().size();
    let raw: usize = order.iter().map(|&sample| reader.num_positions(sample) * row_bytes).sum();
    let rate = |seconds: f64| raw as f64 / seconds / 1e9;
    let shards = reader.manifest().shards.len();
    let mut found = json!({"samples": reader.len(), "shards": shards, "raw_bytes": raw});
    let bytes_of = |sample: usize| reader.num_positions(sample) * row_bytes;
    let largest = order.iter().map(|&sample| bytes_of(sample)).max().unwrap_or(0);
    let before = counting::reset_peak();
    if mode == "cold" {
        found["threads"] = THREADS.into();
        found["cold"] = rate(cold_seconds(&reader, &order, bytes_of)?).into();
    } else {
        let pass =
            || order.iter().try_for_each(|&sample| reader.features(sample).map(|read| drop(black_box(read))));
        pass()?;
        // The reader's own, beside the index and the sample that it hands out.
        found["peak_bytes_beside_the_sample"] = counting::peak().saturating_sub(before + largest).into();
        let copies = Copies::new(&order, bytes_of);
        let (mut ours, mut memcpy) = (f64::INFINITY, f64::INFINITY);
        for _ in 0..PASSES {
            ours = ours.min(cpu_seconds_of(libc::CLOCK_THREAD_CPUTIME_ID, pass)?);
            memcpy = memcpy.min(cpu_seconds_of(libc::CLOCK_THREAD_CPUTIME_ID, || copies.pass())?);
        }
        found["warm"] = rate(ours).into();
        found["memcpy"] = rate(memcpy).into();
    }
    println!("{found}");
    Ok(())
}

/// Opens the cache a few times: the fastest, on the wall and in processor time of all threads, and the memory that one holds.
#[allow(clippy::print_stdout, reason = "the figures are what this program is for")]
fn print_openings(open: impl Fn() -> shared::cache::Result<CacheReader>) -> Result<()> {
    let before = counting::held();
    let reader = open()?;
    let held = counting::held().saturating_sub(before) as f64;
    let (mut wall, mut cpu) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..4 * PASSES {
        let start = Instant::now();
        let seconds =
            cpu_seconds_of(libc::CLOCK_PROCESS_CPUTIME_ID, || open().map(|reader| drop(black_box(reader))))?;
        (wall, cpu) = (wall.min(start.elapsed().as_secs_f64()), cpu.min(seconds));
    }
    let shards = reader.manifest().shards.len();
    println!(
        "{}",
        json!({
            "samples": reader.len(), "shards": shards, "open_ms": wall * 1e3,
            "open_cpu_ms_a_shard": cpu * 1e3 / shards as f64, "held_bytes_a_sample": held / reader.len() as f64,
        })
    );
    Ok(())
}

/// Writes the cache's rows to another one: processor time of all threads, with checksums, digests and syncs.
#[allow(clippy::print_stdout, reason = "the figures are what this program is for")]
fn print_encoding(reader: &CacheReader) -> Result<()> {
    let rows =
        (0..reader.len()).map(|sample| reader.row(sample)).collect::<shared::cache::Result<Vec<_>>>()?;
    let raw: usize = rows.iter().map(|row| row.features.bytes.len()).sum();
    let mut seconds = f64::INFINITY;
    for _ in 0..3 {
        // Beside the cache, on the same disk.
        let dir = tempfile::tempdir_in(reader.dir().parent().unwrap_or(reader.dir()))?;
        let mut batches: Vec<Vec<Row>> = rows.chunks(8).map(<[Row]>::to_vec).collect();
        let write = || {
            let mut writer =
                CacheWriter::open(dir.path(), CacheIdentity::of(reader)?, WriterOptions::default())?;
            batches.drain(..).try_for_each(|batch| writer.append_batch(batch))?;
            writer.finish().map(drop)
        };
        seconds = seconds.min(cpu_seconds_of(libc::CLOCK_PROCESS_CPUTIME_ID, write)?);
    }
    println!("{}", json!({"raw_bytes": raw, "encode": raw as f64 / seconds / 1e9}));
    Ok(())
}

/// Time on the wall of some threads that share the samples, the next ones fetched ahead.
fn cold_seconds(reader: &CacheReader, order: &[usize], bytes_of: impl Fn(usize) -> usize) -> Result<f64> {
    let mut ends = Vec::with_capacity(order.len());
    order.iter().fold(0, |end, &sample| {
        ends.push(end + bytes_of(sample));
        end + bytes_of(sample)
    });
    let (next, fetched) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || -> Result<()> {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(&sample) = order.get(at) else { return Ok(()) };
            let until = ends.partition_point(|&end| end <= ends[at] + AHEAD_BYTES);
            let from = fetched.fetch_max(until, Ordering::Relaxed);
            reader.will_need(order[from.min(until)..until].iter().copied());
            black_box(reader.features(sample)?);
        }
    };
    let start = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
    })?;
    Ok(start.elapsed().as_secs_f64())
}

/// Copies of as many bytes as the samples have, each from a place of its own, into fresh memory as the reader's results are.
struct Copies {
    source: Vec<u8>,
    ranges: Vec<Range<usize>>,
}

impl Copies {
    fn new(order: &[usize], bytes_of: impl Fn(usize) -> usize) -> Self {
        let mut starts = vec![0];
        (0..order.len()).for_each(|sample| starts.push(starts[sample] + bytes_of(sample)));
        let ranges = order.iter().map(|&sample| starts[sample]..starts[sample + 1]).collect();
        Self { source: vec![1; starts[order.len()]], ranges }
    }

    fn pass(&self) -> shared::cache::Result<()> {
        self.ranges.iter().for_each(|range| drop(black_box(self.source[range.clone()].to_vec())));
        Ok(())
    }
}

/// Processor time that something takes by one of the system's clocks, in seconds.
fn cpu_seconds_of(clock: libc::clockid_t, work: impl FnOnce() -> shared::cache::Result<()>) -> Result<f64> {
    let now = || {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the clock is written to a place of ours.
        unsafe { libc::clock_gettime(clock, &raw mut time) };
        time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
    };
    let start = now();
    work()?;
    Ok(now() - start)
}
