//! [`Turnover`]: groups on their way into a node, and out of it.
//!
//! ```text
//!   in:     first snapshot durable ──► record written ── receipt ──► it begins
//!   in, by
//!   joining: blank record written ── receipt, its incarnation ──► asks to be let in ──► it begins
//!   out:    it stops ── dropped from the log, durably ──► its files go
//! ```
//!
//! What comes and what goes, and when, is decided in [`crate::reconcile`]. A crash on the way in leaves a
//! snapshot that no log names, or a whole group; one on the way out the whole group, or files that no
//! log names. Nothing needs to be resumed: it is decided once more, and opening removes such files.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use quorate_engine::{
    CacheBudget, Durable, GroupId, GroupLog, GroupRecord, GroupWrite, SnapshotMeta,
};
use quorate_statemachine::StateMachine;
use tokio::sync::watch;

use crate::apply::ApplyWork;
use crate::bootstrap::{Founded, own_binding};
use crate::catalogue::Catalogue;
use crate::driver::Driver;
use crate::genesis;
use crate::group::Group;
use crate::head::Head;
use crate::log_writer::LogWork;
use crate::machine::Machine;
use crate::members::Members;
use crate::publish::Publisher;
use crate::replica::Replica;
use crate::slot::Slot;
use crate::status::GroupStatus;

/// The number of the only write by which a group comes; the core's numbers follow.
const FIRST_WRITE: u64 = 1;

/// The groups that are coming or going.
pub(crate) struct Turnover {
    cache: CacheBudget,
    /// In quarantine: nothing is written for them.
    quarantined: BTreeSet<GroupId>,
    coming: BTreeMap<GroupId, Coming>,
    going: BTreeSet<GroupId>,
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

/// How a group comes.
enum Coming {
    /// As one of its founders.
    Founding {
        members: Arc<Members>,
        own_id: u64,
        /// Known once the first snapshot is durable.
        log: Option<Box<GroupLog>>,
    },
    /// As a newcomer.
    Joining,
}

impl Turnover {
    pub(crate) fn new(cache: CacheBudget, quarantined: BTreeSet<GroupId>) -> Self {
        Turnover { cache, quarantined, coming: BTreeMap::new(), going: BTreeSet::new() }
    }

    /// What all groups' cached entries share.
    pub(crate) fn cache(&self) -> &CacheBudget {
        &self.cache
    }

    /// How many groups are coming.
    pub(crate) fn coming_count(&self) -> usize {
        self.coming.len()
    }

    /// Whether the group is on its way in.
    pub(crate) fn is_coming(&self, group: GroupId) -> bool {
        self.coming.contains_key(&group)
    }

    /// Whether nothing is written for the group, not even that it goes.
    pub(crate) fn is_quarantined(&self, group: GroupId) -> bool {
        self.quarantined.contains(&group)
    }
}

impl<S: StateMachine> Driver<S> {
    /// Begins `group` with these `members`, one of which is this node, by the name `own_id`.
    pub(crate) fn found_group(&mut self, group: GroupId, members: Arc<Members>, own_id: u64) {
        self.worker.found(genesis::first_snapshot::<S>(group, members.clone()));
        self.turnover.coming.insert(group, Coming::Founding { members, own_id, log: None });
    }

    /// Begins `group` without anything in it, to ask its members to be let in.
    pub(crate) fn join_group(&mut self, group: GroupId) {
        let record = GroupLog::blank(group, &self.turnover.cache).record();
        self.turnover.coming.insert(group, Coming::Joining);
        self.write_first(group, record);
    }

    fn write_first(&self, group: GroupId, record: GroupRecord) {
        let write = GroupWrite {
            group,
            number: FIRST_WRITE,
            entries: Vec::new(),
            record,
            install: false,
            genesis: None,
        };
        // Should the writer be gone, its fault is in the inbox.
        let _ = self.log.send(LogWork::Write(vec![write]));
    }

    /// The first snapshot of a group is durable, or could not be written.
    pub(crate) fn first_snapshot_taken(
        &mut self,
        group: GroupId,
        taken: Result<SnapshotMeta, String>,
    ) {
        match (taken, self.turnover.coming.get_mut(&group)) {
            (Ok(meta), Some(Coming::Founding { log, .. })) => {
                let founded = GroupLog::founded(group, &meta, &self.turnover.cache);
                let record = founded.record();
                *log = Some(Box::new(founded));
                self.write_first(group, record);
            }
            (Err(why), _) => {
                self.turnover.coming.remove(&group);
                self.not_founded(group, &why);
            }
            (Ok(_), _) => {}
        }
    }

    /// A write is durable. If it is the one by which a group comes, the group begins, or asks for its
    /// place.
    pub(crate) fn has_come(&mut self, durable: &Durable) -> bool {
        let group = durable.group();
        match self.turnover.coming.remove(&group) {
            None => return false,
            Some(Coming::Founding { members, own_id, log }) => {
                let Some(log) = log.map(|log| *log) else { return false };
                let head = genesis::first_head(group, members.clone());
                self.enter_new(group, head);
                let catalogue = Catalogue::default();
                self.begin(Founded { log, members, catalogue, own_id, restore: None });
            }
            Some(Coming::Joining) => {
                self.enter_new(group, Head::none(group));
                self.ask_for_place(group, own_binding(&self.identity, durable.sequence()));
            }
        }
        self.is_here(group);
        true
    }

    fn enter_new(&mut self, group: GroupId, head: Head) {
        let machine = Machine::new(Replica::new(head), 0);
        self.enter(group, machine.publisher().clone(), Found::Sound);
        let _ = self.apply.send((group, ApplyWork::Begin(Box::new(machine))));
    }

    /// Takes a group out of this node. It must be here, and must not be in quarantine.
    pub(crate) fn remove(&mut self, group: GroupId) {
        self.registry.remove(group);
        self.groups.remove(group);
        self.turnover.going.insert(group);
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
        if self.turnover.going.remove(&group) {
            tracing::info!(%group, "the group was removed from this node");
            self.registry.settled(group);
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
        let slot = Slot::new(id, status);
        let leadership = slot.watch_leader();
        self.groups.insert(id, slot);
        let (inbox, meters) = (self.inbox.clone(), self.meters.clone());
        self.registry.insert(Group::new(id, inbox, publisher, receiver, leadership, meters));
    }
}
