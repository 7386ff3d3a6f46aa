//! A snapshot that a leader has sent, from its arrival until the log begins with it.

use std::sync::Arc;

use mutation::Bug;
use quorate_engine::{LogId, NodeId};
use raft::eraftpb::Message;

use super::{Apply, Core};
use crate::catalogue::Catalogue;
use crate::drops::DropCause;
use crate::error::ProposeError;
use crate::members::Members;

impl<P, R, M> Core<P, R, M> {
    /// raft-rs and the log change together with a snapshot, so no batch may be in flight.
    pub(super) fn snapshot_received(
        &mut self,
        from: NodeId,
        mut message: Message,
        members: Arc<Members>,
        catalogue: Catalogue,
    ) {
        if !self.admit(from, &mut message) {
            return;
        }
        if members.conf_state() != message.get_snapshot().get_metadata().get_conf_state() {
            return self.drop_message(from, DropCause::OtherMembership);
        }
        if self.outbox.is_idle() {
            self.step_snapshot(message, members, catalogue);
        } else {
            self.arrived = Some((from, message, members, catalogue));
        }
    }

    fn step_snapshot(&mut self, message: Message, members: Arc<Members>, catalogue: Catalogue) {
        let meta = message.get_snapshot().get_metadata().clone();
        self.step_admitted(message);
        // raft-rs ignores one that is older than what it has, or of a leader of before: such a one
        // must not put its members beside another that waits for its Ready.
        let taken = self.raw.raft.raft_log.unstable.snapshot.as_ref();
        if taken.is_some_and(|taken| *taken.get_metadata() == meta) {
            self.coming = Some((members, catalogue));
        }
    }

    /// The snapshot is the log's beginning now: the state machine follows.
    pub(super) fn installed(&mut self, id: LogId) {
        self.raw.advance_apply_to(id.index);
        self.raw.mut_store().applied_to(id.index);
        self.handed = id.index;
        self.installing = None;
        let overtaken = self.proposals.overtaken(id.index).into_iter();
        for caller in overtaken.filter(|_| !mutation::is(Bug::OvertakenCallerForgotten)) {
            self.effects.failed.push((caller, ProposeError::Superseded));
        }
        self.abandon_changes(id.index);
        self.abandon_catalogue_changes(id.index);
        self.effects.apply.push(Apply::Restore(id));
    }
}
