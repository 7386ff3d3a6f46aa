//! [`Heartbeats`]: the heartbeats of all groups, gathered for the round in which they arise.

use std::collections::BTreeMap;

use quorate_engine::{GroupId, NodeId};
use raft::eraftpb::MessageType;

use crate::core::Input;
use crate::frame::Frame;
use crate::heartbeat::{HEARTBEATS_PER_FRAME, Heartbeat};
use crate::message::{Envelope, PeerMessage};
use crate::transport::Transport;

/// A heartbeat or the answer to one, and who says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) from: NodeId,
    /// `MsgHeartbeat` or `MsgHeartbeatResponse`.
    pub(crate) kind: MessageType,
    pub(crate) beat: Heartbeat,
}

impl Heard {
    /// As the core takes it in.
    pub(crate) fn input<P, R, M>(&self) -> Input<P, R, M> {
        let message = self.beat.clone().into_message(self.kind);
        Input::Peer { from: self.from, message: PeerMessage::Raft(message) }
    }
}

/// What waits for the end of the round, by peer.
///
/// Heartbeats and their answers may be late, lost, and overtaken by whatever else a group says, as
/// any message of Raft may. So one that cannot be sent is dropped: that a link is down, each group
/// is told anyway.
#[derive(Debug, Default)]
pub(crate) struct Heartbeats {
    beats: Waiting,
    answers: Waiting,
}

/// Heartbeats, or answers, by whom they are for.
pub(crate) type Waiting = BTreeMap<NodeId, Vec<Heartbeat>>;

impl Heartbeats {
    /// Takes the message in, or gives it back when it says more than a heartbeat.
    pub(crate) fn gather(&mut self, group: GroupId, envelope: Envelope) -> Option<Envelope> {
        let PeerMessage::Raft(message) = &envelope.message else { return Some(envelope) };
        let waiting = match message.get_msg_type() {
            MessageType::MsgHeartbeat => &mut self.beats,
            MessageType::MsgHeartbeatResponse => &mut self.answers,
            _ => return Some(envelope),
        };
        let Some(beat) = Heartbeat::of(group, message) else { return Some(envelope) };
        waiting.entry(envelope.to).or_default().push(beat);
        None
    }

    /// Takes a beat in.
    pub(crate) fn beat(&mut self, to: NodeId, beat: Heartbeat) {
        self.beats.entry(to).or_default().push(beat);
    }

    /// Takes the answer to a beat in.
    pub(crate) fn answer(&mut self, to: NodeId, answer: Heartbeat) {
        self.answers.entry(to).or_default().push(answer);
    }

    /// Sends all that waits.
    pub(crate) fn send(&mut self, transport: &Transport) {
        let (beats, answers) = self.take();
        for (to, beats) in beats {
            send(transport, to, beats, Frame::Heartbeats);
        }
        for (to, answers) in answers {
            send(transport, to, answers, Frame::HeartbeatAnswers);
        }
    }

    /// The beats and the answers that wait.
    pub(crate) fn take(&mut self) -> (Waiting, Waiting) {
        (std::mem::take(&mut self.beats), std::mem::take(&mut self.answers))
    }
}

fn send(
    transport: &Transport,
    to: NodeId,
    mut beats: Vec<Heartbeat>,
    frame: impl Fn(Vec<Heartbeat>) -> Frame,
) {
    while beats.len() > HEARTBEATS_PER_FRAME {
        let rest = beats.split_off(HEARTBEATS_PER_FRAME);
        let _ = transport.put(to, frame(std::mem::replace(&mut beats, rest)));
    }
    let _ = transport.put(to, frame(beats));
}
