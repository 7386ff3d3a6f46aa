//! [`Applier`]: the apply thread, which owns the state machine.

use std::sync::{Arc, mpsc};

use bytes::Bytes;
use quorate_engine::{GroupId, LogId, SnapshotError, SnapshotMeta, SnapshotStore};
use quorate_statemachine::{Changes as _, RestoreError, StateMachine};
use raft::eraftpb::ConfState;

use crate::core::{Apply, Committed, Input};
use crate::inbox::{Applied, Event, Inbox, ProposeCaller};
use crate::publish::Publisher;
use crate::snapshot_worker::{SnapshotWorker, Take};

/// Work for the apply thread.
pub(crate) enum ApplyWork<S: StateMachine> {
    /// What the core handed over, in order.
    Apply(Apply<ProposeCaller<S>>),
    /// A newer snapshot is needed than there is.
    TakeSnapshot,
}

/// The state machine, and what must happen around each of its commands.
///
/// In this order, for each batch: apply, publish the image, answer the callers, tell the loop. So
/// a caller that was answered finds its change in the image of its own node.
pub(crate) struct Applier<S: StateMachine> {
    pub(crate) machine: S,
    pub(crate) group: GroupId,
    pub(crate) applied: LogId,
    pub(crate) conf_state: ConfState,
    pub(crate) members: Bytes,
    pub(crate) publisher: Arc<Publisher<S>>,
    pub(crate) inbox: Inbox<S>,
    pub(crate) snapshots: SnapshotStore,
    pub(crate) worker: SnapshotWorker<S>,
    pub(crate) trigger: SnapshotTrigger,
}

/// When a snapshot is due: after so many entries or bytes since the last one that was begun.
///
/// It is reset when a snapshot is handed to the worker, whatever becomes of it: a failing disk
/// is not asked again for every entry (trap I11).
#[derive(Debug, Clone, Copy)]
pub(crate) struct SnapshotTrigger {
    pub(crate) entries_max: u64,
    pub(crate) bytes_max: u64,
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

impl SnapshotTrigger {
    fn count(&mut self, command: &[u8]) {
        self.entries += 1;
        self.bytes += command.len() as u64;
    }

    fn is_due(&self) -> bool {
        self.entries >= self.entries_max || self.bytes >= self.bytes_max
    }

    fn reset(&mut self) {
        (self.entries, self.bytes) = (0, 0);
    }
}

/// A snapshot that the state machine cannot be restored from.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreFailure {
    #[error(transparent)]
    File(#[from] SnapshotError),
    #[error("snapshot {id}: {source}")]
    Stream { id: LogId, source: RestoreError },
}

/// Reads the snapshot `id` and rebuilds the state machine from it.
pub(crate) fn restore<S: StateMachine>(
    snapshots: &SnapshotStore,
    group: GroupId,
    id: LogId,
) -> Result<(S, SnapshotMeta), RestoreFailure> {
    let mut reader = snapshots.open(group, id)?;
    let meta = reader.meta().clone();
    let machine =
        S::restore(&mut reader).map_err(|source| RestoreFailure::Stream { id, source })?;
    Ok((machine, meta))
}

impl<S: StateMachine> Applier<S> {
    /// Works until the loop drops its end of the queue, or a command cannot be applied.
    pub(crate) fn run(mut self, work: &mpsc::Receiver<ApplyWork<S>>) {
        while let Ok(work) = work.recv() {
            let done = match work {
                ApplyWork::Apply(Apply::Entries(entries)) => self.apply(entries),
                ApplyWork::Apply(Apply::Restore(id)) => self.restore(id),
                ApplyWork::TakeSnapshot => {
                    self.take_snapshot();
                    Ok(())
                }
            };
            if let Err(fault) = done {
                return self.inbox.send(Event::Fault(fault));
            }
        }
    }

    fn apply(&mut self, entries: Vec<Committed<ProposeCaller<S>>>) -> Result<(), String> {
        let mut changes: Option<S::Changes> = None;
        let mut answers = Vec::new();
        for Committed { at, command, caller, members } in entries {
            assert_eq!(at.index, self.applied.index + 1, "entries are applied one by one");
            self.applied = at;
            self.trigger.count(&command);
            if let Some(members) = members {
                self.conf_state = members.conf_state().clone();
                self.members = members.encode();
            }
            // A leader opens its term with an entry that says nothing.
            if command.is_empty() {
                continue;
            }
            let applied =
                self.machine.apply(at.index, &command).map_err(|error| described(&error))?;
            match &mut changes {
                Some(changes) => changes.merge(applied.changes),
                None => changes = Some(applied.changes),
            }
            if let Some(caller) = caller {
                answers.push((caller, Applied { index: at.index, outcome: applied.outcome }));
            }
        }
        self.publisher.publish(self.machine.image(), self.applied.index, changes);
        for (caller, answer) in answers {
            // A caller that has gone needs no answer.
            let _ = caller.send(Ok(answer));
        }
        self.inbox.send(Event::Input(Input::Applied(self.applied.index)));
        if self.trigger.is_due() {
            self.take_snapshot();
        }
        Ok(())
    }

    fn restore(&mut self, id: LogId) -> Result<(), String> {
        let (machine, meta) =
            restore::<S>(&self.snapshots, self.group, id).map_err(|error| described(&error))?;
        let before = self.machine.image();
        self.machine = machine;
        self.applied = meta.id;
        self.conf_state = meta.conf_state;
        self.members = meta.members;
        self.trigger.reset();
        let image = self.machine.image();
        let changes = S::Changes::between(&before, &image);
        self.publisher.publish(image, id.index, Some(changes));
        self.inbox.send(Event::Input(Input::Applied(id.index)));
        Ok(())
    }

    /// Hands the image to the worker, which writes it while commands are applied on.
    fn take_snapshot(&mut self) {
        let meta = SnapshotMeta {
            group: self.group,
            id: self.applied,
            conf_state: self.conf_state.clone(),
            members: self.members.clone(),
        };
        if self.worker.take(Take { meta, image: self.machine.image() }) {
            self.trigger.reset();
        }
    }
}

/// An error with its causes, in one line.
fn described(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
