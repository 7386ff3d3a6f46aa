//! The groups of a node: those that it has, those that there are, and how they come and go.

use std::sync::Arc;
use std::time::Duration;

use quorate_engine::{GroupId, NodeId};
use quorate_statemachine::StateMachine;
use tokio::sync::oneshot;

use super::Node;
use crate::catalogue::{Catalogue, FIRST_GROUP};
use crate::catalogue_change::{CatalogueError, CatalogueRequest};
use crate::core::Input;
use crate::group::Group;
use crate::inbox::{ChangeCaller, Closed, panic_text};
use crate::replay::{Picked, Replay, ReplayError, Replayed};

impl<S: StateMachine> Node<S> {
    /// Creates groups with these voters, all of them members of group 1: each begins on every voter, by
    /// itself, with a state machine of its own, and elects a leader when a majority has begun.
    /// Only the node that leads group 1 can. Returns the index of group 1's entry when it is committed,
    /// and the groups have begun on this node, if it is one of the voters; [`Node::wait_group`] waits for
    /// that on another.
    ///
    /// A voter that is away begins the groups when it is back. An id is for one group, ever, and ids
    /// ascend: see [`Catalogue::next_group_id`]. Which data directory stands for a voter, and where it is
    /// reached, is what group 1 knows of the node when the groups are created.
    ///
    /// While the disk is full it waits until there is room. Not cancel safe: if the future is
    /// dropped, the groups may still be created.
    ///
    /// # Errors
    ///
    /// [`CatalogueError`]: of all groups that are named, all were created or none.
    pub async fn create_groups(
        &self,
        groups: &[GroupId],
        voters: &[NodeId],
    ) -> Result<u64, CatalogueError> {
        let (groups, voters) = (groups.to_vec(), voters.to_vec());
        let request = CatalogueRequest::Create { groups: groups.clone(), voters };
        self.change_catalogue(request, &groups).await
    }

    /// As [`Node::create_groups`], for one group.
    ///
    /// # Errors
    ///
    /// As [`Node::create_groups`].
    pub async fn create_group(
        &self,
        group: GroupId,
        voters: &[NodeId],
    ) -> Result<u64, CatalogueError> {
        self.create_groups(&[group], voters).await
    }

    /// Removes groups, for good: each node that has one drops it, with its log, its snapshots and its
    /// votes, as soon as it hears of it. Callers that wait for such a group are told that it has
    /// stopped. Only the node that leads group 1 can. Returns the index of group 1's entry when it is
    /// committed, and the groups are gone from this node.
    ///
    /// What is committed in a group from then on, by nodes that have yet to hear of it, goes with it.
    /// What is damaged on a node stays there, in quarantine.
    ///
    /// Not cancel safe: if the future is dropped, the groups may still be removed.
    ///
    /// # Errors
    ///
    /// [`CatalogueError`]: of all groups that are named, all were removed or none.
    pub async fn remove_groups(&self, groups: &[GroupId]) -> Result<u64, CatalogueError> {
        let request = CatalogueRequest::Remove { groups: groups.to_vec() };
        self.change_catalogue(request, groups).await
    }

    /// As [`Node::remove_groups`], for one group.
    ///
    /// # Errors
    ///
    /// As [`Node::remove_groups`].
    pub async fn remove_group(&self, group: GroupId) -> Result<u64, CatalogueError> {
        self.remove_groups(&[group]).await
    }

    async fn change_catalogue(
        &self,
        request: CatalogueRequest,
        groups: &[GroupId],
    ) -> Result<u64, CatalogueError> {
        let (caller, answer) = oneshot::channel();
        let input = Input::Catalogue { request, caller: ChangeCaller::Groups(caller) };
        let index = match self.0.inbox.request(FIRST_GROUP, input) {
            Ok(()) => answer.await.unwrap_or(Err(CatalogueError::Unknown))?,
            Err(Closed::Full) => return Err(CatalogueError::Overloaded),
            Err(Closed::Ended) => return Err(CatalogueError::NotLeader { leader: None }),
        };
        let registry = &self.0.registry;
        for group in groups {
            self.watch_groups(|| registry.is_settled(index, *group).then_some(())).await?;
        }
        Ok(index)
    }

