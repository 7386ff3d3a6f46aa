//! [`LogRecord`]: what a node's log holds, kept beside the node by what it wrote.

use std::collections::BTreeMap;

use quorate_engine::{GroupWrite, LogId};
use raft::eraftpb::HardState;

/// Entries that are kept behind the commit index: whoever asks for older ones asks for what
/// everybody has.
const KEPT: u64 = 512;

/// A log as its writes make it: entries by term and a hash of their data.
#[derive(Debug, Clone, Default)]
pub(crate) struct LogRecord {
    entries: BTreeMap<u64, (u64, u64)>,
    /// The snapshot that it begins with, if one was installed.
    pub(crate) base: u64,
    pub(crate) last: LogId,
    pub(crate) hard_state: HardState,
}

impl LogRecord {
    /// The log of a group that was just founded.
    pub(crate) fn founded() -> Self {
        let id = LogId { index: 1, term: 1 };
        let mut hard_state = HardState::default();
        (hard_state.term, hard_state.commit) = (1, 1);
        Self { entries: BTreeMap::new(), base: 1, last: id, hard_state }
    }

    /// Takes in what a node writes.
    pub(crate) fn write(&mut self, write: &GroupWrite) {
        if write.install {
            self.entries.clear();
            self.base = write.record.snapshot.index;
        }
        if let Some(first) = write.entries.first() {
            self.entries.split_off(&first.index);
        }
        for entry in &write.entries {
            self.entries.insert(entry.index, (entry.term, hash_of(&entry.data)));
        }
        self.last = write.record.last;
        self.hard_state = write.record.hard_state.clone();
        let old = self.hard_state.commit.saturating_sub(KEPT);
        if self.entries.len() as u64 > 2 * KEPT {
            self.entries = self.entries.split_off(&old);
        }
    }

    /// Term and hash of an entry; `None` where that is not kept.
    pub(crate) fn at(&self, index: u64) -> Option<(u64, u64)> {
        self.entries.get(&index).copied()
    }

    /// Whether the log holds what `other` has at `index`, or both no longer know.
    pub(crate) fn holds(&self, index: u64, other: &LogRecord) -> bool {
        let is_there = index <= self.last.index;
        match (self.at(index), other.at(index)) {
            (Some(ours), Some(theirs)) => is_there && ours == theirs,
            _ => is_there,
        }
    }
}

/// FNV-1a: enough to tell forged entries apart.
pub(crate) fn hash_of(data: &[u8]) -> u64 {
    data.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
