//! What a broker's author needs to test that nothing is lost: a disk that crashes.

mod bitrot;
mod crashpoints;
mod disk;
mod random;
mod scratch;
mod state;
mod workload;

pub use bitrot::{BitRot, Outcome, Region, RotDamage, RotReport, Tally, WholeFile};
pub use crashpoints::{
    CrashPoint, CrashPoints, CrashPointsError, CrashReport, Failure, PointError, Subset, Variant,
    Verdict, replay,
};
pub use disk::{
    CrashDisk, CrashFile, CrashHandle, Fault, FaultError, Image, Moment, Observer, Operation,
    OperationKind, Phase, Survival,
};
pub use state::{Difference, GroupState, SnapshotState, StateError, StoreState};
pub use workload::WorkloadError;
