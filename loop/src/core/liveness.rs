//! Who answers.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Core;
use crate::members::Members;
use crate::status::{LastAnswer, Liveness};

/// When the members of a group answered last, in ticks.
#[derive(Default)]
pub(super) struct Answers {
    by_member: BTreeMap<u64, Contact>,
    /// The last tick at which this node did not lead: nobody was asked for anything before.
    unasked_at: u64,
}

/// What there was to hear of a member.
#[derive(Default)]
struct Contact {
    /// When it became one here.
    since: u64,
    /// When it answered last.
    answered: Option<u64>,
}

impl Answers {
    pub(super) fn heard_of(&mut self, member: u64, now: u64) {
        self.by_member.entry(member).or_default().answered = Some(now);
    }

    /// This node does not lead at `now`.
    pub(super) fn asked_for_none(&mut self, now: u64) {
        self.unasked_at = now;
    }

    /// These are the members from `now` on.
    pub(super) fn members_are(&mut self, members: &Members, now: u64) {
        self.by_member.retain(|id, _| members.get(*id).is_some());
        for member in members.iter() {
            let contact = self.by_member.entry(member.member_id);
            contact.or_insert(Contact { since: now, answered: None });
        }
    }

    fn liveness(&self, member: u64, now: u64, patience: u64) -> Liveness {
        let lately = |at: u64| now - at <= patience;
        let contact = self.by_member.get(&member);
        if contact.and_then(|contact| contact.answered).is_some_and(lately) {
            return Liveness::Live;
        }
        let asked_since = contact.map_or(0, |contact| contact.since).max(self.unasked_at);
        if lately(asked_since) { Liveness::Unheard } else { Liveness::Silent }
    }
}

impl<P, R, M> Core<P, R, M> {
    fn liveness(&self, member: u64) -> Liveness {
        match member == self.own_id {
            true => Liveness::Live,
            false => self.answers.liveness(member, self.now, u64::from(self.config.election_ticks)),
        }
    }

    /// Whether a member answered within an election timeout; this node does.
    pub(super) fn is_live(&self, member: u64) -> bool {
        self.liveness(member) == Liveness::Live
    }

    /// Whether a member has not answered for an election timeout in which this node led. What is done
    /// because a member is dead waits for this: a new leader has yet to hear of those that did not
    /// vote for it.
    pub(super) fn is_silent(&self, member: u64) -> bool {
        self.liveness(member) == Liveness::Silent
    }

    /// On the leader: who has answered, and when. This node, too, which always does. Else empty.
    pub(crate) fn last_answers(&self) -> Vec<LastAnswer> {
        if !self.leads() {
            return Vec::new();
        }
        let tick = Duration::from_millis(self.config.tick_ms);
        let answer = |member_id: u64| {
            let at = match member_id == self.own_id {
                true => Some(self.now),
                false => {
                    self.answers.by_member.get(&member_id).and_then(|contact| contact.answered)
                }
            };
            let ago = at.map(|at| {
                let ticks = u32::try_from(self.now - at).unwrap_or(u32::MAX);
                tick.saturating_mul(ticks)
            });
            LastAnswer { member_id, ago, liveness: self.liveness(member_id) }
        };
        self.members.iter().map(|member| answer(member.member_id)).collect()
    }
}
