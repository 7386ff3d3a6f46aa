//! [`Turnover`]: groups on their way into a node, and out of it.
//!
//! ```text
//!   in:   asked ── first snapshot durable ──► written ── receipt ──► it begins, and the caller is told
//!   out:  asked ── it stops ── dropped from the log, durably ──► its files go, and the caller is told
//! ```
//!
//! A crash on the way in leaves a snapshot that no log names, or a whole group; one on the way out the
//! whole group, or files that no log names. Nothing needs to be resumed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use quorate_engine::{CacheBudget, GroupId, GroupLog, GroupWrite, SnapshotMeta};
use quorate_statemachine::StateMachine;
use tokio::sync::{oneshot, watch};

use crate::apply::ApplyWork;
use crate::bootstrap::Founded;
use crate::driver::Driver;
use crate::error::{CreateGroupError, RemoveGroupError};
use crate::genesis;
use crate::group::Group;
use crate::log_writer::LogWork;
use crate::machine::{Machine, Restored};
use crate::members::Members;
use crate::publish::Publisher;
use crate::slot::Slot;
use crate::status::GroupStatus;

/// Who waits for a group to begin.
pub(crate) type CreateCaller = oneshot::Sender<Result<(), CreateGroupError>>;

/// Who waits for a group to be gone.
pub(crate) type RemoveCaller = oneshot::Sender<Result<(), RemoveGroupError>>;

/// The number of a founding's only write; the core's numbers follow.
const FOUNDING_WRITE: u64 = 1;

/// The groups that are coming or going, and who waits for that.
pub(crate) struct Turnover {
    cache: CacheBudget,
    /// In quarantine: nothing is written for them.
    quarantined: BTreeSet<GroupId>,
    coming: BTreeMap<GroupId, Coming>,
    going: BTreeMap<GroupId, RemoveCaller>,
}

/// What a node found of a group when it opened, or founded.
pub(crate) enum Found {
    /// Nothing is wrong with it.
    Sound,
    /// It was damaged for this reason, was set aside, and begins anew as another member.
    SetAside(String),
    /// It is damaged for this reason, and stays where it is.
    Damaged(String),
}

struct Coming {
    members: Arc<Members>,
    own_id: u64,
    /// Known once the first snapshot is durable.
    first: Option<(SnapshotMeta, GroupLog)>,
    caller: CreateCaller,
}

impl Turnover {
    pub(crate) fn new(cache: CacheBudget, quarantined: BTreeSet<GroupId>) -> Self {
        Turnover { cache, quarantined, coming: BTreeMap::new(), going: BTreeMap::new() }
    }

    /// What all groups' cached entries share.
    pub(crate) fn cache(&self) -> &CacheBudget {
        &self.cache
    }

    fn has(&self, group: GroupId) -> bool {
        self.coming.contains_key(&group) || self.going.contains_key(&group)
    }
}

impl<S: StateMachine> Driver<S> {
    /// Begins `group` with these `members`, one of which is this node. Whoever decides that a group
    /// begins, and with whom, ends up here; every voter must be told the same.
    pub(crate) fn create(&mut self, group: GroupId, members: Members, caller: CreateCaller) {
        let own = members.of_node(self.node).map(|member| member.member_id);
        let own_id = own.unwrap_or(raft::INVALID_ID);
        let refusal = if self.groups.contains(group) || self.turnover.has(group) {
            Some(CreateGroupError::Exists(group))
        } else if !self.worker.found(genesis::first_snapshot::<S>(group, &members)) {
            Some(CreateGroupError::Overloaded)
        } else {
            None
        };
        match refusal {
            // A caller that has gone needs no answer.
            Some(refusal) => drop(caller.send(Err(refusal))),
            None => {
                let members = Arc::new(members);
                let coming = Coming { members, own_id, first: None, caller };
                self.turnover.coming.insert(group, coming);
            }
        }
    }

