//! [`Log`]: a node's log in memory, as in openraft's examples, and where it is to be durable also in a
//! file: appended to by a thread of its own, which syncs all that waits at once.
//!
//! The file is never read: nothing is restarted here. So neither truncation nor purging touches it, which
//! costs openraft less than a real store would.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::fs::File;
use std::io::{self, Write as _};
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{
    Entry, EntryPayload, LogId, LogState, RaftLogReader, StorageError, StorageIOError, Vote,
};
use tokio::sync::oneshot;

use super::Types;
use crate::process::Failure;

/// Space of the file that is allocated at a time, as raft-engine does it.
const ALLOCATE_BYTES: u64 = 64 << 20;

/// A handle to one node's log.
#[derive(Clone)]
pub(super) struct Log {
    entries: Arc<Mutex<Entries>>,
    file: Option<Sender<Record>>,
}

#[derive(Default)]
struct Entries {
    /// Those behind `purged`, in order.
    entries: VecDeque<Entry<Types>>,
    purged: Option<LogId<u64>>,
    vote: Option<Vote<u64>>,
}

/// What is to be made durable, and who hears of it.
struct Record {
    bytes: Vec<u8>,
    done: Done,
}

enum Done {
    Log(LogFlushed<Types>),
    Vote(oneshot::Sender<io::Result<()>>),
}

impl Done {
    fn tell(self, result: &io::Result<()>) {
        let again = |error: &io::Error| io::Error::new(error.kind(), error.to_string());
        let result = result.as_ref().copied().map_err(again);
        match self {
            Done::Log(flushed) => flushed.log_io_completed(result),
            // Whoever does not wait any more has ended.
            Done::Vote(caller) => drop(caller.send(result)),
        }
    }
}

impl Log {
    /// One that a power loss takes.
    pub(super) fn in_memory() -> Log {
        Log { entries: Arc::default(), file: None }
    }

    /// One that is synced to a new file, each sync counted in `fsyncs`. Its thread ends with the last
    /// handle.
    pub(super) fn in_file(path: &Path, fsyncs: Arc<AtomicU64>) -> Result<Log, Failure> {
        let file = File::create_new(path)?;
        let (records_in, records) = channel();
        std::thread::Builder::new()
            .name("openraft-log".to_owned())
            .spawn(move || write_on(file, &records, &fsyncs))?;
        Ok(Log { entries: Arc::default(), file: Some(records_in) })
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        // Nothing in the critical sections can panic half way.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes what comes, and syncs it together with all that came meanwhile.
fn write_on(mut file: File, records: &Receiver<Record>, fsyncs: &AtomicU64) {
    let (mut written, mut allocated) = (0, 0);
    while let Ok(first) = records.recv() {
        let mut waiting = vec![first];
        waiting.extend(records.try_iter());
        let bytes: Vec<u8> = waiting.iter().flat_map(|record| &record.bytes).copied().collect();
        let mut write = || {
            written += bytes.len() as u64;
            while allocated < written {
                let none = rustix::fs::FallocateFlags::empty();
                rustix::fs::fallocate(&file, none, allocated, ALLOCATE_BYTES)?;
                allocated += ALLOCATE_BYTES;
            }
            file.write_all(&bytes)?;
            fsyncs.fetch_add(1, Ordering::Relaxed);
            file.sync_data()
        };
        let result = write();
        waiting.into_iter().for_each(|record| record.done.tell(&result));
    }
}

fn encode(entry: &Entry<Types>, bytes: &mut Vec<u8>) {
    let LogId { leader_id, index } = entry.log_id;
    let membership;
    let payload = match &entry.payload {
        EntryPayload::Blank => &[],
        EntryPayload::Normal(command) => &command.0[..],
        EntryPayload::Membership(members) => {
            membership = format!("{members:?}");
            membership.as_bytes()
        }
    };
    for word in [leader_id.term, leader_id.node_id, index, payload.len() as u64] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.extend_from_slice(payload);
}

impl Entries {
    /// The index of the first entry that is there.
    fn first(&self) -> u64 {
        self.purged.map_or(0, |id| id.index + 1)
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry<Types>>, StorageError<u64>> {
        let log = self.lock();
        let (first, len) = (log.first(), log.entries.len());
        let place =
            |index: u64| usize::try_from(index.saturating_sub(first)).unwrap_or(len).min(len);
        let low = match range.start_bound() {
            Bound::Included(index) => place(*index),
            Bound::Excluded(index) => place(index + 1),
            Bound::Unbounded => 0,
        };
        let high = match range.end_bound() {
            Bound::Included(index) => place(index + 1),
            Bound::Excluded(index) => place(*index),
            Bound::Unbounded => len,
        };
        Ok(log.entries.range(low..high.max(low)).cloned().collect())
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Log;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError<u64>> {
        let log = self.lock();
        let last = log.entries.back().map(|entry| entry.log_id);
        Ok(LogState { last_purged_log_id: log.purged, last_log_id: last.or(log.purged) })
    }

    async fn get_log_reader(&mut self) -> Log {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), StorageError<u64>> {
        if let Some(file) = &self.file {
            let (done, saved) = oneshot::channel();
            let bytes = format!("{vote:?}").into_bytes();
            // Where the thread has ended, so has the sender in the record.
            let _ = file.send(Record { bytes, done: Done::Vote(done) });
            let ended = || Err(io::Error::other("the log's thread has ended"));
            let saved = saved.await.unwrap_or_else(|_| ended());
            saved.map_err(|error| StorageIOError::write_vote(&error))?;
        }
        self.lock().vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, StorageError<u64>> {
        Ok(self.lock().vote)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        flushed: LogFlushed<Types>,
    ) -> Result<(), StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<Types>> + Send,
        I::IntoIter: Send,
    {
        let Some(file) = &self.file else {
            self.lock().entries.extend(entries);
            flushed.log_io_completed(Ok(()));
            return Ok(());
        };
        let mut bytes = Vec::new();
        self.lock().entries.extend(entries.into_iter().inspect(|entry| encode(entry, &mut bytes)));
        if let Err(unsent) = file.send(Record { bytes, done: Done::Log(flushed) }) {
            unsent.0.done.tell(&Err(io::Error::other("the log's thread has ended")));
        }
        Ok(())
    }

    async fn truncate(&mut self, from: LogId<u64>) -> Result<(), StorageError<u64>> {
        let mut log = self.lock();
        let keep = from.index.saturating_sub(log.first());
        log.entries.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
        Ok(())
    }

    async fn purge(&mut self, up_to: LogId<u64>) -> Result<(), StorageError<u64>> {
        let mut log = self.lock();
        let gone = (up_to.index + 1).saturating_sub(log.first());
        let gone = usize::try_from(gone).unwrap_or(usize::MAX).min(log.entries.len());
        log.entries.drain(..gone);
        log.purged = Some(up_to);
        Ok(())
    }
}
