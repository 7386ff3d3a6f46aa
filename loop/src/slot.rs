//! [`Slot`]: what the loop thread holds of one group.

use std::panic::{AssertUnwindSafe, catch_unwind};

use quorate_engine::GroupId;
use quorate_statemachine::StateMachine;
use raft::eraftpb::MessageType;
use tokio::sync::watch;

use crate::catalogue_change::CatalogueError;
use crate::core::{Core, Effects, Input, Vitals};
use crate::error::{ProposeError, ReadError};
use crate::heartbeat::Heartbeat;
use crate::heartbeats::{Heard, Heartbeats};
use crate::inbox::{Caller, ChangeCaller, GroupInput, ProposeCaller, ReadCaller, panic_text};
use crate::membership::MembershipError;
use crate::message::{Envelope, PeerMessage};
use crate::quiescence::Quiescence;
use crate::status::{GroupStatus, LastAnswer, Leadership, Role};

/// The core of a group whose callers are those of a node.
pub(crate) type GroupCore<S> = Core<ProposeCaller<S>, ReadCaller, ChangeCaller>;

/// What the core of such a group wants done.
pub(crate) type GroupEffects<S> = Effects<ProposeCaller<S>, ReadCaller, ChangeCaller>;

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
    /// Of the status, what changes seldom.
    leadership: watch::Sender<Leadership>,
    /// What the published status shows.
    published: Option<Vitals>,
    /// Whether it waits for its effects to be taken.
    pub(crate) is_touched: bool,
    /// The loop's tick up to which the core has been ticked.
    ticked: u64,
    /// The tick that the core must see next, and the one at which the group is looked at for it, which
    /// is never later.
    due: u64,
    pub(crate) watched: u64,
    /// What it says and hears over and over, while nothing else happens.
    quiescence: Option<Box<Quiescence>>,
}

impl<S: StateMachine> Slot<S> {
    /// A group that has yet to begin.
    pub(crate) fn new(group: GroupId, status: watch::Sender<GroupStatus>) -> Self {
        let leadership = watch::Sender::new(status.borrow().leadership());
        Slot {
            group,
            core: None,
            status,
            leadership,
            published: None,
            is_touched: false,
            ticked: 0,
            due: 0,
            watched: 0,
            quiescence: None,
        }
    }