    /// The first snapshot of a group is durable, or could not be written.
    pub(crate) fn first_snapshot_taken(
        &mut self,
        group: GroupId,
        taken: Result<SnapshotMeta, String>,
    ) {
        match taken {
            Ok(meta) => {
                let Some(coming) = self.turnover.coming.get_mut(&group) else { return };
                let log = GroupLog::founded(group, &meta, &self.turnover.cache);
                let write = GroupWrite {
                    group,
                    number: FOUNDING_WRITE,
                    entries: Vec::new(),
                    record: log.record(),
                    install: false,
                    genesis: None,
                };
                coming.first = Some((meta, log));
                // Should the writer be gone, its fault is in the inbox.
                let _ = self.log.send(LogWork::Write(vec![write]));
            }
            Err(why) => {
                if let Some(coming) = self.turnover.coming.remove(&group) {
                    let _ = coming.caller.send(Err(CreateGroupError::Snapshot(why)));
                }
            }
        }
    }

    /// A write is durable. If it is the one that founds a group, the group begins.
    pub(crate) fn founded(&mut self, group: GroupId) -> bool {
        let Some(coming) = self.turnover.coming.remove(&group) else { return false };
        let Coming { members, own_id, first, caller } = coming;
        let Some((meta, log)) = first else { return false };
        let machine = Machine::new(Restored::genesis(meta));
        self.enter(group, machine.publisher().clone(), Found::Sound);
        let _ = self.apply.send((group, ApplyWork::Begin(Box::new(machine))));
        self.begin(Founded { log, members, own_id, restore: None });
        let _ = caller.send(Ok(()));
        true
    }

    /// Takes a group out of this node.
    pub(crate) fn remove(&mut self, group: GroupId, caller: RemoveCaller) {
        let refusal = if group == self.first {
            Some(RemoveGroupError::First)
        } else if self.turnover.quarantined.contains(&group) {
            Some(RemoveGroupError::Damaged(group))
        } else if self.turnover.has(group) {
            Some(RemoveGroupError::Busy(group))
        } else if !self.groups.contains(group) {
            Some(RemoveGroupError::Unknown(group))
        } else {
            None
        };
        if let Some(refusal) = refusal {
            return drop(caller.send(Err(refusal)));
        }
        self.registry.remove(group);
        self.groups.remove(group);
        self.turnover.going.insert(group, caller);
        let _ = self.apply.send((group, ApplyWork::End));
        let _ = self.log.send(LogWork::Remove(group));
    }

    /// Groups are gone from the log. Their files are removed behind the apply thread and the
    /// snapshot worker, so that neither writes another one after that.
    pub(crate) fn removed(&mut self, groups: Vec<GroupId>) {
        for group in groups {
            let _ = self.apply.send((group, ApplyWork::Discard));
        }
    }

    /// Nothing is left of a group.
    pub(crate) fn discarded(&mut self, group: GroupId) {
        if let Some(caller) = self.turnover.going.remove(&group) {
            tracing::info!(%group, "the group was removed from this node");
            let _ = caller.send(Ok(()));
        }
    }

    /// Makes a group known to those who ask; it has yet to begin, or never will.
    pub(crate) fn enter(&mut self, id: GroupId, publisher: Arc<Publisher<S>>, found: Found) {
        let disk_bytes = self.meters.log_disk_bytes();
        let (damaged, fatal) = match found {
            Found::Sound => (None, None),
            Found::SetAside(what) => (Some(what), None),
            Found::Damaged(what) => (Some(what.clone()), Some(what)),
        };
        let status = GroupStatus { damaged, fatal, ..GroupStatus::founding(disk_bytes) };
        let (status, receiver) = watch::channel(status);
        self.groups.insert(id, Slot::new(id, status));
        let (inbox, meters) = (self.inbox.clone(), self.meters.clone());
        self.registry.insert(Group::new(id, inbox, publisher, receiver, meters));
    }
}
