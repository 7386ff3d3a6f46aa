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
    /// Brokers that were registered, amended, fenced, unfenced, shut down or removed.
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
        for topic in &later.topics_deleted {
            let key = |partition| PartitionKey { topic: *topic, partition };
            let gone: Vec<_> = self.partitions.range(key(0)..=key(u32::MAX)).copied().collect();
            for key in &gone {
                self.partitions.remove(key);
            }
            self.topics_changed.remove(topic);
            // Created and deleted within one collapsed delta: the watcher never saw it.
            if !self.topics_created.remove(topic) {
                self.topics_deleted.insert(*topic);
            }
        }
        self.brokers.extend(later.brokers);
        self.topics_changed
            .extend(later.topics_changed.iter().filter(|id| !self.topics_created.contains(id)));
        self.topics_created.extend(later.topics_created);
        self.partitions.extend(later.partitions);
        self.feature_level |= later.feature_level;
        self.producer_ids |= later.producer_ids;
    }

    /// Costs a pass over both images; topics that they share are skipped without a look inside.
    fn between(before: &MetadataImage, after: &MetadataImage) -> Self {
        let mut delta = Self {
            feature_level: before.feature_level() != after.feature_level(),
            producer_ids: before.next_producer_id() != after.next_producer_id(),
            ..Self::default()
        };
        for broker in before.brokers() {
            if after.broker(broker.id) != Some(broker) {
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
    fn topic_between(&mut self, before: &MetadataImage, topic: &Topic) {
        let key = |partition| PartitionKey { topic: topic.id, partition };
        let Some(old) = before.topic(topic.id) else {
            self.topics_created.insert(topic.id);
            self.partitions.extend((0..topic.partition_count()).map(key));
            return;
        };
        if std::ptr::eq(old, topic) {
            return;
        }
        if old.configs != topic.configs || old.name != topic.name {
            self.topics_changed.insert(topic.id);
        }
        for (number, partition) in topic.partitions() {
            if old.partition(number) != Some(partition) {
                self.partitions.insert(key(number));
            }
        }
    }
}
