//! How errors reach the user: one message, the causes after it, then what to do.

use std::error::Error;
use std::fmt;

use serde::Serialize;

/// An error taken apart for display.
#[derive(Debug, PartialEq, Serialize)]
pub struct Explained {
    /// What happened, causes included.
    #[serde(rename = "error")]
    pub message: String,
    /// What to do about it; several levels may have advice.
    pub hints: Vec<String>,
}

impl Explained {
    /// Takes an error and its causes apart: messages joined by `: `, lines that start with `hint:` collected behind them.
    ///
    /// A cause whose text an earlier message already has (some print their source) is not repeated.
    pub fn of(error: &(dyn Error + 'static)) -> Self {
        let mut explained = Self { message: String::new(), hints: Vec::new() };
        for cause in std::iter::successors(Some(error), |&error| error.source()) {
            explained.add(&cause.to_string());
        }
        explained.hints.dedup();
        explained
    }

    /// What the parser of a command line says in `text`, as every other error is said: its advice is the help.
    pub fn of_usage(text: &str) -> Self {
        // The usage and the pointer to the help come after an empty line.
        let message = text.split("\n\n").next().unwrap_or_default();
        let mut explained = Self { message: String::new(), hints: Vec::new() };
        explained.add(message.strip_prefix("error: ").unwrap_or(message));
        explained.hints.push("`--help` lists the flags and what each takes".to_owned());
        explained
    }

    fn add(&mut self, cause: &str) {
        let mut lines = Vec::new();
        for line in cause.lines() {
            match line.trim_start().strip_prefix("hint:") {
                Some(hint) => self.hints.push(hint.trim().to_owned()),
                None => lines.push(line),
            }
        }
        let text = lines.join("\n");
        if self.message.is_empty() {
            self.message = text;
        } else if !self.message.contains(&text) {
            self.message = format!("{}: {text}", self.message);
        }
    }
}

impl fmt::Display for Explained {
    /// The message, and each hint on a line of its own.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.hints.iter().try_for_each(|hint| write!(f, "\nhint: {hint}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Errors by their messages, each the cause of the one before it.
    #[derive(Debug)]
    struct Chain(&'static str, Option<Box<Chain>>);

    impl fmt::Display for Chain {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Chain {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as _)
        }
    }

    fn explained(message: &'static str, cause: &'static str) -> String {
        Explained::of(&Chain(message, Some(Box::new(Chain(cause, None))))).to_string()
    }

    #[test]
    fn hints_follow_the_whole_chain() {
        let text = explained("cannot write `x`", "no space left\nhint: free some");
        assert_eq!(text, "cannot write `x`: no space left\nhint: free some");
    }

    #[test]
    fn a_cause_that_was_printed_already_is_not_repeated() {
        let text = explained("cannot read `x`: no such file\nhint: look", "no such file");
        assert_eq!(text, "cannot read `x`: no such file\nhint: look");
    }
}
