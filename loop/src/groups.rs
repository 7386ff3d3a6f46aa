//! [`Groups`]: all groups on the loop thread, and which of them have something to do.

use std::collections::BTreeMap;

use quorate_engine::{GroupId, NodeId};
use quorate_statemachine::StateMachine;

use crate::core::Input;
use crate::error::ProposeError;
use crate::inbox::GroupInput;
use crate::slot::{GroupCore, GroupEffects, Slot, answer};
use crate::status::Contact;

/// The groups of one loop.
///
/// A group is *touched* by every input, and stays so for as long as it has more to do. Only touched
/// groups are looked at; the others cost nothing but their ticks.
pub(crate) struct Groups<S: StateMachine> {
    slots: BTreeMap<GroupId, Slot<S>>,
    /// In the order in which they were touched, each once.
    touched: Vec<GroupId>,
    /// Those that have stopped by themselves since [`Groups::take_failed`], and why.
    failed: Vec<(GroupId, String)>,
}

impl<S: StateMachine> Groups<S> {
    pub(crate) fn new() -> Self {
        Groups { slots: BTreeMap::new(), touched: Vec::new(), failed: Vec::new() }
    }

    /// Adds a group that has yet to begin.
    pub(crate) fn insert(&mut self, group: GroupId, slot: Slot<S>) {
        self.slots.insert(group, slot);
    }

    /// A group begins; its first effects are due.
    pub(crate) fn begin(&mut self, group: GroupId, core: GroupCore<S>) {
        if let Some(slot) = self.slots.get_mut(&group) {
            slot.begin(core);
            self.touch(group);
        }
    }

    /// Whether any group runs.
    pub(crate) fn is_any_running(&self) -> bool {
        self.slots.values().any(Slot::is_running)
    }

    /// Steps an input for a group. One for a group that is not here is dropped, as by
    /// [`Slot::step`].
    pub(crate) fn step(&mut self, group: GroupId, input: GroupInput<S>) {
        let Some(slot) = self.slots.get_mut(&group) else { return };
        match slot.step(input) {
            Ok(()) => self.touch(group),
            Err(reason) => self.fail(group, &reason),
        }
    }

    /// Steps the same input for every group.
    pub(crate) fn step_all(&mut self, input: impl Fn() -> GroupInput<S>) {
        let mut failed = Vec::new();
        for (group, slot) in &mut self.slots {
            match slot.step(input()) {
                Ok(()) if !slot.is_touched && slot.is_running() => {
                    slot.is_touched = true;
                    self.touched.push(*group);
                }
                Ok(()) => {}
                Err(reason) => failed.push((*group, reason)),
            }
        }
        for (group, reason) in failed {
            self.fail(group, &reason);
        }
    }

    /// The Raft clock of every group advances by one tick.
    pub(crate) fn tick(&mut self) {
        self.step_all(|| Input::Tick);
    }

    /// The connection to a node broke.
    pub(crate) fn unreachable(&mut self, node: NodeId) {
        self.step_all(|| Input::Unreachable(node));
    }

    /// Has the effects of a group taken in this round.
    pub(crate) fn touch(&mut self, group: GroupId) {
        if let Some(slot) = self.slots.get_mut(&group)
            && !slot.is_touched
        {
            slot.is_touched = true;
            self.touched.push(group);
        }
    }

    /// Whom the core of a group has heard of, and when; nobody, where it is not here.
    pub(crate) fn contacts(&self, group: GroupId) -> Vec<Contact> {
        self.slots.get(&group).map(Slot::contacts).unwrap_or_default()
    }

    /// Whether any group has something to do.
    pub(crate) fn is_any_touched(&self) -> bool {
        !self.touched.is_empty()
    }

    /// What all touched groups want done, each group's whole.
    pub(crate) fn take_effects(&mut self) -> Vec<(GroupId, GroupEffects<S>)> {
        let mut all = Vec::with_capacity(self.touched.len());
        for group in std::mem::take(&mut self.touched) {
            let Some(slot) = self.slots.get_mut(&group) else { continue };
            slot.is_touched = false;
            match slot.effects() {
                Ok(None) => {}
                Ok(Some(mut effects)) => match effects.fatal.take() {
                    None => all.push((group, effects)),
                    Some(reason) => {
                        answer(effects);
                        self.fail(group, &reason);
                    }
                },
                Err(reason) => self.fail(group, &reason),
            }
        }
        all
    }

    /// A group whose effects were carried out: its status is published, and it stays touched if it
    /// has more to do.
    pub(crate) fn carried_out(&mut self, group: GroupId, log_disk_bytes: u64) {
        let Some(slot) = self.slots.get_mut(&group) else { return };
        slot.publish(log_disk_bytes);
        if slot.has_more() {
            self.touch(group);
        }
    }

    /// Tells those who watch `group` how much room the log's files take.
    pub(crate) fn publish_disk_bytes(&self, group: GroupId, log_disk_bytes: u64) {
        if let Some(slot) = self.slots.get(&group) {
            slot.publish_disk_bytes(log_disk_bytes);
        }
    }

    /// Stops a group for good, which cannot go on by its own fault.
    pub(crate) fn fail(&mut self, group: GroupId, reason: &str) {
        if let Some(slot) = self.slots.get_mut(&group) {
            slot.stop(&ProposeError::Fatal(reason.to_owned()));
            self.failed.push((group, reason.to_owned()));
        }
    }

    /// The groups that have failed since the last call, and why.
    pub(crate) fn take_failed(&mut self) -> Vec<(GroupId, String)> {
        std::mem::take(&mut self.failed)
    }

    /// The node ends: every group stops, and all who wait are told `error`.
    pub(crate) fn stop_all(&mut self, error: &ProposeError) {
        self.slots.values_mut().for_each(|slot| slot.stop(error));
    }
}
