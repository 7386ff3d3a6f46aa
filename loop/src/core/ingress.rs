//! What the core asks the guard, and what it makes of the answer.

use quorate_engine::NodeId;
use raft::eraftpb::Message;

use super::Core;
use crate::guard::{self, Dropped, TERM_JUMP_MAX, View};

impl<P, R> Core<P, R> {
    /// Whether a message may go on to raft-rs. One that may not is counted, and forgotten.
    pub(super) fn admit(&mut self, from: NodeId, message: &mut Message) -> bool {
        let log = &self.raw.raft.raft_log;
        let view = View {
            own_id: self.own_id,
            sender_id: self.members.of_node(from).map(|member| member.member_id),
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
            Ok(()) => true,
            Err(Dropped::FarTerm) => {
                self.drop_message(from, &Dropped::FarTerm.to_string());
                if view.term < view.term_reach {
                    self.raw.raft.become_follower(view.term_reach, raft::INVALID_ID);
                }
                false
            }
            Err(Dropped::LostLog) => {
                self.effects.fatal = Some(format!(
                    "{}; this directory must not vote again: format a new one for this node",
                    Dropped::LostLog
                ));
                false
            }
            Err(dropped) => {
                self.drop_message(from, &dropped.to_string());
                false
            }
        }
    }

    pub(super) fn drop_message(&mut self, from: NodeId, why: &str) {
        self.dropped += 1;
        tracing::debug!(group = %self.group, %from, why, "a message was dropped");
    }
}
