//! [`Reads`]: linearizable reads from their arrival to their one answer.

use std::collections::{BTreeMap, VecDeque};

use quorate_engine::NodeId;

/// Who waits for a read index.
#[derive(Debug, PartialEq)]
pub(super) enum Reader<R> {
    /// A caller on this node; it is answered once the index is applied here.
    Caller(R),
    /// A caller on another node, which waits for its own state machine.
    Peer { node: NodeId, request: u64 },
}

#[derive(Debug)]
pub(super) struct Waiting<R> {
    pub(super) reader: Reader<R>,
    deadline: u64,
}

/// Reads that wait: for somebody to ask, for a quorum's answer, or for the index to be applied.
///
/// raft-rs drops a read index silently when leadership or term is in doubt (trap R10). So every
/// round has a context of its own, a round without an answer is asked again, and everything
/// returns to the start when the role changes. Reads have no effect, so repeating is free.
#[derive(Debug)]
pub(super) struct Reads<R> {
    waiting: Vec<Waiting<R>>,
    /// Refused by a node that does not lead: asked again with the next tick. Asking at once would
    /// go back and forth without end between two nodes that take each other for the leader.
    put_off: Vec<Waiting<R>>,
    asked: VecDeque<Round<R>>,
    /// By the index that must be applied first.
    confirmed: BTreeMap<u64, Vec<Waiting<R>>>,
    next_context: u64,
}

#[derive(Debug)]
struct Round<R> {
    context: u64,
    /// The leader that was asked; `None` when this node leads, and raft-rs was.
    asked_of: Option<NodeId>,
    asked_at: u64,
    waiting: Vec<Waiting<R>>,
}

impl<R> Reads<R> {
    /// Rounds are numbered from `first_context`.
    pub(super) fn new(first_context: u64) -> Self {
        Reads {
            waiting: Vec::new(),
            put_off: Vec::new(),
            asked: VecDeque::new(),
            confirmed: BTreeMap::new(),
            next_context: first_context,
        }
    }

    /// Whether nothing waits to be asked for.
    pub(super) fn has_no_queue(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether nothing waits.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
            && self.put_off.is_empty()
            && self.asked.is_empty()
            && self.confirmed.is_empty()
    }

    /// Takes a read in.
    pub(super) fn queue(&mut self, reader: Reader<R>, deadline: u64) {
        self.waiting.push(Waiting { reader, deadline });
    }

    /// Starts a round for all that wait and belong to `belongs`; `None` when there are none. Its
    /// answer counts only from `asked_of`, where that is given, and otherwise only from raft-rs.
    pub(super) fn start_round(
        &mut self,
        now: u64,
        asked_of: Option<NodeId>,
        belongs: impl Fn(&Reader<R>) -> bool,
    ) -> Option<u64> {
        let waiting: Vec<_> = self.waiting.extract_if(.., |w| belongs(&w.reader)).collect();
        if waiting.is_empty() {
            return None;
        }
        let context = self.next_context;
        self.next_context += 1;
        self.asked.push_back(Round { context, asked_of, asked_at: now, waiting });
        Some(context)
    }

    /// Takes the peers that wait although this node cannot serve them.
    pub(super) fn take_peers(&mut self) -> Vec<(NodeId, u64)> {
        let peers = self.waiting.extract_if(.., |w| matches!(w.reader, Reader::Peer { .. }));
        peers
            .filter_map(|w| match w.reader {
                Reader::Peer { node, request } => Some((node, request)),
                Reader::Caller(_) => None,
            })
            .collect()
    }

    /// A round was answered. Returns the peers to tell; callers wait for the index to be applied.
    pub(super) fn confirmed(
        &mut self,
        by: Option<NodeId>,
        context: u64,
        index: u64,
    ) -> Vec<(NodeId, u64)> {
        let Some(place) = self.place(by, context) else { return Vec::new() };
        let mut peers = Vec::new();
        let round = self.asked.remove(place);
        for waiting in round.into_iter().flat_map(|round| round.waiting) {
            match waiting.reader {
                Reader::Peer { node, request } => peers.push((node, request)),
                Reader::Caller(_) => self.confirmed.entry(index).or_default().push(waiting),
            }
        }
        peers
    }

    /// A round was refused: it is asked again, but not at once.
    pub(super) fn refused(&mut self, by: NodeId, context: u64) {
        if let Some(place) = self.place(Some(by), context)
            && let Some(round) = self.asked.remove(place)
        {
            self.put_off.extend(round.waiting);
        }
    }

    fn place(&self, asked_of: Option<NodeId>, context: u64) -> Option<usize> {
        self.asked.iter().position(|r| (r.asked_of, r.context) == (asked_of, context))
    }

    /// Leadership or term changed: every open round is void.
    pub(super) fn restart(&mut self) {
        for round in self.asked.drain(..) {
            self.waiting.extend(round.waiting);
        }
    }

    /// Callers whose index is applied, each with that index.
    #[must_use]
    pub(super) fn applied(&mut self, applied: u64) -> Vec<(R, u64)> {
        let mut answers = Vec::new();
        while let Some(first) = self.confirmed.first_entry() {
            let index = *first.key();
            if index > applied {
                break;
            }
            answers.extend(first.remove().into_iter().filter_map(|w| match w.reader {
                Reader::Caller(caller) => Some((caller, index)),
                Reader::Peer { .. } => None,
            }));
        }
        answers
    }

