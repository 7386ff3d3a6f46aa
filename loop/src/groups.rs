//! [`Groups`]: all groups on the loop thread, and which of them have something to do.

use std::collections::BTreeMap;

use quorate_engine::{GroupId, NodeId};
use quorate_statemachine::StateMachine;

use crate::core::Input;
use crate::error::ProposeError;
use crate::heartbeats::{Heard, Heartbeats};
use crate::inbox::GroupInput;
use crate::slot::{GroupCore, GroupEffects, Slot, answer};
use crate::status::LastAnswer;

/// The groups of one loop.
///
/// A group is *touched* by every input, and stays so for as long as it has more to do. Only touched
/// groups are looked at.
///
/// A group that has nothing to do is not even ticked, but at the ticks that would make it do
/// something: those in between are made up for before anything else reaches its core. To the core
/// that is the same; but a follower that hears its leader costs nothing in between.
pub(crate) struct Groups<S: StateMachine> {
    slots: BTreeMap<GroupId, Slot<S>>,
    /// In the order in which they were touched, each once.
    touched: Vec<GroupId>,
    /// Ticks of the loop until now.
    now: u64,
    /// By tick, the groups to be looked at then: each that runs stands at the tick that its slot says,
    /// and may stand at others, where it is passed over.
    watched: BTreeMap<u64, Vec<GroupId>>,
    /// Those that have stopped by themselves since [`Groups::take_failed`], and why.
    failed: Vec<(GroupId, String)>,
}

impl<S: StateMachine> Groups<S> {
    pub(crate) fn new() -> Self {
        Groups {
            slots: BTreeMap::new(),
            touched: Vec::new(),
            now: 0,
            watched: BTreeMap::new(),
            failed: Vec::new(),
        }
    }

    /// Adds a group that has yet to begin.
    pub(crate) fn insert(&mut self, group: GroupId, slot: Slot<S>) {
        self.slots.insert(group, slot);
    }

    /// Whether a group is here, begun or not.
    pub(crate) fn contains(&self, group: GroupId) -> bool {
        self.slots.contains_key(&group)
    }

    /// Takes a group out; all who wait for it, and who hold it, are told.
    pub(crate) fn remove(&mut self, group: GroupId) {
        if let Some(mut slot) = self.slots.remove(&group) {
            slot.retire();
        }
    }

