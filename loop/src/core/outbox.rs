//! [`Outbox`]: messages that wait for the batch they speak of to be durable.

use std::collections::VecDeque;

use mutation::Bug;
use quorate_engine::{Durable, LogId};

use crate::message::Envelope;

/// What was handed to the log writer and has not come back, and what depends on it.
///
/// Invariants:
/// - Writes come back in the order in which they were submitted.
/// - A message leaves only through [`Outbox::release`], which wants the log writer's receipt, or
///   when nothing that it depends on is in flight.
/// - A Ready that wrote nothing still depends on every batch in flight before it.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    in_flight: VecDeque<InFlight>,
    /// Bytes of the entries in them.
    entry_bytes: u64,
}

#[derive(Debug)]
struct InFlight {
    write: u64,
    /// The latest Ready that is persisted once this write is.
    ready: u64,
    /// Whether the write changes term or vote: heartbeats, their answers and whatever else reveals
    /// a term wait for it.
    changes_vote: bool,
    install: Option<LogId>,
    retain: Option<LogId>,
    last: LogId,
    submitted_at: u64,
    entry_bytes: u64,
    held: Vec<Envelope>,
}

/// One write for the log writer, as the outbox sees it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Submitted {
    /// The group's number of the write; ascending.
    pub(super) write: u64,
    /// The Ready it came from, or the latest before it.
    pub(super) ready: u64,
    /// Whether it changes term or vote.
    pub(super) changes_vote: bool,
    /// The snapshot that replaces the log with this write.
    pub(super) install: Option<LogId>,
    /// The snapshot older than which none is needed once this write is durable.
    pub(super) retain: Option<LogId>,
    /// Where the log ends with this write.
    pub(super) last: LogId,
    /// The tick at which it was submitted.
    pub(super) submitted_at: u64,
    /// Bytes of the entries in it.
    pub(super) entry_bytes: u64,
}

/// What a receipt sets free.
#[derive(Debug, Default)]
pub(super) struct Released {
    /// Every Ready up to this one is persisted.
    pub(super) ready: Option<u64>,
    /// The ends of the log, one for each write that is durable now.
    pub(super) lasts: Vec<LogId>,
    /// Messages that may leave now.
    pub(super) messages: Vec<Envelope>,
    /// The snapshot that is now the log's beginning.
    pub(super) install: Option<LogId>,
    /// Snapshots before this one are not needed any more.
    pub(super) retain: Option<LogId>,
}

impl Outbox {
    /// Whether every write that was submitted is durable.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Whether the oldest write was submitted before tick `since`, and has not come back.
    pub(super) fn is_stuck_since(&self, since: u64) -> bool {
        self.in_flight.front().is_some_and(|oldest| oldest.submitted_at < since)
    }

    /// Bytes of the entries that are not durable yet.
    pub(super) fn entry_bytes(&self) -> u64 {
        self.entry_bytes
    }

    /// Remembers a write; messages that are held after this depend on it.
    pub(super) fn submit(&mut self, submitted: Submitted) {
        let Submitted { write, ready, changes_vote, install, retain, last, .. } = submitted;
        let Submitted { submitted_at, entry_bytes, .. } = submitted;
        self.entry_bytes += entry_bytes;
        if let Some(last) = self.in_flight.back() {
            assert!(last.write < write && last.ready <= ready, "writes are numbered in order");
        }
        self.in_flight.push_back(InFlight {
            write,
            ready,
            changes_vote,
            install,
            retain,
            last,
            submitted_at,
            entry_bytes,
            held: Vec::new(),
        });
    }

    /// Notes a Ready that wrote nothing. Returns whether it counts as persisted at once.
    #[must_use]
    pub(super) fn wrote_nothing(&mut self, ready: u64) -> bool {
        match self.in_flight.back_mut() {
            Some(last) => {
                last.ready = ready;
                false
            }
            None => true,
        }
    }

    /// Holds a message until all that was submitted before it is durable. Gives it back when
    /// nothing is in flight.
    #[must_use]
    pub(super) fn hold(&mut self, message: Envelope) -> Option<Envelope> {
        if mutation::is(Bug::MessagesNotHeld) {
            return Some(message);
        }
        Self::hold_behind(self.in_flight.back_mut(), message)
    }

    /// Holds a message that speaks of nothing on the disk but the term, such as a heartbeat or its
    /// answer: it waits for the last write that changed term or vote and for no other, so that a
    /// slow or full disk silences nobody. So does a leader's append that needs not wait for its own
    /// write.
    #[must_use]
    pub(super) fn hold_for_vote(&mut self, message: Envelope) -> Option<Envelope> {
        if mutation::is(Bug::TermNotHeld) {
            return Some(message);
        }
        Self::hold_behind(self.in_flight.iter_mut().rev().find(|w| w.changes_vote), message)
    }

    fn hold_behind(write: Option<&mut InFlight>, message: Envelope) -> Option<Envelope> {
        match write {
            Some(write) => {
                write.held.push(message);
                None
            }
            None => Some(message),
        }
    }

    /// Sets free what waited for the write of this receipt and all before it.
    ///
    /// # Panics
    ///
    /// When the receipt is for a write that was never submitted: somebody forged it.
    pub(super) fn release(&mut self, durable: &Durable) -> Released {
        let number = durable.number();
        assert!(
            self.in_flight.back().is_some_and(|last| number <= last.write),
            "a receipt for write {number}, which was not submitted"
        );
        let mut released = Released::default();
        let number = if mutation::is(Bug::ReceiptOfAllWrites) { u64::MAX } else { number };
        while let Some(write) = self.in_flight.pop_front_if(|write| write.write <= number) {
            self.entry_bytes -= write.entry_bytes;
            released.ready = Some(write.ready);
            released.lasts.push(write.last);
            released.messages.extend(write.held);
            released.install = write.install.or(released.install);
            released.retain = write.retain.or(released.retain);
        }
        released
    }
}
