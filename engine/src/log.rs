//! The view of one group's log in memory: what Raft reads, kept by the thread that drives Raft.
//!
//! [`GroupLog`] lives inside the `RawNode` as its [`raft::Storage`]. It is changed when a Ready is
//! *emitted*, before the write is durable, because with asynchronous persistence Raft reads the
//! Ready's entries, terms and snapshot from here at once (trap R05). What may be *said* about
//! them is another matter, and hangs on the [`Durable`](crate::Durable) receipt.

mod storage;

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use raft::GetEntriesContext;
use raft::eraftpb::{ConfState, Entry, HardState};

use crate::cache::{CacheBudget, EntryCache};
use crate::delivery::Delivery;
use crate::ids::{GroupId, LogId};
use crate::record::GroupRecord;
use crate::snapshot::SnapshotMeta;
use crate::terms::TermRuns;

/// Entries that Raft wants and the cache lacks: to be read by the
/// [`LogReader`](crate::LogReader).
#[derive(Debug)]
pub struct Fetch {
    /// The group.
    pub group: GroupId,
    /// First index wanted.
    pub low: u64,
    /// The index after the last one wanted.
    pub high: u64,
    /// Encoded bytes after which to stop; one entry is read in any case.
    pub bytes_max: u64,
    /// To be given back to Raft (`RawNode::on_entries_fetched`) after the delivery.
    pub context: GetEntriesContext,
}

/// One group's log in memory.
///
/// Invariants: `truncated <= snapshot <= last` and `commit <= last`; terms are known from the
/// truncated position to the last; the cache ends at the last index and holds at least
/// `(min(applied, persisted), last]`.
#[derive(Debug)]
pub struct GroupLog {
    group: GroupId,
    hard_state: HardState,
    /// The membership of the snapshot. What changed after it stands in the entries after it.
    conf_state: Arc<ConfState>,
    truncated: LogId,
    last_index: u64,
    snapshot: LogId,
    terms: TermRuns,
    cache: EntryCache,
    applied: u64,
    persisted: u64,
    delivery: RefCell<Option<Delivery>>,
    fetches: RefCell<Vec<Fetch>>,
    snapshot_wanted: Cell<Option<u64>>,
}

impl GroupLog {
    /// The log of a group that is founded with the snapshot `meta`: empty, truncated there, in
    /// that term, and committed up to there.
    ///
    /// Every founding voter begins with the same snapshot at (1, 1).
    pub fn founded(group: GroupId, meta: &SnapshotMeta, budget: &CacheBudget) -> Self {
        let mut hard_state = HardState::default();
        (hard_state.term, hard_state.commit) = (meta.id.term, meta.id.index);
        let record =
            GroupRecord { hard_state, truncated: meta.id, last: meta.id, snapshot: meta.id };
        Self::recovered(group, record, meta.conf_state.clone(), budget)
    }

    /// The log of a group that waits for a snapshot from its leader: nothing in it, nobody a
    /// member.
    pub fn blank(group: GroupId, budget: &CacheBudget) -> Self {
        Self::recovered(group, GroupRecord::default(), ConfState::default(), budget)
    }

    /// The log of `record`, without its entries: they follow by [`Self::load`].
    pub(crate) fn recovered(
        group: GroupId,
        record: GroupRecord,
        conf_state: ConfState,
        budget: &CacheBudget,
    ) -> Self {
        Self {
            group,
            hard_state: record.hard_state,
            conf_state: Arc::new(conf_state),
            truncated: record.truncated,
            last_index: record.truncated.index,
            snapshot: record.snapshot,
            terms: TermRuns::new(record.truncated.index, record.truncated.term),
            cache: EntryCache::new(budget.clone()),
            applied: record.snapshot.index,
            // All that is read at open is on disk.
            persisted: record.last.index,
            delivery: RefCell::default(),
            fetches: RefCell::default(),
            snapshot_wanted: Cell::default(),
        }
    }

    /// Shares the membership with another group's, where it is the same: the groups of a node often
    /// have the same members, and there may be thousands of them.
    pub(crate) fn share_conf_state(&mut self, other: &mut Option<Arc<ConfState>>) {
        match other {
            Some(other) if **other == *self.conf_state => self.conf_state = other.clone(),
            _ => *other = Some(self.conf_state.clone()),
        }
    }

    /// Makes room for so many entries that are read at open.
    pub(crate) fn reserve(&mut self, entries: u64) {
        self.cache.reserve(usize::try_from(entries).unwrap_or(0));
    }

    /// Adds an entry read at open, which the caller has verified to follow. Below the snapshot
    /// only its term is of use: it is applied, and a follower that is behind is served from disk.
    pub(crate) fn load(&mut self, entry: Entry) {
        if entry.index > self.snapshot.index {
            // It is not applied, so it stays in memory, whatever the budget.
            self.push(entry);
        } else {
            self.terms.push(entry.index, entry.term);
            self.last_index = entry.index;
        }
    }

