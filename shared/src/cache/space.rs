//! Room on a disk, so that a run stops before there is none.

use std::path::Path;

use super::error::{IoContext, Result};

/// Bytes that this user may still write on the file system that holds `path`, which must exist.
///
/// # Errors
/// What the system refuses.
#[cfg(unix)]
pub fn free_bytes(path: &Path) -> Result<u64> {
    use std::ffi::CString;
    use std::io;
    use std::os::unix::ffi::OsStrExt;

    let name = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from).at("read", path)?;
    // SAFETY: all-zero bytes are a valid `statvfs`, a struct of integers.
    let mut stats: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `name` is a C string and `stats` a place for the answer, both alive during the call.
    match unsafe { libc::statvfs(name.as_ptr(), &mut stats) } {
        // The fields have other widths on other systems.
        #[allow(clippy::unnecessary_cast, reason = "u32 on macOS")]
        0 => Ok(stats.f_bavail as u64 * stats.f_frsize as u64),
        _ => Err(io::Error::last_os_error()).at("read", path),
    }
}

/// Unknown on this system: nothing is guarded.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn free_bytes(_path: &Path) -> Result<u64> {
    Ok(u64::MAX)
}
