//! What a broker's author needs to test that nothing is lost: a disk that crashes.

mod disk;
mod random;

pub use disk::{
    CrashDisk, CrashFile, CrashHandle, Fault, FaultError, Image, Moment, Observer, Operation,
    OperationKind, Phase, Survival,
};
