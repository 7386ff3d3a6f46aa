//! [`Ours`]: our engine, driven by hand as a loop drives it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_engine::{
    CacheBudget, ClusterId, Disk, Engine, EngineConfig, Formatted, Founding, GroupId, GroupLog,
    GroupWrite, LogId, LogWriter, NodeId, SnapshotMeta, SnapshotStore, Voter,
};
use raft::eraftpb::{ConfState, Entry};

use crate::engine::Failure;
use crate::engine::payload::TERM;

/// Bytes of the loop's own records of a group: three members, each with the id of its directory
/// and an address.
const MEMBERS_BYTES: usize = 144;

/// Settings of a store that is never purged: what both hold is then the same.
pub(crate) fn config() -> EngineConfig {
    EngineConfig { purge_threshold_bytes: PURGE_BYTES, ..EngineConfig::default() }
}

/// Log bytes before a purge: more than any run writes.
pub(crate) const PURGE_BYTES: u64 = 1 << 40;

/// Formats `dir`, as one of three voters.
pub(crate) fn format(dir: &Path) -> Result<(), Failure> {
    let nodes: Vec<NodeId> = (1..=3).filter_map(NodeId::new).collect();
    let voter = |node_id: &NodeId| Voter { node_id: *node_id, addr: format!("node:{node_id}") };
    let founding = Founding::Voters(nodes.iter().map(voter).collect());
    quorate_engine::format(dir, ClusterId::random(), nodes[0], founding)?;
    Ok(())
}

/// The group with this number.
pub(crate) fn group(number: u64) -> Result<GroupId, Failure> {
    GroupId::new(number).ok_or_else(|| "groups are counted from 1".into())
}

/// The snapshot of `group` at `index`, of three voters.
pub(crate) fn meta(group: GroupId, index: u64) -> SnapshotMeta {
    let conf_state = ConfState::from((vec![1, 2, 3], vec![]));
    let members = Bytes::from(vec![7; MEMBERS_BYTES]);
    SnapshotMeta { group, id: LogId::new(index, TERM), conf_state, members }
}

/// How long a write took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Took {
    /// The durable write alone.
    pub(crate) write: Duration,
    /// With all that belongs to it.
    pub(crate) whole: Duration,
}

/// A group's log in memory, and the number of its last write.
pub(crate) struct Ours {
    log: GroupLog,
    number: u64,
}

impl Ours {
    /// A group founded at (1, 1); its file and its first write are still to come.
    pub(crate) fn founded(group: GroupId, cache: &CacheBudget) -> Ours {
        Ours { log: GroupLog::founded(group, &meta(group, 1), cache), number: 0 }
    }

    /// A group as it was found.
    pub(crate) fn recovered(log: GroupLog) -> Ours {
        Ours { log, number: 0 }
    }

    /// The index that the next entry has.
    pub(crate) fn next_index(&self) -> u64 {
        self.log.last_index() + 1
    }

    /// Entries that are not compacted.
    pub(crate) fn live(&self) -> u64 {
        self.log.last_index() - self.log.truncated().index
    }

    /// Takes `entries` into the log, and returns their write: the part of a Ready.
    pub(crate) fn emit(&mut self, entries: Vec<Entry>) -> GroupWrite {
        // What was durable before is committed by now, and rides along.
        let committed = self.log.last_index();
        self.log.append(&entries);
        self.log.set_commit(committed);
        self.number += 1;
        let (group, record) = (self.log.group(), self.log.record());
        // Written once, with the founding.
        let genesis = (self.number == 1 && record.truncated.index == 1)
            .then(|| Bytes::from(vec![9; MEMBERS_BYTES]));
        GroupWrite { group, number: self.number, entries, record, install: false, genesis }
    }

    /// Notes that all is durable, committed and applied.
    pub(crate) fn durable_to(&mut self, last: LogId) {
        self.log.persisted_to(last);
        self.log.set_commit(last.index);
        self.log.applied_to(last.index);
    }

    /// Writes `entries`, as a loop does.
    pub(crate) fn append<F: Disk>(
        &mut self,
        writer: &mut LogWriter<F>,
        entries: Vec<Entry>,
    ) -> Result<Took, Failure> {
        let begin = Instant::now();
        let write = self.emit(entries);
        let last = write.record.last;
        let writes = vec![write];
        let before = Instant::now();
        let receipts = writer.write(writes)?;
        let after = Instant::now();
        self.durable_to(last);
        let end = Instant::now();
        drop(receipts);
        Ok(Took { write: after - before, whole: end - begin })
    }

    /// Makes a snapshot at `index` the one to restore from; it is written with the next batch.
    pub(crate) fn snapshot(
        &mut self,
        snapshots: &SnapshotStore,
        index: u64,
    ) -> Result<(), Failure> {
        let writer = snapshots.create(meta(self.log.group(), index))?;
        let meta = writer.finish()?;
        self.log.set_snapshot(meta.id, meta.conf_state);
        Ok(())
    }

    /// Compacts all but the last `keep` entries, behind a snapshot there.
    pub(crate) fn compact<F: Disk>(
        &mut self,
        writer: &mut LogWriter<F>,
        snapshots: &SnapshotStore,
        keep: u64,
    ) -> Result<(), Failure> {
        let index = self.log.last_index().saturating_sub(keep);
        self.snapshot(snapshots, index)?;
        self.log.compact_to(index);
        self.append(writer, Vec::new())?;
        snapshots.retain(self.log.group(), self.log.snapshot_id())?;
        Ok(())
    }
}

/// Opens the formatted directory `dir` over `disk`.
pub(crate) fn open<F: Disk + 'static>(
    dir: &Path,
    config: &EngineConfig,
    disk: Arc<F>,
) -> Result<Engine<F>, Failure> {
    Ok(Engine::open_with(Formatted::open(dir)?, config, disk)?)
}
