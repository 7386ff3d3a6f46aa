//! [`Replica`]: a group's state as of the last entry that was applied, and what an entry does to it.

use std::io;
use std::sync::Arc;

use mutation::Bug;
use quorate_engine::{GroupId, LogId, SnapshotError, SnapshotMeta, SnapshotStore};
use quorate_statemachine::{
    Admission, ClientSessions, CommandId, Image as _, RestoreError, SessionError, StateMachine,
};

use crate::core::Committed;
use crate::genesis;
use crate::head::Head;
use crate::members::{Members, MembersError};
use crate::proposal::SessionStep;

/// A group's state machine, its table of client sessions, its members, and where in the log they stand.
///
/// Nothing here knows of threads, callers or watchers: it is what production applies entries with, and
/// what a simulator does.
#[derive(Debug, Clone)]
pub struct Replica<S: StateMachine> {
    state: S,
    sessions: ClientSessions,
    /// Of what was applied last.
    head: Head,
}

/// What became of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done<O> {
    /// Where it stands; of a command that was applied before, where that was.
    pub index: u64,
    /// `None` where the entry is no command.
    pub outcome: Option<O>,
}

/// A snapshot that the state machine cannot be restored from.
#[derive(Debug, thiserror::Error)]
pub enum RestoreFailure {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] SnapshotError),
    /// It is not the state of such a state machine.
    #[error("snapshot {id}: {source}")]
    Stream {
        /// Its position.
        id: LogId,
        /// What is wrong with it.
        source: RestoreError,
    },
    /// Its table of members cannot be read.
    #[error(transparent)]
    Head(#[from] MembersError),
}

/// A snapshot that was not written.
#[derive(Debug, thiserror::Error)]
pub enum TakeFailure {
    /// The file cannot be written.
    #[error(transparent)]
    File(#[from] SnapshotError),
    /// Nor can what it is to hold.
    #[error("snapshot {id}: {source}")]
    Stream {
        /// Its position.
        id: LogId,
        /// What is wrong.
        source: io::Error,
    },
}

/// What a snapshot is written of: a replica at one position, in constant time and memory.
#[derive(Debug, Clone)]
pub struct Draft<S: StateMachine> {
    pub(crate) head: Head,
    pub(crate) image: S::Image,
    pub(crate) sessions: ClientSessions,
}

impl<S: StateMachine> Replica<S> {
    /// Where a group begins that `members` found, all of them voters: the same on each of them.
    pub fn founding(group: GroupId, members: Arc<Members>) -> Self {
        Self::new(genesis::first_head(group, members))
    }

    /// That of a member which waits for its first snapshot.
    pub fn blank(group: GroupId) -> Self {
        Self::new(Head::none(group))
    }

    /// Before the first command.
    pub(crate) fn new(head: Head) -> Self {
        Replica { state: S::new(), sessions: ClientSessions::default(), head }
    }

    /// Reads the snapshot `id`; and the bytes of state and sessions in it.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is none of this state machine.
    pub fn restore(
        snapshots: &SnapshotStore,
        group: GroupId,
        id: LogId,
    ) -> Result<(Self, u64), RestoreFailure> {
        let mut reader = snapshots.open(group, id)?;
        let mut head = Head::of(reader.meta())?;
        head.id.index -= u64::from(mutation::is(Bug::RestoredBehind));
        let stream = |source| RestoreFailure::Stream { id, source };
        let (sessions, mut rest) = ClientSessions::read_snapshot(&mut reader).map_err(stream)?;
        for outcome in sessions.outcomes() {
            S::decode_outcome(outcome)
                .map_err(|source| stream(RestoreError::Malformed { record: 0, source }))?;
        }
        let state = S::restore(&mut rest).map_err(stream)?;
        drop(rest);
        Ok((Replica { state, sessions, head }, reader.data_bytes()))
    }

    /// Where the entry stands that was applied last.
    pub fn applied(&self) -> LogId {
        self.head.id
    }

    /// The members as of then.
    pub fn members(&self) -> &Arc<Members> {
        &self.head.members
    }

    pub(crate) fn head(&self) -> &Head {
        &self.head
    }

    pub(crate) fn head_mut(&mut self) -> &mut Head {
        &mut self.head
    }

