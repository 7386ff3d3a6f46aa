//! [`Process`]: a running node: the core, the open engine, and the replica.

use std::collections::VecDeque;
use std::io::Read as _;
use std::sync::Arc;

use quorate_engine::{
    Engine, Fetch, GroupId, GroupWrite, LogId, LogReader, LogWriter, SnapshotError, SnapshotStore,
    WriteError,
};
use quorate_loop::{Apply, Catalogue, Core, Draft, Input, Members, Replica};
use quorate_statemachine::Metadata;

use super::{GROUP, SimError};
use crate::disk::CrashDisk;
use crate::record::LogRecord;

/// A core whose callers are numbers.
pub(super) type SimCore = Core<u64, u64>;

/// What runs on a host.
pub(super) struct Process {
    /// Tells it from those before it.
    pub(super) run: u32,
    pub(super) core: SimCore,
    writer: LogWriter<CrashDisk>,
    reader: LogReader,
    pub(super) snapshots: SnapshotStore,
    pub(super) replica: Replica<Metadata>,
    /// Given out by the core; the disk has not begun with it.
    pub(super) waiting: Vec<GroupWrite>,
    /// The disk is at it.
    pub(super) writing: Vec<GroupWrite>,
    /// What the disk has been given, and has given no receipt for.
    pub(super) kept: Vec<GroupWrite>,
    /// There was no room.
    pub(super) is_full: bool,
    /// The log with all that was given out.
    pub(super) log: LogRecord,
    /// For the state machine.
    pub(super) applying: VecDeque<Apply<u64>>,
    /// It is at work.
    pub(super) is_applying: bool,
    /// A newer snapshot is wanted than there is.
    pub(super) wants_snapshot: bool,
    /// What the last draft was of.
    pub(super) drafted: u64,
    /// A snapshot that is being written.
    pub(super) draft: Option<Draft<Metadata>>,
    /// The moment until which it stands still.
    pub(super) stands_until: Option<u64>,
    /// Its next turn is due already, and takes the effects of all inputs until then.
    pub(super) is_gathering: bool,
    /// As of the last look.
    pub(super) seen: Seen,
}

/// What of a core's status is compared with the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Seen {
    pub(super) leads: bool,
    pub(super) term: u64,
    pub(super) commit: u64,
    pub(super) applied: u64,
    pub(super) last: u64,
}

impl Process {
    pub(super) fn new(
        core: SimCore,
        engine: Engine<CrashDisk>,
        replica: Replica<Metadata>,
        log: LogRecord,
        run: u32,
    ) -> Process {
        let Engine { writer, reader, snapshots, .. } = engine;
        let replica_applied = replica.applied().index;
        Process {
            run,
            core,
            writer,
            reader,
            snapshots,
            replica,
            waiting: Vec::new(),
            writing: Vec::new(),
            kept: Vec::new(),
            is_full: false,
            log,
            applying: VecDeque::new(),
            is_applying: false,
            wants_snapshot: false,
            drafted: replica_applied,
            draft: None,
            stands_until: None,
            is_gathering: false,
            seen: Seen::default(),
        }
    }

    /// What the disk has been given, and what waits behind it.
    pub(super) fn batch(&mut self) -> Vec<GroupWrite> {
        match self.writing.is_empty() {
            true => std::mem::take(&mut self.waiting),
            false => std::mem::take(&mut self.writing),
        }
    }

    /// Makes writes durable, and brings the receipts.
    pub(super) fn write(&mut self, batch: Vec<GroupWrite>) -> Result<(), WriteError> {
        for durable in self.writer.write(batch)? {
            self.core.step(Input::Durable(durable));
        }
        Ok(())
    }

    /// Reads what the core wants read. A failure of the disk is told as the core would be.
    pub(super) fn fetch(&mut self, fetch: Fetch) -> Result<(), SimError> {
        let (done, fetched) = std::sync::mpsc::channel();
        // The receiver waits right here.
        let send = move |fetched| drop(done.send(fetched));
        self.reader.fetch(fetch, send).map_err(SimError::new)?;
        self.core.step(Input::Fetched(fetched.recv().map_err(SimError::new)?));
        Ok(())
    }

    /// Gives back the log's space. Whether the group holds old files back.
    pub(super) fn purge(&mut self) -> Result<bool, SimError> {
        let (done, purged) = std::sync::mpsc::channel();
        self.reader.purge(move |result| drop(done.send(result))).map_err(SimError::new)?;
        let groups: Vec<GroupId> = purged.recv().map_err(SimError::new)?.map_err(SimError::new)?;
        Ok(groups.contains(&GROUP))
    }

    /// The members and the catalogue that a snapshot file of this node tells.
    pub(super) fn head(&self, id: LogId) -> Result<(Arc<Members>, Catalogue), SimError> {
        let meta = self.snapshots.open(GROUP, id).map_err(SimError::new)?.meta().clone();
        let members = Members::decode(&meta.members, meta.conf_state).map_err(SimError::new)?;
        Ok((Arc::new(members), Catalogue::default()))
    }

    /// The bytes of a snapshot file, from an offset on; `None` where it is superseded.
    pub(super) fn snapshot(
        &self,
        id: LogId,
    ) -> Result<Option<(Vec<u8>, quorate_engine::SnapshotDigest)>, SimError> {
        let mut file = match self.snapshots.raw(GROUP, id) {
            Ok(file) => file,
            Err(SnapshotError::Missing { .. }) => return Ok(None),
            Err(error) => return Err(SimError::new(error)),
        };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(SimError::new)?;
        Ok(Some((bytes, file.digest())))
    }

    /// Takes in the bytes of a snapshot file, from where it broke off before. Whether it is whole and
    /// durable: with `until`, it breaks off there and is kept for the next time.
    pub(super) fn receive(
        &self,
        id: LogId,
        bytes: &[u8],
        digest: quorate_engine::SnapshotDigest,
        until: Option<usize>,
    ) -> Result<Received, SnapshotError> {
        let mut receiver = self.snapshots.receive(GROUP, id, digest)?;
        let from = (receiver.received_bytes() as usize).min(bytes.len());
        let end = until.map_or(bytes.len(), |until| until.clamp(from, bytes.len()));
        receiver.write(&bytes[from..end])?;
        if until.is_some() {
            self.snapshots.suspend(receiver);
            return Ok(Received::InPart);
        }
        receiver.finish()?;
        Ok(if from > 0 { Received::Resumed } else { Received::Whole })
    }
}

/// What came of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Received {
    /// It broke off.
    InPart,
    /// It came in one go.
    Whole,
    /// It was gone on with where it had broken off.
    Resumed,
}
