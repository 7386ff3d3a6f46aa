//! [`Meters`]: what a node counts of itself, and [`Metrics`], what it shows of that.

use std::sync::atomic::{AtomicU64, Ordering};

use quorate_engine::NodeId;

use crate::core::Apply;
use crate::drops::{CloseCause, DropCause};
use crate::histogram::{Distribution, Histogram, Unit};

/// What the threads of a node count, all groups taken together: nothing here is a group's own, since
/// there may be thousands. Nobody waits for anybody.
#[derive(Debug)]
pub(crate) struct Meters {
    /// From a proposal of this node to its outcome here.
    pub(crate) commit: Histogram,
    /// One batch made durable.
    pub(crate) log_write: Histogram,
    pub(crate) log_write_bytes: Histogram,
    pub(crate) log_write_entries: Histogram,
    /// One batch of a group's committed entries applied, and its image published.
    pub(crate) apply: Histogram,
    /// Entries on the way to the apply thread.
    apply_queue: AtomicU64,
    /// Bytes of the log on disk; the log writer sets it.
    log_disk_bytes: AtomicU64,
    dropped: [AtomicU64; DropCause::ALL.len()],
    closed: [AtomicU64; CloseCause::ALL.len()],
}

impl Meters {
    pub(crate) fn new(log_disk_bytes: u64) -> Self {
        Meters {
            commit: Histogram::new(Unit::Seconds),
            log_write: Histogram::new(Unit::Seconds),
            log_write_bytes: Histogram::new(Unit::Bytes),
            log_write_entries: Histogram::new(Unit::Count),
            apply: Histogram::new(Unit::Seconds),
            apply_queue: AtomicU64::new(0),
            log_disk_bytes: AtomicU64::new(log_disk_bytes),
            dropped: [const { AtomicU64::new(0) }; DropCause::ALL.len()],
            closed: [const { AtomicU64::new(0) }; CloseCause::ALL.len()],
        }
    }

    pub(crate) fn dropped(&self, cause: DropCause) {
        self.dropped[cause as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn closed(&self, cause: CloseCause) {
        self.closed[cause as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Work goes to the apply thread.
    pub(crate) fn apply_queued<P>(&self, work: &Apply<P>) {
        self.apply_queue.fetch_add(entries_in(work), Ordering::Relaxed);
    }

    /// The apply thread took work.
    pub(crate) fn apply_taken<P>(&self, work: &Apply<P>) {
        self.apply_queue.fetch_sub(entries_in(work), Ordering::Relaxed);
    }

    /// Bytes of the log's files on disk, counted in whole files, after the last write.
    pub(crate) fn log_disk_bytes(&self) -> u64 {
        self.log_disk_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn set_log_disk_bytes(&self, bytes: u64) {
        self.log_disk_bytes.store(bytes, Ordering::Relaxed);
    }

    /// What was counted until now; what is not counted here, the caller knows.
    pub(crate) fn metrics(&self) -> Metrics {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Metrics {
            commit_seconds: self.commit.distribution(),
            log_write_seconds: self.log_write.distribution(),
            log_write_bytes: self.log_write_bytes.distribution(),
            log_write_entries: self.log_write_entries.distribution(),
            apply_seconds: self.apply.distribution(),
            apply_queue_entries: count(&self.apply_queue),
            inbox_requests: 0,
            peers: Vec::new(),
            groups: 0,
            log_disk_bytes: self.log_disk_bytes(),
            dropped: DropCause::ALL.iter().copied().zip(self.dropped.iter().map(count)).collect(),
            closed: CloseCause::ALL.iter().copied().zip(self.closed.iter().map(count)).collect(),
        }
    }
}

fn entries_in<P>(work: &Apply<P>) -> u64 {
    match work {
        Apply::Entries(entries) => entries.len() as u64,
        Apply::Restore(_) => 0,
    }
}

/// What a node has counted since it was opened, all its groups taken together.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Metrics {
    /// From a proposal that was made on this node to its outcome here: written, replicated,
    /// committed, applied. Those without an outcome are not in it.
    pub commit_seconds: Distribution,
    /// One batch made durable: written, and synced with one `fdatasync`.
    pub log_write_seconds: Distribution,
    /// Bytes of the entries in such a batch.
    pub log_write_bytes: Distribution,
    /// The number of entries in such a batch.
    pub log_write_entries: Distribution,
    /// One batch of committed entries of one group applied, and the image published.
    pub apply_seconds: Distribution,
    /// Entries that are committed and wait for the apply thread.
    pub apply_queue_entries: u64,
    /// Proposals, reads and other requests on this node that wait for the loop; at most
    /// `inbox_max`.
    pub inbox_requests: u64,
    /// The nodes that this one sends to.
    pub peers: Vec<PeerMetrics>,
    /// Groups on this node, those that have stopped included.
    pub groups: usize,
    /// Bytes of the log's files on disk, counted in whole files.
    pub log_disk_bytes: u64,
    /// How many messages were dropped, for every cause.
    pub dropped: Vec<(DropCause, u64)>,
    /// How many connections of peers were closed or refused, for every cause.
    pub closed: Vec<(CloseCause, u64)>,
}

/// The connection to one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerMetrics {
    /// Which node it is.
    pub node: NodeId,
    /// Whether this node is connected to it.
    pub connected: bool,
    /// Messages that wait for the connection; at most `peer_queue_max`.
    pub queue: usize,
}
