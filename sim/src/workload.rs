//! A seeded history that an engine lives through, and what it must hold at each moment.

mod donor;
mod step;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use quorate_engine::{
    ClusterId, Disk, Engine, EngineConfig, FormatError, Formatted, Founding, GroupId, GroupLog,
    GroupWrite, IdentityError, LogId, NodeId, OpenError, ReadError, SnapshotDigest, SnapshotError,
    SnapshotMeta, Voter, WriteError, format,
};
use raft::eraftpb::{ConfState, Entry, HardState};
use thiserror::Error;

use crate::random::Random;
use crate::state::{GroupState, SnapshotState, StoreState};

use donor::Donor;
pub(crate) use step::{Step, script};

/// Why a workload did not come to its end: nothing fails in it, so this is a defect.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WorkloadError {
    /// A directory could not be formatted.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A directory could not be locked.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The engine could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A batch could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Nothing could be purged.
    #[error(transparent)]
    Purge(#[from] ReadError),
    /// A snapshot could not be written or received.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A file operation outside of the engine failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What the store must hold: shared with whoever takes images.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<Promise>>);

/// The states that a store may be found in.
#[derive(Debug, Clone, Default)]
pub(crate) struct Promise {
    /// After the last batch that was acknowledged.
    pub acknowledged: Arc<StoreState>,
    /// After the batch that is being written, too.
    pub in_flight: Option<Arc<StoreState>>,
}

impl Promise {
    /// Whether the two are the very same.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let in_flight = match (&self.in_flight, &other.in_flight) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        in_flight && Arc::ptr_eq(&self.acknowledged, &other.acknowledged)
    }
}

impl Ledger {
    pub(crate) fn promise(&self) -> Promise {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, acknowledged: Arc<StoreState>, in_flight: Option<Arc<StoreState>>) {
        let promise = Promise { acknowledged, in_flight };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = promise;
    }
}

/// Small files and an early purge, so that a short history sees rotation, purge and rewriting.
pub(crate) fn config() -> EngineConfig {
    EngineConfig {
        cache_bytes_max: 1 << 20,
        target_file_size_bytes: 4096,
        purge_threshold_bytes: 16384,
        ..EngineConfig::default()
    }
}

/// Formats `dir` as the only voter.
pub(crate) fn found(dir: &Path) -> Result<(), FormatError> {
    let node = node_id();
    let voter = Voter { node_id: node, addr: "localhost:9001".to_owned() };
    let cluster = ClusterId::from_bytes([7; 16]);
    format(dir, cluster, node, Founding::Voters(vec![voter])).map(drop)
}

fn node_id() -> NodeId {
    NodeId::new(1).expect("it is not 0")
}

/// The bytes of the state machine at a position: of several sizes.
fn content_at(id: LogId) -> Bytes {
    let mut content = format!("state at {id} ").into_bytes();
    content.resize(content.len() + (id.index * 37 % 700) as usize, b's');
    content.into()
}

fn snapshot_at(id: LogId) -> SnapshotState {
    SnapshotState {
        id,
        conf_state: ConfState::from((vec![1, 2, 3], vec![id.index + 10])),
        members: format!("members at {id}").into(),
        content: content_at(id),
    }
}

fn meta_of(group: GroupId, snapshot: &SnapshotState) -> SnapshotMeta {
    SnapshotMeta {
        group,
        id: snapshot.id,
        conf_state: snapshot.conf_state.clone(),
        members: snapshot.members.clone(),
    }
}

/// An entry whose data tell its place.
fn entry(group: GroupId, index: u64, term: u64, len: usize) -> Entry {
    let mut data = format!("{group}/{index}-{term} ").into_bytes();
    data.resize(len.max(data.len()), b'.');
    Entry { index, term, data: data.into(), ..Entry::default() }
}

fn hard_state((term, vote, commit): (u64, u64, u64)) -> HardState {
    HardState { term, vote, commit, ..HardState::default() }
}

/// An engine, its logs, and the model of what it must hold.
pub(crate) struct Workload<F: Disk + 'static> {
    disk: Arc<F>,
    dir: std::path::PathBuf,
    /// `None` only between closing and opening.
    engine: Option<Engine<F>>,
    logs: BTreeMap<GroupId, GroupLog>,
    models: BTreeMap<GroupId, GroupState>,
    /// Number of the last write of any group.
    number: u64,
    ledger: Ledger,
    donor: Donor,
}

