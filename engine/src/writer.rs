//! The log writer: whatever waits becomes one record and one fsync.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::disk::Disk;
use mutation::Bug;
use raft_engine::{Command, LogBatch};

use crate::ids::{DirectoryId, GroupId};
use crate::latch::Latch;
use crate::reader::LogReader;
use crate::record::{
    ENGINE_REGION, GENESIS_KEY, GroupRecord, Mark, RECORD_KEY, StoredRecord, encode_genesis,
};
use crate::stamp::{STAMP_KEY, Stamp, Tally};
use crate::store::{EntryExt, Store, StoreError, is_full};
use crate::witness::Witness;
use crate::write::{Durable, GroupWrite, Merged, OnDisk, Plan, WriteError};

/// The one writer of an engine, and the owner of its life: when it is closed or dropped, the
/// reader thread ends and raft-engine is closed.
///
/// That joins threads and syncs (trap E11): close it where waiting for the disk is allowed, not
/// on the loop and not on a runtime's worker.
pub struct LogWriter<F: Disk> {
    /// `None` only while it is being dropped.
    store: Option<Arc<Store<F>>>,
    reader: LogReader,
    reader_thread: Option<JoinHandle<()>>,
    witness: Witness,
    directory: DirectoryId,
    on_disk: BTreeMap<GroupId, OnDisk>,
    quarantined: BTreeSet<GroupId>,
    tally: Tally,
    sequence: u64,
    /// What waits for room on the disk.
    waiting: Waiting,
    /// Empty; kept for the memory that it has.
    batch: LogBatch,
    failure: Option<WriteError>,
}

/// A batch on its way to the disk.
#[derive(Default)]
struct Waiting {
    plan: Plan,
    /// Group and number of each write in it, in the order of their receipts.
    numbers: Vec<(GroupId, u64)>,
}

impl<F: Disk> std::fmt::Debug for LogWriter<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogWriter")
            .field("groups", &self.on_disk.len())
            .field("sequence", &self.sequence)
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}

impl<F: Disk> LogWriter<F> {
    /// The writer of `directory`, whose last batch is `sequence`.
    pub(crate) fn new(
        store: Arc<Store<F>>,
        reader: LogReader,
        reader_thread: JoinHandle<()>,
        witness: Witness,
        directory: DirectoryId,
        sequence: u64,
    ) -> Self {
        Self {
            store: Some(store),
            reader,
            reader_thread: Some(reader_thread),
            witness,
            directory,
            on_disk: BTreeMap::new(),
            quarantined: BTreeSet::new(),
            tally: Tally::default(),
            sequence,
            waiting: Waiting::default(),
            batch: LogBatch::default(),
            failure: None,
        }
    }

    /// Refuses writes for these groups from now on.
    pub(crate) fn quarantine(&mut self, groups: BTreeSet<GroupId>) {
        self.quarantined = groups;
    }

    /// Takes over the groups as they were found at open.
    pub(crate) fn recovered(&mut self, on_disk: BTreeMap<GroupId, OnDisk>) {
        on_disk.iter().for_each(|(group, found)| self.tally.add(*group, found.mark.sequence));
        self.on_disk = on_disk;
    }

    /// Whether the group is on disk, and not damaged.
    fn holds(&self, group: GroupId) -> bool {
        self.on_disk.contains_key(&group)
    }

