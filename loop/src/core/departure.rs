//! When whoever has lost its vote may go: it is needed for as long as somebody might forget that it did.
//!
//! A change of the membership is in force on a node when that node knows it to be committed. A node that
//! is killed may forget that it knew, and ask for votes among the members before the change. It may need
//! those that the change took: of two voters, one is removed, learns it and stops; the other restarts,
//! does not know, and would ask for that vote for ever. So **a member that lost its vote goes on voting
//! until a majority of those that are left is sure to remember**. Only then is the change announced:
//! nodes refuse whom it removed, and the caller hears that it is done, and may wipe a disk. (A vote of
//! somebody who lost it is safe: it is counted only by those who do not know, by the rules of before.
//! Whoever knows that it was removed does not campaign.)
//!
//! A majority remembers when another change *behind* it is in force: a leader proposes none before it
//! knows that the last is committed, and whoever acknowledges it has written in the same batch that it
//! is. So the leader proposes one that changes nothing, an update of its own member.

use std::sync::Arc;

use super::Core;
use crate::change::{Change, Step};
use crate::members::Members;
use crate::membership::{MembershipChanged, MembershipError};

/// Election timeouts after which a node that does not lead announces a change in any case: the one
/// behind it may have come to it in a snapshot.
const PATIENCE: u64 = 10;

/// A change that took somebody's vote and is not announced yet.
#[derive(Debug)]
pub(super) struct Departure<M> {
    members: Option<Arc<Members>>,
    /// When it came into force, in ticks.
    since: u64,
    /// The change behind it has yet to be proposed, if this node leads.
    is_open: bool,
    /// Who is told when it is announced, and until which tick they wait.
    callers: Vec<(u64, M, MembershipChanged)>,
}

impl<M> Default for Departure<M> {
    fn default() -> Self {
        Departure { members: None, since: 0, is_open: false, callers: Vec::new() }
    }
}

impl<M> Departure<M> {
    /// Whether there is such a change.
    pub(super) fn is_pending(&self) -> bool {
        self.members.is_some()
    }

    /// Has a caller of the change wait until `deadline` for its announcement.
    pub(super) fn wait(&mut self, deadline: u64, caller: M, changed: MembershipChanged) {
        self.callers.push((deadline, caller, changed));
    }
}

impl<P, R, M> Core<P, R, M> {
    /// Announces the members that follow those of `before`: at once, if all who had a vote have it still.
    /// Whatever was in force before them is remembered now.
    pub(super) fn announce(&mut self, before: &Members, members: Arc<Members>) {
        self.see_off();
        let departs =
            |id: u64| members.get(id).is_none() || before.is_voter(id) && !members.is_voter(id);
        if before.iter().any(|member| departs(member.member_id)) {
            self.departure.members = Some(members);
            (self.departure.since, self.departure.is_open) = (self.now, true);
        } else {
            self.effects.members = Some(members);
        }
    }

    /// Announces the change that waits for it.
    fn see_off(&mut self) {
        if let Some(members) = self.departure.members.take() {
            self.effects.members = Some(members);
            let callers = self.departure.callers.drain(..);
            let answers = callers.map(|(_, caller, changed)| (caller, Ok(changed)));
            self.effects.memberships.extend(answers);
        }
    }

    /// Once a tick: callers whose time is over are told, and the change behind is proposed again, if it
    /// is not under way.
    pub(super) fn tick_departure(&mut self) {
        self.end_departure(self.now);
        self.departure.is_open = !self.is_changing();
        let patience = PATIENCE * u64::from(self.config.election_ticks);
        if !self.leads() && self.now - self.departure.since > patience {
            self.see_off();
        }
    }

    /// Ends the wait of those whose deadline has come by tick `now`.
    pub(super) fn end_departure(&mut self, now: u64) {
        for (_, caller, _) in self.departure.callers.extract_if(.., |waits| waits.0 <= now) {
            self.effects.memberships.push((caller, Err(MembershipError::Unknown)));
        }
    }

    /// Whether the leader has a change to propose.
    pub(super) fn has_to_seal(&self) -> bool {
        self.departure.is_open && self.departure.is_pending() && self.leads()
    }

    /// Proposes the change behind. One that is refused, as while leadership is handed over, comes with
    /// the next tick.
    pub(super) fn seal(&mut self) {
        if !self.has_to_seal() {
            return;
        }
        self.departure.is_open = false;
        let Some(own) = self.members.get(self.own_id).filter(|_| !self.is_changing()) else {
            return;
        };
        let change = Change { steps: vec![Step::Update(own.clone())] };
        if let Err(error) = self.propose_change(&change) {
            tracing::debug!(group = %self.group, %error, "no change behind one that took a vote yet");
        }
    }
}
