//! The log reader: one thread for every read and purge of one engine.
//!
//! raft-engine reads through a cache that belongs to the *thread* and is keyed by the position in
//! a file, not by the engine. A thread that reads from two engines, or from one reopened in the
//! same place, is served the other's bytes, and a purge would write them down for good
//! (trap E02). So the thread is born with its engine, serves no other, and dies with it.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use crate::disk::Disk;
use raft::GetEntriesContext;
use raft::eraftpb::Entry;
use thiserror::Error;

use crate::delivery::Limit;
use crate::ids::GroupId;
use crate::log::Fetch;
use crate::store::{EntryExt, Store, StoreError, is_full};

/// Entries of one call of raft-engine, which reserves memory for as many as it is asked for
/// (trap E10).
const CHUNK_ENTRIES: u64 = 1024;

/// Why entries were not read, or nothing was purged.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The engine was closed.
    #[error("the engine is closed")]
    Closed,
    /// Too many requests wait. Nothing to do: Raft asks again with the next heartbeat.
    #[error("{queue_max} reads wait already: the disk is slow, or `reader_queue_max` too small")]
    Overloaded {
        /// Requests that may wait.
        queue_max: usize,
    },
    /// The entry was compacted or overwritten since it was asked for. Nothing to do: Raft asks
    /// again. If the `GroupLog` still has it, the log is damaged.
    #[error("group {group}: entry {index} is not in the log any more")]
    Gone {
        /// The group.
        group: GroupId,
        /// The index.
        index: u64,
    },
    /// There was no room for what a purge must move. Nothing is lost: purge again when there is.
    /// (Where a snapshot was installed, or a group renewed, purges do nothing more until the engine
    /// is opened again.)
    #[error("the disk is full, and nothing was purged: make room: {source}")]
    Full {
        /// What raft-engine says.
        source: Arc<raft_engine::Error>,
    },
    /// The disk failed. Fatal.
    #[error("the disk failed: check it, and start the node again: {source}")]
    Disk {
        /// The first failure.
        source: Arc<io::Error>,
    },
    /// raft-engine could not read what it knows to be there. Fatal.
    #[error("the log could not be read: check the disk, and start the node again: {source}")]
    Engine {
        /// What raft-engine says.
        source: Arc<raft_engine::Error>,
    },
}

impl ReadError {
    /// Whether the storage failed, so that the node must stop.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Disk { .. } | Self::Engine { .. })
    }
}

impl From<StoreError> for ReadError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Disk(source) => Self::Disk { source },
            StoreError::Engine(source) if is_full(&source) => Self::Full { source },
            StoreError::Engine(source) => Self::Engine { source },
        }
    }
}

/// The answer to a [`Fetch`].
#[derive(Debug)]
pub struct Fetched {
    /// The group.
    pub group: GroupId,
    /// First index that was wanted.
    pub low: u64,
    /// The entries from `low` on: at least one, and no more than `bytes_max` allows.
    pub result: Result<Vec<Entry>, ReadError>,
    /// To be given back to Raft.
    pub context: GetEntriesContext,
}

type Done<T> = Box<dyn FnOnce(T) + Send>;

/// A request that is answered exactly once, also when the thread is gone.
struct FetchJob(Option<(Fetch, Done<Fetched>)>);

/// As [`FetchJob`].
struct PurgeJob(Option<Done<Result<Vec<GroupId>, ReadError>>>);

enum Job {
    Fetch(FetchJob),
    Purge(PurgeJob),
    Close,
}

impl FetchJob {
    fn answer(mut self, read: impl FnOnce(&Fetch) -> Result<Vec<Entry>, ReadError>) {
        if let Some((fetch, done)) = self.0.take() {
            let result = read(&fetch);
            let Fetch { group, low, context, .. } = fetch;
            done(Fetched { group, low, result, context });
        }
    }
}

