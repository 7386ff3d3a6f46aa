//! [`Node`]: one core on a real engine, and what a driver would own around it.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use quorate_engine::{
    DefaultFileSystem, Engine, EngineConfig, Fetch, Formatted, GroupWrite, LogId, LogReader,
    LogWriter, NodeId, SnapshotMeta, SnapshotStore,
};
use quorate_loop::{Catalogue, Core, CoreStatus, Input, LoopConfig, Members, Role};

use super::FuzzError;
use super::GROUP;
use crate::record::LogRecord;

/// What a storm knows of its callers and readers.
pub(super) type StormCore = Core<u64, u64>;

/// One node of a storm.
pub(super) struct Node {
    pub(super) core: StormCore,
    writer: LogWriter<DefaultFileSystem>,
    reader: LogReader,
    pub(super) snapshots: SnapshotStore,
    /// Given out by the core, not durable yet.
    pub(super) writes: VecDeque<GroupWrite>,
    /// The log with all that was given out, and with all that is durable.
    pub(super) log: LogRecord,
    pub(super) durable: LogRecord,
    /// The state machine: the last applied position, and a hash over all that was applied.
    pub(super) applied: LogId,
    pub(super) state: u64,
    /// The members as of what was applied last.
    pub(super) members: Arc<Members>,
    /// The core wants a snapshot of the state machine.
    pub(super) wants_snapshot: bool,
    /// As of the last look.
    pub(super) seen: Seen,
    /// The term at the last tick.
    pub(super) term_at_tick: u64,
    /// What each peer acknowledged to this leader, by messages that passed its guard.
    pub(super) claims: BTreeMap<u64, u64>,
    /// The highest commit index that a forged message which passed the guard spoke of.
    pub(super) commit_claim: u64,
}

/// What of a core's status is compared with the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) role: Role,
    pub(super) leader: Option<NodeId>,
    pub(super) term: u64,
    pub(super) commit: u64,
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) dropped: u64,
}

impl From<CoreStatus> for Seen {
    fn from(status: CoreStatus) -> Self {
        Seen {
            role: status.role,
            leader: status.leader,
            term: status.term,
            commit: status.commit_index,
            first: status.first_index,
            last: status.last_index,
            dropped: status.dropped,
        }
    }
}

impl Node {
    /// Opens what the directory holds. `durable` is what it must hold.
    pub(super) fn open(
        path: &Path,
        id: NodeId,
        run: u32,
        config: &LoopConfig,
        durable: LogRecord,
    ) -> Result<Node, FuzzError> {
        let formatted = Formatted::open(path).map_err(FuzzError::group)?;
        let engine_config = EngineConfig { purge_threshold_bytes: 64 << 20, ..Default::default() };
        let mut engine = Engine::open(formatted, &engine_config).map_err(FuzzError::group)?;
        let recovered = engine
            .groups
            .remove(&GROUP)
            .ok_or_else(|| FuzzError::Group(format!("node {id} has no group")))?;
        let (log, snapshot) = (recovered.log, recovered.snapshot);
        if log.last() != durable.last {
            let text =
                format!("node {id} was durable up to {}, and is {}", durable.last, log.last());
            return Err(FuzzError::Group(text));
        }
        let members = Members::decode(&snapshot.members, snapshot.conf_state.clone())
            .map_err(FuzzError::group)?;
        let members = Arc::new(members);
        let state = state_of(&engine.snapshots, snapshot.id)?;
        let standing = (members.clone(), Catalogue::default());
        let core = Core::new(GROUP, id.get(), standing, log, config.clone(), run)
            .map_err(FuzzError::Group)?;
        let seen = Seen::from(core.status());
        Ok(Node {
            core,
            writer: engine.writer,
            reader: engine.reader,
            snapshots: engine.snapshots,
            writes: VecDeque::new(),
            log: durable.clone(),
            durable,
            applied: snapshot.id,
            state,
            members,
            wants_snapshot: false,
            seen,
            term_at_tick: seen.term,
            claims: BTreeMap::new(),
            commit_claim: 0,
        })
    }

    /// Makes everything durable that was given out, and brings the receipts.
    pub(super) fn sync(&mut self) -> Result<(), FuzzError> {
        let writes: Vec<_> = self.writes.drain(..).collect();
        for write in &writes {
            self.durable.write(write);
        }
        for durable in self.writer.write(writes).map_err(FuzzError::group)? {
            self.core.step(Input::Durable(durable));
        }
        Ok(())
    }

    /// Reads what the core wants read.
    pub(super) fn fetch(&mut self, fetch: Fetch) -> Result<(), FuzzError> {
        let (done, fetched) = std::sync::mpsc::channel();
        // The receiver waits right here.
        let send = move |fetched| drop(done.send(fetched));
        self.reader.fetch(fetch, send).map_err(FuzzError::group)?;
        self.core.step(Input::Fetched(fetched.recv().map_err(FuzzError::group)?));
        Ok(())
    }

    /// Writes a snapshot of the state machine.
    pub(super) fn take_snapshot(&mut self) -> Result<(), FuzzError> {
        let meta = SnapshotMeta {
            group: GROUP,
            id: self.applied,
            conf_state: self.members.conf_state().clone(),
            members: self.members.encode(),
        };
        let meta = write_snapshot(&self.snapshots, meta, self.state)?;
        self.core.step(Input::SnapshotTaken(meta));
        Ok(())
    }
}

/// Writes a snapshot whose state is `state`.
pub(super) fn write_snapshot(
    snapshots: &SnapshotStore,
    meta: SnapshotMeta,
    state: u64,
) -> Result<SnapshotMeta, FuzzError> {
    let mut writer = snapshots.create(meta).map_err(FuzzError::group)?;
    writer.write_all(&state.to_le_bytes()).map_err(FuzzError::group)?;
    writer.finish().map_err(FuzzError::group)
}

/// The state in a snapshot.
pub(super) fn state_of(snapshots: &SnapshotStore, id: LogId) -> Result<u64, FuzzError> {
    let mut state = [0; 8];
    let mut reader = snapshots.open(GROUP, id).map_err(FuzzError::group)?;
    reader.read_exact(&mut state).map_err(FuzzError::group)?;
    Ok(u64::from_le_bytes(state))
}
