//! Waiting for something to be so in other processes, which can only be asked.

use std::time::{Duration, Instant};

use crate::process::Failure;

/// How often it is looked at: short beside what is measured, long beside the question.
const LOOK: Duration = Duration::from_millis(20);

/// Waits for at most `longest` until `look` finds something in `these`; `what` says what that is, for
/// the error.
pub(crate) fn until<C, T>(
    these: &mut C,
    longest: Duration,
    what: &str,
    mut look: impl FnMut(&mut C) -> Result<Option<T>, Failure>,
) -> Result<T, Failure> {
    let deadline = Instant::now() + longest;
    loop {
        if let Some(found) = look(these)? {
            return Ok(found);
        }
        if Instant::now() > deadline {
            return Err(format!("waited in vain for {what}").into());
        }
        std::thread::park_timeout(LOOK);
    }
}