impl Drop for FetchJob {
    fn drop(&mut self) {
        if let Some((Fetch { group, low, context, .. }, done)) = self.0.take() {
            done(Fetched { group, low, result: Err(ReadError::Closed), context });
        }
    }
}

impl Drop for PurgeJob {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done(Err(ReadError::Closed));
        }
    }
}

/// A handle to the reader thread; cheap to clone. Its methods never wait.
///
/// `done` runs on the reader thread and must not block: it hands the result on. It runs exactly
/// once if the method returned `Ok`, and not at all otherwise.
#[derive(Debug, Clone)]
pub struct LogReader {
    jobs: SyncSender<Job>,
    queue_max: usize,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Fetch(_) => "Fetch",
            Self::Purge(_) => "Purge",
            Self::Close => "Close",
        })
    }
}

impl LogReader {
    /// Starts the thread for `store`.
    pub(crate) fn start<F: Disk + 'static>(
        store: Arc<Store<F>>,
        queue_max: usize,
    ) -> io::Result<(Self, JoinHandle<()>)> {
        let (jobs, queue) = sync_channel(queue_max);
        let thread = std::thread::Builder::new()
            .name("quorate-log-reader".to_owned())
            .spawn(move || serve(&queue, &store))?;
        Ok((Self { jobs, queue_max }, thread))
    }

    /// Reads entries.
    ///
    /// # Errors
    ///
    /// [`ReadError::Overloaded`] and [`ReadError::Closed`] at once; others in [`Fetched`].
    pub fn fetch(
        &self,
        fetch: Fetch,
        done: impl FnOnce(Fetched) + Send + 'static,
    ) -> Result<(), ReadError> {
        self.submit(Job::Fetch(FetchJob(Some((fetch, Box::new(done))))))
    }

    /// Gives back the space of compacted entries, and names the groups that hold old files back:
    /// each needs a snapshot and a compaction. Does nothing while a group is damaged: its entries
    /// stay where they are until it is renewed.
    ///
    /// # Errors
    ///
    /// [`ReadError::Overloaded`] and [`ReadError::Closed`] at once; others in the result.
    pub fn purge(
        &self,
        done: impl FnOnce(Result<Vec<GroupId>, ReadError>) + Send + 'static,
    ) -> Result<(), ReadError> {
        self.submit(Job::Purge(PurgeJob(Some(Box::new(done)))))
    }

    fn submit(&self, job: Job) -> Result<(), ReadError> {
        let (error, job) = match self.jobs.try_send(job) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Full(job)) => {
                (ReadError::Overloaded { queue_max: self.queue_max }, job)
            }
            Err(TrySendError::Disconnected(job)) => (ReadError::Closed, job),
        };
        // Refused: `done` must not run as well.
        match job {
            Job::Fetch(mut job) => drop(job.0.take()),
            Job::Purge(mut job) => drop(job.0.take()),
            Job::Close => {}
        }
        Err(error)
    }

    /// Reads entries, at least one, and waits for them: not for a thread that others wait for.
    ///
    /// # Errors
    ///
    /// [`ReadError`]; [`ReadError::Gone`] where the log was compacted meanwhile.
    pub fn read(
        &self,
        group: GroupId,
        low: u64,
        high: u64,
        bytes_max: u64,
    ) -> Result<Vec<Entry>, ReadError> {
        self.begin_read(group, low, high, bytes_max)?.wait()
    }

    /// The same, to be waited for later.
    ///
    /// # Errors
    ///
    /// As [`LogReader::fetch`].
    pub(crate) fn begin_read(
        &self,
        group: GroupId,
        low: u64,
        high: u64,
        bytes_max: u64,
    ) -> Result<Reading, ReadError> {
        let (sender, receiver) = sync_channel(1);
        let context = GetEntriesContext::empty(true);
        self.fetch(Fetch { group, low, high, bytes_max, context }, move |fetched| {
            // Nobody waits any more: nothing is lost.
            let _ = sender.send(fetched.result);
        })?;
        Ok(Reading(receiver))
    }

    /// Ends the thread after what waits now; later requests are refused.
    pub(crate) fn close(&self) {
        // An error means that it has ended already.
        let _ = self.jobs.send(Job::Close);
    }
}

