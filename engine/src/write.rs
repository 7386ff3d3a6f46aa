//! What is written in one round: the writes of many groups merged into one plan, checked before
//! a byte of it reaches the disk (trap E04).

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use mutation::Bug;
use raft::eraftpb::Entry;
use thiserror::Error;

use crate::ids::{GroupId, LogId};
use crate::record::{GroupRecord, Mark, StoredRecord};

/// One group's part of a batch: what one Ready changes.
#[derive(Debug, Clone)]
pub struct GroupWrite {
    /// The group.
    pub group: GroupId,
    /// The group's own number of this write, ascending; echoed in the [`Durable`] receipt.
    pub number: u64,
    /// Entries, contiguous; they replace all from their first index on.
    pub entries: Vec<Entry>,
    /// All of the group that is not an entry, as of this write ([`GroupLog::record`]).
    ///
    /// [`GroupLog::record`]: crate::GroupLog::record
    pub record: GroupRecord,
    /// Whether a snapshot is installed: the whole log is dropped before `entries` and `record`
    /// are written. The snapshot's file must be durable by then.
    pub install: bool,
    /// The loop's founding record, opaque to the engine; kept until another is given, also over
    /// an install.
    pub genesis: Option<Bytes>,
}

/// The receipt for a [`GroupWrite`] that is on disk. Only the [`LogWriter`] makes it, after the
/// fsync, so that whoever asks for one cannot speak too early.
///
/// [`LogWriter`]: crate::LogWriter
#[derive(Debug, PartialEq, Eq)]
pub struct Durable {
    group: GroupId,
    number: u64,
    sequence: u64,
}

impl Durable {
    /// Only for the log writer, after the fsync has succeeded.
    pub(crate) fn after_sync(group: GroupId, number: u64, sequence: u64) -> Self {
        Self { group, number, sequence }
    }

    /// The group.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// The group's own number of the write.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The engine-wide number of the batch that carried it.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }
}

/// Why a batch was not written. Nothing of it may be acknowledged.
///
/// All but [`WriteError::Full`] are fatal and sticky: every later write fails with the same, and
/// whether the batch is on disk is only known after the next open.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum WriteError {
    /// An fsync, or an operation that raft-engine does not survive, failed.
    #[error(
        "the disk failed, and what it holds of the last batch is unknown: check it, and start the \
         node again: {source}"
    )]
    Disk {
        /// The first failure.
        source: Arc<io::Error>,
    },
    /// The disk is full. The batch is kept, and is written with the next call of
    /// [`LogWriter::write`](crate::LogWriter::write) for which there is room.
    #[error("the disk is full: make room, the batch is kept until then: {source}")]
    Full {
        /// What raft-engine says.
        source: Arc<raft_engine::Error>,
    },
    /// raft-engine refused the batch.
    #[error("the batch could not be written: check the disk, and start the node again: {source}")]
    Engine {
        /// What raft-engine says.
        source: Arc<raft_engine::Error>,
    },
    /// Entries leave a hole, or reach below what is truncated. A defect of the caller; nothing
    /// was written.
    #[error(
        "group {group}: entry {found} does not follow a log that holds ({truncated}, {last}]: this \
         is a defect, report it"
    )]
    NotContiguous {
        /// The group.
        group: GroupId,
        /// The index that is out of place.
        found: u64,
        /// The last index that is compacted away.
        truncated: u64,
        /// The last index before it.
        last: u64,
    },
    /// The record does not fit the entries. A defect of the caller; nothing was written.
    #[error("group {group}: the record does not fit the log, {what}: this is a defect, report it")]
    Record {
        /// The group.
        group: GroupId,
        /// What does not fit.
        what: String,
    },
    /// The group is damaged, and nothing is written for it. A defect of the caller; nothing was
    /// written.
    #[error("group {group} is in quarantine and must not act: this is a defect, report it")]
    Quarantined {
        /// The group.
        group: GroupId,
    },
    /// The group's write numbers do not ascend. A defect of the caller; nothing was written.
    #[error("group {group}: write {number} comes after write {last}: this is a defect, report it")]
    Order {
        /// The group.
        group: GroupId,
        /// The number of this write.
        number: u64,
        /// The number of the write before.
        last: u64,
    },
}

impl WriteError {
    /// Whether the storage failed, so that the node must stop.
    pub fn is_fatal(&self) -> bool {
        !matches!(self, Self::Full { .. }) && !mutation::is(Bug::FailedSyncIgnored)
    }
}

/// What the disk holds of a group, as far as the next write must know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct OnDisk {
    /// The last index that is compacted away.
    pub truncated: u64,
    /// The last position.
    pub last: LogId,
    /// Number of the last write in this process.
    pub number: Option<u64>,
    /// Term and vote.
    pub ballot: (u64, u64),
    /// What the record is marked with; all 0 when there is none yet.
    pub mark: Mark,
}

impl OnDisk {
    /// A group as it was found.
    pub(crate) fn of(stored: &StoredRecord) -> Self {
        let StoredRecord { record, mark } = stored;
        Self {
            truncated: record.truncated.index,
            last: record.last,
            number: None,
            ballot: ballot(record),
            mark: *mark,
        }
    }
}

fn ballot(record: &GroupRecord) -> (u64, u64) {
    (record.hard_state.term, record.hard_state.vote)
}

