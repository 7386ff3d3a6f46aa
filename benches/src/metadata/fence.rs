//! FenceBroker: a broker goes, and all that it led is led by others, while readers go on reading.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use quorate_statemachine::{BrokerId, Command, MetadataImage, Reply};

use super::rounds::{best, millis};
use super::state::{BROKERS, State, accepted};
use super::{Failure, row};
use crate::report::Row;

/// From one broker that is fenced to the next: far enough that they share no partition, so that each
/// still has its full share.
const STEP: u32 = 5;

/// Measures, with a state in which every replica is in sync: all that the broker keeps changes.
pub(super) fn measure(partitions: u32, rounds: u32) -> Result<Row, Failure> {
    let mut state = State::build(partitions)?;
    let mut changed = 0;
    let mut longest_gap = Duration::MAX;
    let took = best(rounds, |round| {
        let broker = BrokerId((1 + round * STEP) % BROKERS);
        let kept = u64::try_from(state.image().partitions_of(broker).count())?;
        let command = Command::FenceBroker(state.session(broker)?).encode();
        let reader = Reader::default();
        let published = state.published().clone();
        let (took, reply, gap) = std::thread::scope(|scope| {
            let reading = scope.spawn(|| reader.read(&published));
            reader.wait_until_it_reads();
            let begin = Instant::now();
            let applied = state.apply(&command);
            state.publish();
            let took = begin.elapsed();
            reader.stop.store(true, Ordering::Release);
            let gap = reading.join().map_err(|_| "the reader panicked")?;
            Ok::<_, Failure>((took, accepted(applied?.outcome)?, gap))
        })?;
        let Reply::BrokerFenced { partitions_changed } = reply else {
            return Err("a fenced broker is answered with what changed".into());
        };
        if partitions_changed != kept {
            return Err(format!("{partitions_changed} of {kept} partitions changed").into());
        }
        changed = partitions_changed;
        longest_gap = longest_gap.min(gap);
        Ok(took)
    })?;
    let mut row = row("fence", partitions);
    row.changed = Some(changed);
    row.millis = millis(took);
    row.pause_ms = millis(longest_gap);
    Ok(row)
}

/// A thread that reads the newest image all the time.
#[derive(Default)]
struct Reader {
    reads: AtomicU64,
    stop: AtomicBool,
}

impl Reader {
    /// Reads until it is stopped, and returns the longest time from one read to the next.
    fn read(&self, published: &Arc<ArcSwap<MetadataImage>>) -> Duration {
        let mut longest = Duration::ZERO;
        let mut last = Instant::now();
        while !self.stop.load(Ordering::Acquire) {
            let image = published.load();
            black_box(image.topics().next().and_then(|topic| topic.partition(0)));
            let now = Instant::now();
            longest = longest.max(now - last);
            last = now;
            self.reads.fetch_add(1, Ordering::Release);
        }
        longest
    }

    fn wait_until_it_reads(&self) {
        while self.reads.load(Ordering::Acquire) == 0 {
            std::thread::yield_now();
        }
    }
}
