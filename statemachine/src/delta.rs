//! What one command, or several, changed: what a watcher is told beside the image.

use std::collections::BTreeSet;

use crate::contract::Changes;
use crate::ids::{BrokerId, PartitionKey, TopicId};
use crate::image::MetadataImage;
use crate::topic::Topic;

/// What changed between two images. Names only what differs; the image says how it is now.
///
/// Deltas of consecutive commands collapse into one by [`Changes::merge`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// Brokers that were registered, amended, fenced, unfenced, shut down or removed, or whose configs
    /// changed.
    pub brokers: BTreeSet<BrokerId>,
    /// Topics that are new. Their partitions are in `partitions`.
    pub topics_created: BTreeSet<TopicId>,
    /// Topics that are gone. Their partitions are not in `partitions`. An id in both sets was
    /// deleted and then created again.
    pub topics_deleted: BTreeSet<TopicId>,
    /// Topics that were there before, and whose configuration changed.
    pub topics_changed: BTreeSet<TopicId>,
    /// Partitions that are new or changed.
    pub partitions: BTreeSet<PartitionKey>,
    /// The configs of all topics changed.
    pub defaults: bool,
    /// The feature level changed.
    pub feature_level: bool,
    /// Producer ids were given out.
    pub producer_ids: bool,
}

impl Changes<MetadataImage> for Delta {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn merge(&mut self, later: Self) {
        later.topics_deleted.into_iter().for_each(|topic| self.topic_deleted(topic));
        self.brokers.extend(later.brokers);
        later.topics_changed.into_iter().for_each(|topic| self.topic_changed(topic));
        self.topics_created.extend(later.topics_created);
        self.partitions.extend(later.partitions);
        self.defaults |= later.defaults;
        self.feature_level |= later.feature_level;
        self.producer_ids |= later.producer_ids;
    }

    /// Costs a pass over both images; topics that they share are skipped without a look inside.
    fn between(before: &MetadataImage, after: &MetadataImage) -> Self {
        let mut delta = Self {
            defaults: before.default_configs() != after.default_configs(),
            feature_level: before.feature_level() != after.feature_level(),
            producer_ids: before.next_producer_id() != after.next_producer_id(),
            ..Self::default()
        };
        for broker in before.brokers() {
            let is_same = after.broker(broker.id) == Some(broker)
                && after.broker_configs(broker.id) == before.broker_configs(broker.id);
            if !is_same {
                delta.brokers.insert(broker.id);
            }
        }
        for broker in after.brokers() {
            if before.broker(broker.id).is_none() {
                delta.brokers.insert(broker.id);
            }
        }
        for topic in before.topics() {
            if after.topic(topic.id).is_none() {
                delta.topics_deleted.insert(topic.id);
            }
        }
        for topic in after.topics() {
            delta.topic_between(before, topic);
        }
        delta
    }
}

impl Delta {
    /// A topic is gone, and what was changed of it with it.
    pub(crate) fn topic_deleted(&mut self, topic: TopicId) {
        let key = |partition| PartitionKey { topic, partition };
        let gone: Vec<_> = self.partitions.range(key(0)..=key(u32::MAX)).copied().collect();
        for key in &gone {
            self.partitions.remove(key);
        }
        self.topics_changed.remove(&topic);
        // Created and deleted within one collapsed delta: the watcher never saw it.
        if !self.topics_created.remove(&topic) {
            self.topics_deleted.insert(topic);
        }
    }

    /// The configuration of a topic changed. Of one that is new that is no news.
    pub(crate) fn topic_changed(&mut self, topic: TopicId) {
        if !self.topics_created.contains(&topic) {
            self.topics_changed.insert(topic);
        }
    }

    fn topic_between(&mut self, before: &MetadataImage, topic: &Topic) {
        let key = |partition| PartitionKey { topic: topic.id, partition };
        let old = before.topic(topic.id);
        if old.is_some_and(|old| std::ptr::eq(old, topic)) {
            return;
        }
        let Some(old) = old.filter(|old| may_become(old, topic)) else {
            if old.is_some() {
                self.topics_deleted.insert(topic.id);
            }
            self.topics_created.insert(topic.id);
            self.partitions.extend((0..topic.partition_count()).map(key));
            return;
        };
        if old.configs != topic.configs {
            self.topics_changed.insert(topic.id);
        }
        for (number, partition) in topic.partitions() {
            if old.partition(number) != Some(partition) {
                self.partitions.insert(key(number));
            }
        }
    }
}

