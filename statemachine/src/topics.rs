//! CreateTopics, CreatePartitions and DeleteTopic.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::broker::ActiveBrokers;
use crate::brokers::Brokers;
use crate::command::{CreatePartitions, NewTopic};
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
        let delta = step.delta();
        delta.topics_created.insert(topic.id);
        for partition in 0..topic.partition_count() {
            delta.partitions.insert(PartitionKey { topic: topic.id, partition });
        }
        step.image.put_topic(topic);
    }
    Ok(Reply::TopicsCreated { topics: ids })
}

pub(crate) fn delete(step: &mut Step<'_>, id: TopicId) -> Result<Reply, Rejection> {
    let name = step.topic(id)?.name.to_string();
    step.image.remove_topic(id);
    step.delta().topic_deleted(id);
    Ok(Reply::TopicDeleted { name })
}

/// More partitions (KIP-195). Only where they were planned to begin: a retry adds nothing.
pub(crate) fn grow(step: &mut Step<'_>, create: &CreatePartitions) -> Result<Reply, Rejection> {
    let topic = step.topic(create.topic)?;
    let (name, count) = (&topic.name, topic.partition_count());
    if create.first != count {
        return Err(Rejection::new(
            ErrorCode::InvalidPartitions,
            format!(
                "topic {name} has {count} partitions, and the new ones were planned from number \
                 {}: look at it, and ask for more than it has",
                create.first
            ),
        ));
    }
    check_partition_count(create.partitions.len())?;
    let factor = topic.replication_factor();
    let batch = Batch { image: step.image, names: BTreeMap::new(), ids: BTreeSet::new() };
    let partitions = (count..)
        .zip(&create.partitions)
        .map(|(number, replicas)| batch.partition(name, number, replicas, factor))
        .collect::<Result<Vec<_>, _>>()?;
    let grown = (count..).zip(&partitions).map(|(number, _)| number);
    step.delta()
        .partitions
        .extend(grown.map(|partition| PartitionKey { topic: create.topic, partition }));
    step.image.grow_topic(create.topic, partitions);
    let partitions = step.topic(create.topic)?.partition_count();
    Ok(Reply::PartitionsCreated { partitions })
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
            .map(|(number, replicas)| self.partition(name, number, replicas, factor))
            .collect::<Result<_, _>>()?;
        let configs = TopicConfigs::from_entries(
            topic.configs.iter().map(|(key, value)| (key.as_str(), value.as_str())),
            self.image.feature_level,
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
        if let Some(id) = replicas.iter().find(|id| self.image.broker(**id).is_none()) {
            return invalid(format!(
                "names broker {id}, which is not registered: use registered brokers"
            ));
        }
        if let Some(id) = first_doubled(replicas) {
            return invalid(format!("names broker {id} twice: name it once"));
        }
        let active = ActiveBrokers::all(&self.image.brokers);
        let isr: Brokers = replicas.iter().copied().filter(|id| active.contains(*id)).collect();
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

#[cfg(test)]
#[allow(non_snake_case, reason = "tests of a trap carry its number")]
mod tests {
    use super::*;
    use crate::command::Command;
    use crate::placement::{PARTITIONS_PER_COMMAND_MAX, TopicShape, plan};
    use crate::testing::{Cluster, ids, key, new_topic, show, topic_id};

    fn refused(cluster: &mut Cluster, topic: NewTopic) -> ErrorCode {
        cluster.refuse(Command::CreateTopics { topics: vec![topic] })
    }

    #[test]
    fn names_are_checked_and_may_not_collide() {
        let mut cluster = Cluster::with_topic(&[1], &[1], &[]);
        let dotted = vec![new_topic(2, "a.b", &[&[1]])];
        cluster.accept(Command::CreateTopics { topics: dotted });
        for (name, code) in [
            ("", ErrorCode::InvalidTopicException),
            ("..", ErrorCode::InvalidTopicException),
            ("a b", ErrorCode::InvalidTopicException),
            ("a_b", ErrorCode::InvalidTopicException),
            ("a.b", ErrorCode::TopicAlreadyExists),
            ("t", ErrorCode::TopicAlreadyExists),
        ] {
            assert_eq!(refused(&mut cluster, new_topic(3, name, &[&[1]])), code, "{name:?}");
        }
    }

    #[test]
    fn ids_are_of_one_topic() {
        let mut cluster = Cluster::with_topic(&[1], &[1], &[]);
        for number in [0, 1] {
            let code = refused(&mut cluster, new_topic(number, "other", &[&[1]]));
            assert_eq!(code, ErrorCode::InvalidRequest, "id {number}");
        }
    }

    #[test]
    fn shapes_and_assignments_that_cannot_be() {
        let mut cluster = Cluster::of(&[1, 2, 3]);
        cluster.fence(2);
        cluster.shut_down(3);
        for (partitions, code) in [
            (&[][..], ErrorCode::InvalidPartitions),
            (&[&[][..]][..], ErrorCode::InvalidReplicationFactor),
            (&[&[1, 2], &[1]], ErrorCode::InvalidReplicaAssignment),
            (&[&[1], &[]], ErrorCode::InvalidReplicaAssignment),
            (&[&[1, 1]], ErrorCode::InvalidReplicaAssignment),
            (&[&[1, 4]], ErrorCode::InvalidReplicaAssignment),
            (&[&[1], &[2]], ErrorCode::InvalidReplicaAssignment),
            (&[&[2, 3]], ErrorCode::InvalidReplicaAssignment),
        ] {
            let topic = new_topic(1, "t", partitions);
            assert_eq!(refused(&mut cluster, topic), code, "{partitions:?}");
        }
        let wide = [&vec![1; REPLICATION_FACTOR_MAX + 1][..]];
        let code = refused(&mut cluster, new_topic(1, "t", &wide));
        assert_eq!(code, ErrorCode::InvalidReplicationFactor);
    }

    #[test]
    fn the_initial_isr_is_the_active_replicas_and_its_first_leads() {
        let mut cluster = Cluster::of(&[1, 2, 3]);
        cluster.fence(1);
        let topics = vec![new_topic(1, "t", &[&[1, 3, 2]])];
        cluster.accept(Command::CreateTopics { topics });
        assert_eq!(cluster.partition().replicas, ids(&[1, 3, 2]));
        assert_eq!(cluster.shown(), "leader=3 isr=[3,2] elr=[] last=- epochs=0/0");
    }

    #[test]
    fn configs_are_checked_and_kept() {
        let mut cluster = Cluster::of(&[1]);
        let mut topic = new_topic(1, "t", &[&[1]]);
        topic.configs = vec![("retention.ms".into(), "soon".into())];
        assert_eq!(refused(&mut cluster, topic.clone()), ErrorCode::InvalidConfig);
        topic.configs = vec![("flush.ms".into(), "1".into())];
        assert_eq!(refused(&mut cluster, topic.clone()), ErrorCode::InvalidConfig);
        topic.configs = vec![("min.insync.replicas".into(), "2".into())];
        cluster.accept(Command::CreateTopics { topics: vec![topic] });
        let topic = cluster.image().topic_by_name("t").expect("created");
        assert_eq!(cluster.image().min_insync_replicas(topic), 2);
    }

    #[test]
    fn the_first_fault_in_order_decides() {
        let mut cluster = Cluster::of(&[1]);
        let mut topic = new_topic(1, "a b", &[&[9, 9]]);
        topic.configs = vec![("x".into(), "1".into())];
        assert_eq!(refused(&mut cluster, topic.clone()), ErrorCode::InvalidTopicException);
        topic.name = "t".into();
        assert_eq!(refused(&mut cluster, topic.clone()), ErrorCode::InvalidReplicaAssignment);
        topic.partitions = vec![ids(&[1])];
        assert_eq!(refused(&mut cluster, topic.clone()), ErrorCode::InvalidConfig);
        topic.configs.clear();
        cluster.accept(Command::CreateTopics { topics: vec![topic] });
    }

    #[test]
    fn a_batch_is_all_or_nothing() {
        let mut cluster = Cluster::of(&[1]);
        let good = new_topic(1, "good", &[&[1]]);
        for (second, code) in [
            (new_topic(2, "bad", &[&[9]]), ErrorCode::InvalidReplicaAssignment),
            (new_topic(2, "good", &[&[1]]), ErrorCode::TopicAlreadyExists),
            (new_topic(1, "other", &[&[1]]), ErrorCode::InvalidRequest),
        ] {
            let topics = vec![good.clone(), second];
            assert_eq!(cluster.refuse(Command::CreateTopics { topics }), code);
            assert_eq!(cluster.image().topic_count(), 0);
        }
        assert_eq!(
            cluster.refuse(Command::CreateTopics { topics: vec![] }),
            ErrorCode::InvalidRequest
        );
        let topics = vec![new_topic(1, "a.b", &[&[1]]), new_topic(2, "a_b", &[&[1]])];
        let code = cluster.refuse(Command::CreateTopics { topics });
        assert_eq!(code, ErrorCode::InvalidTopicException);
    }

    #[test]
    fn a_batch_has_a_limit_of_partitions() {
        let mut cluster = Cluster::of(&[1]);
        let shape = TopicShape { partitions: 10_000, replication_factor: 1 };
        let partitions = plan(cluster.image(), shape, 0).expect("placed");
        let large = NewTopic { partitions, ..new_topic(1, "large", &[]) };
        let one_more = new_topic(2, "small", &[&[1]]);
        let code = cluster.refuse(Command::CreateTopics { topics: vec![large.clone(), one_more] });
        assert_eq!(code, ErrorCode::InvalidPartitions);
        cluster.accept(Command::CreateTopics { topics: vec![large] });
        assert_eq!(cluster.image().partitions().count(), PARTITIONS_PER_COMMAND_MAX);
    }

    /// The incident's batch initialised its first topic only, with replicas written into the code.
    #[test]
    fn trap_I27_every_topic_of_a_batch_is_initialised() {
        let mut cluster = Cluster::of(&[1, 2, 3]);
        let topics = vec![
            new_topic(3, "c", &[&[1, 2], &[2, 3]]),
            new_topic(1, "a", &[&[3, 1]]),
            new_topic(2, "b", &[&[2], &[3], &[1]]),
        ];
        let created = Reply::TopicsCreated { topics: vec![topic_id(3), topic_id(1), topic_id(2)] };
        let applied = cluster.apply(Command::CreateTopics { topics: topics.clone() });
        assert_eq!(applied.outcome.into_result(), Ok(created));
        assert_eq!(applied.changes.topics_created.len(), 3);
        assert_eq!(applied.changes.partitions.len(), 6);
        for topic in &topics {
            for (number, replicas) in (0..).zip(&topic.partitions) {
                let key = PartitionKey { topic: topic.id, partition: number };
                let partition = cluster.image().partition(key).expect("created");
                assert_eq!(partition.replicas, *replicas);
                assert_eq!(partition.isr, *replicas);
                assert_eq!(partition.leader, replicas.first().copied());
            }
        }
        let names: Vec<&str> = cluster.image().topics_by_name().map(|topic| &*topic.name).collect();
        assert_eq!(names, ["a", "b", "c"]);
    }

    #[test]
    fn partitions_are_added_where_they_were_planned_to_begin_and_only_once() {
        let mut cluster = Cluster::with_topic(&[1, 2, 3], &[1, 2], &[]);
        let grow = |topic, first, partitions: &[&[u32]]| {
            let partitions = partitions.iter().map(|on| ids(on)).collect();
            Command::CreatePartitions(CreatePartitions {
                topic: topic_id(topic),
                first,
                partitions,
            })
        };
        for (refused, code) in [
            (grow(2, 1, &[&[1, 2]]), ErrorCode::UnknownTopicId),
            (grow(1, 0, &[&[1, 2]]), ErrorCode::InvalidPartitions),
            (grow(1, 2, &[&[1, 2]]), ErrorCode::InvalidPartitions),
            (grow(1, 1, &[]), ErrorCode::InvalidPartitions),
            (grow(1, 1, &[&[1, 2], &[3]]), ErrorCode::InvalidReplicaAssignment),
        ] {
            assert_eq!(cluster.refuse(refused.clone()), code, "{refused}");
        }
        let planned = grow(1, 1, &[&[2, 3], &[3, 1]]);
        let reply = cluster.accept(planned.clone());
        assert_eq!(reply, Reply::PartitionsCreated { partitions: 3 });
        let shown = |number| show(cluster.image().partition(key(1, number)).expect("there"));
        assert_eq!(shown(1), "leader=2 isr=[2,3] elr=[] last=- epochs=0/0");
        assert_eq!(shown(2), "leader=3 isr=[3,1] elr=[] last=- epochs=0/0");
        // Tried again by somebody who was not answered.
        assert_eq!(cluster.refuse(planned), ErrorCode::InvalidPartitions);
    }

    #[test]
    fn deletion_is_by_id_and_frees_the_name() {
        let mut cluster = Cluster::with_topic(&[1], &[1], &[]);
        let delete = |number| Command::DeleteTopic { topic: topic_id(number) };
        assert_eq!(cluster.refuse(delete(2)), ErrorCode::UnknownTopicId);
        let applied = cluster.apply(delete(1));
        let deleted = Reply::TopicDeleted { name: "t".into() };
        assert_eq!(applied.outcome.into_result(), Ok(deleted));
        assert_eq!(applied.changes.topics_deleted.into_iter().collect::<Vec<_>>(), [topic_id(1)]);
        assert!(applied.changes.partitions.is_empty());
        assert_eq!(cluster.image().partitions_of(BrokerId(1)).count(), 0);
        assert_eq!(cluster.refuse(delete(1)), ErrorCode::UnknownTopicId);
        cluster.accept(Command::CreateTopics { topics: vec![new_topic(2, "t", &[&[1]])] });
        let partition = cluster.image().partition(key(2, 0)).expect("created");
        assert_eq!(show(partition), "leader=1 isr=[1] elr=[] last=- epochs=0/0");
    }
}
