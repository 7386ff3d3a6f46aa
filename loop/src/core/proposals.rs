//! [`Proposals`]: every proposal from its arrival to its one answer.

use std::collections::btree_map::{Entry, OccupiedEntry};
use std::collections::{BTreeMap, VecDeque};
use std::mem;

use mutation::Bug;
use quorate_engine::{LogId, NodeId};

use crate::error::ProposeError;
use crate::message::Refused;
use crate::proposal::Proposal;

/// Who waits for a proposal.
#[derive(Debug)]
pub(super) enum Proposer<P> {
    /// A caller on this node.
    Caller(P),
    /// A caller on another node, which is told the position and watches it itself.
    Peer { node: NodeId, request: u64 },
}

/// Proposals that wait: for the next Ready, for the leader's answer, or for their position to be
/// committed.
///
/// `P` is the caller's completion. It is moved, never copied, so a proposal ends exactly once:
/// each method that returns a `P` has forgotten it.
///
/// A position (index, term) is given to one entry only, ever. So a proposal is committed when
/// its index is committed with its term, and surely lost when it is committed with another.
#[derive(Debug)]
pub(super) struct Proposals<P> {
    queued: Vec<(Proposer<P>, Proposal)>,
    forwarded: BTreeMap<u64, Forwarded<P>>,
    /// By position, each once. They come in that order, and go in it, but for what other leaders say.
    placed: VecDeque<Placed<P>>,
    /// The latest deadline of all, until it has passed.
    busy_until: Option<u64>,
    next_request: u64,
}

#[derive(Debug)]
struct Forwarded<P> {
    caller: P,
    leader: NodeId,
    deadline: u64,
}

#[derive(Debug)]
struct Placed<P> {
    caller: P,
    index: u64,
    term: u64,
    deadline: u64,
}

impl<P> Placed<P> {
    fn position(&self) -> (u64, u64) {
        (self.index, self.term)
    }
}

impl<P> Proposals<P> {
    /// Requests to the leader are numbered from `first_request`.
    pub(super) fn new(first_request: u64) -> Self {
        Proposals {
            queued: Vec::new(),
            forwarded: BTreeMap::new(),
            placed: VecDeque::new(),
            busy_until: None,
            next_request: first_request,
        }
    }

    /// Whether nothing waits for the next Ready.
    pub(super) fn has_no_queue(&self) -> bool {
        self.queued.is_empty()
    }

    /// Whether nothing waits, nor has done of late: who proposes again and again is busy in between too.
    pub(super) fn is_idle(&self) -> bool {
        self.queued.is_empty() && self.busy_until.is_none()
    }

    /// Takes a proposal in; it goes on with the next Ready.
    pub(super) fn queue(&mut self, proposer: Proposer<P>, proposal: Proposal) {
        self.queued.push((proposer, proposal));
    }

    /// What was queued since the last call.
    pub(super) fn take_queued(&mut self) -> Vec<(Proposer<P>, Proposal)> {
        mem::take(&mut self.queued)
    }

    /// Remembers a proposal that goes to the leader; returns the request's number.
    pub(super) fn forward(&mut self, caller: P, leader: NodeId, deadline: u64) -> u64 {
        let request = self.next_request;
        self.next_request += 1;
        self.busy_until = self.busy_until.max(Some(deadline));
        self.forwarded.insert(request, Forwarded { caller, leader, deadline });
        request
    }

    /// The leader, `from`, appended a forwarded proposal at `at`; `handed` is the last index that
    /// this node has handed to its state machine. Gives the caller back when nothing can be said
    /// about the outcome any more: the answer came after that, or names a position that was given
    /// to another. An answer of a node that was not asked is none.
    #[must_use]
    pub(super) fn accepted(
        &mut self,
        from: NodeId,
        request: u64,
        at: LogId,
        handed: u64,
    ) -> Option<P> {
        let Forwarded { caller, deadline, .. } = self.forwarded_to(from, request)?.remove();
        if at.index <= handed || self.find(at).is_ok() {
            return Some(caller);
        }
        self.place(caller, at, deadline)
    }

    /// The leader, `from`, did not take a forwarded request; the caller, if it still waits.
    #[must_use]
    pub(super) fn refused(&mut self, from: NodeId, request: u64) -> Option<P> {
        self.forwarded_to(from, request).map(|forwarded| forwarded.remove().caller)
    }

