//! Going through a group's log once more, beside what it does: for whoever asks which command brought the
//! state to where it is.
//!
//! A machine of its own begins at the last snapshot and applies what the log has behind it, up to what
//! this node has applied. It sees what the live one saw: commands of sessions are applied once, and
//! changes of the membership not at all.

use bytes::Bytes;
use quorate_engine::{GroupId, LogId, LogReader, ReadError, SnapshotError, SnapshotStore};
use quorate_statemachine::StateMachine;
use raft::eraftpb::{Entry, EntryType};

use crate::context::{ContextError, session_step_of};
use crate::core::Committed;
use crate::inbox::ProposeCaller;
use crate::machine::{Machine, RestoreFailure, described, restore};

/// Bytes of entries read at a time.
const READ_BYTES_MAX: u64 = 4 << 20;

/// Times to begin anew where the log was compacted under the reader.
const ATTEMPTS_MAX: usize = 3;

/// Why a log could not be replayed. The group itself goes on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// This node does not have the group.
    #[error("this node has no group {0}: ask one that has it")]
    NoGroup(GroupId),
    /// There is no snapshot to begin with.
    #[error("group {0} has no snapshot yet: try again")]
    NoSnapshot(GroupId),
    /// What was to be read is superseded by a newer snapshot, again and again. Nothing is lost, and
    /// nothing is wrong.
    #[error(
        "the log of group {group} was compacted while it was gone through ({reason}): try again"
    )]
    Overtaken {
        /// The group.
        group: GroupId,
        /// What was missing at last.
        reason: String,
    },
    /// What is on the disk cannot be read.
    #[error(
        "the log of group {group} cannot be replayed: {reason}; try again, or ask another node"
    )]
    Unreadable {
        /// The group.
        group: GroupId,
        /// Why.
        reason: String,
    },
    /// The node has stopped, or is about to.
    #[error("this node has stopped")]
    ShutDown,
}

/// One command as it was applied, with the state before and after it.
#[derive(Debug)]
pub struct Replayed<'a, S: StateMachine> {
    /// Where it stands.
    pub at: LogId,
    /// The command.
    pub command: &'a Bytes,
    /// The state before.
    pub before: &'a S::Image,
    /// The state after; the same where the command was refused, or applied earlier.
    pub after: &'a S::Image,
}

/// What a replay found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picked<T> {
    /// The index of the snapshot that it began with: what was before is not told.
    pub since: u64,
    /// What was made of the commands behind it, in order.
    pub picked: Vec<T>,
}

/// What a replay reads from.
#[derive(Debug, Clone)]
pub(crate) struct Replay {
    pub(crate) group: GroupId,
    pub(crate) reader: LogReader,
    pub(crate) snapshots: SnapshotStore,
}

impl Replay {
    /// Goes through every command from the last snapshot to what `applied` says, and keeps what `pick`
    /// makes of each. Reads from the disk: not for a thread that others wait for.
    pub(crate) fn run<S: StateMachine, T>(
        &self,
        applied: impl Fn() -> u64,
        mut pick: impl FnMut(Replayed<'_, S>) -> Option<T>,
    ) -> Result<Picked<T>, ReplayError> {
        let mut again = 1..ATTEMPTS_MAX;
        loop {
            let mut picked = Vec::new();
            // Asked anew each time: what overtook the last attempt is a snapshot behind its end.
            let until = applied();
            match self.attempt::<S>(until, &mut |replayed| picked.extend(pick(replayed))) {
                Ok(since) => return Ok(Picked { since, picked }),
                // What cannot be read may have been on its way to another file.
                Err(ReplayError::Overtaken { .. } | ReplayError::Unreadable { .. })
                    if again.next().is_some() => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn attempt<S: StateMachine>(
        &self,
        until: u64,
        visit: &mut dyn FnMut(Replayed<'_, S>),
    ) -> Result<u64, ReplayError> {
        // One that was received and is not installed yet is ahead of what is applied.
        let all = self.snapshots.list(self.group).map_err(|error| self.unreadable(&error))?;
        let first = all.first().ok_or(ReplayError::NoSnapshot(self.group))?;
        let id = all.iter().rfind(|id| id.index <= until).ok_or_else(|| {
            let first = first.index;
            self.overtaken(format!("its snapshot is of index {first}, and {until} is applied"))
        })?;
        let restored = restore::<S>(&self.snapshots, self.group, *id);
        let restored = restored.map_err(|error| match error {
            RestoreFailure::File(error @ SnapshotError::Missing { .. }) => {
                self.overtaken(error.to_string())
            }
            error => self.unreadable(&error),
        })?;
        let mut machine = Machine::new(restored);
        let mut next = id.index + 1;
        while next <= until {
            let entries = self.reader.read(self.group, next, until + 1, READ_BYTES_MAX);
            let entries = entries.map_err(|error| match error {
                ReadError::Closed => ReplayError::ShutDown,
                ReadError::Gone { .. } => self.overtaken(error.to_string()),
                error => self.unreadable(&error),
            })?;
            for entry in entries {
                next = entry.index + 1;
                let at = LogId { index: entry.index, term: entry.term };
                let committed = committed::<S>(entry).map_err(|error| self.unreadable(&error))?;
                let command = committed.command.clone();
                let before = machine.publisher().newest();
                let applied = machine.apply(vec![committed]);
                applied.map_err(|reason| ReplayError::Unreadable { group: self.group, reason })?;
                let after = machine.publisher().newest();
                if !command.is_empty() {
                    let (before, after) = (&before.image, &after.image);
                    visit(Replayed { at, command: &command, before, after });
                }
            }
        }
        Ok(id.index)
    }

    fn overtaken(&self, reason: String) -> ReplayError {
        ReplayError::Overtaken { group: self.group, reason }
    }

    fn unreadable(&self, error: &dyn std::error::Error) -> ReplayError {
        ReplayError::Unreadable { group: self.group, reason: described(error) }
    }
}

/// What the entry does to a state machine and its sessions.
fn committed<S: StateMachine>(entry: Entry) -> Result<Committed<ProposeCaller<S>>, ContextError> {
    let at = LogId { index: entry.index, term: entry.term };
    let session = session_step_of(&entry)?;
    let is_command = entry.get_entry_type() == EntryType::EntryNormal;
    let command = if is_command { entry.data } else { Bytes::new() };
    Ok(Committed { at, command, session, caller: None, members: None, catalogue: None })
}
