//! What a store holds, in the plainest form, to be compared.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::sync::mpsc::sync_channel;

use bytes::Bytes;
use quorate_engine::{
    Disk, Engine, Fetch, GroupId, GroupLog, LogId, LogReader, ReadError, RecoveredGroup,
    SnapshotError, SnapshotStore,
};
use raft::GetEntriesContext;
use raft::eraftpb::{ConfState, Entry};
use thiserror::Error;

/// Bytes of entries read at a time.
const READ_BYTES_MAX: u64 = 1 << 20;

/// A group: what would be lost if it were not the same after a crash.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GroupState {
    /// Term, vote and commit index of the hard state.
    pub hard_state: (u64, u64, u64),
    /// The last position that is compacted away.
    pub truncated: LogId,
    /// All entries beyond it.
    pub entries: BTreeMap<u64, Entry>,
    /// The loop's founding record.
    pub genesis: Option<Bytes>,
    /// The snapshot to restore from; index 0 when there is none.
    pub snapshot: SnapshotState,
}

/// A snapshot: what it is of, and its bytes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SnapshotState {
    /// Its position.
    pub id: LogId,
    /// The membership there.
    pub conf_state: ConfState,
    /// The loop's table of members there.
    pub members: Bytes,
    /// The state machine's bytes.
    pub content: Bytes,
}

impl GroupState {
    /// The last position.
    pub fn last(&self) -> LogId {
        self.entries
            .last_key_value()
            .map_or(self.truncated, |(index, entry)| LogId::new(*index, entry.term))
    }

    /// The position of an index that is not compacted away, or the last that is.
    pub fn at(&self, index: u64) -> LogId {
        let term = self.entries.get(&index).map_or(self.truncated.term, |entry| entry.term);
        LogId::new(index, term)
    }

    /// As it is recovered at open: committed at least to the snapshot.
    pub(crate) fn recovered(&self) -> Self {
        let mut state = self.clone();
        state.hard_state.2 = state.hard_state.2.max(self.snapshot.id.index);
        state
    }
}

/// All groups of a store.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StoreState {
    /// By their numbers.
    pub groups: BTreeMap<GroupId, GroupState>,
    /// The engine-wide number of the last batch.
    pub sequence: u64,
}

/// Why an open engine could not be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StateError {
    /// Entries.
    #[error("group {group}, entry {index}: {source}")]
    Entries {
        /// The group.
        group: GroupId,
        /// The first of them.
        index: u64,
        /// What the engine says.
        source: ReadError,
    },
    /// A snapshot.
    #[error("group {group}, snapshot {id}: {source}")]
    Snapshot {
        /// The group.
        group: GroupId,
        /// The snapshot.
        id: LogId,
        /// What the engine says.
        source: Box<SnapshotError>,
    },
    /// The content of a snapshot.
    #[error("group {group}, content of snapshot {id}: {source}")]
    Content {
        /// The group.
        group: GroupId,
        /// The snapshot.
        id: LogId,
        /// What the engine says.
        source: std::io::Error,
    },
}

impl StoreState {
    /// Reads all that an engine has recovered, every entry from its disk and every snapshot to its
    /// end.
    ///
    /// # Errors
    ///
    /// [`StateError`]: the engine opened, but something cannot be read.
    pub fn read<F: Disk + 'static>(engine: &Engine<F>) -> Result<Self, StateError> {
        let mut groups = BTreeMap::new();
        for (group, recovered) in &engine.groups {
            let state = read_group(recovered, &engine.reader, &engine.snapshots)?;
            groups.insert(*group, state);
        }
        Ok(Self { groups, sequence: engine.writer.sequence() })
    }

    /// How `self` differs from what is `expected`, if it does. Numbers of batches may be higher:
    /// opening writes, too.
    pub fn difference(&self, expected: &Self) -> Option<Difference> {
        let (found, wanted) = (&self.groups, &expected.groups);
        if let Some(group) = wanted.keys().find(|group| !found.contains_key(group)) {
            return Some(Difference::missing(*group, "the whole group is missing"));
        }
        if let Some(group) = found.keys().find(|group| !wanted.contains_key(group)) {
            return Some(Difference::wrong(*group, "a group that was never there"));
        }
        let pairs = wanted.iter().map(|(group, wanted)| (*group, wanted, &found[group]));
        for (group, wanted, found) in pairs {
            if let Some(difference) = group_difference(group, wanted, found) {
                return Some(difference);
            }
        }
        (self.sequence < expected.sequence).then(|| Difference {
            group: None,
            is_missing: true,
            what: format!("batch {} is missing after {}", expected.sequence, self.sequence),
        })
    }
}

/// The first difference between what was found and what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The group it is in.
    pub group: Option<GroupId>,
    /// Whether something is missing or older; otherwise it is another than was written.
    pub is_missing: bool,
    /// What it is.
    pub what: String,
}

impl Difference {
    fn missing(group: GroupId, what: impl Into<String>) -> Self {
        Self { group: Some(group), is_missing: true, what: what.into() }
    }