    /// Makes `writes` durable: all of them in one record with one fsync, each receipt in the
    /// order of its write. Blocks on the disk; gather what waits before calling. Nothing to
    /// write: no fsync and no receipts.
    ///
    /// The writes of one group are merged in their order: a later record replaces an earlier
    /// one, and later entries the suffix that they overlap. Before the receipts are returned the
    /// witness knows of the batch; a batch that changes a term or a vote costs
    /// a second fsync for it.
    ///
    /// # Errors
    ///
    /// [`WriteError::Full`]: the batch is kept and is tried again by the next call, together
    /// with what that brings; call it with nothing to try again. Its receipts come then.
    ///
    /// Any other [`WriteError`] is final: nothing of the batch may be acknowledged, and every
    /// later call returns the same.
    pub fn write(&mut self, writes: Vec<GroupWrite>) -> Result<Vec<Durable>, WriteError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let result = self.write_all(writes);
        if let Err(error) = &result
            && error.is_fatal()
        {
            self.failure = Some(error.clone());
        }
        result
    }

    /// Whether a batch waits for room on the disk.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.numbers.is_empty()
    }

    fn write_all(&mut self, writes: Vec<GroupWrite>) -> Result<Vec<Durable>, WriteError> {
        if let Some(write) = writes.iter().find(|write| self.quarantined.contains(&write.group)) {
            return Err(WriteError::Quarantined { group: write.group });
        }
        self.waiting.numbers.extend(writes.iter().map(|write| (write.group, write.number)));
        self.waiting.plan.merge(writes, &self.on_disk)?;
        if !self.is_waiting() {
            return Ok(Vec::new());
        }
        let sequence = self.sequence + 1;
        // raft-engine spoils a batch that it could not write (trap E11): what is taken here is put
        // back only when it was written.
        let mut batch = std::mem::take(&mut self.batch);
        let (mut changed, mut tally) = (Vec::new(), self.tally);
        for (group, merged) in &self.waiting.plan.groups {
            if let Some(before) = self.on_disk.get(group) {
                tally.remove(*group, before.mark.sequence);
            }
            tally.add(*group, sequence);
            changed.push((*group, self.add(&mut batch, *group, merged, sequence)?));
        }
        let reveals_ballot = self.waiting.plan.changes_ballot(&self.on_disk);
        self.commit(batch, tally, reveals_ballot)?;
        self.on_disk.extend(changed);
        let Waiting { numbers, .. } = std::mem::take(&mut self.waiting);
        let receipt = |(group, number)| Durable::after_sync(group, number, sequence);
        Ok(numbers.into_iter().map(receipt).collect())
    }

    /// Adds one group's part, and returns what will be on disk of it. The order matters: what is
    /// cleaned goes first, and entries are compacted after others are appended, so that the group
    /// is never empty in between.
    fn add(
        &self,
        batch: &mut LogBatch,
        group: GroupId,
        merged: &Merged,
        sequence: u64,
    ) -> Result<OnDisk, WriteError> {
        let (region, mut after) = (group.get(), merged.after);
        let mut genesis = merged.genesis.as_ref().map(|genesis| encode_genesis(group, genesis));
        if let Some(genesis) = &genesis {
            after.mark.genesis_crc = Some(crc32fast::hash(genesis));
        }
        if merged.clean && !mutation::is(Bug::OldLogKept) {
            // A clean drops the founding record too: it is written again.
            genesis = genesis.or_else(|| self.store().engine().get(region, GENESIS_KEY));
            batch.add_command(region, Command::Clean);
            self.store().note_clean();
        }
        batch.add_entries::<EntryExt>(region, &merged.entries).map_err(failed)?;
        if let Some(index) = merged.compact_below {
            batch.add_command(region, Command::Compact { index });
        }
        after.mark.sequence = sequence;
        if after.mark.incarnation == 0 {
            after.mark.incarnation = sequence;
        }
        let mut record = merged.record.encode(group, after.mark);
        if mutation::is(Bug::VoteNotRecorded) {
            let mut forgetful = merged.record.clone();
            forgetful.hard_state.vote = 0;
            record = forgetful.encode(group, after.mark);
        }
        if mutation::is(Bug::CommitNotRecorded) {
            let mut forgetful = merged.record.clone();
            forgetful.hard_state.commit = forgetful.snapshot.index;
            record = forgetful.encode(group, after.mark);
        }
        put(batch, region, RECORD_KEY, record)?;
        if let Some(genesis) = genesis {
            put(batch, region, GENESIS_KEY, genesis)?;
        }
        Ok(after)
    }

    /// Writes the batch under the next sequence number, with one fsync, and has it witnessed.
    fn commit(
        &mut self,
        mut batch: LogBatch,
        tally: Tally,
        reveals_ballot: bool,
    ) -> Result<(), WriteError> {
        let sequence = self.sequence + 1;
        let stamp = Stamp { directory: self.directory, sequence, tally };
        put(&mut batch, ENGINE_REGION, STAMP_KEY, stamp.encode())?;
        let syncs = !mutation::is(Bug::SyncSkipped);
        if mutation::is(Bug::WitnessAhead) {
            let written = self.witness.write(sequence);
            self.witnessed(written)?;
        }
        // `Store::run` looks at the latch after the write: what raft-engine calls a success may
        // be an fsync that failed (trap E03).
        self.store().run(|engine| engine.write(&mut batch, syncs)).map_err(
            |error| match error {
                StoreError::Disk(source) => WriteError::Disk { source },
                StoreError::Engine(source) => classify(source),
            },
        )?;
        (self.sequence, self.tally, self.batch) = (sequence, tally, batch);
        // Only a batch that is durable: a witness that is ahead of the log would condemn it.
        let written = self.witness.write(sequence);
        self.witnessed(written)?;
        if reveals_ballot {
            self.sync_witness()?;
        }
        Ok(())
    }

    /// Whether everything witnessed so far would survive a power loss. If not, call
    /// [`Self::sync_witness`] within a bounded time.
    pub fn is_witness_synced(&self) -> bool {
        self.witness.is_synced()
    }

    /// Makes the witness durable: from then on not even a power loss *together*
    /// with damage to the end of the log can hide that a batch is missing. No fsync if there is
    /// nothing new.
    ///
    /// # Errors
    ///
    /// As [`Self::write`]; always fatal.
    pub fn sync_witness(&mut self) -> Result<(), WriteError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let synced = match self.store().latch().error() {
            // After a failed fsync no file is touched any more.
            Some(_) => Ok(()),
            None => self.witness.sync(),
        };
        self.witnessed(synced).inspect_err(|error| self.failure = Some(error.clone()))
    }

    /// The outcome of an operation on the witness: whatever fails there is final.
    fn witnessed(&self, result: std::io::Result<()>) -> Result<(), WriteError> {
        let latch = self.store().latch();
        match (result, latch.error()) {
            (Ok(()), None) => Ok(()),
            (_, Some(source)) => Err(WriteError::Disk { source }),
            (Err(error), None) => Err(WriteError::Disk { source: latch.set(error) }),
        }
    }

    /// Repeats the compactions that raft-engine may have forgotten (trap E05), all in one batch;
    /// none, if there are none. Only at open. A full disk is no error: what is compacted is not
    /// seen through the [`GroupLog`](crate::GroupLog), and the next open tries again.
    pub(crate) fn repeat_compactions(
        &mut self,
        stale: Vec<(GroupId, Stale)>,
    ) -> Result<(), WriteError> {
        if stale.is_empty() {
            return Ok(());
        }
        let mut batch = LogBatch::default();
        for (group, stale) in stale {
            let region = group.get();
            match stale {
                Stale::Below(index) => batch.add_command(region, Command::Compact { index }),
                Stale::All { record, genesis } => {
                    batch.add_command(region, Command::Clean);
                    put(&mut batch, region, RECORD_KEY, record)?;
                    if let Some(genesis) = genesis {
                        put(&mut batch, region, GENESIS_KEY, genesis)?;
                    }
                }
            }
        }
        match self.commit(batch, self.tally, false) {
            Err(WriteError::Full { .. }) => Ok(()),
            other => other,
        }
    }

    /// Drops all that is left of a group that was damaged, and has it begin anew with nothing in
    /// it, by one batch: at no time is there a directory that looks as if it never had the group.
    /// Returns the incarnation.
    pub(crate) fn begin_anew(&mut self, group: GroupId) -> Result<u64, WriteError> {
        assert!(!self.holds(group), "group {group} is not damaged");
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let mut batch = LogBatch::default();
        batch.add_command(group.get(), Command::Clean);
        self.store().note_clean();
        let sequence = self.sequence + 1;
        let mark = Mark { sequence, incarnation: sequence, genesis_crc: None };
        let stored = StoredRecord { record: GroupRecord::default(), mark };
        put(&mut batch, group.get(), RECORD_KEY, stored.record.encode(group, mark))?;
        let mut tally = self.tally;
        tally.add(group, sequence);
        let begun = self.commit(batch, tally, false);
        if let Err(error) = &begun
            && error.is_fatal()
        {
            self.failure = Some(error.clone());
        }
        begun?;
        self.quarantined.remove(&group);
        self.on_disk.insert(group, OnDisk::of(&stored));
        Ok(sequence)
    }

    /// Writes a batch of nothing but a stamp: from then on the damaged groups are not counted. Only
    /// at open; a full disk is no error, as in [`Self::repeat_compactions`].
    pub(crate) fn count_anew(&mut self) -> Result<(), WriteError> {
        match self.commit(LogBatch::default(), self.tally, false) {
            Err(WriteError::Full { .. }) => Ok(()),
            other => other,
        }
    }

    /// Has the witness say that the log is durable up to its end, as it must before anything
    /// relies on what was found there. Only at open.
    pub(crate) fn vouch(&mut self) -> Result<(), WriteError> {
        let written = self.witness.write(self.sequence);
        self.witnessed(written)?;
        self.sync_witness()
    }

    /// The engine-wide number of the last batch that is durable; 0 before the first.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Bytes of log files on disk, counted in whole files.
    pub fn disk_bytes(&self) -> u64 {
        self.store().engine().get_used_size() as u64
    }

    /// Ends the reader thread, closes raft-engine and has the witness say so in both of its slots.
    /// Joins threads and syncs. A batch that waits for room is dropped: it was not acknowledged.
    ///
    /// # Errors
    ///
    /// The failure of an earlier write, or of the last sync.
    pub fn close(mut self) -> Result<(), WriteError> {
        let latch = self.shut_down();
        match (self.failure.take(), latch.error()) {
            (Some(failure), _) => Err(failure),
            (None, Some(source)) => Err(WriteError::Disk { source }),
            (None, None) => Ok(()),
        }
    }

    fn shut_down(&mut self) -> Latch {
        self.reader.close();
        if let Some(thread) = self.reader_thread.take() {
            // A panic in a caller's `done` ended the thread early: there is nothing to repair.
            let _ = thread.join();
        }
        let latch = self.store().latch().clone();
        // While the directory is still locked.
        if self.failure.is_none()
            && latch.error().is_none()
            && let Err(error) = self.witness.close()
        {
            latch.set(error);
        }
        // The reader's share is gone with its thread: this one is the last.
        self.store = None;
        latch
    }

    pub(crate) fn store(&self) -> &Store<F> {
        self.store.as_ref().expect("only taken when dropped")
    }
}

impl<F: Disk> Drop for LogWriter<F> {
    fn drop(&mut self) {
        if self.store.is_some() {
            self.shut_down();
        }
    }
}

/// Entries that came back although they were compacted.
pub(crate) enum Stale {
    /// Those below this index.
    Below(u64),
    /// All that there are: the log is empty. The record and founding record are written again.
    All { record: Vec<u8>, genesis: Option<Vec<u8>> },
}

fn put(batch: &mut LogBatch, region: u64, key: &[u8], value: Vec<u8>) -> Result<(), WriteError> {
    batch.put(region, key.to_vec(), value).map_err(failed)
}

fn failed(error: raft_engine::Error) -> WriteError {
    classify(Arc::new(error))
}

fn classify(source: Arc<raft_engine::Error>) -> WriteError {
    if is_full(&source) { WriteError::Full { source } } else { WriteError::Engine { source } }
}

mod removal;
#[cfg(test)]
mod tests;
