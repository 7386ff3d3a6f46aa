//! [`Effects`]: everything that a core wants done.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_engine::{Fetch, GroupWrite, LogId};

use crate::catalogue::Catalogue;
use crate::catalogue_change::CatalogueError;
use crate::drops::DropCause;
use crate::error::{ProposeError, ReadError};
use crate::members::Members;
use crate::membership::{MembershipChanged, MembershipError};
use crate::message::Envelope;
use crate::proposal::SessionStep;

/// Work for the state machine, in order.
#[derive(Debug)]
pub enum Apply<P> {
    /// Committed entries, contiguous and ascending.
    Entries(Vec<Committed<P>>),
    /// Replace the state by this snapshot.
    Restore(LogId),
}

/// A committed entry. Its command is empty when a leader opened its term with it, and where a session is
/// opened or closed.
#[derive(Debug)]
pub struct Committed<P> {
    /// Where it stands.
    pub at: LogId,
    /// The command.
    pub command: Bytes,
    /// What the entry does in a client session. A command is applied only if the table of sessions
    /// admits it.
    pub session: Option<SessionStep>,
    /// Who waits for its outcome on this node.
    pub caller: Option<P>,
    /// Who belongs to the group from this entry on, where it changes that; such an entry has no
    /// command.
    pub members: Option<Arc<Members>>,
    /// Which groups there are from this entry on, where it changes that; no command either.
    pub catalogue: Option<Catalogue>,
}

/// What the driver has to do; see [`Core::effects`](super::Core::effects).
#[derive(Debug)]
pub struct Effects<P, R, M = R> {
    /// Make this durable, in order, and bring the receipts back.
    pub write: Option<GroupWrite>,
    /// Send these now, in order.
    pub messages: Vec<Envelope>,
    /// Send the snapshot file that each message names, with the message.
    pub snapshots: Vec<Envelope>,
    /// Apply these, in order.
    pub apply: Vec<Apply<P>>,
    /// Read these entries from the log.
    pub fetches: Vec<Fetch>,
    /// Snapshots before this one are not needed any more.
    pub retain: Option<LogId>,
    /// A newer snapshot is needed: a follower waits for it, or the log's files take too much room.
    pub snapshot_wanted: bool,
    /// Proposals that end here; those that are applied end in the state machine.
    pub failed: Vec<(P, ProposeError)>,
    /// Reads that end here, each with the index that is applied.
    pub reads: Vec<(R, Result<u64, ReadError>)>,
    /// Requests to change the membership that end here.
    pub memberships: Vec<(M, Result<MembershipChanged, MembershipError>)>,
    /// Requests to create or remove groups that end here, each with the index of its entry.
    pub catalogued: Vec<(M, Result<u64, CatalogueError>)>,
    /// Whom to talk to from now on: the members, and those who have departed and may be needed still.
    /// Everybody else is refused.
    pub members: Option<Arc<Members>>,
    /// Which groups there are from now on, if that has changed, and once when all is handed out that was
    /// known to be committed at the start. Of no meaning but in group 1.
    pub catalogue: Option<Catalogue>,
    /// The entry that made this node a member no longer. The core does not campaign from then on,
    /// and goes on voting for as long as it runs: those that are left may need it. Of the first group
    /// it runs until they refuse its connections.
    pub removed: Option<u64>,
    /// Step [`Input::Campaign`](super::Input::Campaign) when this time is over: the leader's process
    /// is gone, and it is not the turn of this node yet.
    pub campaign_after: Option<Duration>,
    /// Why messages of peers were dropped, one for each.
    pub dropped: Vec<DropCause>,
    /// Why this group must stop at once.
    pub fatal: Option<String>,
    /// Whether that is because the log has lost what this node once held: the member that it was
    /// must never act again.
    pub log_is_lost: bool,
}

impl<P, R, M> Default for Effects<P, R, M> {
    fn default() -> Self {
        Effects {
            write: None,
            messages: Vec::new(),
            snapshots: Vec::new(),
            apply: Vec::new(),
            fetches: Vec::new(),
            retain: None,
            snapshot_wanted: false,
            failed: Vec::new(),
            reads: Vec::new(),
            memberships: Vec::new(),
            catalogued: Vec::new(),
            members: None,
            catalogue: None,
            removed: None,
            campaign_after: None,
            dropped: Vec::new(),
            fatal: None,
            log_is_lost: false,
        }
    }
}

impl<P, R, M> Effects<P, R, M> {
    /// Entries among them that are to be applied.
    pub(super) fn handed(&self) -> usize {
        let entries = |work: &Apply<P>| match work {
            Apply::Entries(entries) => entries.len(),
            Apply::Restore(_) => 0,
        };
        self.apply.iter().map(entries).sum()
    }

    /// Whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.write.is_none()
            && self.messages.is_empty()
            && self.snapshots.is_empty()
            && self.apply.is_empty()
            && self.fetches.is_empty()
            && self.retain.is_none()
            && !self.snapshot_wanted
            && self.failed.is_empty()
            && self.reads.is_empty()
            && self.memberships.is_empty()
            && self.catalogued.is_empty()
            && self.members.is_none()
            && self.catalogue.is_none()
            && self.removed.is_none()
            && self.campaign_after.is_none()
            && self.dropped.is_empty()
            && self.fatal.is_none()
    }
}
