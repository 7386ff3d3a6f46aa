//! The metadata at one point of the log: persistent maps, so that a clone is O(1) and shares all.
//!
//! Beside the state there are two indexes that follow from it and are not in snapshots: names, and
//! the partitions that each broker is a replica of. With the second, fencing a broker costs what the
//! broker keeps and not what the cluster has.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use mutation::Bug;

use crate::broker::{Broker, BrokerMap};
use crate::checkpoints::Checkpoints;
use crate::command::Checkpoint;
use crate::ids::{BrokerId, FeatureLevel, PartitionKey, ProducerId, TopicId};
use crate::partition::Partition;
use crate::record::{broker_to_wire, configs_to_wire, topic_to_wire};
use crate::state_sum::StateSum;
use crate::topic::Topic;
use crate::topic_config::{TopicConfigKey, TopicConfigs};
use crate::topic_name::{CollisionKey, fold};
use crate::wire::record::Kind;

/// The metadata, immutable. Clones are O(1) and may be read from any thread without a lock.
///
/// It does not know the index it was taken at: whoever publishes it says so.
#[derive(Debug, Clone)]
pub struct MetadataImage {
    pub(crate) feature_level: FeatureLevel,
    pub(crate) next_producer_id: ProducerId,
    pub(crate) brokers: BrokerMap,
    /// What holds for all topics that have no value of their own.
    pub(crate) defaults: Arc<TopicConfigs>,
    /// What was set for single brokers; no empty ones.
    pub(crate) broker_configs: OrdMap<BrokerId, Arc<TopicConfigs>>,
    pub(crate) topics: OrdMap<TopicId, Arc<Topic>>,
    /// By collision key, under which there is one topic at most.
    pub(crate) names: OrdMap<CollisionKey, TopicId>,
    /// The partitions of which a broker is a replica; no empty sets.
    pub(crate) kept: OrdMap<BrokerId, OrdSet<PartitionKey>>,
    /// Of all that a snapshot holds.
    pub(crate) sum: StateSum,
    /// What this replica noted; no part of the state.
    pub(crate) checkpoints: Checkpoints,
}

impl PartialEq for MetadataImage {
    /// Equal states; what a replica noted of its own way there does not count.
    fn eq(&self, other: &Self) -> bool {
        self.feature_level == other.feature_level
            && self.next_producer_id == other.next_producer_id
            && self.brokers == other.brokers
            && self.defaults == other.defaults
            && self.broker_configs == other.broker_configs
            && self.topics == other.topics
            && self.names == other.names
            && self.kept == other.kept
            && self.sum == other.sum
    }
}

impl Eq for MetadataImage {}

impl MetadataImage {
    /// The feature level of a new cluster.
    pub const FEATURE_LEVEL_GENESIS: FeatureLevel = FeatureLevel(1);

    /// The state before the first command.
    pub(crate) fn genesis() -> Self {
        let mut sum = StateSum::default();
        sum.add(Kind::FeatureLevel(Self::FEATURE_LEVEL_GENESIS.get()));
        sum.add(Kind::NextProducerId(0));
        Self {
            sum,
            feature_level: Self::FEATURE_LEVEL_GENESIS,
            next_producer_id: ProducerId(0),
            brokers: OrdMap::new(),
            defaults: Arc::default(),
            broker_configs: OrdMap::new(),
            topics: OrdMap::new(),
            names: OrdMap::new(),
            kept: OrdMap::new(),
            checkpoints: Checkpoints::default(),
        }
    }

    /// The finalized feature level.
    #[must_use]
    pub fn feature_level(&self) -> FeatureLevel {
        self.feature_level
    }

    /// The first producer id that was not given out.
    #[must_use]
    pub fn next_producer_id(&self) -> ProducerId {
        self.next_producer_id
    }

    /// The hashes of the state at the last indexes that all replicas note
    /// ([`CHECKPOINT_EVERY`](crate::CHECKPOINT_EVERY)), as this replica had them, in order of index; no
    /// more than [`CHECKPOINTS_MAX`](crate::CHECKPOINTS_MAX), and only those that it has come by since it
    /// was made or restored. A leader proposes what most replicas noted, for all to compare.
    #[must_use]
    pub fn checkpoints(&self) -> &[Checkpoint] {
        self.checkpoints.noted()
    }

