//! `hold_freed BYTES TIMES [keep]`: takes and frees a block so many times and prints what the process still holds, above what it
//! held before; with `keep` under `memory::keep_freed`. A program of its own, because the allocator keeps its settings to the end,
//! and begins on the first thread, as those do that call it.

use std::hint::black_box;
use std::io::Write as _;

use anyhow::{Context, Result, bail};
use shared::memory::{anonymous_bytes, keep_freed};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [bytes, times, rest @ ..] = args.as_slice() else { bail!("usage: hold_freed BYTES TIMES [keep]") };
    if !rest.is_empty() {
        keep_freed();
    }
    let (bytes, times): (usize, usize) = (bytes.parse()?, times.parse()?);
    let held = || anonymous_bytes().context("the system does not tell");
    let before = held()?;
    for _ in 0..times {
        // Written to, because untouched memory is not resident.
        drop(black_box(vec![1u8; bytes]));
    }
    writeln!(std::io::stdout(), "{}", held()?.saturating_sub(before))?;
    Ok(())
}
