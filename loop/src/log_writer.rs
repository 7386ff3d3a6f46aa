//! The log writer's thread: everything that waits, in one record, with one fsync.

use std::collections::BTreeSet;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use quorate_engine::{Disk, GroupId, GroupWrite, LogWriter, WriteError};
use quorate_statemachine::StateMachine;

use crate::core::Input;
use crate::inbox::{Event, Inbox};
use crate::meters::Meters;

/// Writes merged into one record. The loop gives out a bounded number of bytes; this bounds how
/// long the first of them waits for the last.
const WRITES_PER_BATCH: usize = 1_024;

/// How long a batch may be ahead of what the witness is sure to remember after a power loss.
const WITNESS_LAG_MAX: Duration = Duration::from_millis(100);

/// The part of it that is kept for the batch that is being written when the time comes.
const WITNESS_SLACK: Duration = Duration::from_millis(20);

/// Between two attempts to write what there was no room for. Each costs a rejected write; room is
/// made by people and by other programs, which takes longer.
const FULL_PAUSE: Duration = Duration::from_millis(200);

/// Work for the log writer.
pub(crate) enum LogWork {
    /// Make these durable, of whichever groups.
    Write(Vec<GroupWrite>),
    /// Drop a group from the log, for which nothing more is written.
    Remove(GroupId),
    /// Close the log: nothing follows.
    Close,
}

/// Writes until the loop says that nothing follows, and closes the log then.
///
/// What there is no room for is kept, and tried again; each group that has something in it is told,
/// and learns of the end by its receipt. The loop gives out little more meanwhile (see
/// `core/room.rs`), so that what is kept stays bounded.
///
/// # Errors
///
/// The failure that ended it, which the loop has been told of; or that of the close.
pub(crate) fn run<F: Disk + 'static, S: StateMachine>(
    writer: LogWriter<F>,
    queue: &mpsc::Receiver<LogWork>,
    inbox: &Inbox<S>,
    meters: &Meters,
) -> Result<(), WriteError> {
    let mut rounds = Rounds {
        writer,
        inbox,
        meters,
        witness_due: None,
        retry_at: None,
        told_full: BTreeSet::new(),
        removals: Vec::new(),
    };
    let mut waiting = Vec::new();
    if !rounds.writer.is_witness_synced() {
        rounds.witness_due = Some(Instant::now());
    }
    let mut is_open = true;
    while is_open {
        let next = match rounds.deadline() {
            None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(at) => queue.recv_timeout(at.saturating_duration_since(Instant::now())),
        };
        let mut work = match next {
            Ok(work) => Some(work),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(LogWork::Close),
        };
        while let Some(next) = work {
            match next {
                LogWork::Write(writes) => waiting.extend(writes),
                LogWork::Remove(group) => rounds.removals.push(group),
                LogWork::Close => is_open = false,
            }
            let has_place = is_open && waiting.len() < WRITES_PER_BATCH;
            work = if has_place { queue.try_recv().ok() } else { None };
        }
        if let Err(error) = rounds.next(&mut waiting) {
            inbox.send(Event::Fault(error.to_string()));
            return Err(error);
        }
    }
    rounds.writer.close()
}

/// The writer, and what it has to do by when.
struct Rounds<'a, F: Disk, S: StateMachine> {
    writer: LogWriter<F>,
    inbox: &'a Inbox<S>,
    meters: &'a Meters,
    /// When the witness must be synced; `None` while it is.
    witness_due: Option<Instant>,
    /// When to try again what there was no room for; `None` while there is.
    retry_at: Option<Instant>,
    /// The groups that were told so: a receipt will tell them that there is room again.
    told_full: BTreeSet<GroupId>,
    /// Groups that are to be dropped, once nothing waits that may be theirs.
    removals: Vec<GroupId>,
}

impl<F: Disk + 'static, S: StateMachine> Rounds<'_, F, S> {
    /// Until when to wait for writes; for ever if nothing else is to be done.
    fn deadline(&self) -> Option<Instant> {
        self.witness_due.into_iter().chain(self.retry_at).min()
    }

    /// Does what is due: syncs the witness, and writes what waits.
    fn next(&mut self, waiting: &mut Vec<GroupWrite>) -> Result<(), WriteError> {
        let now = Instant::now();
        if self.witness_due.is_some_and(|due| due <= now) {
            self.writer.sync_witness()?;
            self.witness_due = None;
        }
        let has_writes = self.writer.is_waiting() || !waiting.is_empty();
        let has_work = has_writes || !self.removals.is_empty();
        if !has_work || self.retry_at.is_some_and(|at| now < at) {
            return Ok(());
        }
        if has_writes {
            self.write(waiting)?;
        }
        if !self.removals.is_empty() && !self.writer.is_waiting() {
            self.remove()?;
        }
        self.meters.set_log_disk_bytes(self.writer.disk_bytes());
        if self.writer.is_witness_synced() {
            self.witness_due = None;
        } else if self.witness_due.is_none() {
            self.witness_due = Some(now + (WITNESS_LAG_MAX - WITNESS_SLACK));
        }
        Ok(())
    }

    fn write(&mut self, waiting: &mut Vec<GroupWrite>) -> Result<(), WriteError> {
        let groups: Vec<_> = waiting.iter().map(|write| write.group).collect();
        let entries = waiting.iter().flat_map(|write| &write.entries);
        let (count, bytes) = entries
            .fold((0, 0), |(count, bytes), entry| (count + 1, bytes + entry.data.len() as u64));
        let begun = Instant::now();
        match self.writer.write(std::mem::take(waiting)) {
            Ok(receipts) => {
                self.meters.log_write.record_time(begun.elapsed());
                self.meters.log_write_bytes.record(bytes);
                self.meters.log_write_entries.record(count);
                if self.retry_at.take().is_some() {
                    tracing::info!("there is room on the disk again");
                }
                self.told_full.clear();
                self.inbox.send(Event::Durable(receipts));
            }
            Err(error @ WriteError::Full { .. }) => {
                if self.retry_at.is_none() {
                    tracing::warn!(%error, "this node cannot write");
                }
                // A group with nothing to be written would never be told of the end.
                for group in groups {
                    if self.told_full.insert(group) {
                        self.inbox.send(Event::Input(group, Input::StorageFull));
                    }
                }
                self.retry_at = Some(Instant::now() + FULL_PAUSE);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn remove(&mut self) -> Result<(), WriteError> {
        match self.writer.remove(&self.removals) {
            Ok(()) => {
                self.retry_at = None;
                self.inbox.send(Event::Removed(std::mem::take(&mut self.removals)));
            }
            Err(WriteError::Full { .. }) => self.retry_at = Some(Instant::now() + FULL_PAUSE),
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