    /// The registered brokers in order of id.
    pub fn brokers(&self) -> impl Iterator<Item = &Broker> {
        self.brokers.values().map(AsRef::as_ref)
    }

    /// How many brokers are registered.
    #[must_use]
    pub fn broker_count(&self) -> usize {
        self.brokers.len()
    }

    /// The broker with this id.
    #[must_use]
    pub fn broker(&self, id: BrokerId) -> Option<&Broker> {
        self.brokers.get(&id).map(AsRef::as_ref)
    }

    /// The topics in order of id.
    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.topics.values().map(AsRef::as_ref)
    }

    /// The topics in order of name, where `.` sorts as `_`.
    pub fn topics_by_name(&self) -> impl Iterator<Item = &Topic> {
        self.names.values().filter_map(|id| self.topic(*id))
    }

    /// How many topics there are.
    #[must_use]
    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// The topic with this id.
    #[must_use]
    pub fn topic(&self, id: TopicId) -> Option<&Topic> {
        self.topics.get(&id).map(AsRef::as_ref)
    }

    /// The topic with this name.
    #[must_use]
    pub fn topic_by_name(&self, name: &str) -> Option<&Topic> {
        self.topic_colliding_with(name).filter(|topic| &*topic.name == name)
    }

    /// The topic with this name, or with one that collides with it.
    #[must_use]
    pub fn topic_colliding_with(&self, name: &str) -> Option<&Topic> {
        self.names.get(fold(name).as_ref()).and_then(|id| self.topic(*id))
    }

    /// A partition.
    #[must_use]
    pub fn partition(&self, key: PartitionKey) -> Option<&Partition> {
        self.topic(key.topic)?.partition(key.partition)
    }

    /// What was set for all topics that have no value of their own.
    #[must_use]
    pub fn default_configs(&self) -> &TopicConfigs {
        &self.defaults
    }

    /// What was set for one broker, if anything.
    #[must_use]
    pub fn broker_configs(&self, id: BrokerId) -> Option<&TopicConfigs> {
        self.broker_configs.get(&id).map(AsRef::as_ref)
    }

    /// The value that holds for a topic: its own, that of all topics, or the one built in.
    #[must_use]
    pub fn config<'a>(&'a self, topic: &'a Topic, key: TopicConfigKey) -> &'a str {
        topic.configs.get(key).unwrap_or_else(|| self.default_config(key))
    }

    /// The value that holds for a topic that has none of its own.
    #[must_use]
    pub fn default_config(&self, key: TopicConfigKey) -> &str {
        self.defaults.get(key).unwrap_or(key.default_value())
    }

    /// The `min.insync.replicas` that holds for a topic.
    #[must_use]
    pub fn min_insync_replicas(&self, topic: &Topic) -> u32 {
        // Every value is valid: it was checked when it was set.
        self.config(topic, TopicConfigKey::MinInsyncReplicas).parse().unwrap_or(1)
    }

    /// Whether an unclean election of a topic's leaders may be run without being asked for.
    #[must_use]
    pub fn unclean_leader_election(&self, topic: &Topic) -> bool {
        self.config(topic, TopicConfigKey::UncleanLeaderElectionEnable) == "true"
    }

    /// All partitions, in order of topic id and number.
    pub fn partitions(&self) -> impl Iterator<Item = (PartitionKey, &Partition)> {
        self.topics().flat_map(|topic| {
            topic.partitions().map(|(number, partition)| {
                (PartitionKey { topic: topic.id, partition: number }, partition)
            })
        })
    }

    /// The partitions of which a broker is a replica, in the same order. Costs what it yields.
    pub fn partitions_of(&self, broker: BrokerId) -> impl Iterator<Item = PartitionKey> {
        self.kept.get(&broker).into_iter().flat_map(|keys| keys.iter().copied())
    }

    pub(crate) fn set_feature_level(&mut self, level: FeatureLevel) {
        self.sum.remove(Kind::FeatureLevel(self.feature_level.get()));
        self.sum.add(Kind::FeatureLevel(level.get()));
        self.feature_level = level;
    }

    pub(crate) fn set_next_producer_id(&mut self, next: ProducerId) {
        self.sum.remove(Kind::NextProducerId(self.next_producer_id.get()));
        self.sum.add(Kind::NextProducerId(next.get()));
        self.next_producer_id = next;
    }

    pub(crate) fn set_defaults(&mut self, configs: TopicConfigs) {
        replace_configs(&mut self.sum, None, &self.defaults, &configs);
        self.defaults = Arc::new(configs);
    }

    pub(crate) fn put_broker_configs(&mut self, id: BrokerId, configs: TopicConfigs) {
        let before = self.broker_configs.remove(&id).unwrap_or_default();
        replace_configs(&mut self.sum, Some(id), &before, &configs);
        if !configs.is_empty() {
            self.broker_configs.insert(id, Arc::new(configs));
        }
    }

    pub(crate) fn put_broker(&mut self, broker: Broker) {
        self.sum.add(Kind::Broker(broker_to_wire(&broker)));
        if let Some(before) = self.brokers.insert(broker.id, Arc::new(broker))
            && !mutation::is(Bug::HashNotUpdated)
        {
            self.sum.remove(Kind::Broker(broker_to_wire(&before)));
        }
    }

    /// Removes a broker, and what was set for it.
    pub(crate) fn remove_broker(&mut self, id: BrokerId) {
        self.put_broker_configs(id, TopicConfigs::default());
        if let Some(broker) = self.brokers.remove(&id) {
            self.sum.remove(Kind::Broker(broker_to_wire(&broker)));
        }
    }

    /// Adds a topic that is not there.
    pub(crate) fn put_topic(&mut self, topic: Topic) {
        self.sum.add(Kind::Topic(topic_to_wire(&topic)));
        for (partition, state) in topic.partitions() {
            let key = PartitionKey { topic: topic.id, partition };
            self.sum.add_partition(key, state);
            index_replicas(&mut self.kept, key, &state.replicas);
        }
        self.names.insert(CollisionKey::of(&topic.name), topic.id);
        self.topics.insert(topic.id, Arc::new(topic));
    }

    pub(crate) fn remove_topic(&mut self, id: TopicId) -> Option<Arc<Topic>> {
        let topic = self.topics.remove(&id)?;
        self.names.remove(fold(&topic.name).as_ref());
        self.sum.remove(Kind::Topic(topic_to_wire(&topic)));
        for (partition, state) in topic.partitions() {
            let key = PartitionKey { topic: id, partition };
            self.sum.remove_partition(key, state);
            unindex_replicas(&mut self.kept, key, &state.replicas);
        }
        Some(topic)
    }

    /// Sets the configs of a topic that is there.
    pub(crate) fn put_topic_configs(&mut self, id: TopicId, configs: TopicConfigs) {
        self.change_topic(id, |_, topic| topic.configs = Arc::new(configs));
    }

    /// Adds partitions to a topic that is there.
    pub(crate) fn grow_topic(&mut self, id: TopicId, partitions: Vec<Partition>) {
        self.change_topic(id, |image, topic| {
            for (number, partition) in (topic.partition_count()..).zip(&partitions) {
                let key = PartitionKey { topic: id, partition: number };
                image.sum.add_partition(key, partition);
                index_replicas(&mut image.kept, key, &partition.replicas);
            }
            topic.partitions.extend(partitions);
        });
    }

    fn change_topic(&mut self, id: TopicId, change: impl FnOnce(&mut Self, &mut Topic)) {
        // Taken out meanwhile, so that it is not copied where nobody else holds it.
        let Some(mut topic) = self.topics.remove(&id) else { return };
        self.sum.remove(Kind::Topic(topic_to_wire(&topic)));
        change(self, Arc::make_mut(&mut topic));
        self.sum.add(Kind::Topic(topic_to_wire(&topic)));
        self.topics.insert(id, topic);
    }

    /// Replaces a partition that is there.
    pub(crate) fn put_partition(&mut self, key: PartitionKey, next: Partition) {
        let slot = self.topics.get_mut(&key.topic).and_then(|topic| {
            let number = usize::try_from(key.partition).ok()?;
            Arc::make_mut(topic).partitions.get_mut(number)
        });
        let Some(slot) = slot else {
            debug_assert!(false, "partition {key} is changed only where it was found");
            return;
        };
        self.sum.remove_partition(key, slot);
        self.sum.add_partition(key, &next);
        if slot.replicas != next.replicas {
            unindex_replicas(&mut self.kept, key, &slot.replicas);
            index_replicas(&mut self.kept, key, &next.replicas);
        }
        *slot = next;
    }

    /// The sum as it is when it is made from nothing: costs a pass over the state.
    pub(crate) fn summed_anew(&self) -> StateSum {
        let mut anew = Self::genesis();
        anew.set_feature_level(self.feature_level);
        anew.set_next_producer_id(self.next_producer_id);
        anew.set_defaults((*self.defaults).clone());
        for (id, configs) in &self.broker_configs {
            anew.put_broker_configs(*id, (**configs).clone());
        }
        for broker in self.brokers() {
            anew.put_broker(broker.clone());
        }
        let mut sum = anew.sum;
        for topic in self.topics() {
            sum.add(Kind::Topic(topic_to_wire(topic)));
        }
        for (key, partition) in self.partitions() {
            sum.add_partition(key, partition);
        }
        sum
    }
}

