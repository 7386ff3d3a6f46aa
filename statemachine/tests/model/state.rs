//! The whole metadata in plain maps, and what differs between two states.

use std::collections::{BTreeMap, BTreeSet};

use quorate_statemachine as real;
use quorate_statemachine::{
    Broker, BrokerId, Brokers, Delta, FeatureLevel, LeaderEpoch, MetadataImage, PartitionEpoch,
    PartitionKey, ProducerId, Recovery, TopicConfigs, TopicId,
};

/// Config values that were set, by the name of the key.
pub(crate) type Configs = BTreeMap<String, String>;

/// Brokers without an order.
pub(crate) type Set = BTreeSet<BrokerId>;

/// The state of a partition: only `replicas` has an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Partition {
    pub(crate) replicas: Vec<BrokerId>,
    pub(crate) isr: Set,
    pub(crate) elr: Set,
    pub(crate) last_known_leader: Option<BrokerId>,
    pub(crate) leader: Option<BrokerId>,
    pub(crate) leader_epoch: LeaderEpoch,
    pub(crate) partition_epoch: PartitionEpoch,
    pub(crate) adding: Set,
    pub(crate) removing: Set,
    pub(crate) recovery: Recovery,
}

/// A topic with its partitions, from number 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Topic {
    pub(crate) name: String,
    pub(crate) configs: Configs,
    pub(crate) partitions: Vec<Partition>,
}

/// All metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) feature_level: FeatureLevel,
    pub(crate) next_producer_id: ProducerId,
    pub(crate) brokers: BTreeMap<BrokerId, Broker>,
    pub(crate) default_configs: Configs,
    /// No empty ones.
    pub(crate) broker_configs: BTreeMap<BrokerId, Configs>,
    pub(crate) topics: BTreeMap<TopicId, Topic>,
}

impl Partition {
    pub(crate) fn is_reassigning(&self) -> bool {
        !self.adding.is_empty() || !self.removing.is_empty()
    }

    /// The members of a set in the order of the replicas.
    pub(crate) fn ordered(&self, set: &Set) -> Brokers {
        self.replicas.iter().copied().filter(|id| set.contains(id)).collect()
    }

    /// The implementation's partition; its sets must be in the order of the replicas.
    fn of(partition: &real::Partition) -> Self {
        let set = |brokers: &[BrokerId]| brokers.iter().copied().collect::<Set>();
        let naive = Self {
            replicas: partition.replicas.to_vec(),
            isr: set(&partition.isr),
            elr: set(&partition.elr),
            last_known_leader: partition.last_known_leader,
            leader: partition.leader,
            leader_epoch: partition.leader_epoch,
            partition_epoch: partition.partition_epoch,
            adding: set(&partition.adding),
            removing: set(&partition.removing),
            recovery: partition.recovery,
        };
        for in_order in [&partition.isr, &partition.elr, &partition.adding, &partition.removing] {
            assert_eq!(**in_order, *naive.ordered(&set(in_order)), "the order of the replicas");
        }
        naive
    }
}

impl Topic {
    /// Whether a later topic of the same id is not this one any more: it was deleted meanwhile.
    fn is_another_than(&self, later: &Self) -> bool {
        let restarted = |(old, new): (&Partition, &Partition)| {
            old != new
                && (old.partition_epoch >= new.partition_epoch
                    || old.leader_epoch > new.leader_epoch)
        };
        self.name != later.name
            || self.partitions.len() > later.partitions.len()
            || self.partitions.iter().zip(&later.partitions).any(restarted)
    }
}

impl State {
    /// The state before the first command.
    pub(crate) fn genesis() -> Self {
        Self {
            feature_level: FeatureLevel(1),
            next_producer_id: ProducerId(0),
            brokers: BTreeMap::new(),
            default_configs: Configs::new(),
            broker_configs: BTreeMap::new(),
            topics: BTreeMap::new(),
        }
    }