/// Whether the one can have become the other by changes. If not it was deleted, and created again under
/// its id: a name stays, partitions stay, and each change of one is a step of its epoch. One that is created again and
/// has come as far as the other was looks like it: that is for the proposer to leave alone, whose ids are random.
fn may_become(old: &Topic, new: &Topic) -> bool {
    old.name == new.name
        && old.partitions().all(|(number, before)| {
            new.partition(number).is_some_and(|after| {
                before == after
                    || (before.partition_epoch < after.partition_epoch
                        && before.leader_epoch <= after.leader_epoch)
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;
    use crate::testing::{Cluster, key, new_topic, topic_id};

    fn apply(cluster: &mut Cluster, command: Command, collapsed: &mut Delta) {
        collapsed.merge(cluster.apply(command).changes);
    }

    #[test]
    fn a_topic_created_and_deleted_between_two_looks_was_never_there() {
        let mut cluster = Cluster::of(&[1, 2]);
        let mut collapsed = Delta::default();
        let topics = vec![new_topic(1, "a", &[&[1, 2]]), new_topic(2, "b", &[&[2]])];
        apply(&mut cluster, Command::CreateTopics { topics }, &mut collapsed);
        let fence = Command::FenceBroker(cluster.session(2));
        apply(&mut cluster, fence, &mut collapsed);
        assert_eq!(
            collapsed.partitions.iter().copied().collect::<Vec<_>>(),
            [key(1, 0), key(2, 0)]
        );
        apply(&mut cluster, Command::DeleteTopic { topic: topic_id(1) }, &mut collapsed);
        assert_eq!(collapsed.topics_created.iter().copied().collect::<Vec<_>>(), [topic_id(2)]);
        assert!(collapsed.topics_deleted.is_empty());
        assert_eq!(collapsed.partitions.iter().copied().collect::<Vec<_>>(), [key(2, 0)]);
        assert!(!collapsed.is_empty());
    }

    #[test]
    fn a_topic_that_was_there_and_came_back_under_its_id_is_deleted_and_created() {
        let mut cluster = Cluster::with_topic(&[1], &[1], &[]);
        let mut collapsed = Delta::default();
        let delete = Command::DeleteTopic { topic: topic_id(1) };
        let create = Command::CreateTopics { topics: vec![new_topic(1, "t", &[&[1], &[1]])] };
        apply(&mut cluster, delete.clone(), &mut collapsed);
        apply(&mut cluster, create, &mut collapsed);
        assert!(collapsed.topics_deleted.contains(&topic_id(1)));
        assert!(collapsed.topics_created.contains(&topic_id(1)));
        assert_eq!(collapsed.partitions.len(), 2);
        apply(&mut cluster, delete, &mut collapsed);
        assert!(collapsed.topics_deleted.contains(&topic_id(1)));
        assert!(collapsed.topics_created.is_empty() && collapsed.partitions.is_empty());
    }

    /// What a snapshot skips: the topic is there before and after, and it is another one.
    #[test]
    fn a_topic_that_was_created_anew_under_its_id_is_told_from_one_that_changed() {
        let mut cluster = Cluster::of(&[1, 2]);
        let create = |name: &str, partitions: &[&[u32]]| Command::CreateTopics {
            topics: vec![new_topic(1, name, partitions)],
        };
        cluster.accept(create("t", &[&[1, 2], &[2, 1]]));
        cluster.set_isr(&[1]);
        let before = cluster.image().clone();
        cluster.set_isr(&[1, 2]);
        let changed = Delta { partitions: [key(1, 0)].into(), ..Delta::default() };
        assert_eq!(Delta::between(&before, cluster.image()), changed);
        for (name, partitions) in [
            ("u", &[&[1, 2][..], &[2, 1]][..]),
            ("t", &[&[1, 2]]),
            ("t", &[&[1, 2], &[2, 1]]),
            ("t", &[&[1, 2], &[2, 1], &[1, 2]]),
        ] {
            cluster.accept(Command::DeleteTopic { topic: topic_id(1) });
            cluster.accept(create(name, partitions));
            let count = u32::try_from(partitions.len()).expect("few");
            let anew = Delta {
                topics_created: [topic_id(1)].into(),
                topics_deleted: [topic_id(1)].into(),
                partitions: (0..count).map(|number| key(1, number)).collect(),
                ..Delta::default()
            };
            assert_eq!(Delta::between(&before, cluster.image()), anew, "{name} {partitions:?}");
        }
    }

    #[test]
    fn a_loaded_snapshot_appears_as_what_differs() {
        let mut cluster = Cluster::with_topic(&[1, 2], &[1, 2], &[]);
        let before = cluster.image().clone();
        assert!(Delta::between(&before, &before).is_empty());
        cluster.fence(1);
        cluster.accept(Command::AllocateProducerIds(cluster.session(2)));
        cluster.accept(Command::CreateTopics { topics: vec![new_topic(2, "b", &[&[2]])] });
        cluster.accept(Command::DeleteTopic { topic: topic_id(1) });
        let there = Delta::between(&before, cluster.image());
        let expected = Delta {
            brokers: [crate::BrokerId(1)].into(),
            topics_created: [topic_id(2)].into(),
            topics_deleted: [topic_id(1)].into(),
            partitions: [key(2, 0)].into(),
            producer_ids: true,
            ..Delta::default()
        };
        assert_eq!(there, expected);
    }
}
