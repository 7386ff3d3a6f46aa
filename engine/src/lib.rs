//! The durable log of Quorate: entries, hard state, membership and snapshots of many Raft groups
//! in one directory. The only code that knows raft-engine.
//!
//! ```text
//!  format() ──> identity, witness       the loop (RawNode)
//!                  │                     │ reads            │ GroupWrite
//!  Formatted::open ┴──> Engine::open     ▼                  ▼
//!      survey, recovery ──┤          GroupLog          LogWriter ──> Durable
//!            │            │             ▲ deliver          │ one record, one fsync; witness
//!            ▼            │             │                  ▼
//!        quarantine       │          LogReader ───────> raft-engine ──> log/
//!                         │             one thread         (fsync latch over a Disk)
//!                         └──────────> SnapshotStore ───────────────> snapshots/GROUP/INDEX-TERM.snap
//!
//!  Inspection::of ──> the same survey and recovery over frozen files, nothing changed
//! ```
//!
//! # The contract of a loop
//!
//! 1. When a Ready is emitted, its snapshot, entries, hard state and membership go into the
//!    [`GroupLog`] at once, in this order; then [`GroupLog::record`] and the entries make a
//!    [`GroupWrite`].
//! 2. The log writer's thread hands whatever waits to [`LogWriter::write`], in order.
//! 3. Only a [`Durable`] receipt lets a message or an answer leave that speaks of the write.
//!    Then [`GroupLog::persisted_to`].
//! 4. [`GroupLog::take_fetches`] after each step of Raft; what it gives goes to
//!    [`LogReader::fetch`], what comes back to [`GroupLog::deliver`] and to
//!    `RawNode::on_entries_fetched`.
//! 5. An error of the writer is fatal and sticky: nothing is acknowledged any more. But for a full
//!    disk: the batch is kept, and [`LogWriter::write`] tries it again.
//! 6. [`LogWriter::sync_witness`] within 100 ms after a write that left it unsynced.
//! 7. A group in [`Engine::damaged`] does not act: no vote, no campaign, no answer.
//!
//! # Invariants
//!
//! - What a receipt speaks of is on disk: one `fdatasync` after one record of the whole round.
//! - Hard state, membership, and the entries that they speak of are in one record: they are
//!   never seen apart.
//! - Nothing that would make raft-engine panic reaches it: contiguity is checked before.
//! - A group's log is never emptied by compaction, and never compacted beyond its snapshot.
//! - A snapshot file with its final name is complete and durable.
//! - The witness never names a batch that is not durable, and none is released before it is named.
//! - Nothing is written after a finding before the quarantine is durable, and nothing for what it
//!   names until it is renewed.
//! - Nothing that was found at open is relied on before it is synced.
//! - What is read back is verified; what does not match is a [`Damage`] with a remedy, never a
//!   panic and never "not found".
//! - After the first fsync error no file of the log is touched any more. A snapshot file whose fsync
//!   fails is given up: nothing names it yet.
//! - No clock, no async, and no thread but the log reader's.

// Tests carry the number of the trap that they guard against.
#![cfg_attr(test, allow(non_snake_case))]

mod address;
mod cache;
mod config;
mod damage;
mod delivery;
mod directory;
mod disk;
mod engine;
mod files;
mod frame;
mod frozen_log;
mod identity;
mod ids;
mod inspection;
mod latch;
mod log;
mod log_files;
mod log_record;
mod log_scan;
mod open;
mod pace;
mod partials;
mod quarantine;
mod reader;
mod record;
mod recovery;
mod renew;
mod snapshot;
mod snapshot_file;
mod snapshot_parser;
mod snapshot_receiver;
mod snapshot_store;
mod stamp;
mod store;
mod survey;
mod temporary;
mod terms;
mod witness;
mod write;
mod writer;

#[cfg(test)]
mod model;
#[cfg(test)]
mod raft_tests;
#[cfg(test)]
mod testing;

pub use address::check as check_address;
pub use cache::CacheBudget;
pub use config::{ConfigFault, EngineConfig};
pub use damage::Damage;
pub use disk::Disk;
pub use engine::{Engine, RecoveredGroup};
pub use identity::{FormatError, Formatted, Founding, Identity, IdentityError, Voter, format};
pub use ids::{ClusterId, DirectoryId, GroupId, LogId, NodeId};
pub use inspection::{InspectError, InspectedGroup, Inspection};
pub use log::{Fetch, GroupLog};
pub use open::OpenError;
pub use raft_engine::env::{DefaultFileSystem, FileSystem, Handle, Permission, WriteExt};
pub use reader::{Fetched, LogReader, ReadError};
pub use record::GroupRecord;
pub use renew::{RenewError, Renewed, RenewedGroup, renew_directory};
pub use snapshot::{SnapshotDigest, SnapshotError, SnapshotMeta};
pub use snapshot_file::{SnapshotFile, SnapshotReader, SnapshotWriter};
pub use snapshot_receiver::SnapshotReceiver;
pub use snapshot_store::SnapshotStore;
pub use write::{Durable, GroupWrite, WriteError};
pub use writer::LogWriter;
