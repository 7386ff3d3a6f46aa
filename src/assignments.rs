//! [`Assignments`]: what one broker leads and follows, and each change of that, without gaps.

use quorate_statemachine::{BrokerId, Delta, LeaderEpoch, MetadataImage, Partition, PartitionKey};

use crate::error::WatchEnded;
use crate::quorum::Quorum;
use crate::watch::{Snapshot, Watch};

/// What a broker is to a partition of which it keeps a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaRole {
    /// It leads.
    Leader,
    /// It copies what this broker has.
    Follower {
        /// Who leads.
        leader: BrokerId,
    },
    /// Nobody leads: there is nobody to copy from, and nothing to be served.
    Leaderless,
}

/// A partition of which a broker keeps a replica, and what it is to do there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The partition.
    pub partition: PartitionKey,
    /// What the broker is there.
    pub role: ReplicaRole,
    /// The epoch in which it is that. It grows whenever the leader is written, also where the same one
    /// is; what comes with a lower one is out of date.
    pub leader_epoch: LeaderEpoch,
}

/// A partition that a broker keeps as before, in another role or epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AssignmentChange {
    /// As it was told last.
    pub before: Assignment,
    /// As it is now.
    pub after: Assignment,
}

/// What changed for a broker since it was told last. Not all of it is empty; each list is in order of
/// partition.
///
/// Take what is lost first: a topic that was deleted and created again under its id is lost and gained,
/// for what was stored of the one is nothing of the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AssignmentUpdate {
    /// The last log index whose effect is in it.
    pub index: u64,
    /// What the broker keeps no longer, as it was told last: the topic was deleted, or the replica went
    /// elsewhere.
    pub lost: Vec<Assignment>,
    /// What it keeps from now on.
    pub gained: Vec<Assignment>,
    /// What it keeps as before, in another role or epoch.
    pub changed: Vec<AssignmentChange>,
}

/// What one broker leads and follows, and each change of that, in order and without gaps: [`all`], with
/// what [`next`] says taken away, added and replaced, is what [`all`] is then.
///
/// It needs no session, and may be asked of any broker: one that is not registered may have replicas as
/// well. Of a partition it tells the role and the leader's epoch; the ISR and the rest are in
/// [`Assignments::seen`], and their changes are told by [`Quorum::watch`].
///
/// It holds the image that was told last, which shares with the newest one what is the same in both, and
/// at most one update that waits. Whoever is slower than the changes gets them collapsed: what was gained
/// and lost meanwhile is not told.
///
/// ```no_run
/// use quorate::{Assignment, BrokerId, Quorum, ReplicaRole, WatchEnded};
///
/// # fn stop(_: Assignment) {}
/// # fn lead(_: Assignment) {}
/// # fn copy_from(_: BrokerId, _: Assignment) {}
/// async fn keep_up(quorum: &Quorum, own: BrokerId) -> Result<(), WatchEnded> {
///     let begin = |it: Assignment| match it.role {
///         ReplicaRole::Leader => lead(it),
///         ReplicaRole::Follower { leader } => copy_from(leader, it),
///         ReplicaRole::Leaderless => stop(it),
///     };
///     let mut assignments = quorum.assignments(own);
///     assignments.all().for_each(begin);
///     loop {
///         let update = assignments.next().await?;
///         update.lost.into_iter().for_each(stop);
///         update.gained.into_iter().for_each(begin);
///         update.changed.into_iter().for_each(|change| begin(change.after));
///     }
/// }
/// ```
///
/// [`all`]: Assignments::all
/// [`next`]: Assignments::next
#[derive(Debug)]
pub struct Assignments {
    broker: BrokerId,
    watch: Watch,
    /// What the next update is told against.
    seen: Snapshot,
}

impl Quorum {
    /// What a broker leads and follows, as this node has applied it, and each change of that. O(1).
    pub fn assignments(&self, broker: BrokerId) -> Assignments {
        let watch = self.watch();
        let seen = watch.start();
        Assignments { broker, watch, seen }
    }
}

impl Assignments {
    /// All that the broker leads and follows, as of what was told last; before the first
    /// [`Assignments::next`], as of the call that made this. In order of partition; costs what it yields.
    pub fn all(&self) -> impl Iterator<Item = Assignment> {
        let image = &self.seen.image;
        image.partitions_of(self.broker).filter_map(|key| assignment(image, self.broker, key))
    }

    /// The metadata that was told last, and its index.
    pub fn seen(&self) -> &Snapshot {
        &self.seen
    }

    /// Waits until something changes for the broker, for ever where nothing does, and tells what. It looks
    /// at what the changes of the metadata name and at nothing else, however much there is.
    ///
    /// Cancel safe: what was not returned is in the next update.
    ///
    /// # Errors
    ///
    /// [`WatchEnded`] when the node has stopped and every change before that was returned.
    pub async fn next(&mut self) -> Result<AssignmentUpdate, WatchEnded> {
        loop {
            let update = self.watch.next().await?;
            // Nothing is awaited from here on: it is seen if and only if it is told.
            let (image, index) = (update.image, update.index);
            let before = std::mem::replace(&mut self.seen, Snapshot { image, index });
            let mut told = AssignmentUpdate { index, ..AssignmentUpdate::default() };
            told.between(self.broker, &before.image, &self.seen.image, &update.delta);
            if !(told.lost.is_empty() && told.gained.is_empty() && told.changed.is_empty()) {
                return Ok(told);
            }
        }
    }
}