/// Entries that are being read.
pub(crate) struct Reading(Receiver<Result<Vec<Entry>, ReadError>>);

impl Reading {
    /// Waits for them: at least one.
    pub(crate) fn wait(self) -> Result<Vec<Entry>, ReadError> {
        self.0.recv().unwrap_or(Err(ReadError::Closed))
    }
}

fn serve<F: Disk>(queue: &Receiver<Job>, store: &Store<F>) {
    while let Ok(job) = queue.recv() {
        match job {
            Job::Fetch(job) => job.answer(|fetch| read(store, fetch)),
            Job::Purge(mut job) => {
                if let Some(done) = job.0.take() {
                    done(purge(store));
                }
            }
            Job::Close => return,
        }
    }
}

/// The entries of `fetch`, as far as the log still has them.
fn read<F: Disk>(store: &Store<F>, fetch: &Fetch) -> Result<Vec<Entry>, ReadError> {
    let Fetch { group, low, high, bytes_max, .. } = *fetch;
    let gone = |index| ReadError::Gone { group, index };
    let engine = store.engine();
    let (Some(first), Some(last)) =
        (engine.first_index(group.get()), engine.last_index(group.get()))
    else {
        return Err(gone(low));
    };
    if low < first || low > last {
        return Err(gone(low));
    }
    let high = high.min(last.saturating_add(1));
    let mut entries: Vec<Entry> = Vec::new();
    let mut limit = Limit::new(bytes_max);
    let mut next = low;
    while next < high && !limit.is_reached() {
        let end = high.min(next.saturating_add(CHUNK_ENTRIES));
        let chunk = match read_chunk(store, group, next, end, limit.bytes_left()) {
            Ok(chunk) if chunk.is_empty() => break,
            Ok(chunk) => chunk,
            Err(error) if entries.is_empty() => return Err(error),
            // What was read before is whole; the next request fails at the very entry.
            Err(_) => break,
        };
        next += chunk.len() as u64;
        for entry in chunk {
            if !limit.admits(&entry) {
                break;
            }
            entries.push(entry);
        }
    }
    if entries.is_empty() { Err(gone(low)) } else { Ok(entries) }
}

/// Entries of `[low, end)` in one go, or one at a time when that fails: a purge can move a file
/// away between the look-up and the read, and one entry is looked up afresh (trap E10).
fn read_chunk<F: Disk>(
    store: &Store<F>,
    group: GroupId,
    low: u64,
    end: u64,
    bytes_max: u64,
) -> Result<Vec<Entry>, ReadError> {
    let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
    let mut entries = Vec::new();
    let whole = store.run(|engine| {
        engine.fetch_entries_to::<EntryExt>(group.get(), low, end, Some(bytes_max), &mut entries)
    });
    if whole.is_ok() {
        return Ok(entries);
    }
    // What was read before the failure is whole.
    for index in low + entries.len() as u64..end {
        match store.run(|engine| engine.get_entry::<EntryExt>(group.get(), index)) {
            Ok(Some(entry)) => entries.push(entry),
            Ok(None) => break,
            Err(error) if entries.is_empty() => return Err(error.into()),
            Err(_) => break,
        }
    }
    Ok(entries)
}

fn purge<F: Disk>(store: &Store<F>) -> Result<Vec<GroupId>, ReadError> {
    if store.is_purge_held() {
        return Ok(Vec::new());
    }
    let regions = store
        .run(|engine| engine.purge_expired_files())
        .map_err(ReadError::from)
        .inspect_err(|error| {
            if matches!(error, ReadError::Full { .. }) {
                store.purge_had_no_room();
            }
        })?;
    let mut groups: Vec<_> = regions.into_iter().filter_map(GroupId::new).collect();
    groups.sort_unstable();
    Ok(groups)
}

#[cfg(test)]
mod tests;
