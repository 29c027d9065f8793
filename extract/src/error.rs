//! Errors that decide the exit code.

use std::fmt;

/// A command that cannot be right whatever the machine looks like: exit code 2.
#[derive(Debug)]
pub struct Usage(pub String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Usage {}

/// The run was asked to stop and did, at a commit point.
#[derive(Debug)]
pub struct Interrupted {
    /// Samples that the cache holds now.
    pub samples: u64,
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "stopped on request with {} samples committed\nhint: the same command continues",
            self.samples
        )
    }
}

impl std::error::Error for Interrupted {}
