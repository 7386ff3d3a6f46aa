//! Raft's messages on their way in: what the core asks the guard, and what it makes of the answer.

use std::collections::VecDeque;

use quorate_engine::NodeId;
use raft::eraftpb::{Message, MessageType};

use super::Core;
use crate::drops::DropCause;
use crate::guard::{self, TERM_JUMP_MAX, View};
use crate::members::Member;

/// Members that are remembered although they are not known: more than could lead or campaign
/// before a node that lags learns of them.
const STRANGERS_MAX: usize = 64;

/// The nodes that spoke last for members which are not known here yet: they are answered all the
/// same, or a node that has missed every change of the membership would never learn of one.
///
/// The latest count, so that no peer that made some up keeps the others from being heard.
#[derive(Debug, Default)]
pub(super) struct Strangers(VecDeque<(u64, NodeId)>);

impl Strangers {
    fn heard(&mut self, member: u64, node: NodeId) {
        if self.0.back() == Some(&(member, node)) {
            return;
        }
        self.0.retain(|(known, _)| *known != member);
        if self.0.len() == STRANGERS_MAX {
            self.0.pop_front();
        }
        self.0.push_back((member, node));
    }

    fn node_of(&self, member: u64) -> Option<NodeId> {
        self.0.iter().find(|(known, _)| *known == member).map(|(_, node)| *node)
    }

    /// Forgets those that are known by now, or gone: all ids below `next` were given.
    pub(super) fn known_below(&mut self, next: u64) {
        self.0.retain(|(member, _)| *member >= next);
    }
}

impl<P, R, M> Core<P, R, M> {
    pub(super) fn step_raft(&mut self, from: NodeId, mut message: Message) {
        if !self.admit(from, &mut message) {
            return;
        }
        match message.get_msg_type() {
            // Its file comes on a connection of its own, and both together as an input.
            MessageType::MsgSnapshot => self.drop_message(from, DropCause::NoFile),
            MessageType::MsgTimeoutNow if self.must_not_campaign() => {}
            MessageType::MsgAppend if self.has_no_place_for(&message) => {
                self.drop_message(from, DropCause::NoRoom);
            }
            // Nothing that this node could compare a candidate with: it has yet to become what
            // its leader has let in.
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote if self.is_blank() => {
                self.drop_message(from, DropCause::Blank);
            }
            kind => {
                if is_answer(kind) {
                    self.answers.heard_of(message.from, self.now);
                }
                self.step_admitted(message);
            }
        }
    }

    /// Whether the log has never had anything in it.
    fn is_blank(&self) -> bool {
        self.raw.store().snapshot_id().index == 0
    }

    pub(super) fn step_admitted(&mut self, message: Message) {
        // What raft-rs refuses it leaves without effect.
        if let Err(error) = self.raw.step(message) {
            tracing::debug!(group = %self.group, %error, "a message was refused");
        }
    }

    /// Whether a message may go on to raft-rs. One that may not is counted, and forgotten.
    pub(super) fn admit(&mut self, from: NodeId, message: &mut Message) -> bool {
        let log = &self.raw.raft.raft_log;
        let view = View {
            own_id: self.own_id,
            sender_id: self.sender_id(from, message.from),
            from_is_member: self.members.get(message.from).is_some(),
            term: self.raw.raft.term,
            term_reach: self.term_at_tick.saturating_add(TERM_JUMP_MAX),
            commit: log.committed,
            last_index: log.last_index(),
            is_persisted: log.persisted == log.last_index(),
        };
        // raft-rs says 0 of what is compacted or not there.
        let term_at = |index| log.term(index).ok().filter(|term| *term > 0);
        match guard::admit(message, view, term_at) {
            Ok(()) => {
                if view.sender_id.is_none() {
                    self.strangers.heard(message.from, from);
                }
                true
            }
            Err(DropCause::FarTerm) => {
                self.drop_message(from, DropCause::FarTerm);
                if view.term < view.term_reach {
                    self.raw.raft.become_follower(view.term_reach, raft::INVALID_ID);
                }
                false
            }
            Err(DropCause::LostLog) => {
                self.drop_message(from, DropCause::LostLog);
                self.effects.fatal = Some(format!(
                    "{}; this directory must not vote again: format a new one for this node",
                    DropCause::LostLog
                ));
                self.effects.log_is_lost = true;
                false
            }
            Err(cause) => {
                self.drop_message(from, cause);
                false
            }
        }
    }

    /// Where a member is, as far as anything is known of it.
    pub(super) fn node_of(&self, member: u64) -> Option<NodeId> {
        let known = self.members.get(member).map(Member::node_id);
        known.or_else(|| self.strangers.node_of(member))
    }

    /// The member that a message of the node `from` may speak for, if it says that it is `claimed`.
    ///
    /// A node that knows of later changes may speak for a member that is not known here yet: `None`.
    /// It may not speak for another node's member, nor for one that was removed.
    fn sender_id(&self, from: NodeId, claimed: u64) -> Option<u64> {
        match self.members.get(claimed) {
            Some(member) if member.node_id() == from => Some(claimed),
            None if claimed >= self.members.next_member_id() => None,
            _ => Some(raft::INVALID_ID),
        }
    }

    pub(super) fn drop_message(&mut self, from: NodeId, cause: DropCause) {
        self.dropped += 1;
        self.effects.dropped.push(cause);
        tracing::debug!(group = %self.group, %from, why = %cause, "a message was dropped");
    }
}

/// Whether a message answers something that this node has asked.
fn is_answer(kind: MessageType) -> bool {
    matches!(
        kind,
        MessageType::MsgAppendResponse
            | MessageType::MsgHeartbeatResponse
            | MessageType::MsgRequestVoteResponse
            | MessageType::MsgRequestPreVoteResponse
    )
}