impl<F: Disk + 'static> Workload<F> {
    /// Opens the formatted directory `dir`, and founds two groups.
    pub(crate) fn start(disk: Arc<F>, dir: &Path, ledger: Ledger) -> Result<Self, WorkloadError> {
        let mut workload = Self {
            disk,
            dir: dir.to_owned(),
            engine: None,
            logs: BTreeMap::new(),
            models: BTreeMap::new(),
            number: 0,
            ledger,
            donor: Donor::new()?,
        };
        workload.open()?;
        for number in [1, 2] {
            workload.found_group(GroupId::new(number).expect("it is not 0"))?;
        }
        Ok(workload)
    }

    fn engine(&mut self) -> &mut Engine<F> {
        self.engine.as_mut().expect("only missing while it is reopened")
    }

    fn log(&mut self, group: GroupId) -> &mut GroupLog {
        self.logs.get_mut(&group).expect("both groups are founded first")
    }

    fn model(&mut self, group: GroupId) -> &mut GroupState {
        self.models.get_mut(&group).expect("both groups are founded first")
    }

    /// Takes the engine over the disk as it is, recovered groups included.
    fn open(&mut self) -> Result<(), WorkloadError> {
        let formatted = Formatted::open(&self.dir)?;
        let mut engine = Engine::open_with(formatted, &config(), self.disk.clone())?;
        let groups = std::mem::take(&mut engine.groups);
        self.logs = groups.into_iter().map(|(group, found)| (group, found.log)).collect();
        self.engine = Some(engine);
        self.acknowledge();
        Ok(())
    }

    fn found_group(&mut self, group: GroupId) -> Result<(), WorkloadError> {
        let snapshot = snapshot_at(LogId::new(1, 1));
        let meta = self.write_snapshot(group, &snapshot)?;
        let log = GroupLog::founded(group, &meta, &self.engine().cache);
        self.logs.insert(group, log);
        let genesis = Bytes::from(format!("genesis of {group}"));
        let model = GroupState {
            hard_state: (1, 0, 1),
            truncated: snapshot.id,
            genesis: Some(genesis.clone()),
            snapshot,
            ..GroupState::default()
        };
        self.models.insert(group, model);
        let mut part = self.part(group, vec![]);
        part.genesis = Some(genesis);
        self.write(vec![part])
    }

    /// Writes a snapshot file.
    fn write_snapshot(
        &mut self,
        group: GroupId,
        snapshot: &SnapshotState,
    ) -> Result<SnapshotMeta, WorkloadError> {
        let mut writer = self.engine().snapshots.create(meta_of(group, snapshot))?;
        writer.write_all(&snapshot.content)?;
        Ok(writer.finish()?)
    }

    /// Receives a snapshot file from the donor.
    fn receive_snapshot(
        &mut self,
        group: GroupId,
        snapshot: &SnapshotState,
    ) -> Result<SnapshotMeta, WorkloadError> {
        let bytes = self.donor.snapshot(meta_of(group, snapshot), &snapshot.content)?;
        let digest = SnapshotDigest::of(&bytes).expect("the donor made a whole file");
        let mut receiver = self.engine().snapshots.receive(group, snapshot.id, digest)?;
        for chunk in bytes.chunks(400) {
            receiver.write(chunk)?;
        }
        Ok(receiver.finish()?)
    }

    /// The next write of a group: its record as it is now, and these entries.
    fn part(&mut self, group: GroupId, entries: Vec<Entry>) -> GroupWrite {
        self.number += 1;
        let (number, record) = (self.number, self.log(group).record());
        GroupWrite { group, number, entries, record, install: false, genesis: None }
    }

    /// Writes one batch. Until it is acknowledged the store may be found with or without it.
    fn write(&mut self, parts: Vec<GroupWrite>) -> Result<(), WorkloadError> {
        let next = self.expected(1);
        self.ledger.set(self.ledger.promise().acknowledged, Some(next));
        let lasts: Vec<_> = parts.iter().map(|part| (part.group, part.record.last)).collect();
        self.engine().writer.write(parts)?;
        self.acknowledge();
        for (group, last) in lasts {
            self.log(group).persisted_to(last);
        }
        Ok(())
    }

    fn acknowledge(&mut self) {
        let state = self.expected(0);
        self.ledger.set(state, None);
    }

    /// What the models say, `batches` after the last that is durable.
    fn expected(&mut self, batches: u64) -> Arc<StoreState> {
        let sequence = self.engine().writer.sequence() + batches;
        let groups = self.models.iter().map(|(group, model)| (*group, model.recovered())).collect();
        Arc::new(StoreState { groups, sequence })
    }

    /// Takes one step. Group 0 of `groups` is the one it is about.
    pub(crate) fn take(&mut self, step: &Step) -> Result<(), WorkloadError> {
        match *step {
            Step::Change { group, ref change } => {
                let part = self.change(group, change)?;
                self.write(vec![part])?;
                self.after_write(group)
            }
            Step::Both { ref first, ref second } => {
                let (one, two) = (first.0, second.0);
                let parts = vec![self.change(one, &first.1)?, self.change(two, &second.1)?];
                self.write(parts)?;
                self.after_write(one)?;
                self.after_write(two)
            }
            Step::Purge => self.purge(),
            Step::Reopen => self.reopen(),
        }
    }

    /// Commits are applied at once, and snapshots that are superseded go.
    fn after_write(&mut self, group: GroupId) -> Result<(), WorkloadError> {
        let (commit, keep) = (self.model(group).hard_state.2, self.model(group).snapshot.id);
        self.log(group).applied_to(commit);
        self.engine().snapshots.retain(group, keep)?;
        Ok(())
    }

    fn purge(&mut self) -> Result<(), WorkloadError> {
        let (sender, receiver) = sync_channel(1);
        // Whoever waits is there until the answer is.
        self.engine().reader.purge(move |result| drop(sender.send(result)))?;
        receiver.recv().unwrap_or(Err(ReadError::Closed))?;
        Ok(())
    }

    fn reopen(&mut self) -> Result<(), WorkloadError> {
        self.close()?;
        self.open()
    }

    /// Closes the engine.
    pub(crate) fn close(&mut self) -> Result<(), WorkloadError> {
        match self.engine.take() {
            Some(engine) => Ok(engine.writer.close()?),
            None => Ok(()),
        }
    }

    /// What the store must hold now.
    pub(crate) fn promise(&self) -> Promise {
        self.ledger.promise()
    }
}

/// Runs the history of `seed` on `disk`, from founding to a clean close.
pub(crate) fn run<F: Disk + 'static>(
    seed: u64,
    disk: Arc<F>,
    dir: &Path,
    ledger: Ledger,
) -> Result<Promise, WorkloadError> {
    let mut workload = Workload::start(disk, dir, ledger)?;
    for step in script(&mut Random::new(seed)) {
        workload.take(&step)?;
    }
    workload.close()?;
    Ok(workload.promise())
}

#[cfg(test)]
mod tests;
