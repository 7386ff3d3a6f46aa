//! [`Machine`]: one group's state machine, and what must happen around each of its commands.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use quorate_engine::{GroupId, LogId, SnapshotError, SnapshotMeta, SnapshotStore};
use quorate_statemachine::{Changes as _, RestoreError, StateMachine};
use raft::eraftpb::ConfState;

use crate::core::{Committed, ENTRY_BYTES};
use crate::inbox::{Applied, ProposeCaller};
use crate::publish::Publisher;
use crate::snapshot_worker::{SnapshotWorker, Take};

/// The state machine of a group on the apply thread.
///
/// In this order, for each batch: apply, publish the image, answer the callers. So a caller that
/// was answered finds its change in the image of its own node.
pub(crate) struct Machine<S: StateMachine> {
    group: GroupId,
    state: S,
    applied: LogId,
    conf_state: ConfState,
    members: Bytes,
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
}

/// Reads the snapshot `id` and rebuilds the state machine from it. Returns also how many bytes its
/// state has there.
pub(crate) fn restore<S: StateMachine>(
    snapshots: &SnapshotStore,
    group: GroupId,
    id: LogId,
) -> Result<(S, SnapshotMeta, u64), RestoreFailure> {
    let mut reader = snapshots.open(group, id)?;
    let meta = reader.meta().clone();
    let machine =
        S::restore(&mut reader).map_err(|source| RestoreFailure::Stream { id, source })?;
    Ok((machine, meta, reader.data_bytes()))
}

impl<S: StateMachine> Machine<S> {
    /// The state as of the snapshot `meta`, of `state_bytes`, and its publisher; nothing is applied
    /// beyond it.
    pub(crate) fn new(state: S, meta: SnapshotMeta, state_bytes: u64) -> Self {
        let publisher = Arc::new(Publisher::new(state.image(), meta.id.index));
        let SnapshotMeta { group, id, conf_state, members } = meta;
        Machine {
            group,
            state,
            applied: id,
            conf_state,
            members,
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
        for Committed { at, command, caller, members } in entries {
            assert_eq!(at.index, self.applied.index + 1, "entries are applied one by one");
            self.applied = at;
            self.entries += 1;
            self.bytes += command.len() as u64 + ENTRY_BYTES;
            if let Some(members) = members {
                self.conf_state = members.conf_state().clone();
                self.members = members.encode();
            }
            // A leader opens its term with an entry that says nothing.
            if command.is_empty() {
                continue;
            }
            let applied =
                self.state.apply(at.index, &command).map_err(|error| described(&error))?;
            match &mut changes {
                Some(changes) => changes.merge(applied.changes),
                None => changes = Some(applied.changes),
            }
            if let Some(caller) = caller {
                answers.push((caller, Applied { index: at.index, outcome: applied.outcome }));
            }
        }
        self.publisher.publish(self.state.image(), self.applied.index, changes);
        for (caller, answer) in answers {
            // A caller that has gone needs no answer.
            let _ = caller.send(Ok(answer));
        }
        Ok(self.applied.index)
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
        let (state, meta, state_bytes) = restore::<S>(snapshots, self.group, id)?;
        self.state_bytes.store(state_bytes, Ordering::Relaxed);
        let before = self.state.image();
        self.state = state;
        self.applied = meta.id;
        self.conf_state = meta.conf_state;
        self.members = meta.members;
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
        let meta = SnapshotMeta {
            group: self.group,
            id: self.applied,
            conf_state: self.conf_state.clone(),
            members: self.members.clone(),
        };
        let writing = Arc::new(());
        self.writing = Arc::downgrade(&writing);
        let (image, state_bytes) = (self.state.image(), self.state_bytes.clone());
        if worker.take(Take { meta, image, writing, state_bytes }) {
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
