//! The log writer: whatever waits becomes one record and one fsync.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::disk::Disk;
use raft_engine::{Command, LogBatch};

use crate::ids::GroupId;
use crate::latch::Latch;
use crate::reader::LogReader;
use crate::record::{
    ENGINE_REGION, GENESIS_KEY, RECORD_KEY, SEQUENCE_KEY, encode_genesis, encode_sequence,
};
use crate::store::{EntryExt, Store, StoreError, is_full};
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
    on_disk: BTreeMap<GroupId, OnDisk>,
    sequence: u64,
    failure: Option<WriteError>,
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
    pub(crate) fn new(
        store: Arc<Store<F>>,
        reader: LogReader,
        reader_thread: JoinHandle<()>,
        sequence: u64,
    ) -> Self {
        Self {
            store: Some(store),
            reader,
            reader_thread: Some(reader_thread),
            on_disk: BTreeMap::new(),
            sequence,
            failure: None,
        }
    }

    /// Takes over a group as it was found at open.
    pub(crate) fn recovered(&mut self, group: GroupId, on_disk: OnDisk) {
        self.on_disk.insert(group, on_disk);
    }

    /// Makes `writes` durable: all of them in one record with one fsync, each receipt in the
    /// order of its write. Blocks on the disk; gather what waits before calling. No writes, no
    /// fsync and no receipts.
    ///
    /// The writes of one group are merged in their order: a later record replaces an earlier
    /// one, and later entries the suffix that they overlap.
    ///
    /// # Errors
    ///
    /// [`WriteError`]: nothing of the batch may be acknowledged, and every later call returns the
    /// same.
    pub fn write(&mut self, writes: Vec<GroupWrite>) -> Result<Vec<Durable>, WriteError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        if writes.is_empty() {
            return Ok(Vec::new());
        }
        self.write_checked(writes).inspect_err(|error| self.failure = Some(error.clone()))
    }

    fn write_checked(&mut self, writes: Vec<GroupWrite>) -> Result<Vec<Durable>, WriteError> {
        let numbers: Vec<_> = writes.iter().map(|write| (write.group, write.number)).collect();
        let plan = Plan::new(writes, &self.on_disk)?;
        let mut batch = LogBatch::default();
        for (group, merged) in &plan.groups {
            self.add(&mut batch, *group, merged)?;
        }
        let sequence = self.commit(batch)?;
        for (group, merged) in plan.groups {
            self.on_disk.insert(group, merged.after);
        }
        let receipt = |(group, number)| Durable::after_sync(group, number, sequence);
        Ok(numbers.into_iter().map(receipt).collect())
    }

    /// Adds one group's part. The order matters: what is cleaned goes first, and entries are
    /// compacted after others are appended, so that the group is never empty in between.
    fn add(&self, batch: &mut LogBatch, group: GroupId, merged: &Merged) -> Result<(), WriteError> {
        let region = group.get();
        let mut genesis = merged.genesis.as_ref().map(|genesis| encode_genesis(group, genesis));
        if merged.clean {
            // A clean drops the founding record too: it is written again.
            genesis = genesis.or_else(|| self.store().engine().get(region, GENESIS_KEY));
            batch.add_command(region, Command::Clean);
        }
        batch.add_entries::<EntryExt>(region, &merged.entries).map_err(failed)?;
        if let Some(index) = merged.compact_below {
            batch.add_command(region, Command::Compact { index });
        }
        put(batch, region, RECORD_KEY, merged.record.encode(group))?;
        if let Some(genesis) = genesis {
            put(batch, region, GENESIS_KEY, genesis)?;
        }
        Ok(())
    }

    /// Writes the batch under the next sequence number, with one fsync.
    fn commit(&mut self, mut batch: LogBatch) -> Result<u64, WriteError> {
        let sequence = self.sequence + 1;
        put(&mut batch, ENGINE_REGION, SEQUENCE_KEY, encode_sequence(sequence))?;
        // `Store::run` looks at the latch after the write: what raft-engine calls a success may
        // be an fsync that failed (trap E03).
        self.store().run(|engine| engine.write(&mut batch, true)).map_err(|error| match error {
            StoreError::Disk(source) => WriteError::Disk { source },
            StoreError::Engine(source) => classify(source),
        })?;
        self.sequence = sequence;
        Ok(sequence)
    }

    /// Repeats the compactions that raft-engine may have forgotten (trap E05), all in one batch;
    /// none, if there are none. Only at open.
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
        self.commit(batch).map(drop)
    }

    /// The engine-wide number of the last batch that is durable; 0 before the first.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Bytes of log files on disk, counted in whole files.
    pub fn disk_bytes(&self) -> u64 {
        self.store().engine().get_used_size() as u64
    }

    /// Ends the reader thread and closes raft-engine. Joins threads and syncs.
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

#[cfg(test)]
mod tests;
