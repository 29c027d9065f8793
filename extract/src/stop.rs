//! Why a run may end before the dataset does, in one place that every thread can see.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// Set by SIGINT or SIGTERM; process-wide because signals are.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on SIGINT, SIGTERM and SIGHUP ask for a stop at the next commit point; a second one ends the process at once,
/// which loses what is not committed and nothing else.
pub fn on_signals() {
    let handler = || {
        if INTERRUPTED.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        shared::say!("stopping: writing what is done; once more to stop at once");
    };
    // A second call in one process (tests do that) finds the handler of the first, which does the same.
    let _ = ctrlc::set_handler(handler);
}

/// What made a run end early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// A signal.
    Interrupted,
    /// More bad rows than the run tolerates.
    BudgetSpent,
    /// A thread failed; its error says why.
    Failed,
}

/// A flag that any thread may raise and that stays raised.
#[derive(Debug, Default)]
pub struct Stop(AtomicU8);

impl Stop {
    /// Asks all threads to end; the first reason counts.
    pub fn raise(&self, reason: StopReason) {
        let _ = self.0.compare_exchange(0, reason as u8 + 1, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Why to end, if so.
    pub fn reason(&self) -> Option<StopReason> {
        if INTERRUPTED.load(Ordering::SeqCst) {
            self.raise(StopReason::Interrupted);
        }
        let reasons = [StopReason::Interrupted, StopReason::BudgetSpent, StopReason::Failed];
        reasons.into_iter().find(|reason| *reason as u8 + 1 == self.0.load(Ordering::SeqCst))
    }

    /// Whether to end.
    pub fn is_raised(&self) -> bool {
        self.reason().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_counts() {
        let stop = Stop::default();
        assert_eq!(stop.reason(), None);
        stop.raise(StopReason::BudgetSpent);
        stop.raise(StopReason::Failed);
        assert_eq!(stop.reason(), Some(StopReason::BudgetSpent));
    }
}
