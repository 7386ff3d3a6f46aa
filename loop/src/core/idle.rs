//! What a driver of many groups asks a core that has little to do.

use raft::StateRole;
use raft::eraftpb::MessageType;

use super::Core;
use crate::message::Envelope;

/// Ticks that are put off at most: they are made up for in one go.
const PUT_OFF_MAX: u64 = 1_000;

/// All that a status shows, in a form that is compared without allocating.
///
/// Instead of each member's position there is their sum: within a term of one leader, and among the
/// same members, they only grow. Instead of the member table there is the entry that changed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Vitals {
    role: (StateRole, bool),
    leader_id: u64,
    term: u64,
    commit_index: u64,
    applied_index: u64,
    first_index: u64,
    last_index: u64,
    snapshot_index: u64,
    members_index: u64,
    removed: bool,
    matched: u64,
    dropped: u64,
    storage_full: bool,
}

impl<P, R, M> Core<P, R, M> {
    /// Equal to an earlier one exactly where [`Core::status`] is.
    pub(crate) fn vitals(&self) -> Vitals {
        let raft = &self.raw.raft;
        let matched = match raft.state {
            StateRole::Leader => {
                let sum = |sum: u64, matched: u64| sum.wrapping_add(matched);
                raft.prs().iter().map(|(_, progress)| progress.matched).fold(0, sum)
            }
            _ => 0,
        };
        Vitals {
            role: (raft.state, raft.promotable()),
            leader_id: self.leader_id(),
            term: raft.term,
            commit_index: raft.raft_log.committed,
            applied_index: self.applied,
            first_index: self.raw.store().first_index(),
            last_index: raft.raft_log.last_index(),
            snapshot_index: self.raw.store().snapshot_id().index,
            members_index: self.members.index(),
            removed: self.removed,
            matched,
            dropped: self.dropped,
            storage_full: self.storage_full,
        }
    }

    /// How many ticks from now on change nothing but the clocks, if no other input comes before: a
    /// driver may leave them out, and make up for them before the next input.
    ///
    /// A leader beats and looks for its quorum, a follower campaigns or gives its leader up, and what waits has deadlines.
    pub(crate) fn idle_ticks(&self) -> u64 {
        let raft = &self.raw.raft;
        if self.is_waiting() {
            return 0;
        }
        let until_election = |timeout: usize| timeout.saturating_sub(raft.election_elapsed);
        let until = match raft.state {
            StateRole::Leader => {
                let beat = raft.heartbeat_timeout().saturating_sub(raft.heartbeat_elapsed());
                beat.min(until_election(raft.election_timeout()))
            }
            _ if raft.promotable() => until_election(raft.randomized_election_timeout()),
            // It gives up a leader that is silent.
            _ if self.leader_id() != raft::INVALID_ID => until_election(self.patience() + 1),
            _ => usize::MAX,
        };
        (until as u64).saturating_sub(1).min(PUT_OFF_MAX)
    }

    /// The ticks that it has seen.
    #[cfg(test)]
    pub(crate) fn ticks(&self) -> u64 {
        self.now
    }

    /// Whether anything is under way, which ends by a tick if by nothing else.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.proposals.is_idle()
            || !self.reads.is_idle()
            || !self.outbox.is_idle()
            || self.arrived.is_some()
            || self.installing.is_some()
            || self.storage_full
            || self.has_members_to_change()
            || !self.catalogue_changes.is_empty()
            || self.raw.raft.lead_transferee.is_some()
            || self.has_more()
    }

    /// Ticks from one heartbeat of a leader to the next.
    pub(crate) fn heartbeat_period(&self) -> u64 {
        self.raw.raft.heartbeat_timeout() as u64
    }

    /// Whether [`Core::effects`] would be empty now.
    fn is_quiet(&self) -> bool {
        let log = self.raw.store();
        self.effects.is_empty()
            && self.proposals.has_no_queue()
            && self.reads.has_no_queue()
            && self.record_changed.is_none()
            && !self.has_to_seal()
            && log.snapshot_wanted().is_none()
            && !log.has_fetches()
            && !self.raw.has_ready()
    }

    /// The heartbeats and answers that may leave now, where there is nothing else to do but to send
    /// them: what [`Core::effects`] would return, for much less. `None` where there is more.
    pub(crate) fn take_heartbeats(&mut self) -> Option<Vec<Envelope>> {
        self.hold_heartbeats();
        let messages = std::mem::take(&mut self.effects.messages);
        if self.is_quiet() {
            return Some(messages);
        }
        self.effects.messages = messages;
        None
    }

    /// Gives back the memory that only a busy group needs: on a leader, the windows of the appends
    /// that are under way.
    pub(crate) fn rest(&mut self) {
        if self.leads() {
            self.raw.raft.maybe_free_inflight_buffers();
        }
    }

    /// Takes heartbeats and their answers past the Ready, when there is nothing else to be ready: they
    /// speak of a term and vote that earlier Readies brought, and wait for these like any other
    /// that speaks of the term only. A group with nothing to do beats several times a second.
    pub(super) fn hold_heartbeats(&mut self) {
        let is_heartbeat =
            |kind| matches!(kind, MessageType::MsgHeartbeat | MessageType::MsgHeartbeatResponse);
        let messages = &self.raw.raft.msgs;
        if messages.is_empty() || !messages.iter().all(|m| is_heartbeat(m.get_msg_type())) {
            return;
        }
        let messages = std::mem::take(&mut self.raw.raft.msgs);
        if self.raw.has_ready() {
            self.raw.raft.msgs = messages;
            return;
        }
        for message in messages {
            self.hold(message);
        }
    }
}

