//! [`Oracle`]: what must be true of a group, whatever one of its peers says.
//!
//! The liar is one peer: an authenticated member whose acknowledgements and votes count, or one
//! that may only speak for itself and be refused. What is checked hangs on what it lies about:
//!
//! | lies | checked |
//! | --- | --- |
//! | [`Lies::Acknowledgements`] | all below, and agreement |
//! | [`Lies::Anything`], [`Lies::Everybody`] | all below |
//!
//! **Always**: nothing panics. No message takes a term further than its reach. Terms and commit
//! indexes never go back. A leader moves its commit index only to an entry of its own term, within
//! its log, that a majority holds: itself counted by what its disk has synced, the others by the
//! acknowledgements that passed its guard in this term. A follower moves it no further than some
//! leader did, or than a forged message that passed its guard claims. No vote and no term leaves a
//! node before its disk has it. Every caller has one answer.
//!
//! **Agreement**: two honest nodes never apply different entries at an index; there is one leader
//! a term; no acknowledgement leaves a node before its disk has what it speaks of (a second leader
//! of a term can take back in one Ready what the first had appended); whoever is told that a
//! command is applied finds it there; no read is stale; no honest node finds its log lost; and the
//! group elects and commits when the liar falls silent. That last is checked of the other storms
//! too, unless two nodes hold different things for committed.
//!
//! Why that holds although the liar acknowledges what it never had: a committed entry is then
//! durable on one honest node at least. A later leader without it would need the vote of the liar,
//! so in these storms the liar votes for nobody and leads nothing. A voter that acknowledges *and*
//! votes, or speaks as a leader that nobody elected, breaks agreement in any Raft.

use std::collections::{BTreeMap, BTreeSet};

use quorate_engine::LogId;
use quorate_loop::{ProposeError, Role};
use raft::eraftpb::{ConfState, Message, MessageType};
use serde::Serialize;

use super::group::speaks_as_leader;
use super::node::{Node, Seen};
use crate::record::hash_of;

/// As far as messages may take a term between two ticks, and what campaigns may add.
const TERM_REACH: u64 = (1 << 32) + (1 << 20);
/// Violations that are told one by one.
const TOLD_MAX: usize = 8;
/// Indexes and terms that are remembered behind the newest.
const REMEMBERED: usize = 8_192;

/// What the liar lies about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Lies {
    /// What it holds, and everything else but votes and leadership.
    Acknowledgements,
    /// Everything, votes and leadership included.
    Anything,
    /// As before, and in the name of each of the members.
    Everybody,
}

/// The membership of every group here, as long as nobody lies about it.
pub(super) fn three() -> ConfState {
    ConfState::from((vec![1, 2, 3], vec![]))
}

#[derive(Debug)]
pub(super) struct Oracle {
    pub(super) lies: Lies,
    liar: u64,
    /// Term and state at each index, as of whoever applied it first.
    history: BTreeMap<u64, (u64, u64)>,
    leaders: BTreeMap<u64, u64>,
    /// By node and term, how far its log was durable in that term.
    durable: BTreeMap<u64, BTreeMap<u64, u64>>,
    /// Those who wait: on which node, and for a read what was acknowledged before it.
    waiting: BTreeMap<u64, (u64, Option<u64>)>,
    commit_max: u64,
    acknowledged: u64,
    /// Callers that were told that their command is applied.
    told: BTreeSet<u64>,
    /// Whether nodes hold different things for committed, as lies about leadership may bring about.
    pub(super) forked: bool,
    /// Whether a node was given another membership, by a forged snapshot of a forged leader.
    pub(super) reconfigured: bool,
    /// Nodes that were told by a leader, true or not, that their log is lost.
    pub(super) stopped: u64,
    pub(super) applied: u64,
    pub(super) violations: u64,
    pub(super) first: Vec<String>,
}

impl Oracle {
    pub(super) fn new(lies: Lies, liar: u64) -> Oracle {
        Oracle {
            lies,
            liar,
            history: BTreeMap::new(),
            leaders: BTreeMap::new(),
            durable: BTreeMap::new(),
            waiting: BTreeMap::new(),
            commit_max: 1,
            acknowledged: 0,
            told: BTreeSet::new(),
            forked: false,
            reconfigured: false,
            stopped: 0,
            applied: 0,
            violations: 0,
            first: Vec::new(),
        }
    }

    /// Something is not as it must be.
    pub(super) fn violated(&mut self, what: String) {
        self.violations += 1;
        if self.first.len() < TOLD_MAX {
            self.first.push(what);
        }
    }

    /// The highest index that a caller on an honest node was told of.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Whether a caller was told that its command is applied.
    pub(super) fn was_told(&self, caller: u64) -> bool {
        self.told.contains(&caller)
    }

    /// Whether a node must agree with the others.
    fn is_strict(&self, id: u64) -> bool {
        self.lies == Lies::Acknowledgements && id != self.liar
    }