    /// The group.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// Term, vote and commit index.
    pub fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    /// The membership as of the snapshot. Changes in later entries are not in it: they take effect
    /// again as those entries are applied again.
    pub fn conf_state(&self) -> &ConfState {
        &self.conf_state
    }

    /// The last position that is compacted away.
    pub fn truncated(&self) -> LogId {
        self.truncated
    }

    /// The snapshot that the state machine is restored from; index 0 before the first one.
    pub fn snapshot_id(&self) -> LogId {
        self.snapshot
    }

    /// The last position.
    pub fn last(&self) -> LogId {
        LogId::new(self.last_index, self.terms.last_term())
    }

    /// The first index that is not compacted away.
    pub fn first_index(&self) -> u64 {
        self.truncated.index + 1
    }

    /// The last index; `first_index() - 1` when the log is empty.
    pub fn last_index(&self) -> u64 {
        self.last_index
    }

    /// All entries from `low` on, without a copy; `None` where the first of them is not in memory. What is
    /// not applied always is.
    pub fn in_memory(&self, low: u64) -> Option<impl DoubleEndedIterator<Item = &Entry>> {
        let first = self.cache.first_index()?;
        (first <= low).then(|| self.cache.from(low))
    }

    /// The term at `index`, from `first_index() - 1` to `last_index()`; `None` elsewhere.
    pub fn term(&self, index: u64) -> Option<u64> {
        let known = self.truncated.index..=self.last_index;
        known.contains(&index).then(|| self.terms.term(index))
    }

    /// All of the group that is not an entry, as it is to be written with the next batch.
    pub fn record(&self) -> GroupRecord {
        GroupRecord {
            hard_state: self.hard_state.clone(),
            truncated: self.truncated,
            last: self.last(),
            snapshot: self.snapshot,
        }
    }

