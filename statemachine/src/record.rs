//! The records of a snapshot: what each part of the state looks like in bytes.

use crate::broker::Broker;
use crate::command_wire::{
    brokers_from_wire, brokers_to_wire, features_from_wire, features_to_wire, listener_from_wire,
    listener_to_wire, recovery_from_wire,
};
use crate::contract::Cause;
use crate::ids::{BrokerEpoch, BrokerId, DirectoryId, FeatureLevel, LeaderEpoch, PartitionEpoch};
use crate::partition::{Partition, Recovery};
use crate::topic::Topic;
use crate::topic_config::{TopicConfigKey, TopicConfigs};
use crate::wire::{self, DecodeError, id_from_wire, id_to_wire};

fn config_entries(configs: &TopicConfigs) -> Vec<wire::Config> {
    let entry = |(key, value): (TopicConfigKey, &str)| wire::Config {
        key: key.name().into(),
        value: value.into(),
    };
    configs.iter().map(entry).collect()
}

pub(crate) fn configs_to_wire(broker: Option<BrokerId>, configs: &TopicConfigs) -> wire::Configs {
    wire::Configs { broker: broker.map(BrokerId::get), configs: config_entries(configs) }
}

/// Only in the order and the spelling in which they are written.
pub(crate) fn configs_from_wire(
    entries: &[wire::Config],
    level: FeatureLevel,
) -> Result<TopicConfigs, Cause> {
    let given = entries.iter().map(|it| (&it.key, &it.value));
    let configs = TopicConfigs::from_entries(given, level)?;
    let kept = configs.iter().map(|(key, value)| (key.name(), value));
    if !kept.eq(entries.iter().map(|it| (it.key.as_str(), it.value.as_str()))) {
        return Err("configs that are out of order or in another spelling".into());
    }
    Ok(configs)
}

pub(crate) fn broker_to_wire(broker: &Broker) -> wire::Broker {
    wire::Broker {
        id: broker.id.get(),
        epoch: broker.epoch.get(),
        incarnation: id_to_wire(broker.incarnation.0),
        listeners: broker.listeners.iter().map(listener_to_wire).collect(),
        rack: broker.rack.clone(),
        features: Some(features_to_wire(broker.features)),
        directories: broker.directories.iter().map(|id| id_to_wire(id.0)).collect(),
        fenced: broker.fenced,
        in_shutdown: broker.in_shutdown,
    }
}

pub(crate) fn broker_from_wire(broker: wire::Broker) -> Result<Broker, DecodeError> {
    Ok(Broker {
        id: BrokerId(broker.id),
        epoch: BrokerEpoch(broker.epoch),
        incarnation: id_from_wire("incarnation", &broker.incarnation)?.into(),
        listeners: broker
            .listeners
            .into_iter()
            .map(listener_from_wire)
            .collect::<Result<_, _>>()?,
        rack: broker.rack,
        features: features_from_wire(broker.features)?,
        directories: broker
            .directories
            .iter()
            .map(|id| id_from_wire("directory id", id).map(DirectoryId))
            .collect::<Result<_, _>>()?,
        fenced: broker.fenced,
        in_shutdown: broker.in_shutdown,
    })
}

pub(crate) fn topic_to_wire(topic: &Topic) -> wire::Topic {
    wire::Topic {
        id: id_to_wire(topic.id.0),
        name: topic.name.to_string(),
        configs: config_entries(&topic.configs),
        partitions: topic.partition_count(),
    }
}

pub(crate) fn partition_to_wire(partition: &Partition) -> wire::Partition {
    wire::Partition {
        replicas: brokers_to_wire(&partition.replicas),
        isr: brokers_to_wire(&partition.isr),
        elr: brokers_to_wire(&partition.elr),
        last_known_leader: partition.last_known_leader.map(BrokerId::get),
        leader: partition.leader.map(BrokerId::get),
        leader_epoch: partition.leader_epoch.get(),
        partition_epoch: partition.partition_epoch.get(),
        adding: brokers_to_wire(&partition.adding),
        removing: brokers_to_wire(&partition.removing),
        recovering: partition.recovery == Recovery::Recovering,
    }
}

pub(crate) fn partition_from_wire(partition: &wire::Partition) -> Partition {
    Partition {
        replicas: brokers_from_wire(&partition.replicas),
        isr: brokers_from_wire(&partition.isr),
        elr: brokers_from_wire(&partition.elr),
        last_known_leader: partition.last_known_leader.map(BrokerId),
        leader: partition.leader.map(BrokerId),
        leader_epoch: LeaderEpoch(partition.leader_epoch),
        partition_epoch: PartitionEpoch(partition.partition_epoch),
        adding: brokers_from_wire(&partition.adding),
        removing: brokers_from_wire(&partition.removing),
        recovery: recovery_from_wire(partition.recovering),
    }
}
