//! Going through a group's log once more, beside what it does: for whoever asks which command brought the
//! state to where it is.
//!
//! A machine of its own begins at the last snapshot and applies what the log has behind it, up to what
//! this node has applied. It sees what the live one saw: commands of sessions are applied once, and
//! changes of the membership not at all.

use std::collections::VecDeque;
use std::sync::Weak;
use std::time::Duration;

use bytes::Bytes;
use quorate_engine::{GroupId, LogId, LogReader, ReadError, SnapshotError, SnapshotStore};
use quorate_statemachine::StateMachine;
use raft::eraftpb::{Entry, EntryType};

use crate::context::ContextError;
use crate::core::Committed;
use crate::inbox::ProposeCaller;
use crate::machine::Machine;
use crate::meaning::session_step_of;
use crate::replica::{Replica, RestoreFailure, described};

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
    /// Its time was up first.
    #[error(
        "the log of group {group} was not gone through within {limit:.1?}: try again, with more time, or ask \
         another node"
    )]
    TimedOut {
        /// The group.
        group: GroupId,
        /// The time that it was given.
        limit: Duration,
    },
    /// The replay panicked: a fault of the program, or of who looks at the commands. What was applied
    /// before is not concerned.
    #[error(
        "going through the log of group {group} again panicked ({reason}): the group goes on; please report \
         this with what the node has logged"
    )]
    Panicked {
        /// The group.
        group: GroupId,
        /// What the panic said.
        reason: String,
    },
    /// The node has stopped, or is about to.
    #[error("this node has stopped: ask another one, and restart this one")]
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
pub struct Picked<I, T> {
    /// What is up to this index is not in `picked`: it begins behind the snapshot, or behind the last that
    /// had to go for later ones.
    pub since: u64,
    /// The last index that was gone through.
    pub until: u64,
    /// The state as of that.
    pub image: I,
    /// What was made of the commands in between, in order.
    pub picked: Vec<T>,
}

/// The latest of what was picked.
struct Latest<T> {
    keep: usize,
    /// The last index that is not in it.
    since: u64,
    picked: VecDeque<(u64, T)>,
}

impl<T> Latest<T> {
    fn push(&mut self, index: u64, picked: T) {
        self.picked.push_back((index, picked));
        if self.picked.len() > self.keep
            && let Some((index, _)) = self.picked.pop_front()
        {
            self.since = index;
        }
    }
}

/// What a replay reads from, and for whom.
#[derive(Debug, Clone)]
pub(crate) struct Replay {
    pub(crate) group: GroupId,
    pub(crate) reader: LogReader,
    pub(crate) snapshots: SnapshotStore,
    /// Goes away with whoever waits for the end.
    pub(crate) caller: Weak<()>,
    /// How long that one waits.
    pub(crate) limit: Duration,
}

impl Replay {
    /// Goes through every command from the last snapshot to what `applied` says, and keeps what `pick`
    /// makes of each, the latest `keep` of it. Reads from the disk: not for a thread that others wait for.
    pub(crate) fn run<S: StateMachine, T>(
        &self,
        applied: impl Fn() -> u64,
        keep: usize,
        mut pick: impl FnMut(Replayed<'_, S>) -> Option<T>,
    ) -> Result<Picked<S::Image, T>, ReplayError> {
        let mut again = 1..ATTEMPTS_MAX;
        loop {
            // Asked anew each time: what overtook the last attempt is a snapshot behind its end.
            let until = applied();
            match self.attempt(until, keep, &mut pick) {
                // What cannot be read may have been on its way to another file.
                Err(ReplayError::Overtaken { .. } | ReplayError::Unreadable { .. })
                    if again.next().is_some() => {}
                ended => return ended,
            }
        }
    }

    fn attempt<S: StateMachine, T>(
        &self,
        until: u64,
        keep: usize,
        pick: &mut dyn FnMut(Replayed<'_, S>) -> Option<T>,
    ) -> Result<Picked<S::Image, T>, ReplayError> {
        self.still_wanted()?;
        // One that was received and is not installed yet is ahead of what is applied.
        let all = self.snapshots.list(self.group).map_err(|error| self.unreadable(&error))?;
        let first = all.first().ok_or(ReplayError::NoSnapshot(self.group))?;
        let id = all.iter().rfind(|id| id.index <= until).ok_or_else(|| {
            let first = first.index;
            self.overtaken(format!("its snapshot is of index {first}, and {until} is applied"))
        })?;
        let restored = Replica::<S>::restore(&self.snapshots, self.group, *id);
        let restored = restored.map_err(|error| match error {
            RestoreFailure::File(error @ SnapshotError::Missing { .. }) => {
                self.overtaken(error.to_string())
            }
            error => self.unreadable(&error),
        })?;
        let (replica, state_bytes) = restored;
        let mut machine = Machine::new(replica, state_bytes);
        let mut latest = Latest { keep, since: id.index, picked: VecDeque::new() };
        let mut next = id.index + 1;
        while next <= until {
            self.still_wanted()?;
            let entries = self.reader.read(self.group, next, until + 1, READ_BYTES_MAX);
            let entries = entries.map_err(|error| match error {
                ReadError::Closed => ReplayError::ShutDown,
                ReadError::Gone { .. } => self.overtaken(error.to_string()),
                error => self.unreadable(&error),
            })?;
            for entry in entries {
                self.still_wanted()?;
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
                    let found = pick(Replayed { at, command: &command, before, after });
                    found.into_iter().for_each(|found| latest.push(at.index, found));
                }
            }
        }
        let end = machine.publisher().newest();
        let picked = latest.picked.into_iter().map(|(_, picked)| picked).collect();
        let (since, until, image) = (latest.since, end.applied, end.image.clone());
        Ok(Picked { since, until, image, picked })
    }

    /// Fails where nobody waits for the end any more. Nobody hears of that.
    fn still_wanted(&self) -> Result<(), ReplayError> {
        match self.caller.strong_count() {
            0 => Err(ReplayError::TimedOut { group: self.group, limit: self.limit }),
            _ => Ok(()),
        }
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
