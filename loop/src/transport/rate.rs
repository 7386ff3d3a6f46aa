//! [`Rate`]: how fast the snapshots of a node leave it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Bytes in a second, of all transfers together.
///
/// A snapshot has no haste: a leader keeps the entries behind it until the follower has it. What it
/// would take at full speed, of processor, disk and network, the proposals that go on meanwhile would
/// wait for.
#[derive(Debug)]
pub(super) struct Rate {
    bytes_per_second: u64,
    /// When all that was asked for until now has left.
    free_at: Mutex<Instant>,
}

impl Rate {
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Rate { bytes_per_second: bytes_per_second.max(1), free_at: Mutex::new(Instant::now()) }
    }

    /// Waits until these bytes may leave. Transfers take turns, in the order in which they ask.
    ///
    /// When the future is dropped, the turn goes by unused.
    pub(super) async fn wait(&self, bytes: usize) {
        sleep_until(self.turn(Instant::now(), bytes)).await;
    }

    /// When bytes may leave that are asked for at `now`. Time in which nobody asked is not made up for.
    fn turn(&self, now: Instant, bytes: usize) -> Instant {
        let nanos = u128::from(bytes as u64) * 1_000_000_000 / u128::from(self.bytes_per_second);
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        // Nothing in here can panic half way.
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = now.max(*free_at);
        *free_at = turn + takes;
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_asked_for_leaves_at_the_rate_and_a_pause_is_not_made_up_for() {
        let rate = Rate::new(1_000);
        let begin = Instant::now() + Duration::from_secs(1);
        let after = |millis| begin + Duration::from_millis(millis);
        assert_eq!(rate.turn(begin, 250), begin, "nobody was there before");
        assert_eq!(rate.turn(begin, 500), after(250));
        assert_eq!(rate.turn(after(100), 1), after(750), "another transfer");
        assert_eq!(rate.turn(after(5_000), 1_000), after(5_000));
        assert_eq!(rate.turn(after(5_000), 1_000), after(6_000));
    }
}