    /// Sees every change of the leader and the term, and nothing else.
    pub(crate) fn watch_leader(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    /// The group begins, at tick `now` of the loop.
    pub(crate) fn begin(&mut self, core: GroupCore<S>, now: u64) {
        self.core = Some(Box::new(core));
        (self.ticked, self.due) = (now, now + 1);
    }

    /// The tick that the core must see next. Until then its ticks are put off: they would change
    /// nothing but its clocks.
    pub(crate) fn due(&self) -> u64 {
        self.due
    }

    /// Its effects are to be taken: what it said before does not count any more. Whether that is news.
    pub(crate) fn touch(&mut self) -> bool {
        self.quiescence = None;
        !std::mem::replace(&mut self.is_touched, true)
    }

    /// Puts the next ticks off for as long as that is without effect.
    pub(crate) fn put_ticks_off(&mut self) {
        let Some(core) = &mut self.core else { return };
        let idle_ticks = core.idle_ticks();
        self.due = self.ticked + 1 + idle_ticks;
        if idle_ticks > 0 {
            core.rest();
        }
    }

    /// Ticks the core up to tick `now` of the loop.
    ///
    /// # Errors
    ///
    /// As [`Slot::step`].
    pub(crate) fn tick_to(&mut self, now: u64) -> Result<(), String> {
        let Some(core) = &mut self.core else { return Ok(()) };
        while self.ticked < now {
            self.ticked += 1;
            caught(|| core.step(Input::Tick))?;
        }
        Ok(())
    }

    /// Whether the group runs.
    pub(crate) fn is_running(&self) -> bool {
        self.core.is_some()
    }

    /// Steps an input at tick `now` of the loop. One for a group that does not run is dropped, and its
    /// caller with it, who finds the reason in the status; where there is none, since the group has yet
    /// to begin, the caller is told to try again.
    ///
    /// # Errors
    ///
    /// Why the group must stop.
    pub(crate) fn step(&mut self, input: GroupInput<S>, now: u64) -> Result<(), String> {
        self.quiescence = None;
        self.tick_to(now)?;
        match &mut self.core {
            Some(core) => caught(|| core.step(input)),
            None => {
                if self.status.borrow().fatal.is_none() {
                    refuse(input);
                }
                Ok(())
            }
        }
    }

    /// As [`Slot::step`], for a heartbeat or its answer.
    ///
    /// # Errors
    ///
    /// As [`Slot::step`].
    pub(crate) fn step_heartbeat(&mut self, heard: &Heard, now: u64) -> Result<(), String> {
        let quiescence = self.quiescence.take();
        self.step(heard.input(), now)?;
        // An answer may be one that a leader waits for; nothing else leaves things as they were.
        let is_answer = heard.kind == MessageType::MsgHeartbeatResponse;
        self.quiescence = quiescence.filter(|quiescence| is_answer && quiescence.is_leader());
        Ok(())
    }

    /// Hears what was heard before, and nothing else happened since: the core need not be asked what it
    /// says to that. Whether it was so.
    pub(crate) fn hear_again(&mut self, heard: &Heard, now: u64, out: &mut Heartbeats) -> bool {
        let Some(quiescence) = &mut self.quiescence else { return false };
        debug_assert!(self.core.is_some(), "a group that has stopped says nothing");
        match heard.kind {
            MessageType::MsgHeartbeat => match quiescence.answer_to(now, heard) {
                Some((ticks, answer)) => {
                    self.stand_still(ticks);
                    out.answer(heard.from, answer);
                    true
                }
                None => false,
            },
            _ => quiescence.is_answered(heard),
        }
    }

    /// Beats as the last time, if everybody answered as ever and nothing else happened. Whether it was
    /// so.
    pub(crate) fn beat_again(&mut self, now: u64, out: &mut Heartbeats) -> bool {
        let Some(quiescence) = &mut self.quiescence else { return false };
        let Some(ticks) = quiescence.beat(now, |to, beat| out.beat(to, beat)) else { return false };
        self.stand_still(ticks);
        true
    }

    /// Whether it would say again what it said before.
    #[cfg(test)]
    pub(crate) fn is_quiescent(&self) -> bool {
        self.quiescence.as_ref().is_some_and(|quiescence| quiescence.is_settled())
    }

    /// The ticks that the core has seen.
    #[cfg(test)]
    pub(crate) fn core_ticks(&self) -> u64 {
        self.core.as_ref().map_or(0, |core| core.ticks())
    }

    /// These ticks the core does not see: the timers that they would move were set back.
    fn stand_still(&mut self, ticks: u64) {
        self.ticked += ticks;
        self.due += ticks;
    }

    /// Remembers what is said at tick `now` to what was heard, or as a beat, if that is all there is: it
    /// may be so again. Not where anything is under way, whose deadline comes nearer.
    pub(crate) fn settle(&mut self, heard: Option<Heard>, said: &[Envelope], now: u64) {
        let quiescence = self.quiescence.take();
        let Some(core) = self.core.as_ref().filter(|core| !core.is_waiting()) else { return };
        let say = |envelope: &Envelope| match &envelope.message {
            PeerMessage::Raft(said) => Some((envelope.to, Heartbeat::of(self.group, said)?)),
            _ => None,
        };
        let Some(mut said) = said.iter().map(say).collect::<Option<Vec<_>>>() else { return };
        self.quiescence = match heard {
            Some(heard) if heard.kind == MessageType::MsgHeartbeatResponse => {
                quiescence.filter(|_| said.is_empty()).map(|mut quiescence| {
                    quiescence.came_to_nothing(heard);
                    quiescence
                })
            }
            Some(heard) => match (said.pop(), said.pop()) {
                (Some((to, answer)), None) if to == heard.from => {
                    Some(Box::new(Quiescence::of_follower(now, heard, answer)))
                }
                _ => None,
            },
            None => {
                let period = core.heartbeat_period();
                let beats_next = !said.is_empty() && self.due == now + period;
                beats_next.then(|| Box::new(Quiescence::of_leader(now, period, said)))
            }
        };
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

    /// The heartbeats and answers that are to be sent, where there is nothing else to do. What a status
    /// shows has not changed then. `None` where there is more.
    ///
    /// # Errors
    ///
    /// As [`Slot::step`].
    pub(crate) fn take_heartbeats(&mut self) -> Result<Option<Vec<Envelope>>, String> {
        let Some(core) = &mut self.core else { return Ok(Some(Vec::new())) };
        caught(|| core.take_heartbeats())
    }

    /// On the leader: who has answered, and when.
    pub(crate) fn last_answers(&self) -> Vec<LastAnswer> {
        self.core.as_ref().map(|core| core.last_answers()).unwrap_or_default()
    }

    /// Whether [`Slot::effects`] would have more to do without another input.
    pub(crate) fn has_more(&self) -> bool {
        self.core.as_ref().is_some_and(|core| core.has_more())
    }

    /// Whether the core has yet to hand out what it found committed.
    pub(crate) fn is_beginning(&self) -> bool {
        self.core.as_ref().is_some_and(|core| core.is_beginning())
    }

    /// Publishes the status, if it has changed. Of a core that begins it is that of some time ago.
    pub(crate) fn publish(&mut self, log_disk_bytes: u64) {
        let Some(core) = self.core.as_ref().filter(|core| !core.is_beginning()) else { return };
        let vitals = core.vitals();
        if self.published == Some(vitals) {
            return;
        }
        self.published = Some(vitals);
        let mut now = GroupStatus::serving(core.status(), log_disk_bytes);
        // The first snapshot brings what was set aside.
        now.damaged = self.status.borrow().damaged.clone().filter(|_| now.applied_index == 0);
        // Ahead of the status: who reads a leader there, and waits here for another, is not told of the one before.
        self.tell_leadership(now.leadership());
        self.status.send_replace(now);
    }

    /// Publishes what the status says of the leader, if that has changed.
    fn publish_leadership(&self) {
        let now = self.status.borrow().leadership();
        self.tell_leadership(now);
    }

    fn tell_leadership(&self, now: Leadership) {
        self.leadership.send_if_modified(|told| std::mem::replace(told, now) != now);
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
        // Or it would go on to say that it is there.
        self.quiescence = None;
        let Some(mut core) = self.core.take() else { return };
        // After a panic it may panic again. Its callers learn of their end when they are dropped.
        if let Ok(effects) = caught(move || core.end(error)) {
            answer(effects);
        }
    }

    /// Ends the group because it leaves this node.
    pub(crate) fn retire(&mut self) {
        let reason = "it was removed from this node".to_owned();
        self.status.send_modify(|status| {
            status.fatal.get_or_insert(reason.clone());
            (status.role, status.leader) = (Role::Follower, None);
        });
        self.publish_leadership();
        self.stop(&ProposeError::Fatal(reason));
    }

    /// As [`Slot::stop`], of a group that this node does not belong to any more.
    pub(crate) fn expel(&mut self, reason: &str) {
        self.status.send_modify(|status| status.role = Role::Removed);
        self.stop(&ProposeError::Fatal(reason.to_owned()));
    }

    /// As [`Slot::stop`], of a group whose log on this node has lost something.
    pub(crate) fn condemn(&mut self, reason: &str) {
        self.status.send_modify(|status| status.damaged = Some(reason.to_owned()));
        self.stop(&ProposeError::Fatal(reason.to_owned()));
    }

    fn last_words(&self, reason: &str) {
        self.status.send_if_modified(|status| {
            let first = status.fatal.is_none();
            if first {
                tracing::error!(group = %self.group, reason, "the group has stopped for good");
                status.fatal = Some(reason.to_owned());
                status.leader = None;
                if status.role != Role::Removed {
                    status.role = Role::Follower;
                }
            }
            first
        });
        self.publish_leadership();
    }
}

fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| panic_text(&*panic))
}

