//! [`Storm`]: one group's life under forged messages, and what becomes of it after.

use std::collections::BTreeMap;

use quorate_engine::{LogId, NodeId};
use quorate_loop::{Input, PeerMessage, Role, fuzz};
use raft::eraftpb::{Message, MessageType};

use super::forge::{Addressed, Forge, mangle};
use super::group::Group;
use super::oracle::Lies;
use super::source::Source;
use super::{FuzzError, Kind};

/// A node of the same cluster that is no member of the group.
const STRANGER: u64 = 9;
/// Ticks within which a group that is left alone elects and commits; each tick of the storm may
/// have taken a term so far that the others need some ticks to follow.
const RECOVERY_TICKS: u64 = 200;

/// What came of one storm.
#[derive(Debug, Default)]
pub(super) struct Weather {
    pub(super) messages: u64,
    /// How many there may be.
    messages_max: u64,
    pub(super) frames: u64,
    pub(super) refused_frames: u64,
    pub(super) kinds: BTreeMap<String, Kind>,
    pub(super) ticks: u64,
    /// What was forged last.
    pub(super) last: Option<(u64, u64, PeerMessage)>,
}

/// A group, and the decisions that it lives by.
pub(super) struct Storm<'a> {
    source: Source<'a>,
    liar: u64,
    /// Whether the liar leaves leaders alone, and for how many messages more it stays at that.
    mood: (bool, u64),
    pub(super) group: Group,
}

impl<'a> Storm<'a> {
    pub(super) fn new(mut source: Source<'a>) -> Result<Self, FuzzError> {
        let lies = match source.below(4) {
            0 | 1 => Lies::Acknowledgements,
            2 => Lies::Anything,
            _ => Lies::Everybody,
        };
        let liar = 1 + source.below(3);
        let group = Group::new(source.number(), lies, liar)?;
        Ok(Storm { source, liar, mood: (false, 0), group })
    }

    /// Forges `messages`, or as many as there are decisions for.
    pub(super) fn rage(&mut self, messages: u64, weather: &mut Weather) -> Result<(), FuzzError> {
        weather.messages_max = messages;
        self.calm_election()?;
        while weather.messages < messages && !self.source.is_spent() {
            self.forge(weather)?;
            self.live(weather)?;
            if self.group.oracle.violations > 0 {
                break;
            }
        }
        Ok(())
    }

    /// A leader, so that there is something to lie to.
    fn calm_election(&mut self) -> Result<(), FuzzError> {
        for _ in 0..30 {
            if self.group.nodes.values().any(|node| node.seen.role == Role::Leader) {
                break;
            }
            self.tick_all()?;
        }
        Ok(())
    }

    fn tick_all(&mut self) -> Result<(), FuzzError> {
        for id in 1..=3 {
            self.group.act(id, Input::Tick)?;
        }
        self.group.settle()
    }

    /// Forges one message, or the bytes of one.
    fn forge(&mut self, weather: &mut Weather) -> Result<(), FuzzError> {
        let from = match self.group.oracle.lies {
            Lies::Everybody => 1 + self.source.below(3),
            _ if self.source.chance(4) => STRANGER,
            _ => self.liar,
        };
        let to = self.victim(from);
        let Some(target) = self.group.nodes.get(&to).map(|node| node.seen) else { return Ok(()) };
        self.mood = match self.mood {
            (_, 0) => (self.source.chance(75), self.source.below(256)),
            (is_gentle, left) => (is_gentle, left - 1),
        };
        let is_gentle = self.mood.0;
        let addressed = Addressed { from, to, target, is_gentle };
        let (pool, requests) = (&self.group.pool, &self.group.requests);
        let mut forge = Forge { source: &mut self.source, pool, requests, addressed };
        match forge.source.below(64) {
            0 => {
                let message = forge.snapshot();
                self.inject_snapshot(addressed, message, weather)
            }
            1..=7 => {
                let mut frame = match forge.source.chance(30) {
                    true => {
                        let examples = fuzz::examples();
                        forge.source.one_of(&examples).cloned().unwrap_or_default()
                    }
                    false => fuzz::frame_of(forge.message()).unwrap_or_default(),
                };
                mangle(&mut self.source, &mut frame);
                self.arrive(addressed, &frame, weather)
            }
            8 => self.ambush(addressed, weather),
            _ => {
                let message = forge.message();
                self.inject(addressed, message, weather)
            }
        }
    }

