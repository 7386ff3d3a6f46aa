//! The genesis of a group: where every group begins, on every voter with the same bytes.

use std::sync::Arc;

use quorate_engine::{GroupId, LogId};
use quorate_statemachine::StateMachine;

use crate::head::Head;
use crate::members::Members;
use crate::replica::Replica;
use crate::snapshot_worker::Take;

/// The position of the first snapshot, the same on every voter: it makes whoever joins later
/// begin with a snapshot, and so with the membership.
pub(crate) const FIRST: LogId = LogId { index: 1, term: 1 };

/// The first snapshot of a group that `members` found, all of them voters: the same bytes wherever
/// it is written.
pub(crate) fn first_snapshot<S: StateMachine>(group: GroupId, members: Arc<Members>) -> Take<S> {
    let draft = Replica::founding(group, members).draft();
    Take { draft, writing: Arc::new(()), state_bytes: Arc::default() }
}

/// What that snapshot says beside the state.
pub(crate) fn first_head(group: GroupId, members: Arc<Members>) -> Head {
    Head { id: FIRST, members, ..Head::none(group) }
}
