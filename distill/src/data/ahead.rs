//! How much memory batches that wait for their step may take.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A budget of bytes between the thread that reads and the one that trains. A batch enters when it fits, or when
/// nothing else is there: then one batch waits, however large.
#[derive(Debug)]
pub struct Ahead {
    max_bytes: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    held: usize,
    is_closed: bool,
}

impl Ahead {
    /// A budget of so many bytes.
    #[must_use]
    pub fn new(max_bytes: usize) -> Self {
        Self { max_bytes, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Waits until the bytes fit and takes them; `false` once the budget is closed.
    #[must_use]
    pub fn enter(&self, num_bytes: usize) -> bool {
        let is_full =
            |state: &mut State| !state.is_closed && state.held > 0 && state.held + num_bytes > self.max_bytes;
        let waited = self.changed.wait_while(self.lock(), is_full);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        state.held += num_bytes;
        !state.is_closed
    }

    /// Gives bytes back.
    pub fn leave(&self, num_bytes: usize) {
        self.lock().held -= num_bytes;
        self.changed.notify_all();
    }

    /// Ends all waiting.
    pub fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while holding it leaves a valid number: take it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    fn held(ahead: &Ahead) -> usize {
        ahead.lock().held
    }

    #[test]
    fn what_does_not_fit_waits_for_room() {
        let ahead = Ahead::new(100);
        assert!(ahead.enter(60) && ahead.enter(40));
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| ahead.enter(50));
            // Nothing was given back: the reader cannot have entered, whenever it started.
            assert_eq!(held(&ahead), 100);
            ahead.leave(40);
            assert_eq!(held(&ahead), 60);
            ahead.leave(60);
            assert!(reader.join().unwrap());
        });
        assert_eq!(held(&ahead), 50);
    }

    #[test]
    fn one_batch_always_enters_and_closing_ends_the_wait() {
        let ahead = Ahead::new(100);
        assert!(ahead.enter(1000));
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| ahead.enter(1));
            ahead.close();
            assert!(!reader.join().unwrap());
        });
    }
}