impl AssignmentUpdate {
    /// Adds what changed for the broker, among what `delta` names.
    fn between(
        &mut self,
        broker: BrokerId,
        before: &MetadataImage,
        after: &MetadataImage,
        delta: &Delta,
    ) {
        let is_deleted = |key: &PartitionKey| delta.topics_deleted.contains(&key.topic);
        for topic in delta.topics_deleted.iter().filter_map(|id| before.topic(*id)) {
            let key = |partition| PartitionKey { topic: topic.id, partition };
            let keys = (0..topic.partition_count()).map(key);
            self.lost.extend(keys.filter_map(|key| assignment(before, broker, key)));
        }
        for key in &delta.partitions {
            // Of a topic that was created again under its id, nothing was there before.
            let old = (!is_deleted(key)).then(|| assignment(before, broker, *key)).flatten();
            match (old, assignment(after, broker, *key)) {
                (Some(old), Some(new)) if old != new => {
                    self.changed.push(AssignmentChange { before: old, after: new });
                }
                (Some(_), Some(_)) => {}
                (old, new) => {
                    self.lost.extend(old);
                    self.gained.extend(new);
                }
            }
        }
        self.lost.sort_unstable_by_key(|it| it.partition);
    }
}

/// What the broker is to the partition; `None` where it keeps no replica of it.
fn assignment(image: &MetadataImage, broker: BrokerId, key: PartitionKey) -> Option<Assignment> {
    let is_kept = |partition: &&Partition| partition.replicas.contains(&broker);
    let partition = image.partition(key).filter(is_kept)?;
    let role = match partition.leader {
        Some(leader) if leader == broker => ReplicaRole::Leader,
        Some(leader) => ReplicaRole::Follower { leader },
        None => ReplicaRole::Leaderless,
    };
    Some(Assignment { partition: key, role, leader_epoch: partition.leader_epoch })
}

#[cfg(test)]
mod tests {
    use quorate_statemachine::{
        BrokerEpoch, BrokerSession as RegisteredBroker, Changes as _, Command, DirectoryId,
        FeatureRange, Incarnation, Metadata, NewTopic, RegisterBroker, StateMachine as _, TopicId,
    };
    use uuid::Uuid;

    use super::*;

    const OWN: BrokerId = BrokerId(1);

    fn id(number: u128) -> TopicId {
        TopicId(Uuid::from_u128(number))
    }

    fn create(number: u128, partitions: usize) -> Command {
        let topic = NewTopic {
            id: id(number),
            name: format!("t{number}"),
            partitions: vec![[OWN].into_iter().collect(); partitions],
            configs: vec![],
        };
        Command::CreateTopics { topics: vec![topic] }
    }

    /// What the commands change, collapsed, and the image after them.
    fn apply(metadata: &mut Metadata, at: &mut u64, commands: &[Command]) -> Delta {
        let mut collapsed = Delta::default();
        for command in commands {
            *at += 1;
            let applied = metadata.apply_command(*at, command).unwrap();
            assert!(!applied.changes.is_empty(), "{:?}", applied.outcome);
            collapsed.merge(applied.changes);
        }
        collapsed
    }

    /// To see it fail: have `between` go through all that the broker keeps; or leave out that a topic
    /// which was deleted was not there before.
    #[test]
    fn what_a_delta_names_is_told_and_nothing_else_is_looked_at() {
        let (mut metadata, mut at) = (Metadata::new(), 0);
        let directory = Uuid::from_u128(1);
        let register = Command::RegisterBroker(RegisterBroker {
            broker: OWN,
            incarnation: Incarnation(directory),
            listeners: vec![],
            rack: None,
            features: FeatureRange::SUPPORTED,
            directories: vec![DirectoryId(directory)],
            vouched: vec![],
            follows: None,
        });
        apply(&mut metadata, &mut at, &[register]);
        let own = RegisteredBroker { broker: OWN, epoch: BrokerEpoch(at) };
        let unfence = Command::UnfenceBroker(own);
        apply(&mut metadata, &mut at, &[unfence, create(1, 3), create(2, 1)]);
        let before = metadata.image();
        let again = [
            Command::DeleteTopic { topic: id(1) },
            create(1, 2),
            Command::DeleteTopic { topic: id(2) },
        ];
        let delta = apply(&mut metadata, &mut at, &again);
        let after = metadata.image();
        let told = |delta: &Delta| {
            let mut told = AssignmentUpdate::default();
            told.between(OWN, &before, &after, delta);
            let numbers = |all: &[Assignment]| -> Vec<_> {
                let number = |it: &Assignment| {
                    assert_eq!((it.role, it.leader_epoch), (ReplicaRole::Leader, LeaderEpoch(0)));
                    (it.partition.topic.0.as_u128(), it.partition.partition)
                };
                all.iter().map(number).collect()
            };
            assert_eq!(told.changed, []);
            (numbers(&told.lost), numbers(&told.gained))
        };
        let lost = vec![(1, 0), (1, 1), (1, 2), (2, 0)];
        assert_eq!(told(&delta), (lost, vec![(1, 0), (1, 1)]));
        let partial = Delta { topics_deleted: [id(2)].into(), ..Delta::default() };
        assert_eq!(told(&partial), (vec![(2, 0)], vec![]));
        assert_eq!(told(&Delta::default()), (vec![], vec![]));
    }
}
