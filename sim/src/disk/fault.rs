//! Faults that a disk is told to have.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::operation::OperationKind;

/// The operating system's number of an input/output error.
const EIO: i32 = 5;

/// The error of a failing operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultError {
    /// `EIO`: the device failed.
    Io,
    /// `ENOSPC`: the device is full. The text contains "nospace": raft-engine recognises it by
    /// nothing else.
    NoSpace,
}

impl From<FaultError> for io::Error {
    fn from(error: FaultError) -> Self {
        match error {
            FaultError::Io => Self::from_raw_os_error(EIO),
            FaultError::NoSpace => Self::new(io::ErrorKind::StorageFull, "nospace"),
        }
    }
}

#[derive(Clone)]
enum When {
    Always,
    Nth(u64),
    From(u64),
    While(Arc<AtomicBool>),
}

/// What becomes of an operation that a fault strikes.
#[derive(Debug, Clone, Copy)]
enum Effect {
    /// It fails; of a write, this many bytes are written before.
    Fails { error: FaultError, after_bytes: usize },
    /// It seems to succeed, and nothing is done.
    Lost,
}

/// A fault that strikes one operation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Strike(Effect);

impl Strike {
    /// Of a write, how many bytes are written all the same.
    pub(super) fn bytes_written(self) -> usize {
        match self.0 {
            Effect::Fails { after_bytes, .. } => after_bytes,
            Effect::Lost => 0,
        }
    }

    /// The error, if it is one that is told.
    pub(super) fn error(self) -> Option<io::Error> {
        match self.0 {
            Effect::Fails { error, .. } => Some(error.into()),
            Effect::Lost => None,
        }
    }
}

type Matches = Arc<dyn Fn(&Path) -> bool + Send + Sync>;

/// A fault: which operations fail, when, and with what error.
///
/// A failed operation changes nothing, but for a write with [`Fault::after_bytes`]. What a failed
/// sync left unsynced stays so.
///
/// ```
/// use quorate_sim::{Fault, FaultError, OperationKind};
///
/// // The second sync of a log file fails.
/// let fault = Fault::new(OperationKind::Sync, FaultError::Io).suffix(".raftlog").nth(2);
/// # let _ = fault;
/// ```
#[derive(Clone)]
pub struct Fault {
    kind: OperationKind,
    effect: Effect,
    when: When,
    matches: Option<Matches>,
    /// Operations that the fault speaks of, so far.
    seen: u64,
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, effect, seen, .. } = self;
        write!(f, "Fault({kind}: {effect:?}, {seen} seen)")
    }
}

impl Fault {
    /// Every operation of this kind fails, until the fault is removed.
    pub fn new(kind: OperationKind, error: FaultError) -> Self {
        let effect = Effect::Fails { error, after_bytes: 0 };
        Self { kind, effect, when: When::Always, matches: None, seen: 0 }
    }

    /// Every operation of this kind seems to succeed, and does nothing: a sync that lies, a write
    /// that is lost. Of a creation, an opening or a reading nobody can lie so: they fail as
    /// [`FaultError::Io`].
    pub fn lost(kind: OperationKind) -> Self {
        let effect = match kind {
            OperationKind::Create | OperationKind::Open | OperationKind::Read => {
                Effect::Fails { error: FaultError::Io, after_bytes: 0 }
            }
            _ => Effect::Lost,
        };
        Self { kind, effect, when: When::Always, matches: None, seen: 0 }
    }

    /// Only the `n`-th of them fails, counted from 1 since the fault was set.
    pub fn nth(self, n: u64) -> Self {
        Self { when: When::Nth(n), ..self }
    }

    /// The `n`-th and all after it fail.
    pub fn from(self, n: u64) -> Self {
        Self { when: When::From(n), ..self }
    }

    /// They fail while the switch is on.
    pub fn while_on(self, switch: Arc<AtomicBool>) -> Self {
        Self { when: When::While(switch), ..self }
    }

    /// Only operations on paths for which `matches` holds, relative to the root of the disk, fail
    /// and count. It must not use the disk.
    pub fn matching(self, matches: impl Fn(&Path) -> bool + Send + Sync + 'static) -> Self {
        Self { matches: Some(Arc::new(matches)), ..self }
    }

    /// Only operations on names that end so fail and count.
    pub fn suffix(self, suffix: &str) -> Self {
        let suffix = suffix.to_owned();
        self.matching(move |path| path.to_string_lossy().ends_with(&suffix))
    }

    /// A write that fails has written this many bytes before.
    pub fn after_bytes(self, bytes: usize) -> Self {
        let effect = match self.effect {
            Effect::Fails { error, .. } => Effect::Fails { error, after_bytes: bytes },
            Effect::Lost => Effect::Lost,
        };
        Self { effect, ..self }
    }

    /// Whether it strikes this operation.
    pub(super) fn strike(&mut self, kind: OperationKind, path: &Path) -> Option<Strike> {
        if kind != self.kind || !self.matches.as_ref().is_none_or(|matches| matches(path)) {
            return None;
        }
        self.seen += 1;
        let strikes = match &self.when {
            When::Always => true,
            When::Nth(n) => self.seen == *n,
            When::From(n) => self.seen >= *n,
            When::While(switch) => switch.load(Ordering::SeqCst),
        };
        strikes.then_some(Strike(self.effect))
    }
}