    /// Time passes: rounds without an answer for `patience` ticks are asked again, and callers
    /// whose time has run out are returned.
    #[must_use]
    pub(super) fn tick(&mut self, now: u64, patience: u64) -> Vec<R> {
        self.waiting.append(&mut self.put_off);
        while let Some(round) = self.asked.pop_front_if(|r| r.asked_at + patience <= now) {
            self.waiting.extend(round.waiting);
        }
        let rounds = self.asked.iter_mut().map(|round| &mut round.waiting);
        let places =
            rounds.chain(self.confirmed.values_mut()).chain(std::iter::once(&mut self.waiting));
        let late = places.flat_map(|waiting| waiting.extract_if(.., |w| w.deadline <= now));
        let expired = late.filter_map(|w| w.reader.caller()).collect();
        self.confirmed.retain(|_, waiting| !waiting.is_empty());
        expired
    }

    /// Every caller that still waits: the group ends.
    #[must_use]
    pub(super) fn take_all(&mut self) -> Vec<R> {
        self.restart();
        self.waiting.append(&mut self.put_off);
        let confirmed = std::mem::take(&mut self.confirmed).into_values().flatten();
        let waiting = std::mem::take(&mut self.waiting);
        waiting.into_iter().chain(confirmed).filter_map(|w| w.reader.caller()).collect()
    }
}

impl<R> Reader<R> {
    fn caller(self) -> Option<R> {
        match self {
            Reader::Caller(caller) => Some(caller),
            Reader::Peer { .. } => None,
        }
    }
}

#[cfg(test)]
#[allow(non_snake_case)]
mod tests {
    use super::*;

    fn everyone<R>(_: &Reader<R>) -> bool {
        true
    }

    #[test]
    fn trap_R10_a_round_that_was_dropped_is_asked_again_with_a_context_of_its_own() {
        let mut reads = Reads::new(1);
        reads.queue(Reader::Caller("a"), 100);
        let first = reads.start_round(0, None, everyone).unwrap();
        assert_eq!(reads.start_round(0, None, everyone), None, "nobody is left to ask for");
        assert_eq!(reads.tick(9, 10), Vec::<&str>::new());
        assert_eq!(reads.start_round(9, None, everyone), None);
        assert_eq!(reads.tick(10, 10), Vec::<&str>::new());
        let second = reads.start_round(10, None, everyone).unwrap();
        assert_ne!(first, second);
        assert_eq!(reads.confirmed(None, first, 7), vec![], "a late answer to the first round");
        assert_eq!(reads.applied(7), vec![]);
        assert_eq!(reads.confirmed(None, second, 8), vec![]);
        assert_eq!(reads.applied(7), vec![]);
        assert_eq!(reads.applied(8), vec![("a", 8)]);
    }

    #[test]
    fn reads_start_again_when_the_role_changes_and_time_runs_out_once() {
        let mut reads = Reads::new(1);
        reads.queue(Reader::Caller("a"), 5);
        let peer = Reader::Peer { node: NodeId::new(2).unwrap(), request: 9 };
        reads.queue(peer, 5);
        reads.start_round(0, None, everyone).unwrap();
        reads.restart();
        assert_eq!(reads.take_peers(), vec![(NodeId::new(2).unwrap(), 9)]);
        let round = reads.start_round(1, None, everyone).unwrap();
        assert_eq!(reads.tick(5, 10), vec!["a"]);
        assert_eq!(reads.confirmed(None, round, 3), vec![]);
        assert_eq!(reads.applied(3), vec![]);
        assert_eq!(reads.take_all(), Vec::<&str>::new());
    }

    #[test]
    fn a_refused_round_is_not_asked_again_before_the_next_tick() {
        let mut reads = Reads::new(1);
        let two = NodeId::new(2).unwrap();
        reads.queue(Reader::Caller("a"), 50);
        let round = reads.start_round(0, Some(two), everyone).unwrap();
        reads.refused(two, round);
        assert_eq!(reads.start_round(0, Some(two), everyone), None);
        assert_eq!(reads.tick(1, 10), Vec::<&str>::new());
        let again = reads.start_round(1, Some(two), everyone).unwrap();
        assert_ne!(again, round);
        reads.refused(two, again);
        assert_eq!(reads.take_all(), vec!["a"]);
    }

    #[test]
    fn trap_R13_only_who_was_asked_answers_a_round() {
        let (two, three) = (NodeId::new(2), NodeId::new(3).unwrap());
        let mut reads = Reads::new(1);
        reads.queue(Reader::Caller("a"), 50);
        let round = reads.start_round(0, two, everyone).unwrap();
        reads.confirmed(Some(three), round, 0);
        reads.confirmed(None, round, 0);
        reads.refused(three, round);
        assert_eq!(reads.applied(9), vec![]);
        reads.confirmed(two, round, 7);
        assert_eq!(reads.applied(9), vec![("a", 7)]);
        // Nor does a peer stand for the quorum that raft-rs asks.
        reads.queue(Reader::Caller("b"), 50);
        let round = reads.start_round(0, None, everyone).unwrap();
        reads.confirmed(two, round, 0);
        assert_eq!(reads.applied(9), vec![]);
    }

    #[test]
    fn peers_are_told_at_once_and_callers_when_it_is_applied() {
        let mut reads = Reads::new(1);
        let two = NodeId::new(2).unwrap();
        reads.queue(Reader::Caller("a"), 50);
        reads.queue(Reader::Peer { node: two, request: 4 }, 50);
        let round = reads.start_round(0, None, everyone).unwrap();
        assert_eq!(reads.confirmed(None, round, 6), vec![(two, 4)]);
        assert_eq!(reads.applied(6), vec![("a", 6)]);
    }
}
