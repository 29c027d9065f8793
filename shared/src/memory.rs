//! How much memory this process has taken at most, and how much is left: memory is a promise, so it is printed.

/// The most resident memory the process has held so far, in bytes.
///
/// `None` where the system does not tell. On Linux it is `VmHWM` of `/proc/self/status`, which
/// covers every thread but no child process, and which includes pages of memory-mapped files
/// while they were resident.
pub fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    parse_kibibytes(&status, "VmHWM:")
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
}
