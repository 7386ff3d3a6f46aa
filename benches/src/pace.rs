//! Operations that fall due at a rate, whatever becomes of those before.

use std::time::{Duration, Instant};

/// Operations that fall due together. Their latency counts from then, so that a system that stands
/// still is not spared what it delays.
const BURST: Duration = Duration::from_millis(1);

/// Has so many operations fall due in a second, as long as they are `wanted`, and tells `each` when it
/// was due. On a thread of its own: the clock of a runtime is too coarse.
pub(crate) fn keep(per_second: u32, wanted: impl Fn() -> bool, mut each: impl FnMut(Instant)) {
    let begin = Instant::now();
    let (mut bursts, mut begun) = (0u32, 0);
    while wanted() {
        let due = begin + BURST * bursts;
        while let Some(left) = due.checked_duration_since(Instant::now())
            && !left.is_zero()
        {
            std::thread::park_timeout(left);
        }
        bursts += 1;
        let owed = f64::from(per_second) * (BURST * bursts).as_secs_f64();
        while f64::from(begun) < owed {
            begun += 1;
            each(due);
        }
    }
}
