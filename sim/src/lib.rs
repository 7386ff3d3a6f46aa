//! What the author of a broker needs to test that nothing is lost: a disk that crashes, the crash
//! points of an engine's history, stores that rot, and peers that lie.
//!
//! - [`CrashDisk`] is a [`Disk`](quorate_engine::Disk) for
//!   [`Engine::open_with`](quorate_engine::Engine::open_with). It knows what was synced. An
//!   [`Image`] of it, taken at any moment, gives the disks that a power loss or a kill may leave.
//!   [`Fault`]s make its operations fail, lie, or run out of room.
//! - [`CrashPoints`] cuts seeded histories of an engine off at each operation on the disk, and
//!   opens what is left: `quorate-sim crashpoints`.
//! - [`BitRot`] flips each byte of a store at rest, loses, cuts off and swaps its files:
//!   `quorate-sim bitrot`.
//! - [`Fuzz`] tells live groups what no correct peer would say: `quorate-sim fuzz`.
//!
//! # A crash test
//!
//! ```
//! use std::io::Write;
//! use std::sync::Arc;
//!
//! use quorate_engine::*;
//! use quorate_sim::{CrashDisk, Survival};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = tempfile::tempdir()?;
//! let (node, group) = (NodeId::new(1).unwrap(), GroupId::new(1).unwrap());
//!
//! // A data directory as ever; `identity` and `LOCK` are real files, the rest is on the disk.
//! let root = dir.path().join("data");
//! let voter = Voter { node_id: node, addr: "localhost:9001".to_owned() };
//! format(&root, ClusterId::random(), node, Founding::Voters(vec![voter]))?;
//! let disk = CrashDisk::new(&root)?;
//! let config = EngineConfig::default();
//! let mut engine =
//!     Engine::open_with(Formatted::open(&root)?, &config, Arc::new(disk.clone()))?;
//!
//! // A group is founded: its first snapshot, and one batch.
//! let id = LogId::new(1, 1);
//! let (conf_state, members) = (raft::eraftpb::ConfState::from((vec![1], vec![])), "table".into());
//! let mut snapshot = engine.snapshots.create(SnapshotMeta { group, id, conf_state, members })?;
//! snapshot.write_all(b"state")?;
//! let record = GroupLog::founded(group, &snapshot.finish()?, &engine.cache).record();
//! let (entries, genesis) = (vec![], None);
//! let batch =
//!     GroupWrite { group, number: 1, entries, record: record.clone(), install: false, genesis };
//! let receipts = engine.writer.write(vec![batch])?;
//! assert_eq!(receipts.len(), 1);
//!
//! // There is a receipt: whatever the power loss takes, the batch is there.
//! let image = disk.image()?;
//! for (number, survival) in
//!     [Survival::LoseAll, Survival::KeepAll, Survival::Random(7)].into_iter().enumerate()
//! {
//!     let root = dir.path().join(format!("after-{number}"));
//!     let left = image.power_loss(survival, &root)?;
//!     let engine = Engine::open_with(Formatted::open(&root)?, &config, Arc::new(left))?;
//!     assert_eq!(engine.groups[&group].log.record(), record);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! To crash *within* a write, give the disk an [`Observer`]: it sees a [`Moment`] before and after
//! each operation, and takes images there, also of a write that is torn ([`Moment::torn`]).
//!
//! # What a power loss is taken to do
//!
//! Of each file, any of the changes since its last sync survive, each by itself and in their
//! order; a surviving write may be cut at any byte or lack any of its sectors. Of the names, any of
//! the changes survive that no sync of the directory covers. What was synced is there, unless
//! [`Fault::lost`] made the sync a lie, or it is damaged at rest ([`CrashDisk::flip_bit`] and the
//! like). Directories are durable. All of it follows from seeds.

mod bitrot;
mod cluster;
mod crashpoints;
mod disk;
mod fuzz;
mod random;
mod record;
mod scratch;
mod state;
mod workload;

pub use bitrot::{BitRot, Outcome, Region, RotCase, RotDamage, RotReport, Tally};
pub use cluster::{
    Answer, Coverage, Event, Lines, Mix, Path, SeedRun, SimError, SimulatedCluster, Simulation,
    SimulationFailure, SimulationReport, Ticket, run_seed,
};
pub use crashpoints::{
    CrashPoint, CrashPoints, CrashPointsError, CrashReport, Failure, PointError, Subset, Variant,
    Verdict, replay,
};
pub use disk::{
    CrashDisk, CrashFile, CrashHandle, Fault, FaultError, Image, Moment, Observer, Operation,
    OperationKind, Phase, Survival,
};
pub use fuzz::{
    Fuzz, FuzzError, FuzzFailure, FuzzReport, Kind, Lies, MESSAGES_PER_GROUP, messages,
};
pub use state::{Difference, GroupState, SnapshotState, StateError, StoreState};
pub use workload::WorkloadError;