    /// Whether a message that a node really wants to send is sent: in a storm of false
    /// acknowledgements the liar votes for nobody, and leads nothing.
    pub(super) fn may_send(&self, from: u64, message: &Message) -> bool {
        let kind = message.get_msg_type();
        if self.lies != Lies::Acknowledgements || from != self.liar {
            return true;
        }
        match kind {
            MessageType::MsgRequestVote => false,
            MessageType::MsgRequestVoteResponse => message.reject,
            _ => !speaks_as_leader(kind),
        }
    }

    /// Whether this storm tells such a lie to a node of this term: see the head of this file.
    /// `is_refused`: the sender is not who the message says, so that no guard may let it pass.
    pub(super) fn may_forge(&self, message: &Message, term: u64, is_refused: bool) -> bool {
        let kind = message.get_msg_type();
        if self.lies != Lies::Acknowledgements || is_refused || message.term < term {
            return true;
        }
        match kind {
            MessageType::MsgRequestVoteResponse => message.reject,
            _ => !speaks_as_leader(kind),
        }
    }

    pub(super) fn started(&mut self, id: u64, node: &Node) {
        let durable = node.durable.hard_state.term;
        if node.seen.term < durable {
            self.violated(format!("node {id} was in term {durable}, and is in {}", node.seen.term));
        }
        self.durable.insert(id, BTreeMap::from([(durable, node.durable.last.index)]));
    }

    /// Whoever waited on a node that is killed waits no more.
    pub(super) fn killed(&mut self, id: u64) {
        self.waiting.retain(|_, (on, _)| *on != id);
    }

    /// A write of this node is durable.
    pub(super) fn synced(&mut self, id: u64, term: u64, last: u64) {
        let lasts = self.durable.entry(id).or_default();
        let highest = lasts.entry(term).or_default();
        *highest = last.max(*highest);
        while lasts.len() > 64 {
            lasts.pop_first();
        }
    }

    /// A message passed the guard of a node that was as it was last seen.
    pub(super) fn passed(&mut self, node: &mut Node, message: &Message, forged: bool) {
        let kind = message.get_msg_type();
        let seen = node.seen;
        let acknowledges = kind == MessageType::MsgAppendResponse && !message.reject;
        if acknowledges && seen.role == Role::Leader && message.term == seen.term {
            let claim = node.claims.entry(message.from).or_default();
            // Nobody can hold what the leader has not appended yet.
            *claim = message.index.min(seen.last).max(*claim);
        }
        if forged && speaks_as_leader(kind) && message.term >= seen.term {
            let snapshot = message.get_snapshot().get_metadata().index;
            node.commit_claim = node.commit_claim.max(message.commit).max(snapshot);
            let conf = message.get_snapshot().get_metadata().get_conf_state();
            self.reconfigured |= snapshot > 0 && *conf != three();
        }
    }

    /// Compares a node with what it was.
    pub(super) fn look(&mut self, id: u64, node: &mut Node, now: Seen) {
        let seen = std::mem::replace(&mut node.seen, now);
        if now == seen {
            return;
        }
        if now.term < seen.term || now.commit < seen.commit {
            self.violated(format!("node {id} went back from {seen:?} to {now:?}"));
        }
        if now.term > node.term_at_tick.saturating_add(TERM_REACH) {
            self.violated(format!("node {id} was taken from {seen:?} to term {}", now.term));
        }
        if now.commit > seen.commit {
            self.committed(id, node, seen, now);
        }
        let leads = now.role == Role::Leader;
        if leads && *self.leaders.entry(now.term).or_insert(id) != id {
            if self.lies == Lies::Acknowledgements {
                self.violated(format!("node {id} is the second leader of term {}", now.term));
            }
            self.forked = true;
        }
        if !leads || seen.role != Role::Leader || now.term != seen.term {
            node.claims.clear();
        }
        while self.leaders.len() > REMEMBERED {
            self.leaders.pop_first();
        }
    }

    fn committed(&mut self, id: u64, node: &Node, seen: Seen, now: Seen) {
        if now.commit > now.last {
            self.violated(format!("node {id} commits beyond its log: {now:?}"));
        }
        let own = u64::from(node.durable.holds(now.commit, &node.log));
        let claims = node.claims.values().filter(|claim| **claim >= now.commit).count() as u64;
        let term = node.log.at(now.commit).map_or(seen.term, |(term, _)| term);
        // Where a forged snapshot has changed who has a vote, a majority is another.
        let by_quorum = (own + claims >= 2 || self.reconfigured) && term == seen.term;
        let by_leader = now.commit <= self.commit_max.max(node.commit_claim);
        let led = seen.role == Role::Leader;
        let leads = led && now.role == Role::Leader && now.term == seen.term;
        if leads && !by_quorum {
            self.violated(format!(
                "leader {id} of term {} commits {} of term {term} which no quorum holds: durable \
                 up to {}, claimed {:?}",
                now.term, now.commit, node.durable.last, node.claims
            ));
        }
        // A receipt may commit, and then let in a snapshot that waited for it and ends the term.
        if !(leads || by_leader || led && by_quorum) {
            self.violated(format!(
                "node {id} commits {} where leaders came to {} and forged messages to {}",
                now.commit, self.commit_max, node.commit_claim
            ));
        }
        self.commit_max = self.commit_max.max(now.commit);
    }

