//! [`Tail`]: how many bytes the last entries of the log have: how many stay behind a snapshot, and how
//! many are still to be applied.

use std::collections::VecDeque;

use mutation::Bug;
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

/// Entries up to `last`, behind those of the stretch before. What was counted before them, and with
/// them.
#[derive(Debug)]
struct Stretch {
    last: u64,
    start: u64,
    end: u64,
}

impl Tail {
    /// Counts entries from `first` to `last`, which replace all from `first` on.
    pub(super) fn appended(&mut self, first: u64, last: u64, bytes: u64) {
        while self.stretches.pop_back_if(|stretch| stretch.last >= first).is_some() {}
        match self.stretches.back_mut() {
            Some(stretch) if stretch.end - stretch.start < STRETCH_BYTES => {
                stretch.last = last;
                stretch.end += bytes;
            }
            _ => {
                let start = self.end();
                self.stretches.push_back(Stretch { last, start, end: start + bytes });
            }
        }
    }

    fn end(&self) -> u64 {
        self.stretches.back().map_or(0, |stretch| stretch.end)
    }

    /// Forgets entries up to `index`, which are gone.
    pub(super) fn compacted_to(&mut self, index: u64) {
        while self.stretches.pop_front_if(|stretch| stretch.last <= index).is_some() {}
    }

    /// The index up to which entries must go, so that those after it have at most about
    /// `bytes_max`.
    pub(super) fn beyond(&self, bytes_max: u64) -> u64 {
        let end = self.end();
        let exceeding = self.stretches.partition_point(|stretch| end - stretch.start > bytes_max);
        exceeding.checked_sub(1).map_or(0, |at| self.stretches[at].last)
    }

    /// About how many bytes the entries after `low` have, up to `high`; a stretch that `low` is in
    /// counts whole, and one that `high` is in not at all.
    pub(super) fn between(&self, low: u64, high: u64) -> u64 {
        let start = |index| {
            let at = self.stretches.partition_point(|stretch| stretch.last <= index);
            self.stretches.get(at).map_or(self.end(), |stretch| stretch.start)
        };
        start(high) - start(low.min(high))
    }
}

impl<P, R, M> Core<P, R, M> {
    pub(super) fn snapshot_taken(&mut self, meta: SnapshotMeta) {
        let LoopConfig { tail_entries, tail_bytes, .. } = self.config;
        // One that was asked for while this one was written came to nothing: if it is wanted still, it
        // is asked for again.
        self.snapshot_asked = None;
        if !self.raw.mut_store().set_snapshot(meta.id, meta.conf_state) {
            return;
        }
        let all = meta.id.index;
        let tail = all.saturating_sub(tail_entries).min(self.least_held());
        let beyond = tail.max(self.tail.beyond(tail_bytes)).min(all);
        let drops_tail = std::mem::take(&mut self.drops_tail);
        self.compact(if drops_tail { all } else { beyond });
    }

    /// On the leader: the last index that every member which answers has, or will have from the
    /// snapshot on its way to it. Without what follows, a member that is sent a large one would have
    /// to be sent another at its end, and another then.
    fn least_held(&self) -> u64 {
        if !self.leads() {
            return u64::MAX;
        }
        let members = self.raw.raft.prs().iter().filter(|(id, _)| self.is_live(**id));
        let held = members.map(|(_, member)| member.matched.max(member.pending_snapshot));
        held.min().unwrap_or(u64::MAX)
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
        if mutation::is(Bug::SnapshotRemovedEarly) {
            self.effects.retain = self.record_changed;
        }
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
    fn bytes_are_counted_between_any_two_entries() {
        let mut tail = Tail::default();
        assert_eq!(tail.between(0, 10), 0);
        for index in 1..=10 {
            tail.appended(index, index, STRETCH_BYTES);
        }
        assert_eq!(tail.between(2, 5), 3 * STRETCH_BYTES);
        assert_eq!(tail.between(10, 10), 0);
        assert_eq!(tail.between(12, 10), 0, "a snapshot may be ahead");
        tail.appended(6, 6, 2 * STRETCH_BYTES);
        assert_eq!(tail.between(2, 6), 5 * STRETCH_BYTES);
        tail.compacted_to(4);
        assert_eq!(tail.between(2, 6), 3 * STRETCH_BYTES, "what is gone is not counted");
        tail.compacted_to(6);
        tail.appended(7, 7, 5);
        assert_eq!(tail.between(0, 7), 5);
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
