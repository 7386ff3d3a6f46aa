//! [`Safety`]: what must be true whatever happens, looked at after every event.
//!
//! | check | where |
//! | --- | --- |
//! | one leader a term | [`Safety::look`] |
//! | a new leader holds all that was ever committed | [`Safety::look`] |
//! | term, commit and applied never go back while a process runs | [`Safety::look`] |
//! | (term, vote) of a directory never goes back, crashes included | [`Safety::wrote`] |
//! | log matching: an index and a term are one entry with one predecessor | [`Safety::wrote`] |
//! | no vote, term or acknowledgement leaves a node that its disk does not hold | [`Safety::left`] |
//! | what is committed at an index is the same everywhere, for ever | [`Safety::applied`] |
//! | equal state behind equal index | [`Safety::state_is`] |
//! | the rules of the metadata, in each state and from each to the next | [`Safety::state_is`] |
//! | a command of a session is applied once, and every try is told the same | [`Safety::ran`] |
//! | every caller is answered once | [`Safety::asked`], [`Safety::answered`] |
//! | proposals and reads are linearizable | [`Safety::told`] |
//!

use std::collections::BTreeMap;

use quorate_engine::{GroupWrite, LogId};
use quorate_statemachine::{Image as _, Metadata, MetadataImage, StateHash, StateMachine as _};
use raft::eraftpb::{Message, MessageType};

use super::linear::{Floor, Linear};
use super::process::{Process, Seen};
use crate::record::{LogRecord, hash_of};

/// Violations that are told one by one.
const TOLD_MAX: usize = 8;
/// States that are kept to be compared with the next, by index.
const STATES_KEPT: usize = 64;

/// What somebody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    /// On which node.
    pub(super) node: u64,
    /// What it asked after.
    pub(super) floor: Floor,
}

/// What was seen so far.
#[derive(Default)]
pub(super) struct Safety {
    leaders: BTreeMap<u64, u64>,
    /// By directory.
    ballots: BTreeMap<[u8; 16], (u64, u64)>,
    /// By index and term: the hash of the entry, and the term of the one before it, where known.
    entries: BTreeMap<(u64, u64), (u64, Option<u64>)>,
    /// By index: term and hash of what was applied there.
    committed: BTreeMap<u64, (u64, u64)>,
    /// By the term of whoever first applied it, the last of them: it was committed by then.
    committed_in: BTreeMap<u64, u64>,
    states: BTreeMap<u64, (StateHash, MetadataImage)>,
    /// By session and sequence: where it was applied.
    runs: BTreeMap<(u64, u64), u64>,
    waiting: BTreeMap<u64, Asked>,
    linear: Linear,
    pub(super) violations: u64,
    pub(super) first: Vec<String>,
}

impl Safety {
    /// Something is not as it must be.
    pub(super) fn violated(&mut self, what: String) {
        self.violations += 1;
        if self.first.len() < TOLD_MAX {
            self.first.push(what);
        }
    }

    /// Compares a node with what it was.
    pub(super) fn look(&mut self, id: u64, process: &mut Process, now: Seen) {
        let seen = std::mem::replace(&mut process.seen, now);
        if now == seen {
            return;
        }
        if now.term < seen.term || now.commit < seen.commit || now.applied < seen.applied {
            self.violated(format!("node {id} went back from {seen:?} to {now:?}"));
        }
        if now.commit > now.last || now.applied > now.commit {
            self.violated(format!("node {id} is ahead of itself: {now:?}"));
        }
        if now.leads && (!seen.leads || now.term != seen.term) {
            let first = *self.leaders.entry(now.term).or_insert(id);
            if first != id {
                self.violated(format!("nodes {first} and {id} lead in term {}", now.term));
            }
            self.is_complete(id, now.term, &process.log);
        }
    }

    /// A leader holds what was committed in the terms before its own. (One that learns late that it was
    /// elected may lack what a later one has committed.)
    fn is_complete(&mut self, id: u64, term: u64, log: &LogRecord) {
        let before = self.committed_in.range(..term).map(|(_, index)| *index).max();
        let Some((index, committed)) =
            before.and_then(|index| Some((index, *self.committed.get(&index)?)))
        else {
            return;
        };
        let is_another = |(term, _): (u64, u64)| term != committed.0;
        let lacks = log.last.index < index || log.at(index).is_some_and(is_another);
        if lacks {
            let last = log.last;
            self.violated(format!(
                "leader {id} lacks entry {index}, which is committed; its log ends at {last}"
            ));
        }
    }