    /// A group begins; its first effects are due.
    pub(crate) fn begin(&mut self, group: GroupId, core: GroupCore<S>) {
        if let Some(slot) = self.slots.get_mut(&group) {
            slot.begin(core, self.now);
            slot.watched = self.now + 1;
            self.watched.entry(self.now + 1).or_default().push(group);
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
        match slot.step(input, self.now) {
            Ok(()) => self.touch(group),
            Err(reason) => self.fail(group, &reason),
        }
    }

    /// As [`Groups::step`], for a heartbeat or its answer.
    pub(crate) fn step_heartbeat(&mut self, heard: Heard, out: &mut Heartbeats) {
        let group = heard.beat.group;
        let Some(slot) = self.slots.get_mut(&group) else { return };
        if slot.hear_again(&heard, self.now, out) {
            return;
        }
        match slot.step_heartbeat(&heard, self.now) {
            Ok(()) => self.pass_by(group, Some(heard), out),
            Err(reason) => self.fail(group, &reason),
        }
    }

    /// Touches a group that was stepped, unless it only beats or answers a beat: then that is taken at
    /// once, while all of the group is at hand. With thousands of groups, coming back to each of them
    /// would cost most of what an idle one costs.
    ///
    /// What is said now, to what was `heard` or of itself, may be said again if nothing else happens
    /// until then: see [`Quiescence`](crate::quiescence::Quiescence).
    fn pass_by(&mut self, group: GroupId, heard: Option<Heard>, out: &mut Heartbeats) {
        let Some(slot) = self.slots.get_mut(&group) else { return };
        if slot.is_touched {
            return;
        }
        match slot.take_heartbeats() {
            Ok(None) => self.touch(group),
            Ok(Some(envelopes)) => {
                slot.put_ticks_off();
                slot.settle(heard, &envelopes, self.now);
                self.watch(group);
                for envelope in envelopes {
                    // None comes back: they are nothing but heartbeats.
                    if let Some(envelope) = out.gather(group, envelope) {
                        self.step(group, Input::Undelivered(envelope));
                    }
                }
            }
            Err(reason) => self.fail(group, &reason),
        }
    }

    /// Sees to it that a group is looked at for the tick that it must see next.
    fn watch(&mut self, group: GroupId) {
        let Some(slot) = self.slots.get_mut(&group) else { return };
        // It stands where it did, if that is no later: it is looked at then, and put off again.
        if slot.is_running() && (slot.watched <= self.now || slot.due() < slot.watched) {
            slot.watched = slot.due();
            self.watched.entry(slot.due()).or_default().push(group);
        }
    }

    /// Steps the same input for every group.
    pub(crate) fn step_all(&mut self, input: impl Fn() -> GroupInput<S>) {
        let mut failed = Vec::new();
        for (group, slot) in &mut self.slots {
            match slot.step(input(), self.now) {
                Ok(()) => {
                    if slot.is_running() && slot.touch() {
                        self.touched.push(*group);
                    }
                }
                Err(reason) => failed.push((*group, reason)),
            }
        }
        for (group, reason) in failed {
            self.fail(group, &reason);
        }
    }

    /// The Raft clock of every group advances by one tick.
    pub(crate) fn tick(&mut self, out: &mut Heartbeats) {
        self.now += 1;
        while let Some(first) = self.watched.first_entry()
            && *first.key() <= self.now
        {
            let at = *first.key();
            for group in first.remove() {
                self.tick_group(group, at, out);
            }
        }
    }

    fn tick_group(&mut self, group: GroupId, at: u64, out: &mut Heartbeats) {
        let Some(slot) = self.slots.get_mut(&group) else { return };
        if slot.watched != at || !slot.is_running() {
            return;
        }
        // Something came meanwhile, a heartbeat most likely, and put it off once more.
        if slot.due() > self.now {
            slot.watched = slot.due();
            return self.watched.entry(slot.due()).or_default().push(group);
        }
        if slot.beat_again(self.now, out) {
            slot.watched = slot.due();
            return self.watched.entry(slot.due()).or_default().push(group);
        }
        // Until it is put off again: now, or when its effects are taken, before the next tick.
        slot.watched = 0;
        match slot.tick_to(self.now) {
            Ok(()) => self.pass_by(group, None, out),
            Err(reason) => self.fail(group, &reason),
        }
    }

    /// The connection to a node broke.
    pub(crate) fn unreachable(&mut self, node: NodeId) {
        self.step_all(|| Input::Unreachable(node));
    }

    /// The process of a node is gone.
    pub(crate) fn gone(&mut self, node: NodeId) {
        self.step_all(|| Input::Gone(node));
    }

    /// Has the effects of a group taken in this round.
    pub(crate) fn touch(&mut self, group: GroupId) {
        if self.slots.get_mut(&group).is_some_and(Slot::touch) {
            self.touched.push(group);
        }
    }

    /// Whom the core of a group has heard of, and when; nobody, where it is not here.
    pub(crate) fn last_answers(&self, group: GroupId) -> Vec<LastAnswer> {
        self.slots.get(&group).map(Slot::last_answers).unwrap_or_default()
    }

    /// Whether any group has something to do.
    pub(crate) fn is_any_touched(&self) -> bool {
        !self.touched.is_empty()
    }

    /// Whether any group has yet to hand out what it found committed.
    pub(crate) fn is_any_beginning(&self) -> bool {
        let is_beginning = |group| self.slots.get(group).is_some_and(Slot::is_beginning);
        self.touched.iter().any(is_beginning)
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
                        let (dropped, log_is_lost) =
                            (std::mem::take(&mut effects.dropped), effects.log_is_lost);
                        answer(effects);
                        all.push((
                            group,
                            GroupEffects::<S> { dropped, ..GroupEffects::<S>::default() },
                        ));
                        match log_is_lost {
                            true => self.condemn(group, &reason),
                            false => self.fail(group, &reason),
                        }
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
        let has_more = slot.has_more();
        slot.put_ticks_off();
        self.watch(group);
        if has_more {
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

    /// Stops a group for good, of which this node has lost what it once held.
    fn condemn(&mut self, group: GroupId, reason: &str) {
        if let Some(slot) = self.slots.get_mut(&group) {
            slot.condemn(reason);
            self.failed.push((group, reason.to_owned()));
        }
    }

    /// Stops a group that this node does not belong to any more.
    pub(crate) fn expel(&mut self, group: GroupId, reason: &str) {
        if let Some(slot) = self.slots.get_mut(&group) {
            slot.expel(reason);
            self.failed.push((group, reason.to_owned()));
        }
    }

    /// Whether `group` runs.
    pub(crate) fn is_running(&self, group: GroupId) -> bool {
        self.slots.get(&group).is_some_and(Slot::is_running)
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

#[cfg(test)]
mod tests;
