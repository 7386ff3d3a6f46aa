//! An open engine: its parts, for the threads that own them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use raft_engine::env::DefaultFileSystem;

use crate::cache::CacheBudget;
use crate::config::EngineConfig;
use crate::damage::Damage;
use crate::disk::Disk;
use crate::files::Files;
use crate::identity::{Formatted, Identity};
use crate::ids::GroupId;
use crate::log::GroupLog;
use crate::open::{self, OpenError};
use crate::reader::LogReader;
use crate::snapshot::SnapshotMeta;
use crate::snapshot_store::SnapshotStore;
use crate::writer::LogWriter;

/// An open data directory: take its parts, and give each to the thread that owns it.
pub struct Engine<F: Disk> {
    /// Who the directory is.
    pub identity: Identity,
    pub(crate) dir: PathBuf,
    pub(crate) files: Arc<dyn Files>,
    /// For the log writer's thread. It is the engine's life: closed or dropped last.
    pub writer: LogWriter<F>,
    /// For everybody.
    pub reader: LogReader,
    /// For the snapshot worker and the transport.
    pub snapshots: SnapshotStore,
    /// The memory for recent entries, to be shared by logs of groups that are founded later.
    pub cache: CacheBudget,
    /// Every group with a record on disk. One without is simply absent.
    pub groups: BTreeMap<GroupId, RecoveredGroup>,
    /// Every group that is damaged, now or since an earlier open, with what was found. It must
    /// not act as the member it was, and nothing is written for it.
    pub damaged: BTreeMap<GroupId, Vec<Damage>>,
    /// What is not as it was written, and takes nothing with it.
    pub notes: Vec<Damage>,
}

impl<F: Disk> std::fmt::Debug for Engine<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("dir", &self.dir)
            .field("identity", &self.identity)
            .field("groups", &self.groups.keys())
            .field("damaged", &self.damaged)
            .finish_non_exhaustive()
    }
}

/// A group as it was found at open, verified.
#[derive(Debug)]
pub struct RecoveredGroup {
    /// Its log, for the `RawNode`. Commit is at least the snapshot's index, whose membership
    /// it has; entries beyond the snapshot are in memory, to be replayed.
    pub log: GroupLog,
    /// The loop's founding record, if one was written.
    pub genesis: Option<Bytes>,
    /// The snapshot to restore the state machine from (trap I09). Index 0, and no file, when the
    /// group still waits for its first.
    pub snapshot: SnapshotMeta,
    /// Tells this life of the group in this directory from earlier ones: the batch that began it.
    pub incarnation: u64,
}

impl RecoveredGroup {
    /// One that has begun with a blank log, and waits for its first snapshot.
    pub fn blank(log: GroupLog, incarnation: u64) -> Self {
        let snapshot = SnapshotMeta::none(log.group());
        Self { log, genesis: None, snapshot, incarnation }
    }
}

impl Engine<DefaultFileSystem> {
    /// Opens a formatted directory, verifies it, and starts the reader thread. Blocks on the
    /// disk, in proportion to the length of the logs.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; damage is named with file, group and index where they are known.
    pub fn open(formatted: Formatted, config: &EngineConfig) -> Result<Self, OpenError> {
        Self::open_with(formatted, config, Arc::new(DefaultFileSystem))
    }
}

impl<F: Disk + 'static> Engine<F> {
    /// As [`Engine::open`], on another [`Disk`]: a crash disk, say. The identity stays in the real
    /// file system.
    ///
    /// # Errors
    ///
    /// As [`Engine::open`].
    pub fn open_with(
        formatted: Formatted,
        config: &EngineConfig,
        disk: Arc<F>,
    ) -> Result<Self, OpenError> {
        open::open(formatted, config, disk)
    }
}

#[cfg(test)]
mod tests;
