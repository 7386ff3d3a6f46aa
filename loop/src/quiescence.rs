//! [`Quiescence`]: a group in which nothing happens but the same heartbeats, over and over.
//!
//! A node may hold thousands of groups, most of which have nothing to do most of the time. What such a
//! group costs is its heartbeats: several times a second its core would be fetched from memory,
//! stepped, and asked for effects, to say what it said before. So what it said is remembered, and said
//! again for as long as nothing else reaches the core:
//!
//! - a follower that hears the same beat from the same node gives the same answer;
//! - a leader whose beats were all answered as the ones before sends the same beats, when they are due.
//!
//! Meanwhile time stands still for the core. That is as if it had been stepped: a follower's election
//! timer is set back by every beat that it hears, and a leader that every member answers sees its
//! quorum whenever it looks. Whatever else comes, and whatever does not come, finds a follower's core at
//! the tick of the last beat, and is stepped from there. A leader's core is found as long after a beat as it
//! was when the last answer came that was new to it: it may be ahead of the loop by less than a heartbeat,
//! and what begins to wait there waits so much longer. On the wire nothing differs: each group still beats for
//! itself, and a peer cannot tell.
//!
//! Why it is safe: heartbeats that repeat move nothing that Raft's safety rests on. A beat is only
//! remembered when the core had nothing to do but to send it (`Core::take_heartbeats`), so that no
//! write, read or proposal is under way; the term that it speaks of is durable, for it has left before.

use quorate_engine::NodeId;

use crate::heartbeat::Heartbeat;
use crate::heartbeats::Heard;

/// What a quiescent group says and hears.
#[derive(Debug)]
pub(crate) struct Quiescence {
    /// The tick of the last beat.
    beat_at: u64,
    role: Role,
}

#[derive(Debug)]
enum Role {
    Follower { heard: Heard, answer: Heartbeat },
    Leader { period: u64, peers: Vec<Peer> },
}

/// Somebody whom a leader beats for.
#[derive(Debug)]
struct Peer {
    node: NodeId,
    beat: Heartbeat,
    /// What it said to an earlier beat, and nothing came of it.
    answer: Option<Heartbeat>,
    /// Whether it said so since the last one.
    has_answered: bool,
}

impl Quiescence {
    /// Of a follower that at tick `now` gave `answer` to what it heard, and had nothing else to do.
    pub(crate) fn of_follower(now: u64, heard: Heard, answer: Heartbeat) -> Self {
        Quiescence { beat_at: now, role: Role::Follower { heard, answer } }
    }

    /// Of a leader that at tick `now` sent these beats, the next of which are due `period` ticks later,
    /// and had nothing else to do.
    pub(crate) fn of_leader(now: u64, period: u64, beats: Vec<(NodeId, Heartbeat)>) -> Self {
        let peer = |(node, beat)| Peer { node, beat, answer: None, has_answered: false };
        let peers = beats.into_iter().map(peer).collect();
        Quiescence { beat_at: now, role: Role::Leader { period, peers } }
    }

    /// The answer to a beat, if it is the one that was answered before; and the ticks since that.
    pub(crate) fn answer_to(&mut self, now: u64, beat: &Heard) -> Option<(u64, Heartbeat)> {
        match &self.role {
            Role::Follower { heard, answer } if heard == beat => {
                let answer = answer.clone();
                Some((self.advance(now), answer))
            }
            _ => None,
        }
    }

    /// Takes an answer in that is the same as that to an earlier beat, of which nothing came.
    pub(crate) fn is_answered(&mut self, heard: &Heard) -> bool {
        match self.peer(heard) {
            Some(peer) if peer.answer.as_ref() == Some(&heard.beat) => {
                peer.has_answered = true;
                true
            }
            _ => false,
        }
    }

    /// Remembers an answer of which nothing came.
    pub(crate) fn came_to_nothing(&mut self, heard: Heard) {
        if let Some(peer) = self.peer(&heard) {
            (peer.answer, peer.has_answered) = (Some(heard.beat), true);
        }
    }

    /// Sends the beats that are due at tick `now`, if everybody has answered the last ones, and returns
    /// the ticks since those.
    pub(crate) fn beat(
        &mut self,
        now: u64,
        mut send: impl FnMut(NodeId, Heartbeat),
    ) -> Option<u64> {
        let Role::Leader { period, peers } = &mut self.role else { return None };
        if now != self.beat_at + *period || !peers.iter().all(|peer| peer.has_answered) {
            return None;
        }
        for peer in peers {
            peer.has_answered = false;
            send(peer.node, peer.beat.clone());
        }
        Some(self.advance(now))
    }

    pub(crate) fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader { .. })
    }

    /// Whether all is known that would be said again.
    #[cfg(test)]
    pub(crate) fn is_settled(&self) -> bool {
        match &self.role {
            Role::Follower { .. } => true,
            Role::Leader { peers, .. } => peers.iter().all(|peer| peer.answer.is_some()),
        }
    }

    fn advance(&mut self, now: u64) -> u64 {
        now - std::mem::replace(&mut self.beat_at, now)
    }

    fn peer(&mut self, heard: &Heard) -> Option<&mut Peer> {
        let Role::Leader { peers, .. } = &mut self.role else { return None };
        peers
            .iter_mut()
            .find(|peer| peer.node == heard.from && peer.beat.is_answered_by(&heard.beat))
    }
}
