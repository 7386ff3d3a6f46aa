//! Waiting for a condition in another process, with a deadline: the only place that pauses.
//!
//! Another process's HTTP endpoint cannot wake us, so its answer is asked for again and again. The
//! pause between two questions is a `park_timeout`, which an `unpark` (a signal that arrived) ends
//! early; nothing anywhere waits longer than its condition takes, plus one pause.

use std::time::{Duration, Instant};

/// Between two questions to another process: short beside an election, long beside a request.
pub(crate) const PAUSE: Duration = Duration::from_millis(20);

/// Asks `probe` until it has an answer, or until the deadline has passed and it was asked once
/// more. `None` says that the deadline passed.
pub(crate) fn until<T>(deadline: Instant, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    loop {
        let last = Instant::now() >= deadline;
        if let Some(answer) = probe() {
            return Some(answer);
        }
        if last {
            return None;
        }
        pause(PAUSE);
    }
}

/// Lets other processes work for at most this long.
pub(crate) fn pause(at_most: Duration) {
    std::thread::park_timeout(at_most);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_holds_is_answered_at_once_even_when_the_deadline_has_passed() {
        assert_eq!(until(Instant::now(), || Some(7)), Some(7));
    }

    #[test]
    fn a_condition_that_never_holds_ends_with_the_deadline() {
        let mut asked = 0;
        let none: Option<()> = until(Instant::now() + PAUSE, || {
            asked += 1;
            None
        });
        assert_eq!(none, None);
        assert!(asked >= 2);
    }
}
