//! How much memory this process has taken at most, for the summaries: memory is a promise, so it is printed.

/// The most resident memory the process has held so far, in bytes.
///
/// `None` where the system does not tell. On Linux it is `VmHWM` of `/proc/self/status`, which
/// covers every thread but no child process, and which includes pages of memory-mapped files
/// while they were resident.
pub fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    parse_high_water_mark(&status)
}

/// `VmHWM:     1234 kB`, in bytes: the kernel means 1024 by kB.
fn parse_high_water_mark(status: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
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
        assert_eq!(parse_high_water_mark(status), Some(832 * 1024));
        assert_eq!(parse_high_water_mark("Name:\tcat\n"), None);
    }
}
