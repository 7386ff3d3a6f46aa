//! [`Registry`]: which groups are on this node, for everybody but the loop.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use quorate_engine::GroupId;
use quorate_statemachine::StateMachine;

use crate::group::Group;

/// The groups of a node, by their handles. The loop adds and removes, everybody else looks.
///
/// The lock is held for a look-up and never across anything that waits.
pub(crate) struct Registry<S: StateMachine>(Arc<RwLock<BTreeMap<GroupId, Group<S>>>>);

impl<S: StateMachine> Clone for Registry<S> {
    fn clone(&self) -> Self {
        Registry(self.0.clone())
    }
}

impl<S: StateMachine> Registry<S> {
    /// One without a group.
    pub(crate) fn new() -> Self {
        Registry(Arc::default())
    }

    pub(crate) fn insert(&self, group: Group<S>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(group.id(), group);
    }

    pub(crate) fn remove(&self, group: GroupId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&group);
    }

    pub(crate) fn get(&self, group: GroupId) -> Option<Group<S>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&group).cloned()
    }

    /// Whether the group is on this node and has not stopped.
    pub(crate) fn serves(&self, group: GroupId) -> bool {
        let groups = self.0.read().unwrap_or_else(PoisonError::into_inner);
        groups.get(&group).is_some_and(Group::is_serving)
    }

    /// All groups, ascending.
    pub(crate) fn ids(&self) -> Vec<GroupId> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }
}
