//! Runs cells side by side, as many as memory allows.

use std::collections::VecDeque;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result};
use shared::memory::available_bytes;

use super::INTERRUPTED;
use super::cell::Cell;
use super::statistics::Failure;

/// How often a child is looked at.
const POLL: Duration = Duration::from_millis(100);
/// The memory that a further cell needs, of the first one's: runs of one grid differ.
const ROOM: f64 = 1.25;

/// What the caller shows while the grid runs.
#[derive(Clone, Debug)]
pub enum Event {
    /// So many cells were done before this call, of so many.
    Found(usize, usize),
    /// So many run at once from here on.
    Jobs(usize),
    /// A cell begins.
    Begun(String),
    /// A cell is done.
    Done(String),
    /// A cell failed, with the reason.
    Failed(Failure),
}

/// Runs the cells that are not done; those that failed, with their reasons.
///
/// The first runs alone: what it needed says how many fit beside each other.
pub(super) fn run(cells: &[Cell], jobs: usize, progress: &(dyn Fn(&Event) + Sync)) -> Result<Vec<Failure>> {
    let mut left: VecDeque<&Cell> = VecDeque::new();
    for cell in cells {
        if !cell.is_done()? {
            left.push_back(cell);
        }
    }
    progress(&Event::Found(cells.len() - left.len(), cells.len()));
    let failures = Mutex::new(Vec::new());
    let threads = rayon::current_num_threads();
    // Students as they came only answer; the first run is what tells.
    while jobs > 1 && cells.iter().all(|cell| cell.peak_rss_bytes().is_none()) {
        let Some(cell) = left.pop_front() else { break };
        one(cell, threads, &failures, progress)?;
    }
    let peak = cells.iter().filter_map(Cell::peak_rss_bytes).max();
    let jobs = jobs.min(fitting(peak, available_bytes())).min(left.len().max(1));
    progress(&Event::Jobs(jobs));
    let left = Mutex::new(left);
    let next = || match left.lock() {
        Ok(mut left) => left.pop_front(),
        Err(_) => None,
    };
    let work = || -> Result<()> {
        while let Some(cell) = next() {
            one(cell, threads.div_ceil(jobs), &failures, progress)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    Ok(failures.into_inner().unwrap_or_default())
}

/// How many cells of this peak fit into this much memory; one where either is unknown.
fn fitting(peak: Option<u64>, available: Option<u64>) -> usize {
    let (Some(peak), Some(available)) = (peak, available) else { return 1 };
    ((available as f64 / (peak as f64 * ROOM)) as usize).max(1)
}

/// Runs one cell to its end. A failure is noted; an error is one of this process.
fn one(
    cell: &Cell,
    threads: usize,
    failures: &Mutex<Vec<Failure>>,
    progress: &(dyn Fn(&Event) + Sync),
) -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        return Ok(());
    }
    progress(&Event::Begun(cell.name()));
    for mut command in cell.commands()? {
        // A group of its own: an interrupt from the terminal comes through this process, once.
        command.process_group(0).env("RAYON_NUM_THREADS", threads.to_string());
        if !succeeds(command)? {
            let failure = Failure { cell: cell.name(), reason: cell.complaint() };
            if !INTERRUPTED.load(Ordering::Relaxed) {
                progress(&Event::Failed(failure.clone()));
            }
            if let Ok(mut failures) = failures.lock() {
                failures.push(failure);
            }
            return Ok(());
        }
    }
    progress(&Event::Done(cell.name()));
    Ok(())
}

fn succeeds(mut command: Command) -> Result<bool> {
    let mut child = command.spawn().context("cannot start a cell's process")?;
    let mut told = false;
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for a cell's process")? {
            return Ok(status.success());
        }
        if INTERRUPTED.load(Ordering::Relaxed) && !told {
            told = true;
            interrupt(&child);
        }
        std::thread::sleep(POLL);
    }
}

/// Asks a cell to stop: `distill run` ends after the step under way, with a checkpoint.
fn interrupt(child: &Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        // SAFETY: kill has no memory effects; the child is not yet waited for, so its number is not another's.
        unsafe { libc::kill(pid, libc::SIGTERM) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_cells_as_fit() {
        let gib = |count: u64| Some(count << 30);
        assert_eq!(fitting(gib(2), gib(10)), 4, "2 GiB and a quarter more each");
        assert_eq!(fitting(gib(20), gib(10)), 1, "the first has run, so one always may");
        assert_eq!([fitting(None, gib(10)), fitting(gib(1), None)], [1, 1]);
    }
}