/// One group's writes of a round, merged.
#[derive(Debug)]
pub(crate) struct Merged {
    /// Drop the whole log first.
    pub clean: bool,
    /// Entries to append, contiguous.
    pub entries: Vec<Entry>,
    /// The record of the last write.
    pub record: GroupRecord,
    /// The last founding record given.
    pub genesis: Option<Bytes>,
    /// Forget entries below this index, after the append.
    pub compact_below: Option<u64>,
    /// The state of the disk afterwards.
    pub after: OnDisk,
}

/// A whole round, checked: nothing in it can make raft-engine panic or the log unreadable.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Ascending.
    pub groups: Vec<(GroupId, Merged)>,
}

impl Plan {
    /// Adds `writes` to what is planned already, over what is `on_disk`. After an error the plan
    /// is void.
    pub(crate) fn merge(
        &mut self,
        mut writes: Vec<GroupWrite>,
        on_disk: &BTreeMap<GroupId, OnDisk>,
    ) -> Result<(), WriteError> {
        // The writes of one group keep their order.
        writes.sort_by_key(|write| write.group);
        for write in writes {
            let place = self.groups.binary_search_by_key(&write.group, |(group, _)| *group);
            let place = place.unwrap_or_else(|place| {
                let merged = Merged::begin(&write, on_disk.get(&write.group).copied());
                self.groups.insert(place, (write.group, merged));
                place
            });
            self.groups[place].1.add(write)?;
        }
        for (group, merged) in &mut self.groups {
            merged.finish(*group, on_disk.get(group))?;
        }
        Ok(())
    }

    /// Whether it changes a term or a vote of what is `on_disk`.
    pub(crate) fn changes_ballot(&self, on_disk: &BTreeMap<GroupId, OnDisk>) -> bool {
        let before = |group| on_disk.get(group).map_or((0, 0), |on_disk| on_disk.ballot);
        self.groups.iter().any(|(group, merged)| merged.after.ballot != before(group))
    }
}

impl Merged {
    fn begin(write: &GroupWrite, before: Option<OnDisk>) -> Self {
        // A group that is not on disk begins where its first record says.
        let base = write.record.truncated;
        let fresh = OnDisk { truncated: base.index, last: base, ..OnDisk::default() };
        let after = before.unwrap_or(fresh);
        Self {
            clean: false,
            entries: Vec::new(),
            record: GroupRecord::default(),
            genesis: None,
            compact_below: None,
            after,
        }
    }

    fn add(&mut self, write: GroupWrite) -> Result<(), WriteError> {
        let GroupWrite { group, number, entries, record, install, genesis } = write;
        if let Some(last) = self.after.number.filter(|last| number <= *last) {
            return Err(WriteError::Order { group, number, last });
        }
        self.after.number = Some(number);
        if install {
            self.clean = true;
            self.entries.clear();
            let base = record.truncated;
            (self.after.truncated, self.after.last) = (base.index, base);
        }
        self.append(group, entries)?;
        let fault = match record.fault() {
            None if record.last != self.after.last => {
                Some(format!("it ends at {}, the entries at {}", record.last, self.after.last))
            }
            None if record.truncated.index < self.after.truncated => Some(format!(
                "it is truncated at {}, the log at {}",
                record.truncated, self.after.truncated
            )),
            fault => fault,
        };
        if let Some(what) = fault {
            return Err(WriteError::Record { group, what });
        }
        self.after.truncated = record.truncated.index;
        self.after.ballot = ballot(&record);
        self.record = record;
        self.genesis = genesis.or(self.genesis.take());
        Ok(())
    }

    /// Puts `entries` over the suffix that they replace, on disk and in this round.
    fn append(&mut self, group: GroupId, entries: Vec<Entry>) -> Result<(), WriteError> {
        let Some(first) = entries.first().map(|entry| entry.index) else { return Ok(()) };
        let OnDisk { truncated, last, .. } = self.after;
        let follows = first > truncated && first <= last.index + 1;
        let misplaced = (first..).zip(&entries).find(|(index, entry)| entry.index != *index);
        if !follows || misplaced.is_some() {
            let found = misplaced.map_or(first, |(_, entry)| entry.index);
            return Err(WriteError::NotContiguous { group, found, truncated, last: last.index });
        }
        let kept = self.entries.iter().take_while(|entry| entry.index < first).count();
        self.entries.truncate(kept);
        if self.entries.is_empty() {
            self.entries = entries;
        } else {
            self.entries.extend(entries);
        }
        if let Some(last) = self.entries.last() {
            self.after.last = LogId::new(last.index, last.term);
        }
        Ok(())
    }

    fn finish(&mut self, group: GroupId, before: Option<&OnDisk>) -> Result<(), WriteError> {
        self.compact_below = None;
        let truncated = self.after.truncated;
        let base = match before {
            Some(before) if !self.clean => before.truncated,
            // Founded or installed in this round: the log begins wherever its entries do.
            _ => self.entries.first().map_or(truncated, |entry| entry.index - 1),
        };
        if truncated > base {
            if truncated >= self.after.last.index {
                let what = format!("compaction to {truncated} would empty it");
                return Err(WriteError::Record { group, what });
            }
            self.compact_below = Some(truncated + 1);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