    /// The state machine.
    pub fn state(&self) -> &S {
        &self.state
    }

    /// Applies the next entry, and gathers what it changes. A command of a session that was applied
    /// before changes nothing, and gives what it gave then.
    ///
    /// # Errors
    ///
    /// Why the group cannot go on: the replica is not to be used any more. What a session's table
    /// refuses is no such error, but the result of the entry.
    ///
    /// # Panics
    ///
    /// When it is not the next entry.
    pub fn apply<C>(
        &mut self,
        entry: &Committed<C>,
        changes: &mut S::Changes,
    ) -> Result<Result<Done<S::Outcome>, SessionError>, String> {
        let (at, command) = (entry.at, &entry.command);
        assert_eq!(at.index, self.head.id.index + 1, "entries are applied one by one");
        self.head.id = at;
        if let Some(members) = &entry.members
            && !mutation::is(Bug::MembersNotApplied)
        {
            self.head.members = members.clone();
        }
        if let Some(catalogue) = &entry.catalogue {
            self.head.catalogue = catalogue.clone();
        }
        match entry.session {
            Some(SessionStep::Command(id)) => {
                return self.run_once(at.index, &id, command, changes);
            }
            Some(SessionStep::Open) => self.sessions.open(at.index),
            Some(SessionStep::Close(session)) => self.sessions.close(session),
            // A leader opens its term with an entry that says nothing.
            None if command.is_empty() => {}
            None => {
                let outcome = self.run(at.index, command, changes)?;
                return Ok(Ok(Done { index: at.index, outcome: Some(outcome) }));
            }
        }
        Ok(Ok(Done { index: at.index, outcome: None }))
    }

    /// Applies a command, and gathers what it changes.
    fn run(
        &mut self,
        index: u64,
        command: &[u8],
        changes: &mut S::Changes,
    ) -> Result<S::Outcome, String> {
        self.state.apply(index, command, changes).map_err(|error| described(&error))
    }

    /// The same for a command of a session, unless it was applied before: then it is answered as it was
    /// then.
    fn run_once(
        &mut self,
        index: u64,
        id: &CommandId,
        command: &[u8],
        changes: &mut S::Changes,
    ) -> Result<Result<Done<S::Outcome>, SessionError>, String> {
        let (index, outcome) = match self.sessions.admit(index, id) {
            Ok(Admission::Apply) => {
                let outcome = self.run(index, command, changes)?;
                self.sessions.keep(index, id, S::encode_outcome(&outcome));
                (index, outcome)
            }
            Ok(Admission::Applied { .. }) if mutation::is(Bug::RetryAppliedAgain) => {
                (index, self.run(index, command, changes)?)
            }
            Ok(Admission::Applied { index, outcome }) => {
                let outcome = S::decode_outcome(&outcome).map_err(|error| {
                    format!("the outcome of command {id:?} at {index}: {error}")
                })?;
                (index, outcome)
            }
            Err(error) => return Ok(Err(error)),
        };
        Ok(Ok(Done { index, outcome: Some(outcome) }))
    }

    /// What a snapshot of it is written of, whatever is applied meanwhile.
    pub fn draft(&self) -> Draft<S> {
        Draft {
            head: self.head.clone(),
            image: self.state.image(),
            sessions: self.sessions.clone(),
        }
    }
}

impl<S: StateMachine> Draft<S> {
    /// Writes the table of sessions and the image as a snapshot file, and makes it durable. Returns what
    /// its head says, and the bytes of state and sessions in it.
    ///
    /// # Errors
    ///
    /// Those of the disk; nothing is left behind.
    pub fn write(&self, store: &SnapshotStore) -> Result<(SnapshotMeta, u64), TakeFailure> {
        let id = self.head.id;
        let mut writer = store.create(self.head.meta())?;
        let sessions = match mutation::is(Bug::SessionsNotInSnapshot) {
            true => &ClientSessions::default(),
            false => &self.sessions,
        };
        sessions
            .write_snapshot(&mut writer)
            .and_then(|()| self.image.write_snapshot(&mut writer))
            .map_err(|source| TakeFailure::Stream { id, source })?;
        let written = writer.data_bytes();
        Ok((writer.finish()?, written))
    }
}

/// An error with its causes, in one line.
pub(crate) fn described(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