    /// Adds the entries of a Ready; those that they conflict with are dropped, with all that
    /// follow them (trap I06).
    ///
    /// # Panics
    ///
    /// If the entries are not contiguous, leave a hole, reach below the truncated position, or
    /// take the term back: Raft never emits that, and writing it would ruin the log for good.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(
            first.index > self.truncated.index && first.index <= self.last_index + 1,
            "group {}: entry {} does not follow the log ({}, {}]",
            self.group,
            first.index,
            self.truncated,
            self.last_index,
        );
        if first.index <= self.last_index {
            self.terms.truncate_from(first.index);
            self.cache.truncate_from(first.index);
            self.last_index = first.index - 1;
            self.persisted = self.persisted.min(self.last_index);
            self.drop_delivery_beyond(first.index);
        }
        for entry in entries {
            self.push(entry.clone());
        }
        self.trim();
    }

    /// Sets term, vote and commit of a Ready, after its entries are appended.
    ///
    /// # Panics
    ///
    /// If the commit index is beyond the last, or term or commit go back.
    pub fn set_hard_state(&mut self, hard_state: HardState) {
        let (new, old) = (&hard_state, &self.hard_state);
        assert!(
            new.term >= old.term && new.commit >= old.commit && new.commit <= self.last_index,
            "group {}: {new:?} does not follow {old:?} in a log up to {}",
            self.group,
            self.last_index,
        );
        self.hard_state = hard_state;
    }

    /// Sets the commit index that a LightReady brings. It is written with the next batch.
    ///
    /// # Panics
    ///
    /// If it is beyond the last index. One that is not beyond the present changes nothing.
    pub fn set_commit(&mut self, index: u64) {
        assert!(
            index <= self.last_index,
            "group {}: commit {index} is beyond the last index {}",
            self.group,
            self.last_index
        );
        self.hard_state.commit = self.hard_state.commit.max(index);
    }

    /// Replaces the whole log by a snapshot of the leader. The batch that carries it is one with
    /// [`GroupWrite::install`](crate::GroupWrite::install). Call it before `set_hard_state` of
    /// the same Ready.
    ///
    /// # Panics
    ///
    /// If the snapshot is not beyond the commit index.
    pub fn install_snapshot(&mut self, id: LogId, conf_state: ConfState) {
        assert!(
            id.index > self.hard_state.commit,
            "group {}: snapshot {id} is not beyond commit {}",
            self.group,
            self.hard_state.commit,
        );
        (self.truncated, self.snapshot, self.last_index) = (id, id, id.index);
        self.terms = TermRuns::new(id.index, id.term);
        self.hard_state.term = self.hard_state.term.max(id.term);
        self.hard_state.commit = id.index;
        self.conf_state = Arc::new(conf_state);
        (self.applied, self.persisted) = (id.index, id.index);
        self.cache.clear();
        self.delivery.take();
        self.snapshot_no_longer_wanted();
    }

    /// Makes a snapshot that this node wrote (and that is durable) the one to restore from and
    /// to send. Returns whether it did: one that is not newer than the present changes nothing,
    /// since a snapshot of the leader can be installed while one is being written.
    ///
    /// # Panics
    ///
    /// If it is of an index that is not applied, or of another term than the log has there
    /// (trap I09).
    pub fn set_snapshot(&mut self, id: LogId, conf_state: ConfState) -> bool {
        if id.index <= self.snapshot.index {
            return false;
        }
        assert!(
            id.index <= self.applied && self.term(id.index) == Some(id.term),
            "group {}: snapshot {id} is not of this log, applied up to {}",
            self.group,
            self.applied,
        );
        self.snapshot = id;
        self.conf_state = Arc::new(conf_state);
        self.snapshot_no_longer_wanted();
        true
    }

    /// Forgets entries up to and including `index`, but always keeps the last one: a group that
    /// compaction has emptied loses its place in raft-engine (trap E05). Returns the position
    /// that is truncated now. The space comes back with a purge after the next batch.
    ///
    /// # Panics
    ///
    /// If `index` is beyond the snapshot: the state could not be restored.
    pub fn compact_to(&mut self, index: u64) -> LogId {
        assert!(
            index <= self.snapshot.index,
            "group {}: compaction to {index} is beyond the snapshot {}",
            self.group,
            self.snapshot
        );
        let index = index.min(self.last_index.saturating_sub(1));
        if index > self.truncated.index {
            self.truncated = LogId::new(index, self.terms.term(index));
            self.terms.compact_to(index);
            self.cache.drop_to(index);
            let mut delivery = self.delivery.borrow_mut();
            if delivery.as_ref().is_some_and(|delivery| delivery.low() <= index) {
                *delivery = None;
            }
        }
        self.truncated
    }

    /// Notes that the log is on disk up to `last`: the `record.last` of a durable write. Ignored
    /// when that position has been overwritten since: the write that did it reports for itself.
    pub fn persisted_to(&mut self, last: LogId) {
        if self.term(last.index) == Some(last.term) {
            self.persisted = self.persisted.max(last.index);
            self.trim();
        }
    }

    /// Notes that entries up to `index` are applied, as told to Raft (`advance_apply_to`) and
    /// not before: Raft reads above its own applied index without waiting.
    ///
    /// # Panics
    ///
    /// If `index` is beyond the last.
    pub fn applied_to(&mut self, index: u64) {
        assert!(
            index <= self.last_index,
            "group {}: applied {index} is beyond the last index {}",
            self.group,
            self.last_index
        );
        self.applied = self.applied.max(index);
        self.trim();
    }

    /// Takes the fetches that Raft has asked for since the last call. A delivery that was not
    /// asked for again is dropped here.
    pub fn take_fetches(&self) -> Vec<Fetch> {
        self.delivery.take();
        self.fetches.take()
    }

    /// Whether [`Self::take_fetches`] would do anything.
    pub fn has_fetches(&self) -> bool {
        !self.fetches.borrow().is_empty() || self.delivery.borrow().is_some()
    }

    /// Hands over what the reader fetched, for the `entries()` call that
    /// `RawNode::on_entries_fetched` makes right after. It is served once. What was compacted or
    /// overwritten since it was asked for is ignored, and Raft asks again.
    pub fn deliver(&mut self, low: u64, entries: Vec<Entry>) {
        let belongs = entries.iter().zip(low..).all(|(entry, index)| {
            entry.index == index
                && index > self.truncated.index
                && self.term(index) == Some(entry.term)
        });
        *self.delivery.borrow_mut() =
            (belongs && !entries.is_empty()).then(|| Delivery::new(entries));
    }

    /// The index that a newer snapshot must reach, since a peer needs one that cannot be served
    /// yet.
    pub fn snapshot_wanted(&self) -> Option<u64> {
        self.snapshot_wanted.get()
    }

    fn push(&mut self, entry: Entry) {
        assert_eq!(
            entry.index,
            self.last_index + 1,
            "group {}: entries are not contiguous",
            self.group
        );
        self.terms.push(entry.index, entry.term);
        self.last_index = entry.index;
        self.cache.push(entry);
    }

    fn trim(&mut self) {
        self.cache.trim(self.applied.min(self.persisted));
    }

    fn drop_delivery_beyond(&mut self, index: u64) {
        let delivery = self.delivery.get_mut();
        if delivery.as_ref().is_some_and(|delivery| delivery.end() > index) {
            *delivery = None;
        }
    }

    fn snapshot_no_longer_wanted(&self) {
        if self.snapshot_wanted.get().is_some_and(|index| index <= self.snapshot.index) {
            self.snapshot_wanted.set(None);
        }
    }
}

#[cfg(test)]
mod tests;
