//! [`Tail`]: how many bytes the last entries of the log have, and how many stay behind a snapshot.

use std::collections::VecDeque;

use quorate_engine::SnapshotMeta;

use super::Core;
use crate::config::LoopConfig;

/// Entries are counted together up to this many bytes: what is remembered stays small.
const STRETCH_BYTES: u64 = 64 << 10;

/// The bytes of the entries that this run has appended. Those from before it are not counted: they
/// are the first to be compacted anyway.
#[derive(Debug, Default)]
pub(super) struct Tail {
    stretches: VecDeque<Stretch>,
}

#[derive(Debug)]
struct Stretch {
    last: u64,
    bytes: u64,
}

impl Tail {
    /// Counts entries from `first` to `last`, which replace all from `first` on.
    pub(super) fn appended(&mut self, first: u64, last: u64, bytes: u64) {
        while self.stretches.pop_back_if(|stretch| stretch.last >= first).is_some() {}
        match self.stretches.back_mut() {
            Some(stretch) if stretch.bytes < STRETCH_BYTES => {
                stretch.last = last;
                stretch.bytes += bytes;
            }
            _ => self.stretches.push_back(Stretch { last, bytes }),
        }
    }

    /// Forgets entries up to `index`, which are gone.
    pub(super) fn compacted_to(&mut self, index: u64) {
        while self.stretches.pop_front_if(|stretch| stretch.last <= index).is_some() {}
    }

    /// The index up to which entries must go, so that those after it have at most about
    /// `bytes_max`.
    pub(super) fn beyond(&self, bytes_max: u64) -> u64 {
        let mut bytes = 0;
        let exceeds = |stretch: &&Stretch| {
            bytes += stretch.bytes;
            bytes > bytes_max
        };
        self.stretches.iter().rev().find(exceeds).map_or(0, |stretch| stretch.last)
    }
}

impl<P, R, M> Core<P, R, M> {
    pub(super) fn snapshot_taken(&mut self, meta: SnapshotMeta) {
        let LoopConfig { tail_entries, tail_bytes, .. } = self.config;
        if !self.raw.mut_store().set_snapshot(meta.id, meta.conf_state) {
            return;
        }
        let all = meta.id.index;
        let beyond = all.saturating_sub(tail_entries).max(self.tail.beyond(tail_bytes)).min(all);
        let drops_tail = std::mem::take(&mut self.drops_tail);
        self.compact(if drops_tail { all } else { beyond });
    }

    /// The log's files take more room than they may, and hold entries of this group: it gives up
    /// its tail, behind a new snapshot if there can be one.
    pub(super) fn compaction_wanted(&mut self) {
        let snapshot = self.raw.store().snapshot_id().index;
        if self.applied > snapshot {
            self.drops_tail = true;
            self.effects.snapshot_wanted = true;
        } else if self.raw.store().first_index() <= snapshot {
            self.compact(snapshot);
        }
    }

    fn compact(&mut self, index: u64) {
        let truncated = self.raw.mut_store().compact_to(index);
        self.tail.compacted_to(truncated.index);
        self.record_changed = Some(self.raw.store().snapshot_id());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_entries_fit_the_budget() {
        let mut tail = Tail::default();
        assert_eq!(tail.beyond(0), 0, "nothing is known of the log before");
        for index in 1..=10 {
            tail.appended(index, index, STRETCH_BYTES);
        }
        assert_eq!(tail.beyond(10 * STRETCH_BYTES), 0);
        assert_eq!(tail.beyond(3 * STRETCH_BYTES), 7);
        assert_eq!(tail.beyond(0), 10);
        // A new leader's entries replace the end.
        tail.appended(8, 8, STRETCH_BYTES);
        assert_eq!(tail.beyond(3 * STRETCH_BYTES), 5);
        tail.compacted_to(6);
        assert_eq!(tail.beyond(2 * STRETCH_BYTES), 0);
    }

    #[test]
    fn small_entries_are_counted_together() {
        let mut tail = Tail::default();
        for index in 1..=10_000 {
            tail.appended(index, index, 128);
        }
        assert!(tail.stretches.len() <= 20, "{}", tail.stretches.len());
        let beyond = tail.beyond(512 << 10);
        assert!((10_000 - 4_096 - 512..=10_000 - 3_000).contains(&beyond), "{beyond}");
    }
}