/// Whether an input is counted by the inbox: a caller waits for what comes of it.
pub(crate) fn is_request<P, R, M>(input: &Input<P, R, M>) -> bool {
    matches!(
        input,
        Input::Propose { .. }
            | Input::Read { .. }
            | Input::Membership { .. }
            | Input::Catalogue { .. }
    )
}

/// Tells a caller of a group that has yet to begin to try again. One that has gone needs no answer.
pub(crate) fn refuse<O>(input: Input<Caller<O>, ReadCaller, ChangeCaller>) {
    match input {
        Input::Propose { caller, .. } => {
            let _ = caller.send(Err(ProposeError::NotLeader { leader: None }));
        }
        Input::Read { caller } => {
            let _ = caller.send(Err(ReadError::TimedOut));
        }
        Input::Membership { caller: ChangeCaller::Members(caller), .. } => {
            let _ = caller.send(Err(MembershipError::NotLeader { leader: None }));
        }
        Input::Catalogue { caller: ChangeCaller::Groups(caller), .. } => {
            let _ = caller.send(Err(CatalogueError::NotLeader { leader: None }));
        }
        _ => {}
    }
}

/// Tells callers what the core has to tell them. One that has gone needs no answer.
pub(crate) fn answer<O>(effects: Effects<Caller<O>, ReadCaller, ChangeCaller>) {
    for (caller, error) in effects.failed {
        let _ = caller.send(Err(error));
    }
    for (caller, result) in effects.reads {
        let _ = caller.send(result);
    }
    for (caller, result) in effects.memberships {
        if let ChangeCaller::Members(caller) = caller {
            let _ = caller.send(result);
        }
    }
    for (caller, result) in effects.catalogued {
        if let ChangeCaller::Groups(caller) = caller {
            let _ = caller.send(result);
        }
    }
}