    /// Everything that an image tells.
    pub(crate) fn of(image: &MetadataImage) -> Self {
        let configs = |configs: &TopicConfigs| {
            configs.iter().map(|(key, value)| (key.name().to_owned(), value.to_owned())).collect()
        };
        let topic = |topic: &real::Topic| Topic {
            name: topic.name.to_string(),
            configs: configs(&topic.configs),
            partitions: topic.partitions().map(|(_, partition)| Partition::of(partition)).collect(),
        };
        let brokers: BTreeMap<_, _> =
            image.brokers().map(|broker| (broker.id, broker.clone())).collect();
        // More than there can be, to find what outlived its broker.
        let broker_configs =
            (0..10).map(BrokerId).filter_map(|id| Some((id, configs(image.broker_configs(id)?))));
        Self {
            feature_level: image.feature_level(),
            next_producer_id: image.next_producer_id(),
            broker_configs: broker_configs.collect(),
            default_configs: configs(image.default_configs()),
            topics: image.topics().map(|state| (state.id, topic(state))).collect(),
            brokers,
        }
    }

    /// The brokers that are neither fenced nor shutting down.
    pub(crate) fn active(&self) -> Set {
        let active = self.brokers.values().filter(|broker| !broker.fenced && !broker.in_shutdown);
        active.map(|broker| broker.id).collect()
    }

    pub(crate) fn partition(&self, key: PartitionKey) -> Option<&Partition> {
        self.topics.get(&key.topic)?.partitions.get(key.partition as usize)
    }

    /// Every partition that there is.
    pub(crate) fn keys(&self) -> Vec<PartitionKey> {
        let keys = |(id, topic): (&TopicId, &Topic)| {
            let topic_id = *id;
            let key = move |partition| PartitionKey { topic: topic_id, partition };
            (0..topic.partitions.len() as u32).map(key)
        };
        self.topics.iter().flat_map(keys).collect()
    }

    /// What a delta from the state `before` must name: this and nothing else.
    pub(crate) fn delta_since(&self, before: &Self) -> Delta {
        let mut delta = Delta {
            defaults: self.default_configs != before.default_configs,
            feature_level: self.feature_level != before.feature_level,
            producer_ids: self.next_producer_id != before.next_producer_id,
            ..Delta::default()
        };
        let all = |state: &Self| state.brokers.keys().copied().collect::<Set>();
        for id in &all(before) | &all(self) {
            if self.brokers.get(&id) != before.brokers.get(&id)
                || self.broker_configs.get(&id) != before.broker_configs.get(&id)
            {
                delta.brokers.insert(id);
            }
        }
        delta.topics_deleted = before
            .topics
            .iter()
            .filter(|(id, old)| self.topics.get(id).is_none_or(|new| old.is_another_than(new)))
            .map(|(id, _)| *id)
            .collect();
        for (id, topic) in &self.topics {
            match before.topics.get(id) {
                Some(old) if !old.is_another_than(topic) => {
                    if old.configs != topic.configs {
                        delta.topics_changed.insert(*id);
                    }
                }
                _ => {
                    delta.topics_created.insert(*id);
                }
            }
        }
        let differs = |key: &PartitionKey| {
            delta.topics_created.contains(&key.topic)
                || self.partition(*key) != before.partition(*key)
        };
        delta.partitions = self.keys().into_iter().filter(differs).collect();
        delta
    }

    /// Both sides of everything in which two states differ.
    pub(crate) fn difference(&self, other: &Self) -> String {
        let delta = self.delta_since(other);
        let mut lines = Vec::new();
        for id in &delta.brokers {
            let of = |state: &Self| {
                format!("{:?} {:?}", state.brokers.get(id), state.broker_configs.get(id))
            };
            lines.push(format!("broker {id}:\n  {}\n  {}", of(self), of(other)));
        }
        for key in &delta.partitions {
            let of = |state: &Self| format!("{:?}", state.partition(*key));
            lines.push(format!("partition {key}:\n  {}\n  {}", of(self), of(other)));
        }
        if lines.is_empty() {
            lines.push(format!("{delta:?}"));
        }
        lines.join("\n")
    }
}