    fn wrong(group: GroupId, what: impl Into<String>) -> Self {
        Self { group: Some(group), is_missing: false, what: what.into() }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.group {
            Some(group) => write!(f, "group {group}: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

fn group_difference(group: GroupId, wanted: &GroupState, found: &GroupState) -> Option<Difference> {
    if found == wanted {
        return None;
    }
    let of = |is_missing: bool, thing: &str, found: String, wanted: String| {
        let what = format!("{thing} is {found}, expected {wanted}");
        Some(Difference { group: Some(group), is_missing, what })
    };
    if found.hard_state != wanted.hard_state {
        let is_older =
            found.hard_state.0 < wanted.hard_state.0 || found.hard_state.2 < wanted.hard_state.2;
        let text = |(term, vote, commit): (u64, u64, u64)| {
            format!("(term {term}, vote {vote}, commit {commit})")
        };
        return of(is_older, "the hard state", text(found.hard_state), text(wanted.hard_state));
    }
    if found.truncated != wanted.truncated {
        let is_older = found.truncated < wanted.truncated;
        return of(
            is_older,
            "truncated",
            found.truncated.to_string(),
            wanted.truncated.to_string(),
        );
    }
    if found.last() != wanted.last() {
        let is_older = found.last() < wanted.last();
        return of(is_older, "the last entry", found.last().to_string(), wanted.last().to_string());
    }
    let differing =
        wanted.entries.iter().find(|(index, entry)| found.entries.get(index) != Some(*entry));
    if let Some((index, _)) = differing {
        return Some(Difference {
            group: Some(group),
            is_missing: !found.entries.contains_key(index),
            what: format!("entry {index} is not what was written"),
        });
    }
    if found.snapshot != wanted.snapshot {
        let (a, b) = (found.snapshot.id, wanted.snapshot.id);
        return of(a < b, "the snapshot", a.to_string(), b.to_string());
    }
    if found.genesis != wanted.genesis {
        let is_missing = found.genesis.is_none();
        let what = "the founding record is not what was written".to_owned();
        return Some(Difference { group: Some(group), is_missing, what });
    }
    None
}

fn read_group(
    recovered: &RecoveredGroup,
    reader: &LogReader,
    snapshots: &SnapshotStore,
) -> Result<GroupState, StateError> {
    let RecoveredGroup { log, genesis, snapshot, .. } = recovered;
    let hard_state = log.hard_state();
    let mut content = Vec::new();
    let (group, id) = (log.group(), snapshot.id);
    if id.index > 0 {
        snapshots
            .open(group, id)
            .map_err(|source| StateError::Snapshot { group, id, source: Box::new(source) })?
            .read_to_end(&mut content)
            .map_err(|source| StateError::Content { group, id, source })?;
    }
    Ok(GroupState {
        hard_state: (hard_state.term, hard_state.vote, hard_state.commit),
        truncated: log.truncated(),
        entries: read_entries(log, reader)?,
        genesis: genesis.clone(),
        snapshot: SnapshotState {
            id,
            conf_state: snapshot.conf_state.clone(),
            members: snapshot.members.clone(),
            content: content.into(),
        },
    })
}

fn read_entries(log: &GroupLog, reader: &LogReader) -> Result<BTreeMap<u64, Entry>, StateError> {
    let mut entries = BTreeMap::new();
    let (group, high) = (log.group(), log.last_index() + 1);
    let mut low = log.first_index();
    while low < high {
        let failed = |source| StateError::Entries { group, index: low, source };
        let (sender, receiver) = sync_channel(1);
        let context = GetEntriesContext::empty(true);
        let fetch = Fetch { group, low, high, bytes_max: READ_BYTES_MAX, context };
        // Whoever waits is there until the answer is.
        reader.fetch(fetch, move |fetched| drop(sender.send(fetched.result))).map_err(failed)?;
        let read = receiver.recv().unwrap_or(Err(ReadError::Closed)).map_err(failed)?;
        if read.is_empty() {
            return Err(failed(ReadError::Gone { group, index: low }));
        }
        low += read.len() as u64;
        entries.extend(read.into_iter().map(|entry| (entry.index, entry)));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> StoreState {
        let entry = |index| Entry { index, term: 2, ..Entry::default() };
        let group = GroupState {
            hard_state: (2, 1, 5),
            truncated: LogId::new(3, 1),
            entries: (4..=6).map(|index| (index, entry(index))).collect(),
            genesis: Some(Bytes::from_static(b"genesis")),
            ..GroupState::default()
        };
        StoreState { groups: [(GroupId::new(1).unwrap(), group)].into(), sequence: 7 }
    }

    #[test]
    fn every_difference_is_told_as_missing_or_wrong() {
        type Change = fn(&mut GroupState);
        let cases: [(bool, Change); 7] = [
            (true, |group| group.hard_state.0 = 1),
            (false, |group| group.hard_state.1 = 2),
            (true, |group| drop(group.entries.pop_last())),
            (true, |group| drop(group.entries.remove(&5))),
            (false, |group| group.entries.get_mut(&5).unwrap().data = Bytes::from_static(b"x")),
            (true, |group| group.genesis = None),
            (false, |group| group.snapshot.content = Bytes::from_static(b"x")),
        ];
        for (number, (is_missing, change)) in cases.into_iter().enumerate() {
            let mut found = store();
            found.groups.values_mut().for_each(change);
            let difference = found.difference(&store());
            assert_eq!(difference.map(|d| d.is_missing), Some(is_missing), "case {number}");
        }
        assert_eq!(store().difference(&store()), None);
        let none = StoreState { sequence: 7, ..StoreState::default() };
        assert!(none.difference(&store()).is_some_and(|d| d.is_missing));
        assert!(store().difference(&none).is_some_and(|d| !d.is_missing));
        let older = StoreState { sequence: 6, ..store() };
        assert!(older.difference(&store()).is_some_and(|d| d.is_missing));
        assert_eq!(store().difference(&older), None);
    }
}
