//! The rules of topics: creation, growth, deletion.

use std::collections::BTreeSet;

use quorate_statemachine::{
    BrokerId, CreatePartitions, ErrorCode, LeaderEpoch, NewTopic, PartitionEpoch, Recovery, Reply,
    TopicId,
};

use crate::change::{minus, set};
use crate::configs::{Level, validated};
use crate::state::{Configs, Partition, Set, State, Topic};

/// The most partitions in one command.
pub(crate) const PARTITIONS_MAX: usize = 10_000;
/// The most replicas of a partition.
pub(crate) const REPLICAS_MAX: usize = 32_767;

impl State {
    pub(crate) fn create_topics(&mut self, topics: &[NewTopic]) -> Result<Reply, ErrorCode> {
        if topics.is_empty() {
            return Err(ErrorCode::InvalidRequest);
        }
        if topics.iter().map(|topic| topic.partitions.len()).sum::<usize>() > PARTITIONS_MAX {
            return Err(ErrorCode::InvalidPartitions);
        }
        for topic in topics {
            self.create_topic(topic)?;
        }
        Ok(Reply::TopicsCreated { topics: topics.iter().map(|topic| topic.id).collect() })
    }

    fn create_topic(&mut self, new: &NewTopic) -> Result<(), ErrorCode> {
        self.check_name(&new.name)?;
        // No client chooses ids: one that is taken is a mistake of the program that drew it.
        if new.id.0.is_nil() || self.topics.contains_key(&new.id) {
            return Err(ErrorCode::InvalidRequest);
        }
        let factor = new.partitions.first().ok_or(ErrorCode::InvalidPartitions)?.len();
        if factor == 0 || factor > REPLICAS_MAX {
            return Err(ErrorCode::InvalidReplicationFactor);
        }
        let mut partitions = Vec::new();
        for replicas in &new.partitions {
            partitions.push(self.new_partition(replicas, factor)?);
        }
        let mut configs = Configs::new();
        for (key, value) in &new.configs {
            let value = validated(key, value, Level::Topic)?;
            if configs.insert(key.clone(), value).is_some() {
                return Err(ErrorCode::InvalidConfig);
            }
        }
        self.topics.insert(new.id, Topic { name: new.name.clone(), configs, partitions });
        Ok(())
    }

    fn check_name(&self, name: &str) -> Result<(), ErrorCode> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if name.is_empty()
            || name.len() > 249
            || [".", ".."].contains(&name)
            || !name.chars().all(allowed)
        {
            return Err(ErrorCode::InvalidTopicException);
        }
        let metric = |name: &str| name.replace('.', "_");
        match self.topics.values().find(|topic| metric(&topic.name) == metric(name)) {
            Some(topic) if topic.name == name => Err(ErrorCode::TopicAlreadyExists),
            Some(_) => Err(ErrorCode::InvalidTopicException),
            None => Ok(()),
        }
    }

    fn new_partition(&self, replicas: &[BrokerId], factor: usize) -> Result<Partition, ErrorCode> {
        if replicas.len() != factor {
            return Err(ErrorCode::InvalidReplicaAssignment);
        }
        self.check_replicas(replicas)?;
        let active = self.active();
        let isr: Vec<BrokerId> =
            replicas.iter().copied().filter(|id| active.contains(id)).collect();
        let leader = *isr.first().ok_or(ErrorCode::InvalidReplicaAssignment)?;
        Ok(Partition {
            replicas: replicas.to_vec(),
            isr: set(&isr),
            elr: Set::new(),
            last_known_leader: None,
            leader: Some(leader),
            leader_epoch: LeaderEpoch(0),
            partition_epoch: PartitionEpoch(0),
            adding: Set::new(),
            removing: Set::new(),
            recovery: Recovery::Recovered,
        })
    }

    /// Nobody twice, and everybody registered.
    pub(crate) fn check_replicas(&self, replicas: &[BrokerId]) -> Result<(), ErrorCode> {
        let distinct: BTreeSet<_> = replicas.iter().collect();
        let registered = replicas.iter().all(|id| self.brokers.contains_key(id));
        match distinct.len() == replicas.len() && registered {
            true => Ok(()),
            false => Err(ErrorCode::InvalidReplicaAssignment),
        }
    }

    pub(crate) fn delete_topic(&mut self, id: TopicId) -> Result<Reply, ErrorCode> {
        let topic = self.topics.remove(&id).ok_or(ErrorCode::UnknownTopicId)?;
        Ok(Reply::TopicDeleted { name: topic.name })
    }

    pub(crate) fn create_partitions(
        &mut self,
        create: &CreatePartitions,
    ) -> Result<Reply, ErrorCode> {
        let topic = self.topics.get(&create.topic).ok_or(ErrorCode::UnknownTopicId)?;
        let count = topic.partitions.len();
        if create.first as usize != count
            || !(1..=PARTITIONS_MAX).contains(&create.partitions.len())
        {
            return Err(ErrorCode::InvalidPartitions);
        }
        let example = &topic.partitions[0];
        let factor = minus(&example.replicas, &example.removing).len();
        let mut new = Vec::new();
        for replicas in &create.partitions {
            new.push(self.new_partition(replicas, factor)?);
        }
        let topic = self.topics.get_mut(&create.topic).unwrap();
        topic.partitions.append(&mut new);
        Ok(Reply::PartitionsCreated { partitions: topic.partitions.len() as u32 })
    }
}
