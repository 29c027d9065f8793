//! How errors reach the user: one message, the causes after it, then what to do.

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

/// An error taken apart for display.
#[derive(Debug, PartialEq)]
pub struct Explained {
    /// What happened, causes included, on one line each.
    pub message: String,
    /// What to do about it; several levels may have advice.
    pub hints: Vec<String>,
}

/// Takes an error chain apart: messages joined by `: `, lines that start with `hint:` collected behind them.
///
/// A message that already ends with the next cause's text (some libraries print their source) is not repeated.
pub fn explain(error: &anyhow::Error) -> Explained {
    let mut message = String::new();
    let mut hints = Vec::new();
    for cause in error.chain() {
        let mut lines = Vec::new();
        for line in cause.to_string().lines() {
            match line.trim_start().strip_prefix("hint:") {
                Some(hint) => hints.push(hint.trim().to_owned()),
                None => lines.push(line.to_owned()),
            }
        }
        let text = lines.join("\n");
        if message.is_empty() {
            message = text;
        } else if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
    }
    hints.dedup();
    Explained { message, hints }
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        self.hints.iter().try_for_each(|hint| write!(f, "\nhint: {hint}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_follow_the_whole_chain() {
        let error = anyhow::anyhow!("no space left\nhint: free some").context("cannot write `x`");
        let text = explain(&error).to_string();
        assert_eq!(text, "error: cannot write `x`: no space left\nhint: free some");
    }

    #[test]
    fn a_cause_that_was_printed_already_is_not_repeated() {
        let error = anyhow::anyhow!("no such file").context("cannot read `x`: no such file\nhint: look");
        assert_eq!(explain(&error).message, "cannot read `x`: no such file");
    }
}