/// Configs that are empty are no part of a snapshot.
fn replace_configs(
    sum: &mut StateSum,
    broker: Option<BrokerId>,
    before: &TopicConfigs,
    after: &TopicConfigs,
) {
    if !before.is_empty() {
        sum.remove(Kind::Configs(configs_to_wire(broker, before)));
    }
    if !after.is_empty() {
        sum.add(Kind::Configs(configs_to_wire(broker, after)));
    }
}

fn index_replicas(
    kept: &mut OrdMap<BrokerId, OrdSet<PartitionKey>>,
    key: PartitionKey,
    replicas: &[BrokerId],
) {
    for broker in replicas {
        kept.entry(*broker).or_default().insert(key);
    }
}

fn unindex_replicas(
    kept: &mut OrdMap<BrokerId, OrdSet<PartitionKey>>,
    key: PartitionKey,
    replicas: &[BrokerId],
) {
    for broker in replicas {
        if let Some(keys) = kept.get_mut(broker) {
            keys.remove(&key);
            if keys.is_empty() {
                kept.remove(broker);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;
    use crate::testing::{Cluster, key, new_topic, topic_id};

    #[test]
    fn what_is_there_is_found_in_every_way() {
        let mut cluster = Cluster::of(&[2, 1]);
        let topics = vec![new_topic(7, "a.b", &[&[1], &[2]]), new_topic(3, "z", &[&[2]])];
        cluster.accept(Command::CreateTopics { topics });
        let image = cluster.image();
        let brokers: Vec<u32> = image.brokers().map(|broker| broker.id.get()).collect();
        assert_eq!(brokers, [1, 2]);
        assert_eq!(image.broker_count(), 2);
        assert!(image.broker(BrokerId(3)).is_none());
        assert_eq!(image.topic_count(), 2);
        let topics: Vec<TopicId> = image.topics().map(|topic| topic.id).collect();
        assert_eq!(topics, [topic_id(3), topic_id(7)]);
        let names: Vec<&str> = image.topics_by_name().map(|topic| &*topic.name).collect();
        assert_eq!(names, ["a.b", "z"]);
        assert_eq!(image.topic_by_name("a.b").map(|topic| topic.id), Some(topic_id(7)));
        assert!(image.topic_by_name("a_b").is_none());
        assert_eq!(image.topic_colliding_with("a_b").map(|topic| topic.id), Some(topic_id(7)));
        assert_eq!(image.topic(topic_id(7)).map(Topic::partition_count), Some(2));
        let partitions: Vec<PartitionKey> = image.partitions().map(|(key, _)| key).collect();
        assert_eq!(partitions, [key(3, 0), key(7, 0), key(7, 1)]);
        assert!(image.partition(key(7, 2)).is_none());
        assert!(image.partition(key(8, 0)).is_none());
        let kept: Vec<PartitionKey> = image.partitions_of(BrokerId(2)).collect();
        assert_eq!(kept, [key(3, 0), key(7, 1)]);
    }
}
