//! [`Applier`]: the apply thread, which owns the state machines of all groups.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::time::Instant;

use quorate_engine::{GroupId, SnapshotError, SnapshotStore};
use quorate_statemachine::StateMachine;

use crate::core::{Apply, Input};
use crate::inbox::{Event, Inbox, ProposeCaller, panic_text};
use crate::machine::{Machine, SnapshotTrigger};
use crate::meters::Meters;
use crate::replica::{RestoreFailure, described};
use crate::snapshot_worker::SnapshotWorker;

/// Work for the apply thread.
pub(crate) enum ApplyWork<S: StateMachine> {
    /// A group's state machine, before anything else for it.
    Begin(Box<Machine<S>>),
    /// What the core of the group handed over, in order.
    Apply(Apply<ProposeCaller<S>>),
    /// A newer snapshot is needed than there is.
    TakeSnapshot,
    /// The group has stopped: its state machine is not needed any more.
    End,
    /// The group has ended, and is gone from the log: its files go too.
    Discard,
}

/// Why a group, or the whole node, cannot go on.
enum Fault {
    Group(String),
    Node(String),
}

/// The state machines of all groups, and the thread that they share. A slow one delays the others;
/// one that fails does not.
pub(crate) struct Applier<S: StateMachine> {
    pub(crate) machines: BTreeMap<GroupId, Box<Machine<S>>>,
    pub(crate) inbox: Inbox<S>,
    pub(crate) snapshots: SnapshotStore,
    pub(crate) worker: SnapshotWorker<S>,
    pub(crate) trigger: SnapshotTrigger,
    pub(crate) meters: Arc<Meters>,
}

impl<S: StateMachine> Applier<S> {
    /// Works until the loop drops its end of the queue, or the disk fails. Work for a group that
    /// has failed is dropped, and those who wait for it with it.
    pub(crate) fn run(mut self, queue: &mpsc::Receiver<(GroupId, ApplyWork<S>)>) {
        while let Ok((group, work)) = queue.recv() {
            if let ApplyWork::Apply(work) = &work {
                self.meters.apply_taken(work);
            }
            // A panic of a state machine is its own: nothing of it is used again.
            let done = catch_unwind(AssertUnwindSafe(|| self.work(group, work)));
            match done.unwrap_or_else(|panic| Err(Fault::Group(panic_text(&*panic)))) {
                Ok(()) => {}
                Err(Fault::Group(reason)) => {
                    self.machines.remove(&group);
                    self.inbox.send(Event::Failed(group, reason));
                }
                Err(Fault::Node(reason)) => return self.inbox.send(Event::Fault(reason)),
            }
        }
    }

    fn work(&mut self, group: GroupId, work: ApplyWork<S>) -> Result<(), Fault> {
        match work {
            ApplyWork::Begin(machine) => {
                self.machines.insert(group, machine);
            }
            ApplyWork::End => {
                self.machines.remove(&group);
            }
            ApplyWork::Discard => self.worker.discard(group),
            ApplyWork::Apply(work) => self.apply(group, work)?,
            ApplyWork::TakeSnapshot => {
                if let Some(machine) = self.machines.get_mut(&group) {
                    machine.take_snapshot(&self.worker);
                }
            }
        }
        Ok(())
    }

    fn apply(&mut self, group: GroupId, work: Apply<ProposeCaller<S>>) -> Result<(), Fault> {
        let Some(machine) = self.machines.get_mut(&group) else { return Ok(()) };
        let applied = match work {
            Apply::Entries(entries) => {
                let begun = Instant::now();
                let applied = machine.apply(entries).map_err(Fault::Group)?;
                self.meters.apply.record_time(begun.elapsed());
                applied
            }
            Apply::Restore(id) => {
                machine.restore(&self.snapshots, id)?;
                id.index
            }
        };
        self.inbox.send(Event::Input(group, Input::Applied(applied)));
        if machine.is_due(&self.trigger) {
            machine.take_snapshot(&self.worker);
        }
        Ok(())
    }
}

impl From<RestoreFailure> for Fault {
    fn from(failure: RestoreFailure) -> Self {
        let reason = described(&failure);
        match failure {
            // The disk's fault, and the disk is that of all.
            RestoreFailure::File(SnapshotError::Io { .. }) => Fault::Node(reason),
            _ => Fault::Group(reason),
        }
    }
}
