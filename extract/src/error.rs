//! Errors that decide the exit code.

/// A command that cannot be right whatever the machine looks like: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// The run was asked to stop and did, at a commit point.
#[derive(Debug, thiserror::Error)]
#[error("stopped on request with {samples} samples committed\nhint: the same command continues")]
pub struct Interrupted {
    /// Samples that the cache holds now.
    pub samples: u64,
}
