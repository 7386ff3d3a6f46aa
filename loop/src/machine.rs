//! [`Machine`]: one group's state machine and table of client sessions, and what must happen around
//! each command.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use quorate_engine::{GroupId, LogId, SnapshotError, SnapshotStore};
use quorate_statemachine::{
    Admission, Changes as _, ClientSessions, CommandId, RestoreError, SessionError, StateMachine,
};

use crate::core::{Committed, ENTRY_BYTES};
use crate::error::ProposeError;
use crate::head::Head;
use crate::inbox::{Done, ProposeCaller};
use crate::members::MembersError;
use crate::proposal::SessionStep;
use crate::publish::Publisher;
use crate::snapshot_worker::{SnapshotWorker, Take};

/// The state machine of a group on the apply thread.
///
/// In this order, for each batch: apply, publish the image, answer the callers. So a caller that
/// was answered finds its change in the image of its own node.
pub(crate) struct Machine<S: StateMachine> {
    state: S,
    sessions: ClientSessions,
    /// Of what was applied last.
    head: Head,
    publisher: Arc<Publisher<S>>,
    /// Applied since the last snapshot that was begun.
    entries: u64,
    bytes: u64,
    /// Bytes of the state in the last snapshot; the worker sets it.
    state_bytes: Arc<AtomicU64>,
    /// Held by the snapshot that is being written, or waits for it.
    writing: Weak<()>,
}

/// When a snapshot is due: after so many entries or bytes since the last one that was begun, and
/// after bytes in proportion to the state. Written after every few entries, a large state would
/// take the disk from the log.
///
/// It is counted anew when a snapshot is handed to the worker, whatever becomes of it: a failing
/// disk is not asked again for every entry (trap I11).
#[derive(Debug, Clone, Copy)]
pub(crate) struct SnapshotTrigger {
    pub(crate) entries_max: u64,
    pub(crate) bytes_max: u64,
}

/// The part of the last snapshot's size that must have been applied since: for each byte of the log,
/// no more than so many of snapshots are written. A start has as much to replay.
const STATE_SHARE: u64 = 4;

