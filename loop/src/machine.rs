//! [`Machine`]: one group's replica, and what must happen around each entry: the image, the watchers, the
//! callers, the snapshots.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use quorate_engine::{LogId, SnapshotStore};
use quorate_statemachine::{Changes as _, StateMachine};

use crate::core::{Committed, ENTRY_BYTES};
use crate::error::ProposeError;
use crate::inbox::ProposeCaller;
use crate::publish::Publisher;
use crate::replica::{Replica, RestoreFailure};
use crate::snapshot_worker::{SnapshotWorker, Take};

/// The state machine of a group on the apply thread.
///
/// In this order, for each batch: apply, publish the image, answer the callers. So a caller that
/// was answered finds its change in the image of its own node.
pub(crate) struct Machine<S: StateMachine> {
    replica: Replica<S>,
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

impl<S: StateMachine> Machine<S> {
    /// The state as of a snapshot, whose state takes `state_bytes` there, and its publisher; nothing is
    /// applied beyond it.
    pub(crate) fn new(replica: Replica<S>, state_bytes: u64) -> Self {
        let image = replica.state().image();
        let publisher = Arc::new(Publisher::new(image, replica.applied().index));
        Machine {
            replica,
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
        mut entries: Vec<Committed<ProposeCaller<S>>>,
    ) -> Result<u64, String> {
        let mut changes = S::Changes::default();
        let mut answers = Vec::new();
        for entry in &mut entries {
            self.entries += 1;
            self.bytes += entry.command.len() as u64 + ENTRY_BYTES;
            let caller = entry.caller.take();
            let answer = self.replica.apply(entry, &mut changes)?;
            answers.extend(caller.map(|caller| (caller, answer)));
        }
        let index = self.replica.applied().index;
        self.publisher.publish(self.replica.state().image(), index, changes);
        for (caller, answer) in answers {
            // A caller that has gone needs no answer.
            let _ = caller.send(answer.map_err(ProposeError::Session));
        }
        Ok(index)
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
        let group = self.replica.head().group;
        let (replica, state_bytes) = Replica::restore(snapshots, group, id)?;
        self.state_bytes.store(state_bytes, Ordering::Relaxed);
        let before = self.replica.state().image();
        self.replica = replica;
        (self.entries, self.bytes) = (0, 0);
        let image = self.replica.state().image();
        let changes = S::Changes::between(&before, &image);
        self.publisher.publish(image, id.index, changes);
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
        let (draft, state_bytes) = (self.replica.draft(), self.state_bytes.clone());
        if worker.take(Take { draft, writing, state_bytes }) {
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use std::io;

    use quorate_engine::{
        ClusterId, Engine, EngineConfig, Formatted, Founding, GroupId, NodeId, Voter,
    };
    use quorate_statemachine::{
        Admission, ApplyError, Cause, Changes, ClientSessions, CommandId, Image, RestoreError,
        SessionError, StateHash,
    };
    use tokio::sync::oneshot;

    use super::*;
    use crate::head::Head;
    use crate::proposal::SessionStep;
    use crate::replica::{Done, Draft};

    /// The sum of all commands, which are one byte each; that is the outcome as well.
    #[derive(Debug, Clone, Default, PartialEq)]
    struct Sum(u64);

    #[derive(Debug, Clone, Default)]
    struct Added(u64);

    impl StateMachine for Sum {
        type Image = Sum;
        type Outcome = u64;
        type Changes = Added;

        fn new() -> Self {
            Sum::default()
        }

        fn apply(
            &mut self,
            _: u64,
            command: &[u8],
            changes: &mut Added,
        ) -> Result<u64, ApplyError> {
            let added = u64::from(command[0]);
            self.0 += added;
            changes.0 += added;
            Ok(self.0)
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
        Machine::new(Replica::new(Head { id, ..Head::none(group()) }), 0)
    }

    /// Applies one entry behind the last, and returns what its caller is told.
    fn told(
        machine: &mut Machine<Sum>,
        session: Option<SessionStep>,
        command: &'static [u8],
    ) -> Result<(u64, Option<u64>), ProposeError> {
        let at = LogId { index: machine.replica.applied().index + 1, term: 1 };
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
        let (meta, written) = machine.replica.draft().write(store).unwrap();
        let (replica, bytes) = Replica::restore(store, group(), meta.id).unwrap();
        assert_eq!(bytes, written);
        Machine::new(replica, bytes)
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
        assert_eq!(*machine.replica.state(), Sum(6));
        assert_eq!(told(&mut machine, command(2, 2), b"\x07"), Ok((7, Some(13))));
        assert_eq!(told(&mut machine, Some(SessionStep::Close(2)), b""), Ok((8, None)));
        let expired = Err(ProposeError::Session(SessionError::Expired));
        assert_eq!(told(&mut machine, command(2, 3), b"\x01"), expired);
        let mut machine = reopened(&machine, &store);
        assert_eq!(told(&mut machine, command(2, 2), b"\x07"), expired);
        assert_eq!(*machine.replica.state(), Sum(13));
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
        let draft = Draft::<Sum> { head, image: Sum(5), sessions };
        let id = draft.write(&store).unwrap().0.id;
        let failure = Replica::<Sum>::restore(&store, group(), id).err().unwrap();
        assert!(matches!(
            failure,
            RestoreFailure::Stream { source: RestoreError::Malformed { .. }, .. }
        ));
    }
}
