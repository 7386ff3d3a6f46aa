//! The genesis of a group: where every group begins, on every voter with the same bytes.

use std::sync::Arc;

use quorate_engine::{GroupId, LogId, SnapshotMeta};
use quorate_statemachine::{ClientSessions, StateMachine};

use crate::members::Members;
use crate::snapshot_worker::Take;

/// The position of the first snapshot, the same on every voter: it makes whoever joins later
/// begin with a snapshot, and so with the membership.
pub(crate) const FIRST: LogId = LogId { index: 1, term: 1 };

/// The first snapshot of a group that `members` found, all of them voters: the same bytes wherever
/// it is written.
pub(crate) fn first_snapshot<S: StateMachine>(group: GroupId, members: &Members) -> Take<S> {
    let meta = SnapshotMeta {
        group,
        id: FIRST,
        conf_state: members.conf_state().clone(),
        members: members.encode(),
    };
    let (image, sessions) = (S::new().image(), ClientSessions::default());
    Take { meta, image, sessions, writing: Arc::new(()), state_bytes: Arc::default() }
}