    fn forwarded_to(
        &mut self,
        leader: NodeId,
        request: u64,
    ) -> Option<OccupiedEntry<'_, u64, Forwarded<P>>> {
        match self.forwarded.entry(request) {
            Entry::Occupied(forwarded) if forwarded.get().leader == leader => Some(forwarded),
            _ => None,
        }
    }

    /// Ends the wait for a forwarded request; the caller, if it still waits.
    #[must_use]
    pub(super) fn unforward(&mut self, request: u64) -> Option<P> {
        self.forwarded.remove(&request).map(|forwarded| forwarded.caller)
    }

    /// Remembers that a caller's command stands at `at`. A position is given once: whoever else
    /// waits for it was told so by a peer that cannot know, and is given back.
    #[must_use]
    pub(super) fn place(&mut self, caller: P, at: LogId, deadline: u64) -> Option<P> {
        self.busy_until = self.busy_until.max(Some(deadline));
        let placed = Placed { caller, index: at.index, term: at.term, deadline };
        match self.find(at) {
            Ok(found) => self.placed.get_mut(found).map(|old| mem::replace(old, placed).caller),
            Err(place) => {
                self.placed.insert(place, placed);
                None
            }
        }
    }

    /// Where the caller is that waits for `at`, or else would be: as a rule, behind all others.
    fn find(&self, at: LogId) -> Result<usize, usize> {
        let position = (at.index, at.term);
        match self.placed.back() {
            Some(last) if position <= last.position() => {
                self.placed.binary_search_by_key(&position, Placed::position)
            }
            _ => Err(self.placed.len()),
        }
    }

    /// The entry at `at` is committed. Returns the caller that waited for it, and those whose
    /// commands stood at the same index and are lost for ever.
    #[must_use]
    pub(super) fn committed(&mut self, at: LogId) -> (Option<P>, Vec<P>) {
        // An ordinary commit finds its own position first, or nothing at all.
        let mut own = None;
        let mut lost = Vec::new();
        while let Some(first) = self.placed.pop_front_if(|placed| placed.index <= at.index) {
            let Placed { caller, index, term, .. } = first;
            let is_own = (index, term) == (at.index, at.term);
            if is_own || (mutation::is(Bug::CallerByIndexOnly) && index == at.index) {
                own = Some(caller);
            } else {
                lost.push(caller);
            }
        }
        (own, lost)
    }

    /// A snapshot replaced everything up to `index`: what became of commands there is unknown.
    #[must_use]
    pub(super) fn overtaken(&mut self, index: u64) -> Vec<P> {
        let count = self.placed.partition_point(|placed| placed.index <= index);
        self.placed.drain(..count).map(|placed| placed.caller).collect()
    }

    /// The connection to `node` broke: whether it took what was forwarded to it is unknown.
    #[must_use]
    pub(super) fn disconnected(&mut self, node: NodeId) -> Vec<P> {
        let gone: Vec<u64> = self
            .forwarded
            .iter()
            .filter(|(_, forwarded)| forwarded.leader == node)
            .map(|(&request, _)| request)
            .collect();
        gone.into_iter().filter_map(|request| self.unforward(request)).collect()
    }

    /// Those whose time has run out by tick `now`.
    #[must_use]
    pub(super) fn expired(&mut self, now: u64) -> Vec<P> {
        self.busy_until = self.busy_until.filter(|until| *until > now);
        let requests = self.forwarded.extract_if(.., |_, forwarded| forwarded.deadline <= now);
        let mut expired: Vec<P> = requests.map(|(_, forwarded)| forwarded.caller).collect();
        let is_late = |placed: &Placed<P>| placed.deadline <= now;
        if self.placed.iter().any(is_late) {
            let (late, waiting): (VecDeque<_>, VecDeque<_>) =
                mem::take(&mut self.placed).into_iter().partition(is_late);
            self.placed = waiting;
            expired.extend(late.into_iter().map(|placed| placed.caller));
        }
        expired
    }

    /// Every caller that still waits: the group ends.
    #[must_use]
    pub(super) fn take_all(&mut self) -> Vec<P> {
        self.busy_until = None;
        let queued = self.take_queued().into_iter().filter_map(|(proposer, _)| match proposer {
            Proposer::Caller(caller) => Some(caller),
            Proposer::Peer { .. } => None,
        });
        let forwarded = mem::take(&mut self.forwarded).into_values().map(|f| f.caller);
        let placed = mem::take(&mut self.placed).into_iter().map(|placed| placed.caller);
        queued.chain(forwarded).chain(placed).collect()
    }
}

impl From<Refused> for ProposeError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NotLeader(leader) => ProposeError::NotLeader { leader },
            Refused::Overloaded => ProposeError::Overloaded,
            Refused::Unsound => ProposeError::Unsound,
            Refused::StorageFull => ProposeError::StorageFull,
        }
    }
}

#[cfg(test)]
#[allow(non_snake_case)]
mod tests {
    use super::*;

    fn at(index: u64, term: u64) -> LogId {
        LogId { index, term }
    }

    #[test]
    fn a_position_committed_with_another_term_loses_the_command() {
        let mut proposals = Proposals::new(1);
        assert_eq!(proposals.place("old", at(5, 1), 100), None);
        assert_eq!(proposals.place("new", at(5, 2), 100), None);
        assert_eq!(proposals.place("later", at(6, 2), 100), None);
        assert_eq!(proposals.committed(at(4, 1)), (None, vec![]));
        assert_eq!(proposals.committed(at(5, 2)), (Some("new"), vec!["old"]));
        assert_eq!(proposals.committed(at(6, 3)), (None, vec!["later"]));
        assert_eq!(proposals.take_all(), Vec::<&str>::new());
    }