/// A snapshot that the state machine cannot be restored from.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreFailure {
    #[error(transparent)]
    File(#[from] SnapshotError),
    #[error("snapshot {id}: {source}")]
    Stream { id: LogId, source: RestoreError },
    #[error(transparent)]
    Head(#[from] MembersError),
}

/// What a snapshot holds.
pub(crate) struct Restored<S: StateMachine> {
    pub(crate) state: S,
    pub(crate) sessions: ClientSessions,
    pub(crate) head: Head,
    /// Bytes of state and sessions in the file.
    pub(crate) state_bytes: u64,
}

impl<S: StateMachine> Restored<S> {
    /// Before the first command.
    pub(crate) fn genesis(head: Head) -> Self {
        Restored { state: S::new(), sessions: ClientSessions::default(), head, state_bytes: 0 }
    }
}

/// Reads the snapshot `id` and rebuilds the state machine from it, and the table of sessions.
pub(crate) fn restore<S: StateMachine>(
    snapshots: &SnapshotStore,
    group: GroupId,
    id: LogId,
) -> Result<Restored<S>, RestoreFailure> {
    let mut reader = snapshots.open(group, id)?;
    let head = Head::of(reader.meta())?;
    let stream = |source| RestoreFailure::Stream { id, source };
    let (sessions, mut rest) = ClientSessions::read_snapshot(&mut reader).map_err(stream)?;
    for outcome in sessions.outcomes() {
        S::decode_outcome(outcome)
            .map_err(|source| stream(RestoreError::Malformed { record: 0, source }))?;
    }
    let state = S::restore(&mut rest).map_err(stream)?;
    drop(rest);
    Ok(Restored { state, sessions, head, state_bytes: reader.data_bytes() })
}

impl<S: StateMachine> Machine<S> {
    /// The state as of a snapshot, and its publisher; nothing is applied beyond it.
    pub(crate) fn new(restored: Restored<S>) -> Self {
        let Restored { state, sessions, head, state_bytes } = restored;
        let publisher = Arc::new(Publisher::new(state.image(), head.id.index));
        Machine {
            state,
            sessions,
            head,
            publisher,
            entries: 0,
            bytes: 0,
            state_bytes: Arc::new(AtomicU64::new(state_bytes)),
            writing: Weak::new(),
        }
    }

    /// Where its images are published.
    pub(crate) fn publisher(&self) -> &Arc<Publisher<S>> {
        &self.publisher
    }

    /// Applies committed entries, and returns the index of the last.
    ///
    /// # Errors
    ///
    /// Why the group cannot go on.
    pub(crate) fn apply(
        &mut self,
        entries: Vec<Committed<ProposeCaller<S>>>,
    ) -> Result<u64, String> {
        let mut changes: Option<S::Changes> = None;
        let mut answers = Vec::new();
        for Committed { at, command, session, caller, members, catalogue } in entries {
            assert_eq!(at.index, self.head.id.index + 1, "entries are applied one by one");
            self.head.id = at;
            self.entries += 1;
            self.bytes += command.len() as u64 + ENTRY_BYTES;
            if let Some(members) = members {
                self.head.members = members;
            }
            if let Some(catalogue) = catalogue {
                self.head.catalogue = catalogue;
            }
            let answer = match session {
                Some(SessionStep::Command(id)) => {
                    self.run_once(at.index, &id, &command, &mut changes)?
                }
                Some(SessionStep::Open) => {
                    self.sessions.open(at.index);
                    Ok(Done { index: at.index, outcome: None })
                }
                Some(SessionStep::Close(session)) => {
                    self.sessions.close(session);
                    Ok(Done { index: at.index, outcome: None })
                }
                // A leader opens its term with an entry that says nothing.
                None if command.is_empty() => Ok(Done { index: at.index, outcome: None }),
                None => {
                    let outcome = self.run(at.index, &command, &mut changes)?;
                    Ok(Done { index: at.index, outcome: Some(outcome) })
                }
            };
            answers.extend(caller.map(|caller| (caller, answer)));
        }
        self.publisher.publish(self.state.image(), self.head.id.index, changes);
        for (caller, answer) in answers {
            // A caller that has gone needs no answer.
            let _ = caller.send(answer.map_err(ProposeError::Session));
        }
        Ok(self.head.id.index)
    }

    /// Applies a command, and gathers what it changes.
    fn run(
        &mut self,
        index: u64,
        command: &[u8],
        changes: &mut Option<S::Changes>,
    ) -> Result<S::Outcome, String> {
        let applied = self.state.apply(index, command).map_err(|error| described(&error))?;
        match changes {
            Some(changes) => changes.merge(applied.changes),
            None => *changes = Some(applied.changes),
        }
        Ok(applied.outcome)
    }

    /// The same for a command of a session, unless it was applied before: then it is answered as it was
    /// then.
    fn run_once(
        &mut self,
        index: u64,
        id: &CommandId,
        command: &[u8],
        changes: &mut Option<S::Changes>,
    ) -> Result<Result<Done<S::Outcome>, SessionError>, String> {
        let (index, outcome) = match self.sessions.admit(index, id) {
            Ok(Admission::Apply) => {
                let outcome = self.run(index, command, changes)?;
                self.sessions.keep(index, id, S::encode_outcome(&outcome));
                (index, outcome)
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

    /// Replaces the state by the snapshot `id`.
    ///
    /// # Errors
    ///
    /// When the snapshot cannot be read, or is none of this state machine.
    pub(crate) fn restore(
        &mut self,
        snapshots: &SnapshotStore,
        id: LogId,
    ) -> Result<(), RestoreFailure> {
        let Restored { state, sessions, head, state_bytes } =
            restore::<S>(snapshots, self.head.group, id)?;
        self.state_bytes.store(state_bytes, Ordering::Relaxed);
        let before = self.state.image();
        (self.state, self.sessions, self.head) = (state, sessions, head);
        (self.entries, self.bytes) = (0, 0);
        let image = self.state.image();
        let changes = S::Changes::between(&before, &image);
        self.publisher.publish(image, id.index, Some(changes));
        Ok(())
    }

    /// Whether so much was applied that a snapshot is due.
    pub(crate) fn is_due(&self, trigger: &SnapshotTrigger) -> bool {
        let is_long = self.entries >= trigger.entries_max || self.bytes >= trigger.bytes_max;
        is_long && self.bytes >= self.state_bytes.load(Ordering::Relaxed) / STATE_SHARE
    }

    /// Hands the image to the worker, which writes it while commands are applied on. One at a time:
    /// where the last is not written yet, or the worker is busy, it comes with later entries.
    pub(crate) fn take_snapshot(&mut self, worker: &SnapshotWorker<S>) {
        if self.writing.strong_count() > 0 {
            return;
        }
        let writing = Arc::new(());
        self.writing = Arc::downgrade(&writing);
        let (head, image) = (self.head.clone(), self.state.image());
        let (sessions, state_bytes) = (self.sessions.clone(), self.state_bytes.clone());
        if worker.take(Take { head, image, sessions, writing, state_bytes }) {
            (self.entries, self.bytes) = (0, 0);
        }
    }
}

impl<S: StateMachine> Drop for Machine<S> {
    /// Watchers are told that nothing follows, however the group ends.
    fn drop(&mut self) {
        self.publisher.stop();
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use std::io;

    use quorate_engine::{ClusterId, Engine, EngineConfig, Formatted, Founding, NodeId, Voter};
    use quorate_statemachine::{Applied, ApplyError, Cause, Changes, Image, StateHash};
    use tokio::sync::oneshot;

    use super::*;
    use crate::snapshot_worker;

    /// The sum of all commands, which are one byte each; that is the outcome as well.
    #[derive(Debug, Clone, Default, PartialEq)]
    struct Sum(u64);

    #[derive(Debug, Clone)]
    struct Added(u64);

    impl StateMachine for Sum {
        type Image = Sum;
        type Outcome = u64;
        type Changes = Added;

        fn new() -> Self {
            Sum::default()
        }

        fn apply(&mut self, _: u64, command: &[u8]) -> Result<Applied<u64, Added>, ApplyError> {
            let added = u64::from(command[0]);
            self.0 += added;
            Ok(Applied { outcome: self.0, changes: Added(added) })
        }

        fn encode_outcome(outcome: &u64) -> Bytes {
            Bytes::copy_from_slice(&outcome.to_le_bytes())
        }

        fn decode_outcome(bytes: &[u8]) -> Result<u64, Cause> {
            Ok(u64::from_le_bytes(bytes.try_into()?))
        }

        fn image(&self) -> Sum {
            self.clone()
        }

        fn restore(snapshot: &mut dyn io::Read) -> Result<Self, RestoreError> {
            let mut bytes = Vec::new();
            snapshot.read_to_end(&mut bytes)?;
            let bytes = bytes.try_into().map_err(|_| RestoreError::Truncated { record: 0 })?;
            Ok(Sum(u64::from_le_bytes(bytes)))
        }
    }

    impl Image for Sum {
        fn write_snapshot(&self, out: &mut dyn io::Write) -> io::Result<()> {
            out.write_all(&self.0.to_le_bytes())
        }

        fn state_hash(&self) -> StateHash {
            StateHash::new(self.0.into())
        }
    }

    impl Changes<Sum> for Added {
        fn merge(&mut self, later: Self) {
            self.0 += later.0;
        }

        fn between(before: &Sum, after: &Sum) -> Self {
            Added(after.0 - before.0)
        }

        fn is_empty(&self) -> bool {
            self.0 == 0
        }
    }

    fn group() -> GroupId {
        GroupId::new(1).unwrap()
    }

    fn store(dir: &std::path::Path) -> SnapshotStore {
        let node_id = NodeId::new(1).unwrap();
        let voter = Voter { node_id, addr: "127.0.0.1:1".to_owned() };
        let founding = Founding::Voters(vec![voter]);
        quorate_engine::format(dir, ClusterId::random(), node_id, founding).unwrap();
        let formatted = Formatted::open(dir).unwrap();
        Engine::open(formatted, &EngineConfig::default()).unwrap().snapshots
    }

    fn machine() -> Machine<Sum> {
        let id = LogId { index: 1, term: 1 };
        Machine::new(Restored::genesis(Head { id, ..Head::none(group()) }))
    }

    /// Applies one entry behind the last, and returns what its caller is told.
    fn told(
        machine: &mut Machine<Sum>,
        session: Option<SessionStep>,
        command: &'static [u8],
    ) -> Result<(u64, Option<u64>), ProposeError> {
        let at = LogId { index: machine.head.id.index + 1, term: 1 };
        let (caller, mut answer) = oneshot::channel();
        let command = Bytes::from_static(command);
        let caller = Some(caller);
        let entry = Committed { at, command, session, caller, members: None, catalogue: None };
        assert_eq!(machine.apply(vec![entry]), Ok(at.index));
        let answer = answer.try_recv().unwrap();
        answer.map(|Done { index, outcome }| (index, outcome))
    }

    fn command(session: u64, sequence: u64) -> Option<SessionStep> {
        Some(SessionStep::Command(CommandId { session, sequence, lowest_unfinished: sequence }))
    }

    /// Writes a snapshot of what is applied, and goes on from it.
    fn reopened(machine: &Machine<Sum>, store: &SnapshotStore) -> Machine<Sum> {
        let (head, image) = (machine.head.clone(), machine.state.image());
        let sessions = machine.sessions.clone();
        let (writing, state_bytes) = (Arc::new(()), Arc::default());
        let take = Take::<Sum> { head, image, sessions, writing, state_bytes };
        let meta = snapshot_worker::write(store, take).unwrap();
        Machine::new(restore(store, group(), meta.id).unwrap())
    }

    #[test]
    fn a_retry_is_answered_with_the_first_outcome_also_from_a_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let mut machine = machine();
        assert_eq!(told(&mut machine, Some(SessionStep::Open), b""), Ok((2, None)));
        assert_eq!(told(&mut machine, command(2, 1), b"\x05"), Ok((3, Some(5))));
        assert_eq!(told(&mut machine, None, b"\x01"), Ok((4, Some(6))), "of no session");
        assert_eq!(told(&mut machine, command(2, 1), b"\x05"), Ok((3, Some(5))));
        let mut machine = reopened(&machine, &store);
        assert_eq!(told(&mut machine, command(2, 1), b"\x05"), Ok((3, Some(5))));
        assert_eq!(machine.state, Sum(6));
        assert_eq!(told(&mut machine, command(2, 2), b"\x07"), Ok((7, Some(13))));
        assert_eq!(told(&mut machine, Some(SessionStep::Close(2)), b""), Ok((8, None)));
        let expired = Err(ProposeError::Session(SessionError::Expired));
        assert_eq!(told(&mut machine, command(2, 3), b"\x01"), expired);
        let mut machine = reopened(&machine, &store);
        assert_eq!(told(&mut machine, command(2, 2), b"\x07"), expired);
        assert_eq!(machine.state, Sum(13));
    }

    #[test]
    fn who_waits_for_an_entry_that_says_nothing_is_told_that() {
        assert_eq!(told(&mut machine(), None, b""), Ok((2, None)));
    }

    #[test]
    fn a_snapshot_with_an_outcome_that_cannot_be_read_is_not_restored() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let id = CommandId { session: 2, sequence: 1, lowest_unfinished: 1 };
        let mut sessions = ClientSessions::default();
        sessions.open(2);
        assert_eq!(sessions.admit(3, &id), Ok(Admission::Apply));
        sessions.keep(3, &id, Bytes::from_static(b"seven b"));
        let head = Head { id: LogId { index: 3, term: 1 }, ..Head::none(group()) };
        let (writing, state_bytes) = (Arc::new(()), Arc::default());
        let take = Take::<Sum> { head, image: Sum(5), sessions, writing, state_bytes };
        let id = snapshot_worker::write(&store, take).unwrap().id;
        let failure = restore::<Sum>(&store, group(), id).err().unwrap();
        assert!(matches!(
            failure,
            RestoreFailure::Stream { source: RestoreError::Malformed { .. }, .. }
        ));
    }
}