#[cfg(test)]
#[allow(non_snake_case)]
mod tests {
    use std::sync::Arc;

    use quorate_engine::{
        CacheBudget, DirectoryId, GroupId, GroupLog, LogId, NodeId, SnapshotMeta,
    };
    use raft::eraftpb::{ConfState, Message};

    use super::*;
    use crate::catalogue::Catalogue;
    use crate::config::LoopConfig;
    use crate::core::Input;
    use crate::members::Members;
    use crate::message::PeerMessage;

    fn node(n: u64) -> NodeId {
        NodeId::new(n).unwrap()
    }

    /// Node 1 of a group of three.
    fn follower() -> Core<u64, u64> {
        let group = GroupId::new(7).unwrap();
        let voters = [1, 2, 3].map(|n: u8| {
            (node(n.into()), DirectoryId::from_bytes([n; 16]), format!("localhost:{n}"))
        });
        let members = Members::founding(voters);
        let (id, conf_state) =
            (LogId { index: 1, term: 1 }, ConfState::from((vec![1, 2, 3], vec![])));
        let meta = SnapshotMeta { group, id, conf_state, members: members.encode() };
        let log = GroupLog::founded(group, &meta, &CacheBudget::new(1 << 20));
        let config = LoopConfig::default();
        let mut core =
            Core::new(group, 1, (Arc::new(members), Catalogue::default()), log, config, 1).unwrap();
        core.effects();
        core
    }

    fn heartbeat(term: u64) -> Input<u64, u64> {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgHeartbeat);
        (message.from, message.to, message.term, message.commit) = (2, 1, term, 1);
        Input::Peer { from: node(2), message: PeerMessage::Raft(message) }
    }

    /// To see it fail: return one tick more.
    #[test]
    fn ticks_that_are_put_off_would_have_changed_nothing() {
        for heard in [false, true] {
            let mut core = follower();
            assert!(core.is_quiet());
            if heard {
                core.step(heartbeat(1));
                assert!(!core.is_quiet(), "there is an answer");
                let effects = core.effects();
                assert_eq!(effects.messages.len(), 1, "the answer waits for nothing");
                core.step(heartbeat(1));
                assert_eq!(core.take_heartbeats(), Some(effects.messages), "nor this way");
                assert!(effects.write.is_none());
            }
            let (idle, vitals) = (core.idle_ticks(), core.vitals());
            assert!((9..19).contains(&idle), "{idle}");
            for tick in 0..idle {
                core.step(Input::Tick);
                assert!(!core.has_more(), "tick {tick} of {idle}");
                assert_eq!((core.vitals(), core.idle_ticks()), (vitals, idle - tick - 1));
            }
            core.step(Input::Tick);
            assert!(core.has_more(), "it asks for votes");
            assert_ne!(core.vitals(), vitals);
        }
    }

    #[test]
    fn nothing_is_put_off_while_somebody_waits() {
        let mut core = follower();
        core.step(Input::Read { caller: 1 });
        core.effects();
        assert_eq!(core.idle_ticks(), 0, "a read has a deadline");
        let mut core = follower();
        core.step(heartbeat(2));
        assert!(core.effects().write.is_some(), "the new term");
        assert_eq!(core.idle_ticks(), 0, "a write that hangs is noticed");
    }

    /// To see it fail: leave `has_ready` out of `hold_heartbeats`.
    #[test]
    fn trap_R01_an_answer_in_a_new_term_waits_until_the_term_is_durable() {
        let mut core = follower();
        core.step(heartbeat(2));
        assert_eq!(core.take_heartbeats(), None);
        let effects = core.effects();
        assert!(effects.messages.is_empty() && effects.write.is_some());
        // Nor does the next one overtake it.
        core.step(heartbeat(2));
        assert_eq!(core.take_heartbeats(), Some(Vec::new()));
        core.step(heartbeat(2));
        assert!(core.effects().messages.is_empty());
    }
}
