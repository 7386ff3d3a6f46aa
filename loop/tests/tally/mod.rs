//! A state machine that adds numbers up: each command counts, and counts once.

use std::io;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use quorate_statemachine::{
    ApplyError, Cause, Changes, Image, RestoreError, StateHash, StateMachine,
};

/// The sum of all commands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// The sum.
    pub(crate) sum: u64,
}

/// What was added since the last update.
#[derive(Debug, Clone, Default)]
pub(crate) struct Added {
    /// The amount.
    pub(crate) added: u64,
}

/// The command that adds `amount`.
pub(crate) fn add(amount: u64) -> Bytes {
    Bytes::copy_from_slice(&amount.to_le_bytes())
}

/// The command that waits, on every node, until [`open_gate`] was called, and adds nothing.
pub(crate) fn gate() -> Bytes {
    add(GATE)
}

/// Lets the state machines go on that wait at the gate.
pub(crate) fn open_gate() {
    *OPEN.lock().unwrap() = true;
    OPENED.notify_all();
}

/// An amount that no test adds.
const GATE: u64 = (1 << 32) - 1;

static OPEN: Mutex<bool> = Mutex::new(false);
static OPENED: Condvar = Condvar::new();

/// A sum that no other test comes to: whoever restores a snapshot of it waits for [`let_restore_go_on`],
/// for [`HOLD_MAX`] at most.
pub(crate) const HELD_SUM: u64 = (1 << 32) - 2;
const HOLD_MAX: Duration = Duration::from_secs(60);

/// How far a restore of [`HELD_SUM`] has come.
#[derive(Clone, Copy, PartialEq)]
enum Restore {
    Unasked,
    Waits,
    MayGoOn,
}

static RESTORE: Mutex<Restore> = Mutex::new(Restore::Unasked);
static RESTORE_MOVED: Condvar = Condvar::new();

/// Waits until somebody restores a snapshot of [`HELD_SUM`]. Not on a thread of the runtime.
pub(crate) fn until_restore_waits() {
    let unasked = |restore: &mut Restore| *restore == Restore::Unasked;
    let waiting = RESTORE_MOVED.wait_timeout_while(RESTORE.lock().unwrap(), HOLD_MAX, unasked);
    assert!(!waiting.unwrap().1.timed_out(), "nobody restores");
}

/// Lets it go on.
pub(crate) fn let_restore_go_on() {
    *RESTORE.lock().unwrap() = Restore::MayGoOn;
    RESTORE_MOVED.notify_all();
}

fn wait_in_restore() {
    let mut restore = RESTORE.lock().unwrap();
    if *restore == Restore::Unasked {
        *restore = Restore::Waits;
    }
    RESTORE_MOVED.notify_all();
    let waits = |restore: &mut Restore| *restore == Restore::Waits;
    drop(RESTORE_MOVED.wait_timeout_while(restore, HOLD_MAX, waits));
}

impl StateMachine for Tally {
    type Image = Tally;
    type Outcome = u64;
    type Changes = Added;

    fn new() -> Self {
        Tally::default()
    }

    fn apply(
        &mut self,
        index: u64,
        command: &[u8],
        changes: &mut Added,
    ) -> Result<u64, ApplyError> {
        let amount = <[u8; 8]>::try_from(command).map(u64::from_le_bytes).ok();
        // "nonsense" has eight bytes as well.
        let amount = amount.filter(|amount| *amount < 1 << 32);
        let mut added = amount.ok_or(ApplyError::Unknown { index })?;
        if added == GATE {
            drop(OPENED.wait_while(OPEN.lock().unwrap(), |open| !*open).unwrap());
            added = 0;
        }
        self.sum += added;
        changes.added += added;
        Ok(self.sum)
    }

    fn encode_outcome(outcome: &u64) -> Bytes {
        Bytes::copy_from_slice(&outcome.to_le_bytes())
    }

    fn decode_outcome(bytes: &[u8]) -> Result<u64, Cause> {
        Ok(u64::from_le_bytes(bytes.try_into()?))
    }

    fn image(&self) -> Tally {
        self.clone()
    }

    fn restore(snapshot: &mut dyn io::Read) -> Result<Self, RestoreError> {
        let mut bytes = Vec::new();
        snapshot.read_to_end(&mut bytes)?;
        let bytes = bytes.try_into().map_err(|_| RestoreError::Truncated { record: 0 })?;
        let sum = u64::from_le_bytes(bytes);
        if sum == HELD_SUM {
            wait_in_restore();
        }
        Ok(Tally { sum })
    }
}

impl Image for Tally {
    fn write_snapshot(&self, out: &mut dyn io::Write) -> io::Result<()> {
        out.write_all(&self.sum.to_le_bytes())
    }

    fn state_hash(&self) -> StateHash {
        StateHash::new(self.sum.into())
    }
}

impl Changes<Tally> for Added {
    fn merge(&mut self, later: Self) {
        self.added += later.added;
    }

    fn between(before: &Tally, after: &Tally) -> Self {
        Added { added: after.sum - before.sum }
    }

    fn is_empty(&self) -> bool {
        self.added == 0
    }
}