    /// A message leaves a node: what it says must be durable.
    pub(super) fn left(&mut self, id: u64, node: &Node, message: &Message) {
        let kind = message.get_msg_type();
        let hard_state = &node.durable.hard_state;
        let speaks_of_the_next_term =
            matches!(kind, MessageType::MsgRequestPreVote | MessageType::MsgRequestPreVoteResponse);
        if message.term > hard_state.term && !speaks_of_the_next_term {
            self.violated(format!("node {id} says {message:?} before its term is durable"));
        }
        let votes = kind == MessageType::MsgRequestVoteResponse && !message.reject;
        if votes && hard_state.term == message.term && hard_state.vote != message.to {
            self.violated(format!("node {id} votes for {} before that is durable", message.to));
        }
        let acknowledges = kind == MessageType::MsgAppendResponse && !message.reject;
        if self.lies == Lies::Acknowledgements && acknowledges {
            // Or in a later term, which shared its write.
            let lasts = self.durable.get(&id).into_iter();
            let last = lasts.flat_map(|lasts| lasts.range(message.term..)).map(|(_, l)| *l).max();
            if last.is_some_and(|last| message.index > last) {
                self.violated(format!(
                    "node {id} acknowledges {} of term {} where {last:?} is durable",
                    message.index, message.term
                ));
            }
        }
    }

    /// A node applied an entry.
    pub(super) fn applied(
        &mut self,
        id: u64,
        node: &mut Node,
        at: LogId,
        command: &[u8],
        caller: Option<u64>,
    ) {
        if at.index != node.applied.index + 1 {
            self.violated(format!("node {id} applied {at} after {}", node.applied));
        }
        let mixed = node.state ^ hash_of(command) ^ at.term.rotate_left(32) ^ at.index;
        node.state = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
        node.applied = at;
        self.applied += 1;
        self.agree(id, node);
        let Some(caller) = caller else { return };
        if self.waiting.remove(&caller).is_none() {
            self.violated(format!("caller {caller} on node {id} was answered twice"));
        }
        self.told.insert(caller);
        if self.is_strict(id) {
            if command.get(..8) != Some(&caller.to_le_bytes()) {
                self.violated(format!("caller {caller} on node {id} is told of {at}, not its own"));
            }
            self.acknowledged = self.acknowledged.max(at.index);
        }
    }

    /// A node restored its state from a snapshot.
    pub(super) fn restored(&mut self, id: u64, node: &Node) {
        self.agree(id, node);
    }

    fn agree(&mut self, id: u64, node: &Node) {
        // In a storm of false acknowledgements the liar is led to believe what it claims.
        if self.lies == Lies::Acknowledgements && id == self.liar {
            return;
        }
        let (at, state) = (node.applied, node.state);
        let first = *self.history.entry(at.index).or_insert((at.term, state));
        if first != (at.term, state) {
            if self.is_strict(id) {
                self.violated(format!("node {id} applied something else up to {at}"));
            }
            self.forked = true;
        }
        while self.history.len() > REMEMBERED {
            self.history.pop_first();
        }
    }

    /// Somebody asks on a node.
    pub(super) fn asked(&mut self, id: u64, caller: u64, acknowledged: Option<u64>) {
        self.waiting.insert(caller, (id, acknowledged));
    }

    /// A caller was told that there is no outcome, or that nobody knows it.
    pub(super) fn refused(&mut self, caller: u64, error: &ProposeError) {
        if self.waiting.remove(&caller).is_none() {
            self.violated(format!("caller {caller} was answered twice, the last time by {error}"));
        }
    }

    /// A reader was answered.
    pub(super) fn read(&mut self, id: u64, reader: u64, index: Option<u64>) {
        let Some((_, before)) = self.waiting.remove(&reader) else {
            return self.violated(format!("reader {reader} on node {id} was answered twice"));
        };
        if let (Some(index), Some(before)) = (index, before)
            && index < before
            && self.is_strict(id)
        {
            self.violated(format!("node {id} read {index} after {before} was acknowledged"));
        }
    }

    /// A node stopped for good.
    pub(super) fn fatal(&mut self, id: u64, why: &str) {
        // The one reason that a peer can bring about: a leader counts on entries that are gone.
        if why.contains("the log was lost") && !self.is_strict(id) {
            self.stopped += 1;
        } else {
            self.violated(format!("node {id} stopped: {why}"));
        }
    }
}
