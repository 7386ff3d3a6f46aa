//! [`Slot`]: what the loop thread holds of one group.

use std::panic::{AssertUnwindSafe, catch_unwind};

use quorate_engine::GroupId;
use quorate_statemachine::StateMachine;
use tokio::sync::watch;

use crate::core::{Core, Effects, Vitals};
use crate::error::ProposeError;
use crate::inbox::{Caller, GroupInput, MembershipCaller, ProposeCaller, ReadCaller, panic_text};
use crate::status::{Contact, GroupStatus, Role};

/// The core of a group whose callers are those of a node.
pub(crate) type GroupCore<S> = Core<ProposeCaller<S>, ReadCaller, MembershipCaller>;

/// What the core of such a group wants done.
pub(crate) type GroupEffects<S> = Effects<ProposeCaller<S>, ReadCaller, MembershipCaller>;

/// One group on the loop thread: its core, as long as it runs, and what others see of it.
///
/// raft-rs panics where it cannot go on. A panic ends the group and nothing else: nothing that it
/// left half done is used again.
pub(crate) struct Slot<S: StateMachine> {
    group: GroupId,
    /// `None` before the group begins, and after it has stopped for good. On the heap, so that a
    /// map of many groups has small nodes.
    core: Option<Box<GroupCore<S>>>,
    status: watch::Sender<GroupStatus>,
    /// What the published status shows.
    published: Option<Vitals>,
    /// Whether it waits for its effects to be taken.
    pub(crate) is_touched: bool,
}

impl<S: StateMachine> Slot<S> {
    /// A group that has yet to begin.
    pub(crate) fn new(group: GroupId, status: watch::Sender<GroupStatus>) -> Self {
        Slot { group, core: None, status, published: None, is_touched: false }
    }

    /// The group begins.
    pub(crate) fn begin(&mut self, core: GroupCore<S>) {
        self.core = Some(Box::new(core));
    }

    /// Whether the group runs.
    pub(crate) fn is_running(&self) -> bool {
        self.core.is_some()
    }

    /// Steps an input. One for a group that does not run is dropped, and its caller with it, who
    /// finds the reason in the status.
    ///
    /// # Errors
    ///
    /// Why the group must stop.
    pub(crate) fn step(&mut self, input: GroupInput<S>) -> Result<(), String> {
        let Some(core) = &mut self.core else { return Ok(()) };
        caught(|| core.step(input))
    }

    /// What the core wants done; `None` when the group does not run.
    ///
    /// # Errors
    ///
    /// As [`Slot::step`].
    pub(crate) fn effects(&mut self) -> Result<Option<GroupEffects<S>>, String> {
        let Some(core) = &mut self.core else { return Ok(None) };
        caught(|| core.effects()).map(Some)
    }

    /// On the leader: who has answered, and when.
    pub(crate) fn contacts(&self) -> Vec<Contact> {
        self.core.as_ref().map(|core| core.contacts()).unwrap_or_default()
    }

    /// Whether [`Slot::effects`] would have more to do without another input.
    pub(crate) fn has_more(&self) -> bool {
        self.core.as_ref().is_some_and(|core| core.has_more())
    }

    /// Publishes the status, if it has changed.
    pub(crate) fn publish(&mut self, log_disk_bytes: u64) {
        let Some(core) = &self.core else { return };
        let vitals = core.vitals();
        if self.published == Some(vitals) {
            return;
        }
        self.published = Some(vitals);
        self.status.send_replace(GroupStatus::serving(core.status(), log_disk_bytes));
    }

    /// The log's files take another amount of room.
    pub(crate) fn publish_disk_bytes(&self, log_disk_bytes: u64) {
        self.status.send_if_modified(|status| {
            let modified = status.log_disk_bytes != log_disk_bytes;
            status.log_disk_bytes = log_disk_bytes;
            modified
        });
    }

    /// Ends the group, and answers all who still wait. A reason that is fatal is in the status by
    /// then.
    pub(crate) fn stop(&mut self, error: &ProposeError) {
        if let ProposeError::Fatal(reason) = error {
            self.last_words(reason);
        }
        let Some(mut core) = self.core.take() else { return };
        // After a panic it may panic again. Its callers learn of their end when they are dropped.
        if let Ok(effects) = caught(move || core.end(error)) {
            answer(effects);
        }
    }

    fn last_words(&self, reason: &str) {
        self.status.send_if_modified(|status| {
            let first = status.fatal.is_none();
            if first {
                tracing::error!(group = %self.group, reason, "the group has stopped for good");
                status.fatal = Some(reason.to_owned());
                (status.role, status.leader) = (Role::Follower, None);
            }
            first
        });
    }
}

fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| panic_text(&*panic))
}

/// Tells callers what the core has to tell them. One that has gone needs no answer.
pub(crate) fn answer<O>(effects: Effects<Caller<O>, ReadCaller, MembershipCaller>) {
    for (caller, error) in effects.failed {
        let _ = caller.send(Err(error));
    }
    for (caller, result) in effects.reads {
        let _ = caller.send(result);
    }
    for (caller, result) in effects.memberships {
        let _ = caller.send(result);
    }
}