    /// Waits until a group is on this node. Waits for ever where it never will be: put a limit around
    /// it.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// [`CatalogueError::NoGroup`] when it was removed, [`CatalogueError::Stopped`] when the node stops
    /// first.
    pub async fn wait_group(&self, group: GroupId) -> Result<Group<S>, CatalogueError> {
        let registry = &self.0.registry;
        let found = self.watch_groups(|| match registry.get(group) {
            Some(found) => Some(Ok(found)),
            None if registry.catalogue().is_spent(group) => {
                Some(Err(CatalogueError::NoGroup(group)))
            }
            None => None,
        });
        found.await?
    }

    /// Looks at the registry now, and whenever it changes, until there is something to be seen.
    async fn watch_groups<T>(
        &self,
        mut look: impl FnMut() -> Option<T>,
    ) -> Result<T, CatalogueError> {
        let (mut changed, mut status) = (self.0.registry.watch(), self.watch_status());
        loop {
            changed.mark_unchanged();
            if let Some(seen) = look() {
                return Ok(seen);
            }
            tokio::select! {
                _ = changed.changed() => {}
                // It has failed, or the loop is gone.
                _ = status.wait_for(|status| status.fatal.is_some()) => {
                    return Err(CatalogueError::Stopped);
                }
            }
        }
    }

    /// Which groups there are, everywhere, as far as this node knows: as of [`Catalogue::index`] of group
    /// 1's log.
    pub fn catalogue(&self) -> Catalogue {
        self.0.registry.catalogue()
    }

    /// Goes once more through what the log of a group on this node has behind its last snapshot, up to what
    /// is applied now, and keeps what `pick` makes of each command and of the states around it: the latest
    /// `keep` of it. What `finish` makes of that is returned. It has a state machine of its own
    /// meanwhile, on a thread of its own, on which it calls `pick` and `finish`; the log it reads by the
    /// thread that reads for Raft too, a few MiB at a time. Where compaction overtakes it, it begins anew:
    /// `pick` may see a command more than once.
    ///
    /// Cancel safe. When the future is dropped, or `limit` is over, the thread ends before the next
    /// command; a snapshot that it is restoring it restores to the end.
    ///
    /// # Errors
    ///
    /// [`ReplayError`]; the group itself goes on.
    pub async fn replay<T: Send + 'static, R: Send + 'static>(
        &self,
        group: GroupId,
        limit: Duration,
        keep: usize,
        pick: impl FnMut(Replayed<'_, S>) -> Option<T> + Send + 'static,
        finish: impl FnOnce(Picked<S::Image, T>) -> R + Send + 'static,
    ) -> Result<R, ReplayError> {
        let live = self.group(group).ok_or(ReplayError::NoGroup(group))?;
        let (reader, snapshots) = (self.0.reader.clone(), self.0.snapshots.clone());
        let waiting = Arc::new(());
        let caller = Arc::downgrade(&waiting);
        let replay = Replay { group, reader, snapshots, caller, limit };
        let run = tokio::task::spawn_blocking(move || {
            replay.run(|| live.image().applied, keep, pick).map(finish)
        });
        let ended = tokio::time::timeout(limit, run).await;
        // Whichever way this ends, nobody waits from here on.
        drop(waiting);
        match ended {
            Ok(Ok(ended)) => ended,
            Ok(Err(error)) => Err(match error.try_into_panic() {
                Ok(panic) => ReplayError::Panicked { group, reason: panic_text(&*panic) },
                // The runtime ends.
                Err(_) => ReplayError::ShutDown,
            }),
            Err(_) => Err(ReplayError::TimedOut { group, limit }),
        }
    }

    /// One of the groups on this node; `None` where it is not here. One that has stopped for good is,
    /// and says why in its status.
    pub fn group(&self, id: GroupId) -> Option<Group<S>> {
        self.0.registry.get(id)
    }

    /// All groups on this node, ascending, those that have stopped or are damaged included.
    pub fn groups(&self) -> Vec<GroupId> {
        self.0.registry.ids()
    }
}