    /// Lies that harm only one after the other.
    fn ambush(&mut self, addressed: Addressed, weather: &mut Weather) -> Result<(), FuzzError> {
        let Addressed { from, to, target, .. } = addressed;
        let answers: Vec<PeerMessage> = match self.source.below(2) {
            // The victim is told to campaign over entries that it has not synced, and has won
            // before it could ask.
            0 => {
                for peer in 1..=3 {
                    self.group.deliver(peer, to)?;
                }
                let say = |kind: MessageType, term: u64| {
                    let mut message = Message { from, to, term, ..Message::default() };
                    message.set_msg_type(kind);
                    PeerMessage::Raft(message)
                };
                let next = target.term.saturating_add(1);
                vec![
                    say(MessageType::MsgTimeoutNow, target.term),
                    say(MessageType::MsgRequestVoteResponse, next),
                ]
            }
            // What it asked of its leader is given a position that is given already.
            _ => {
                self.group.propose(to, 0)?;
                self.group.propose(to, 1)?;
                let at = LogId { index: target.last.saturating_add(1), term: target.term };
                let asked = self.group.requests.iter().rev().take(4);
                asked.map(|&request| PeerMessage::Proposed { request, result: Ok(at) }).collect()
            }
        };
        let leader = target.leader.map_or(from, NodeId::get);
        let from = if self.group.oracle.lies == Lies::Everybody { leader } else { from };
        for message in answers {
            let addressed = match &message {
                PeerMessage::Raft(_) => addressed,
                _ => Addressed { from, ..addressed },
            };
            self.inject(addressed, message, weather)?;
        }
        Ok(())
    }

    /// Mostly not the liar itself.
    fn victim(&mut self, from: u64) -> u64 {
        let other = 1 + self.source.below(2);
        let to = if other >= from { other + 1 } else { other };
        if to > 3 { 1 + self.source.below(3) } else { to }
    }

    fn arrive(
        &mut self,
        addressed: Addressed,
        bytes: &[u8],
        weather: &mut Weather,
    ) -> Result<(), FuzzError> {
        let arrival = fuzz::arrive(bytes);
        weather.frames += arrival.frames;
        weather.refused_frames += u64::from(arrival.refused.is_some());
        if let Some(wrong) = arrival.wrong {
            self.group.oracle.violated(wrong);
        }
        if arrival.messages.is_empty() && arrival.snapshots.is_empty() {
            weather.messages += 1;
        }
        for message in arrival.messages {
            self.inject(addressed, message, weather)?;
        }
        for message in arrival.snapshots {
            self.inject_snapshot(addressed, message, weather)?;
        }
        Ok(())
    }

    /// Whether this storm tells that lie. Nobody may speak for another node's member; for one that
    /// the receiver has never heard of, whoever may know later members than it does.
    fn may_forge(&self, addressed: Addressed, message: &Message) -> bool {
        let is_known = message.from <= 3;
        let is_refused = is_known && message.from != addressed.from;
        let term = addressed.target.term;
        self.group.oracle.may_forge(message, term, is_refused)
    }

    fn inject(
        &mut self,
        addressed: Addressed,
        message: PeerMessage,
        weather: &mut Weather,
    ) -> Result<(), FuzzError> {
        let Some(from) = NodeId::new(addressed.from) else { return Ok(()) };
        if weather.messages == weather.messages_max {
            return Ok(());
        }
        // A frame may have brought several, and the receiver may have moved on.
        let Some(target) = self.group.nodes.get(&addressed.to).map(|node| node.seen) else {
            return Ok(());
        };
        let addressed = Addressed { target, ..addressed };
        if let PeerMessage::Raft(raft) = &message
            && !self.may_forge(addressed, raft)
        {
            return Ok(());
        }
        let name = name_of(&message);
        weather.last = Some((addressed.from, addressed.to, message.clone()));
        let passed = self.group.step(addressed.to, Input::Peer { from, message }, true);
        weather.count(name, passed);
        // Several messages may share one Ready.
        if self.source.chance(80) { self.group.turn(addressed.to) } else { Ok(()) }
    }

    fn inject_snapshot(
        &mut self,
        addressed: Addressed,
        message: Message,
        weather: &mut Weather,
    ) -> Result<(), FuzzError> {
        let Some(from) = NodeId::new(addressed.from) else { return Ok(()) };
        if weather.messages == weather.messages_max || !self.may_forge(addressed, &message) {
            return Ok(());
        }
        weather.last = Some((addressed.from, addressed.to, PeerMessage::Raft(message.clone())));
        let passed = self.group.forged_snapshot(from, addressed.to, message)?;
        weather.count("SnapshotReceived".to_owned(), passed);
        self.group.turn(addressed.to)
    }