    #[test]
    fn an_answer_after_the_commit_says_nothing_about_the_outcome() {
        let mut proposals = Proposals::new(1);
        let leader = NodeId::new(2).unwrap();
        let first = proposals.forward("first", leader, 10);
        let second = proposals.forward("second", leader, 10);
        assert_eq!(proposals.accepted(leader, first, at(7, 1), 7), Some("first"));
        assert_eq!(proposals.accepted(leader, second, at(8, 1), 7), None);
        assert_eq!(proposals.accepted(leader, second, at(9, 1), 7), None, "answered twice");
        assert_eq!(proposals.committed(at(8, 1)), (Some("second"), vec![]));
    }

    #[test]
    fn trap_R13_only_the_leader_that_was_asked_answers() {
        let mut proposals = Proposals::new(1);
        let (leader, other) = (NodeId::new(2).unwrap(), NodeId::new(3).unwrap());
        let request = proposals.forward("a", leader, 10);
        assert_eq!(proposals.accepted(other, request, at(7, 1), 0), None);
        assert_eq!(proposals.refused(other, request), None);
        assert_eq!(proposals.committed(at(7, 1)), (None, vec![]), "it was not placed");
        assert_eq!(proposals.refused(leader, request), Some("a"));
    }

    #[test]
    fn trap_R13_no_answer_gives_a_position_twice() {
        let mut proposals = Proposals::new(1);
        let leader = NodeId::new(2).unwrap();
        let first = proposals.forward("first", leader, 10);
        let second = proposals.forward("second", leader, 10);
        assert_eq!(proposals.accepted(leader, first, at(7, 1), 0), None);
        assert_eq!(proposals.accepted(leader, second, at(7, 1), 0), Some("second"));
        // Nor does it keep this node from giving it, once it leads.
        assert_eq!(proposals.place("own", at(7, 1), 10), Some("first"));
        assert_eq!(proposals.committed(at(7, 1)), (Some("own"), vec![]));
    }

    #[test]
    fn time_runs_out_once() {
        let mut proposals = Proposals::new(1);
        let leader = NodeId::new(2).unwrap();
        proposals.forward("forwarded", leader, 10);
        assert_eq!(proposals.place("placed", at(5, 1), 11), None);
        assert_eq!(proposals.expired(9), Vec::<&str>::new());
        assert_eq!(proposals.expired(10), vec!["forwarded"]);
        assert_eq!(proposals.expired(11), vec!["placed"]);
        assert_eq!(proposals.committed(at(5, 1)), (None, vec![]));
    }

    /// To see it fail: put each behind the last one.
    #[test]
    fn positions_that_come_out_of_order_go_in_order() {
        let mut proposals = Proposals::new(1);
        for (caller, index, term) in [("c", 7, 2), ("a", 5, 1), ("d", 9, 2), ("b", 5, 2)] {
            assert_eq!(proposals.place(caller, at(index, term), index), None);
        }
        assert_eq!(proposals.place("anew", at(5, 2), 20), Some("b"));
        assert_eq!(
            proposals.expired(7),
            vec!["a", "c"],
            "in the middle, and not what lies between"
        );
        assert_eq!(proposals.place("c", at(7, 2), 30), None);
        assert_eq!(proposals.committed(at(6, 2)), (None, vec!["anew"]));
        assert_eq!(proposals.committed(at(7, 2)), (Some("c"), vec![]));
        assert_eq!(proposals.overtaken(8), Vec::<&str>::new());
        assert_eq!(proposals.overtaken(9), vec!["d"]);
    }

    /// To see it fail: look only at what waits.
    #[test]
    fn who_has_proposed_of_late_is_not_idle() {
        let mut proposals = Proposals::new(1);
        assert!(proposals.is_idle());
        assert_eq!(proposals.place("a", at(5, 1), 10), None);
        assert_eq!(proposals.committed(at(5, 1)), (Some("a"), vec![]));
        assert!(!proposals.is_idle());
        assert_eq!(proposals.expired(9), Vec::<&str>::new());
        assert!(!proposals.is_idle());
        assert_eq!(proposals.expired(10), Vec::<&str>::new());
        assert!(proposals.is_idle());
    }

    #[test]
    fn a_snapshot_or_a_lost_connection_ends_the_wait() {
        let mut proposals = Proposals::new(1);
        let (two, three) = (NodeId::new(2).unwrap(), NodeId::new(3).unwrap());
        assert_eq!(proposals.place("below", at(5, 1), 10), None);
        assert_eq!(proposals.place("above", at(6, 1), 10), None);
        proposals.forward("two", two, 10);
        proposals.forward("three", three, 10);
        assert_eq!(proposals.overtaken(5), vec!["below"]);
        assert_eq!(proposals.disconnected(two), vec!["two"]);
        assert_eq!(proposals.take_all(), vec!["three", "above"]);
    }
}
