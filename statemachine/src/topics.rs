//! CreateTopics and DeleteTopic.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::broker::ActiveBrokers;
use crate::command::NewTopic;
use crate::error::{ErrorCode, Rejection};
use crate::ids::{BrokerId, PartitionKey, TopicId, list};
use crate::image::MetadataImage;
use crate::machine::Step;
use crate::outcome::Reply;
use crate::partition::{Partition, first_doubled};
use crate::placement::check_partition_count;
use crate::topic::Topic;
use crate::topic_config::TopicConfigs;
use crate::topic_name::{CollisionKey, validate};

/// The highest replication factor: Kafka sends it in 16 bits.
pub const REPLICATION_FACTOR_MAX: usize = i16::MAX as usize;

pub(crate) fn create(step: &mut Step<'_>, topics: &[NewTopic]) -> Result<Reply, Rejection> {
    if topics.is_empty() {
        return Err(Rejection::new(
            ErrorCode::InvalidRequest,
            "the command creates no topic: name at least one",
        ));
    }
    check_partition_count(topics.iter().map(|topic| topic.partitions.len().max(1)).sum())?;
    let created = Batch::checked(step.image, topics)?;
    let ids = created.iter().map(|topic| topic.id).collect();
    for topic in created {
        step.delta.topics_created.insert(topic.id);
        for partition in 0..topic.partition_count() {
            step.delta.partitions.insert(PartitionKey { topic: topic.id, partition });
        }
        step.image.put_topic(topic);
    }
    Ok(Reply::TopicsCreated { topics: ids })
}

pub(crate) fn delete(step: &mut Step<'_>, id: TopicId) -> Result<Reply, Rejection> {
    let Some(topic) = step.image.remove_topic(id) else {
        return Err(Rejection::new(
            ErrorCode::UnknownTopicId,
            format!("no topic has the id {id}: it may be deleted already"),
        ));
    };
    step.delta.topics_deleted.insert(id);
    Ok(Reply::TopicDeleted { name: topic.name.to_string() })
}

/// The topics of one command, each checked against the image and those before it: all or none.
struct Batch<'a> {
    image: &'a MetadataImage,
    names: BTreeMap<CollisionKey, &'a str>,
    ids: BTreeSet<TopicId>,
}

impl<'a> Batch<'a> {
    fn checked(image: &'a MetadataImage, topics: &'a [NewTopic]) -> Result<Vec<Topic>, Rejection> {
        let mut batch = Self { image, names: BTreeMap::new(), ids: BTreeSet::new() };
        topics.iter().map(|topic| batch.check(topic)).collect()
    }

    fn check(&mut self, topic: &'a NewTopic) -> Result<Topic, Rejection> {
        validate(&topic.name)?;
        self.check_name(&topic.name)?;
        self.check_id(topic)?;
        let name = &topic.name;
        if topic.partitions.is_empty() {
            return Err(Rejection::new(
                ErrorCode::InvalidPartitions,
                format!("topic {name} has no partition: give at least 1"),
            ));
        }
        let factor = topic.partitions[0].len();
        if !(1..=REPLICATION_FACTOR_MAX).contains(&factor) {
            return Err(Rejection::new(
                ErrorCode::InvalidReplicationFactor,
                format!(
                    "topic {name} has replication factor {factor}: use 1 to \
                     {REPLICATION_FACTOR_MAX}"
                ),
            ));
        }
        let partitions = (0u32..)
            .zip(&topic.partitions)
            .map(|(number, replicas)| self.partition(name, number, replicas, factor).map(Arc::new))
            .collect::<Result<_, _>>()?;
        let configs = TopicConfigs::from_entries(
            topic.configs.iter().map(|(key, value)| (key.as_str(), value.as_str())),
        )?;
        let (name, configs) = (name.as_str().into(), Arc::new(configs));
        Ok(Topic { id: topic.id, name, configs, partitions })
    }

    fn check_name(&mut self, name: &'a str) -> Result<(), Rejection> {
        let in_image = self.image.topic_colliding_with(name).map(|topic| &*topic.name);
        let taken = match in_image {
            Some(taken) => Some(taken),
            None => self.names.insert(CollisionKey::of(name), name),
        };
        match taken {
            None => Ok(()),
            Some(taken) if taken == name => Err(Rejection::new(
                ErrorCode::TopicAlreadyExists,
                format!("topic {name} exists: choose another name, or delete it first"),
            )),
            Some(taken) => Err(Rejection::new(
                ErrorCode::InvalidTopicException,
                format!(
                    "topic {name} collides with topic {taken}, since metric names write `.` as \
                     `_`: choose another name"
                ),
            )),
        }
    }

    fn check_id(&mut self, topic: &NewTopic) -> Result<(), Rejection> {
        let fault = if topic.id.0.is_nil() {
            format!("topic {} has no id: draw a random one", topic.name)
        } else if self.image.topic(topic.id).is_some() || !self.ids.insert(topic.id) {
            format!(
                "the id {} of topic {} is another topic's: draw a new one",
                topic.id, topic.name
            )
        } else {
            return Ok(());
        };
        Err(Rejection::new(ErrorCode::InvalidRequest, fault))
    }

    fn partition(
        &self,
        topic: &str,
        number: u32,
        replicas: &[BrokerId],
        factor: usize,
    ) -> Result<Partition, Rejection> {
        let invalid = |fault: String| {
            let message = format!("partition {number} of topic {topic} {fault}");
            Err(Rejection::new(ErrorCode::InvalidReplicaAssignment, message))
        };
        if replicas.len() != factor {
            let len = replicas.len();
            return invalid(format!(
                "has {len} replicas, and partition 0 has {factor}: give all of them as many"
            ));
        }
        if let Some(id) = first_doubled(replicas) {
            return invalid(format!("names broker {id} twice: name it once"));
        }
        if let Some(id) = replicas.iter().find(|id| self.image.broker(**id).is_none()) {
            return invalid(format!(
                "names broker {id}, which is not registered: use registered brokers"
            ));
        }
        let active = ActiveBrokers::all(&self.image.brokers);
        let isr: Box<[BrokerId]> =
            replicas.iter().copied().filter(|id| active.contains(*id)).collect();
        if isr.is_empty() {
            return invalid(format!(
                "would have no leader, since all of {} are fenced or shutting down: use active \
                 brokers",
                list(replicas)
            ));
        }
        Ok(Partition::created(replicas.into(), isr))
    }
}
