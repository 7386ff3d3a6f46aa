//! What a core does when nobody is left to lead: it does not wait for the election timeout. The process of its
//! leader is gone, or it starts and is the only voter.
//!
//! Two things keep a quick campaign from winning (trap R16). Peers that take themselves to have a
//! leader ignore even a pre-vote, for an election timeout; so a node gives its own leader up, and each
//! of them does that when it has found the same. And two that campaign at once both win the pre-vote,
//! both vote for themselves, and both lose; so they take *turns*, [`TURN`] apart. A turn may come
//! before the others have given the leader up, or go to a node that is down itself or whose log is too
//! short; so turns go round a few times. After that the election timeout does the rest.
//!
//! **A leader that lives is not harmed by it**, whoever is told otherwise, and however often. Nobody
//! who hears the leader answers a pre-vote, and a pre-vote that fails changes no term and no vote; the
//! leader's next heartbeat is believed. What it costs where it is wrong is a few small messages, once
//! in a term. Nothing rests on a lease here but this peace: a read asks a quorum.
//!
//! Who comes when follows from the members, the group and the term, which followers of one leader know
//! alike. It differs from group to group, so that no single node takes over all that the dead one led.

use std::time::Duration;

use quorate_engine::NodeId;
use raft::{INVALID_ID, StateRole};

use super::Core;

/// Between the turns of two members. Longer than it takes to win an election that is not disturbed:
/// two round trips and two fsyncs.
const TURN: Duration = Duration::from_millis(50);

/// Turns of one member.
const TURNS: u32 = 4;

/// A leader that was given up, because its process is gone.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Abandoned {
    /// The leader's term; 0 while there was none.
    term: u64,
    /// Turns of this node that are left.
    turns: u32,
    /// From one of them to the next.
    round: Duration,
}

impl<P, R, M> Core<P, R, M> {
    /// The process of a node is gone. Nothing to somebody who does not follow it.
    pub(super) fn process_gone(&mut self, node: NodeId) {
        let raft = &self.raw.raft;
        let (term, leader) = (raft.term, self.members.get(raft.leader_id));
        let follows = leader.is_some_and(|leader| leader.node_id() == node);
        if raft.state != StateRole::Follower || !follows || self.abandoned.term == term {
            return;
        }
        tracing::info!(group = %self.group, %node, term, "the leader's process is gone");
        self.raw.raft.become_follower(term, INVALID_ID);
        let left: Vec<u64> = self
            .members
            .iter()
            .filter(|member| member.node_id() != node && self.members.is_voter(member.member_id))
            .map(|member| member.member_id)
            .collect();
        let Some(place) = left.iter().position(|id| *id == self.own_id) else {
            self.abandoned = Abandoned { term, ..Abandoned::default() };
            return;
        };
        let voters = left.len() as u64;
        let rank = (place as u64 + self.group.get() % voters + term % voters) % voters;
        let turns = |turns: u64| TURN * u32::try_from(turns).unwrap_or(u32::MAX);
        self.abandoned = Abandoned { term, turns: TURNS, round: turns(voters) };
        match rank {
            0 => self.take_turn(),
            rank => self.effects.campaign_after = Some(turns(rank)),
        }
    }

    /// The only voter of a group has nobody to hear of first: its turn comes as soon as it has applied what it
    /// knows to be committed, and not an election timeout after its start. No sooner, since raft-rs copies
    /// all that is not applied to see whether a change of the members is among it, which with a million
    /// entries takes longer than anything else here; and nobody could be served before. (After an election
    /// timeout it campaigns all the same, and what is left by then is copied.)
    pub(super) fn begin_alone(&mut self) {
        let raft = &self.raw.raft;
        if self.has_begun || raft.raft_log.applied < raft.raft_log.committed {
            return;
        }
        self.has_begun = true;
        if raft.prs().is_singleton() && raft.promotable() {
            self.abandoned = Abandoned { term: raft.term, turns: TURNS, round: TURN };
            self.effects.campaign_after = Some(Duration::ZERO);
        }
    }

    /// This node's turn to campaign, unless somebody leads by now or asks for votes in a later term.
    pub(super) fn take_turn(&mut self) {
        let raft = &self.raw.raft;
        let nobody_leads = raft.leader_id == INVALID_ID && raft.term == self.abandoned.term;
        if !nobody_leads || self.abandoned.turns == 0 || self.removed {
            return;
        }
        self.abandoned.turns -= 1;
        if self.abandoned.turns > 0 {
            self.effects.campaign_after = Some(self.abandoned.round);
        }
        if !self.must_not_campaign()
            && let Err(error) = self.raw.campaign()
        {
            tracing::debug!(group = %self.group, %error, "no campaign");
        }
    }
}
