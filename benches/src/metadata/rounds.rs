//! The best of several rounds: what else the machine does makes a round slower, and none faster.

use std::time::Duration;

use super::Failure;

/// The shortest time of some rounds.
pub(super) fn best(
    rounds: u32,
    mut round: impl FnMut(u32) -> Result<Duration, Failure>,
) -> Result<Duration, Failure> {
    let mut best = Duration::MAX;
    for number in 0..rounds {
        best = best.min(round(number)?);
    }
    Ok(best)
}

pub(super) fn millis(duration: Duration) -> Option<f64> {
    Some(duration.as_secs_f64() * 1e3)
}
