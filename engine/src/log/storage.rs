//! How Raft reads a group's log.

use raft::eraftpb::{ConfState, Entry, Snapshot};
use raft::util::NO_LIMIT;
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use super::{Fetch, GroupLog};
use crate::delivery::Limit;
use crate::ids::LogId;

/// Fetches that may be noted between two calls of [`GroupLog::take_fetches`]. One more is not
/// noted: Raft asks again with the peer's next heartbeat response.
const FETCHES_MAX: usize = 64;

impl GroupLog {
    /// Entries of `[low, high)` from a delivery and the cache; `None` when they lack the first,
    /// or lack any where all are wanted (trap R08).
    fn entries_in_memory(&self, low: u64, high: u64, bytes_max: u64) -> Option<Vec<Entry>> {
        let mut found = Vec::new();
        let mut limit = Limit::new(bytes_max);
        let mut next = low;
        let mut delivery = self.delivery.borrow_mut();
        if delivery.as_ref().is_some_and(|d| d.low() <= low && low < d.end()) {
            let delivered = delivery.take()?;
            found = limit.take(delivered.from(low), high);
            next = delivered.end();
        }
        let is_cached = self.cache.first_index().is_some_and(|first| first <= next);
        if is_cached && next < high && !limit.is_reached() {
            found.append(&mut limit.take(self.cache.from(next), high));
        }
        let is_whole = found.len() as u64 == high - low;
        (is_whole || (bytes_max != NO_LIMIT && !found.is_empty())).then_some(found)
    }

    fn note_fetch(&self, low: u64, high: u64, bytes_max: u64, context: GetEntriesContext) {
        let mut fetches = self.fetches.borrow_mut();
        if fetches.len() < FETCHES_MAX {
            // What is cached is never read from disk: it may not be there yet.
            let high = high.min(self.cache.first_index().unwrap_or(high));
            fetches.push(Fetch { group: self.group, low, high, bytes_max, context });
        }
    }

    fn may_be_sent_to(&self, member: u64) -> bool {
        let conf = &self.conf_state;
        member == raft::INVALID_ID
            || [&conf.voters, &conf.learners, &conf.voters_outgoing, &conf.learners_next]
                .iter()
                .any(|members| members.contains(&member))
    }
}

/// Infallible but for what is compacted, being fetched, or being made (trap R08).
impl Storage for GroupLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), ConfState::clone(&self.conf_state)))
    }

    /// # Panics
    ///
    /// If `high` is beyond `last_index + 1`, or if entries are missing in a context that cannot
    /// wait: they are pinned, so that can never be.
    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.truncated.index {
            return Err(StorageError::Compacted.into());
        }
        assert!(
            high <= self.last_index + 1,
            "group {}: entries [{low}, {high}) of a log up to {}",
            self.group,
            self.last_index
        );
        if low >= high {
            return Ok(Vec::new());
        }
        let bytes_max = max_size.into().unwrap_or(NO_LIMIT);
        if let Some(entries) = self.entries_in_memory(low, high, bytes_max) {
            return Ok(entries);
        }
        assert!(
            context.can_async(),
            "group {}: entries [{low}, {high}) are not in memory, applied {}, persisted {}: {context:?}",
            self.group,
            self.applied,
            self.persisted,
        );
        self.note_fetch(low, high, bytes_max, context);
        Err(StorageError::LogTemporarilyUnavailable.into())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        match self.term(index) {
            Some(term) => Ok(term),
            None if index < self.truncated.index => Err(StorageError::Compacted.into()),
            None => Err(StorageError::Unavailable.into()),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first_index())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last_index)
    }

    /// Position and membership of the snapshot file, without data: the file is sent beside Raft.
    ///
    /// Only to a member that its membership names: a fresh learner would be sent a file that
    /// does not know it, for ever.
    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let LogId { index, term } = self.snapshot;
        if index == 0 || index < request_index || !self.may_be_sent_to(to) {
            let wanted = request_index.max(index + 1);
            self.snapshot_wanted.set(self.snapshot_wanted.get().max(Some(wanted)));
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (index, term);
        metadata.set_conf_state(ConfState::clone(&self.conf_state));
        Ok(snapshot)
    }
}
