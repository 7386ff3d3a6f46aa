//! [`TopicSpec`]: a topic that is wanted, and the answers about topics.

use std::collections::BTreeMap;

use quorate_statemachine::{BrokerId, ErrorCode, Rejection, TopicId};

use crate::wire::{CreateTopicRequest, Replicas};

/// A topic that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// Its name: 1 to 249 of the characters `a-z A-Z 0-9 . _ -`.
    pub name: String,
    /// Where its partitions go.
    pub placement: Placement,
    /// Its configs; a key that is not here has the broker's default.
    pub configs: BTreeMap<String, String>,
}

/// Which brokers hold the partitions of a new topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// The leader plans it: replicas spread over racks and brokers, unfenced ones first.
    Planned {
        /// How many partitions, 1 to 10,000.
        partitions: u32,
        /// How many replicas each gets; at most as many as brokers are registered.
        replication_factor: u32,
    },
    /// As given: one list a partition, the preferred leader first.
    Assigned(Vec<Vec<BrokerId>>),
}

impl TopicSpec {
    /// A topic that the leader places, without configs.
    pub fn new(name: impl Into<String>, partitions: u32, replication_factor: u32) -> Self {
        let placement = Placement::Planned { partitions, replication_factor };
        Self { name: name.into(), placement, configs: BTreeMap::new() }
    }

    /// # Errors
    ///
    /// INVALID_PARTITIONS for an assignment without partitions: on the wire it would be a wish to
    /// have them planned.
    pub(crate) fn to_request(&self) -> Result<CreateTopicRequest, Rejection> {
        let (partitions, replication_factor, assignment) = match &self.placement {
            Placement::Planned { partitions, replication_factor } => {
                (*partitions, *replication_factor, Vec::new())
            }
            Placement::Assigned(partitions) if partitions.is_empty() => {
                return Err(Rejection::new(
                    ErrorCode::InvalidPartitions,
                    "the assignment names no partition: a topic needs at least one",
                ));
            }
            Placement::Assigned(partitions) => {
                let replicas = partitions.iter().map(|replicas| Replicas {
                    brokers: replicas.iter().map(|broker| broker.get()).collect(),
                });
                (0, 0, replicas.collect())
            }
        };
        Ok(CreateTopicRequest {
            name: self.name.clone(),
            partitions,
            replication_factor,
            configs: self.configs.clone(),
            assignment,
        })
    }
}

/// A topic that was created: committed, and in this node's image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedTopic {
    /// Its name.
    pub name: String,
    /// Its new id.
    pub id: TopicId,
    /// The log index at which it was created.
    pub index: u64,
}

/// A topic that was deleted: committed, and gone from this node's image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletedTopic {
    /// Its name, which is free again.
    pub name: String,
    /// The id it had.
    pub id: TopicId,
    /// The log index at which it was deleted.
    pub index: u64,
}