    /// The group goes on with its own life.
    fn live(&mut self, weather: &mut Weather) -> Result<(), FuzzError> {
        let id = 1 + self.source.below(3);
        match self.source.below(128) {
            0..=31 => {
                let to = 1 + self.source.below(3);
                for _ in 0..4 {
                    if !self.group.deliver(id, to)? {
                        break;
                    }
                }
                Ok(())
            }
            32..=39 => self.group.sync(id),
            40..=43 => {
                weather.ticks += 1;
                self.group.act(id, Input::Tick)
            }
            44..=51 => {
                let padding = self.source.below(64) as usize;
                self.group.propose(id, padding).map(|_| ())
            }
            52 => self.group.read(id),
            53 | 54 => {
                weather.ticks += 1;
                self.tick_all()
            }
            55 | 56 => self.group.settle(),
            57 => self.rarely(id),
            _ => Ok(()),
        }
    }

    fn rarely(&mut self, id: u64) -> Result<(), FuzzError> {
        for down in self.group.down() {
            self.group.start(down)?;
        }
        match self.source.below(16) {
            0..=3 => self.group.take_snapshot(id),
            4 => {
                self.group.kill(id);
                if self.source.chance(50) { self.group.start(id) } else { Ok(()) }
            }
            5 | 6 => self.group.act(id, Input::TransferLeader { to: None }),
            7 => {
                let full = self.group.nodes.get(&id).is_some_and(|node| !node.writes.is_empty());
                if full { self.group.act(id, Input::StorageFull) } else { Ok(()) }
            }
            8 => self.group.act(id, Input::CompactionWanted),
            9 | 10 => match NodeId::new(1 + id % 3) {
                Some(node) => self.group.act(id, Input::Unreachable(node)),
                None => Ok(()),
            },
            11 => match NodeId::new(1 + id % 3) {
                Some(node) => self.group.act(id, Input::Gone(node)),
                None => Ok(()),
            },
            12 => self.group.act(id, Input::Campaign),
            _ => Ok(()),
        }
    }

    /// The liar falls silent: the group elects, and commits.
    pub(super) fn calm(&mut self, weather: &Weather) -> Result<(), FuzzError> {
        for id in self.group.down() {
            self.group.start(id)?;
        }
        let patience = RECOVERY_TICKS + 2 * weather.ticks;
        let mut asked: Vec<u64> = Vec::new();
        for tick in 0..patience {
            self.tick_all()?;
            if self.group.oracle.violations > 0 {
                return Ok(());
            }
            if asked.iter().any(|caller| self.group.oracle.was_told(*caller)) {
                return Ok(());
            }
            for id in self.group.down() {
                self.group.start(id)?;
            }
            if tick % 5 == 0 {
                let leads = |node: &super::node::Node| node.seen.role == Role::Leader;
                let leaders: Vec<u64> = self
                    .group
                    .nodes
                    .iter()
                    .filter_map(|(id, node)| leads(node).then_some(*id))
                    .collect();
                for leader in leaders {
                    asked.push(self.group.propose(leader, 0)?);
                }
            }
        }
        let nodes: Vec<_> = self.group.nodes.iter().map(|(id, node)| (id, node.seen)).collect();
        // Two nodes hold different entries for committed, and each refuses the other's for ever. A
        // leader there is, unless they do not even agree on who has a vote.
        let oracle = &self.group.oracle;
        if oracle.reconfigured || (!asked.is_empty() && oracle.forked) {
            return Ok(());
        }
        let text = format!("no command is committed {patience} ticks after the storm: {nodes:?}");
        self.group.oracle.violated(text);
        Ok(())
    }
}

impl Weather {
    fn count(&mut self, name: String, passed: bool) {
        self.messages += 1;
        let kind = self.kinds.entry(name).or_default();
        kind.forged += 1;
        kind.admitted += u64::from(passed);
    }
}

fn name_of(message: &PeerMessage) -> String {
    match message {
        PeerMessage::Raft(message) => format!("{:?}", message.get_msg_type()),
        PeerMessage::Propose { .. } => "Propose".to_owned(),
        PeerMessage::Proposed { .. } => "Proposed".to_owned(),
        PeerMessage::ReadIndex { .. } => "ReadIndex".to_owned(),
        PeerMessage::ReadIndexed { .. } => "ReadIndexed".to_owned(),
    }
}
