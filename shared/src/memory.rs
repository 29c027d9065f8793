//! How much memory this process has taken at most, and how much is left: memory is a promise, so it is printed.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// The most resident memory the process has held so far, in bytes.
///
/// `None` where the system does not tell. On Linux it is `VmHWM` of `/proc/self/status`, which
/// covers every thread but no child process, and which includes pages of memory-mapped files
/// while they were resident.
pub fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    parse_kibibytes(&status, "VmHWM:")
}

/// The memory of this process that no file backs, in bytes: `RssAnon` of `/proc/self/status`, so without the page cache and
/// mapped files. `None` where the system does not tell.
pub fn anonymous_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    parse_kibibytes(&status, "RssAnon:")
}

/// From now on memory that was freed is used again instead of given back to the system, for programs that take and free the same
/// large blocks over and over: glibc maps each block of 32 MiB or more anew, and the kernel clears its pages one fault at a
/// time. Held are at most the bytes that were in use at once, and what lies between them.
///
/// Does nothing where the C library is another one.
pub fn keep_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: mallopt changes the allocator's own settings, under its lock; a value that it does not take changes nothing.
        let set = |option, value| unsafe { libc::mallopt(option, value) == 1 };
        // Larger blocks are mapped by themselves; before glibc 2.35 the threshold could not be above 32 MiB.
        if [1 << 30, 1 << 25].into_iter().any(|bytes| set(libc::M_MMAP_THRESHOLD, bytes)) {
            set(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
            // One arena, because only the first can grow beyond 64 MiB, whatever thread a block is taken on.
            set(libc::M_ARENA_MAX, 1);
        }
    }
}

/// Watches [`anonymous_bytes`], of which the kernel keeps no peak: a look every few milliseconds.
pub struct AnonymousPeak {
    end: Sender<()>,
    thread: JoinHandle<u64>,
}

impl AnonymousPeak {
    const INTERVAL: Duration = Duration::from_millis(5);

    /// Watches from now on.
    pub fn watch() -> AnonymousPeak {
        let (end, ended) = channel();
        let thread = std::thread::spawn(move || {
            let mut peak = 0;
            loop {
                peak = anonymous_bytes().unwrap_or(0).max(peak);
                if ended.recv_timeout(Self::INTERVAL) != Err(RecvTimeoutError::Timeout) {
                    return peak;
                }
            }
        });
        AnonymousPeak { end, thread }
    }

    /// The most there was, in bytes; `None` where the system does not tell.
    pub fn end(self) -> Option<u64> {
        drop(self.end);
        self.thread.join().ok().filter(|peak| *peak > 0)
    }
}

/// Memory that could be taken now without swapping, in bytes: `MemAvailable` of `/proc/meminfo`. `None` where the system does not tell.
pub fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    parse_kibibytes(&text, "MemAvailable:")
}

/// `VmHWM:     1234 kB`, in bytes: the kernel means 1024 by kB.
fn parse_kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_high_water_mark() {
        // The line as proc(5) shows it.
        let status = "Name:\tcat\nVmPeak:\t   13004 kB\nVmHWM:\t     832 kB\nVmRSS:\t     800 kB\n";
        assert_eq!(parse_kibibytes(status, "VmHWM:"), Some(832 * 1024));
        assert_eq!(parse_kibibytes("Name:\tcat\n", "VmHWM:"), None);
    }

    #[test]
    fn the_watch_sees_what_is_gone_at_its_end() {
        const TAKEN: usize = 32 << 20;
        let Some(before) = anonymous_bytes() else { return };
        let peak = AnonymousPeak::watch();
        // Written to, because untouched memory is not resident.
        let taken = std::hint::black_box(vec![1u8; TAKEN]);
        std::thread::sleep(10 * AnonymousPeak::INTERVAL);
        drop(taken);
        let peak = peak.end().unwrap_or(0);
        // Other tests give memory back meanwhile.
        assert!(peak > before.min(8 << 20) + TAKEN as u64 / 2, "{peak} after {before}");
    }
}