    /// A directory holds another write.
    pub(super) fn wrote(&mut self, id: u64, directory: [u8; 16], write: &GroupWrite) {
        let hard_state = &write.record.hard_state;
        let ballot = (hard_state.term, hard_state.vote);
        let before = self.ballots.insert(directory, ballot).unwrap_or_default();
        let is_changed = before.0 == ballot.0 && before.1 != 0 && before.1 != ballot.1;
        if ballot.0 < before.0 || is_changed {
            self.violated(format!("node {id} had (term, vote) {before:?}, and writes {ballot:?}"));
        }
        let mut previous = None;
        for entry in &write.entries {
            let now = (hash_of(&entry.data), previous);
            let known = self.entries.entry((entry.index, entry.term)).or_insert(now);
            let same =
                known.0 == now.0 && (known.1.is_none() || now.1.is_none() || known.1 == now.1);
            known.1 = known.1.or(now.1);
            if !same {
                self.violated(format!(
                    "node {id} writes another entry {}-{} than there is",
                    entry.index, entry.term
                ));
            }
            previous = Some(entry.term);
        }
    }

    /// A message leaves a node whose disk holds this much.
    pub(super) fn left(&mut self, id: u64, durable: &LogRecord, message: &Message) {
        let kind = message.get_msg_type();
        let hard_state = &durable.hard_state;
        let speaks_of_the_next_term =
            matches!(kind, MessageType::MsgRequestPreVote | MessageType::MsgRequestPreVoteResponse);
        if message.term > hard_state.term && !speaks_of_the_next_term {
            self.violated(format!("node {id} says {kind:?} before its term is durable"));
        }
        if message.reject || message.term != hard_state.term {
            return;
        }
        match kind {
            MessageType::MsgRequestVoteResponse if hard_state.vote != message.to => {
                self.violated(format!("node {id} votes for {} before it is durable", message.to));
            }
            MessageType::MsgAppendResponse if message.index > durable.last.index => {
                self.violated(format!(
                    "node {id} acknowledges {} while its disk ends at {}",
                    message.index, durable.last
                ));
            }
            _ => {}
        }
    }

    /// A node whose term is `term` applies an entry.
    pub(super) fn applied(&mut self, id: u64, term: u64, at: LogId, hash: u64) {
        if !self.committed.contains_key(&at.index) {
            self.committed_in.insert(term, at.index);
        }
        let first = *self.committed.entry(at.index).or_insert((at.term, hash));
        if first != (at.term, hash) {
            self.violated(format!("node {id} applies something else at {at}"));
        }
    }

    /// The highest index that was applied anywhere.
    pub(super) fn last_committed(&self) -> u64 {
        self.committed.last_key_value().map_or(1, |(index, _)| *index)
    }

    /// A node is at `index` with this state.
    pub(super) fn state_is(&mut self, id: u64, index: u64, state: &Metadata) {
        let image = state.image();
        let hash = image.state_hash();
        if let Some((known, _)) = self.states.get(&index) {
            if *known != hash {
                self.violated(format!("node {id} has another state at {index}"));
            }
            return;
        }
        if let Err(violation) = image.check() {
            self.violated(format!("node {id} at {index}: {violation}"));
        }
        let before = self.states.range(..index).next_back();
        if let Some(Err(violation)) = before.map(|(_, (_, before))| before.check_step(&image)) {
            self.violated(format!("node {id} comes to {index}: {violation}"));
        }
        self.states.insert(index, (hash, image));
        while self.states.len() > STATES_KEPT {
            self.states.pop_first();
        }
    }

    /// A command of a session was applied, or found applied, at `index`.
    pub(super) fn ran(&mut self, id: u64, command: (u64, u64), index: u64) {
        let first = *self.runs.entry(command).or_insert(index);
        if first != index {
            self.violated(format!(
                "node {id} says that command {command:?} ran at {index}: it did at {first}"
            ));
        }
    }

    /// Somebody asks on a node; `first` where that is not the first try.
    pub(super) fn asked(&mut self, node: u64, caller: u64, first: Option<Asked>) -> Asked {
        let floor = first.map_or_else(|| self.linear.asked(), |first| first.floor);
        let asked = Asked { node, floor };
        self.waiting.insert(caller, asked);
        asked
    }

    /// A caller has its answer; what it was promised.
    pub(super) fn answered(&mut self, caller: u64) -> Option<Asked> {
        let asked = self.waiting.remove(&caller);
        if asked.is_none() {
            self.violated(format!("caller {caller} was answered twice"));
        }
        asked
    }

    /// Whoever waited on a node that has ended waits no more.
    pub(super) fn ended(&mut self, node: u64) -> Vec<u64> {
        let gone = self.waiting.extract_if(.., |_, asked| asked.node == node);
        gone.map(|(caller, _)| caller).collect()
    }

    /// A caller is told of `index`: of its own command, or of what it reads.
    pub(super) fn told(&mut self, asked: Asked, index: u64, is_read: bool) {
        if !self.linear.told(asked.floor, index, is_read) {
            let what = if is_read { "reads" } else { "writes" };
            let Asked { node, floor } = asked;
            self.violated(format!("node {node} {what} {index} for one who asked after {floor:?}"));
        }
    }
}
