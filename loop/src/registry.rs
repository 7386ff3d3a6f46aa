//! [`Registry`]: which groups are on this node, for everybody but the loop.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use quorate_engine::GroupId;
use quorate_statemachine::StateMachine;
use tokio::sync::watch;

use crate::catalogue::Catalogue;
use crate::group::Group;

/// The groups of a node, by their handles, and the catalogue that says which there should be. The loop
/// changes them, everybody else looks.
///
/// The lock is held for a look-up and never across anything that waits.
pub(crate) struct Registry<S: StateMachine>(Arc<Shared<S>>);

struct Shared<S: StateMachine> {
    entries: RwLock<Entries<S>>,
    /// Changes with the entries.
    changed: watch::Sender<()>,
}

struct Entries<S: StateMachine> {
    groups: BTreeMap<GroupId, Group<S>>,
    /// The newest that this node knows.
    catalogue: Catalogue,
    /// Groups that the catalogue wants here, or wants gone, and that are not yet.
    unsettled: BTreeSet<GroupId>,
}

impl<S: StateMachine> Clone for Registry<S> {
    fn clone(&self) -> Self {
        Registry(self.0.clone())
    }
}

impl<S: StateMachine> Registry<S> {
    /// One without a group.
    pub(crate) fn new() -> Self {
        let (groups, unsettled) = (BTreeMap::new(), BTreeSet::new());
        let entries = Entries { groups, catalogue: Catalogue::default(), unsettled };
        Registry(Arc::new(Shared {
            entries: RwLock::new(entries),
            changed: watch::Sender::new(()),
        }))
    }

    pub(crate) fn insert(&self, group: Group<S>) {
        self.change(|entries| drop(entries.groups.insert(group.id(), group)));
    }

    pub(crate) fn remove(&self, group: GroupId) {
        self.change(|entries| drop(entries.groups.remove(&group)));
    }

    pub(crate) fn get(&self, group: GroupId) -> Option<Group<S>> {
        self.entries().groups.get(&group).cloned()
    }

    /// Whether the group is on this node and has not stopped.
    pub(crate) fn serves(&self, group: GroupId) -> bool {
        self.entries().groups.get(&group).is_some_and(Group::is_serving)
    }

    /// All groups, ascending.
    pub(crate) fn ids(&self) -> Vec<GroupId> {
        self.entries().groups.keys().copied().collect()
    }

    /// The newest catalogue that this node knows.
    pub(crate) fn catalogue(&self) -> Catalogue {
        self.entries().catalogue.clone()
    }

    /// From now on this is the catalogue, and this node has yet to do what it says about these groups.
    pub(crate) fn follow(&self, catalogue: Catalogue, unsettled: Vec<GroupId>) {
        self.change(|entries| {
            entries.catalogue = catalogue;
            entries.unsettled.extend(unsettled);
        });
    }

    /// This node has done what the catalogue says about a group.
    pub(crate) fn settled(&self, group: GroupId) {
        self.change(|entries| {
            entries.unsettled.remove(&group);
        });
    }

    /// Whether the node knows the catalogue of this index and has done what it says about a group.
    pub(crate) fn is_settled(&self, index: u64, group: GroupId) -> bool {
        let entries = self.entries();
        entries.catalogue.index() >= index && !entries.unsettled.contains(&group)
    }

    /// Changes with everything here.
    pub(crate) fn watch(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    fn entries(&self) -> RwLockReadGuard<'_, Entries<S>> {
        self.0.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Entries<S>)) {
        let mut entries: RwLockWriteGuard<'_, _> =
            self.0.entries.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut entries);
        drop(entries);
        self.0.changed.send_replace(());
    }
}
