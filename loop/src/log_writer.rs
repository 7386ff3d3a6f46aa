//! The log writer's thread: everything that waits, in one record, with one fsync.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use quorate_engine::{Disk, GroupWrite, LogWriter, WriteError};
use quorate_statemachine::StateMachine;

use crate::core::Input;
use crate::inbox::{Event, Inbox};

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

/// Writes until the loop drops its end of the queue, and closes the log then.
///
/// What there is no room for is kept, and tried again; the loop is told of it, and of its end by
/// the receipts. The loop gives out little more meanwhile (see `core/room.rs`), so that what is
/// kept stays bounded.
///
/// # Errors
///
/// The failure that ended it, which the loop has been told of; or that of the close.
pub(crate) fn run<F: Disk + 'static, S: StateMachine>(
    writer: LogWriter<F>,
    writes: &mpsc::Receiver<GroupWrite>,
    inbox: &Inbox<S>,
    disk_bytes: &AtomicU64,
) -> Result<(), WriteError> {
    let mut rounds = Rounds { writer, inbox, disk_bytes, witness_due: None, retry_at: None };
    let mut kept = Vec::new();
    if !rounds.writer.is_witness_synced() {
        rounds.witness_due = Some(Instant::now());
    }
    loop {
        let next = match rounds.deadline() {
            None => writes.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(at) => writes.recv_timeout(at.saturating_duration_since(Instant::now())),
        };
        match next {
            Ok(first) => {
                kept.push(first);
                kept.extend(writes.try_iter().take(WRITES_PER_BATCH - 1));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if let Err(error) = rounds.next(&mut kept) {
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
    disk_bytes: &'a AtomicU64,
    /// When the witness must be synced; `None` while it is.
    witness_due: Option<Instant>,
    /// When to try again what there was no room for; `None` while there is.
    retry_at: Option<Instant>,
}

impl<F: Disk + 'static, S: StateMachine> Rounds<'_, F, S> {
    /// Until when to wait for writes; for ever if nothing else is to be done.
    fn deadline(&self) -> Option<Instant> {
        self.witness_due.into_iter().chain(self.retry_at).min()
    }

    /// Does what is due: syncs the witness, and writes what waits.
    fn next(&mut self, kept: &mut Vec<GroupWrite>) -> Result<(), WriteError> {
        let now = Instant::now();
        if self.witness_due.is_some_and(|due| due <= now) {
            self.writer.sync_witness()?;
            self.witness_due = None;
        }
        let has_work = self.writer.is_waiting() || !kept.is_empty();
        if !has_work || self.retry_at.is_some_and(|at| now < at) {
            return Ok(());
        }
        match self.writer.write(std::mem::take(kept)) {
            Ok(receipts) => {
                if self.retry_at.take().is_some() {
                    tracing::info!("there is room on the disk again");
                }
                for durable in receipts {
                    self.inbox.send(Event::Input(Input::Durable(durable)));
                }
            }
            Err(error @ WriteError::Full { .. }) => {
                if self.retry_at.is_none() {
                    tracing::warn!(%error, "this node cannot write");
                    self.inbox.send(Event::Input(Input::StorageFull));
                }
                self.retry_at = Some(Instant::now() + FULL_PAUSE);
            }
            Err(error) => return Err(error),
        }
        self.disk_bytes.store(self.writer.disk_bytes(), Ordering::Relaxed);
        if self.writer.is_witness_synced() {
            self.witness_due = None;
        } else if self.witness_due.is_none() {
            self.witness_due = Some(now + (WITNESS_LAG_MAX - WITNESS_SLACK));
        }
        Ok(())
    }
}
