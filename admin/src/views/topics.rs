//! The shapes of what changes topics, and of one topic with all that belongs to it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{ConfigEntry, Partition, Topic};

/// The body of `POST /v1/topics`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateTopic {
    /// The topic's name.
    pub name: String,
    /// How many partitions to create.
    pub partitions: u32,
    /// How many replicas each of them gets.
    pub replication_factor: u32,
    /// The brokers of each partition, the preferred leader first; left out, the leader plans them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub assignment: Vec<Vec<u64>>,
    /// Configs of the topic; may be left out.
    #[serde(default)]
    pub configs: BTreeMap<String, String>,
}

/// The answer to `POST /v1/topics`: the topic is committed, and the asked node's image shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedTopic {
    /// The topic's name.
    pub name: String,
    /// The topic's new id.
    pub topic_id: Uuid,
    /// The log index at which it was created.
    pub index: u64,
}

/// The answer to `DELETE /v1/topics/{name}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedTopic {
    /// The topic's name.
    pub name: String,
    /// The log index at which it was deleted.
    pub index: u64,
}

/// The body of `POST /v1/topics/{name}/partitions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreatePartitions {
    /// How many partitions the topic shall have.
    pub total: u32,
    /// The brokers of each new partition, the preferred leader first; left out, the leader plans them.
    #[serde(default)]
    pub assignment: Vec<Vec<u64>>,
}

/// The answer to `POST /v1/topics/{name}/partitions`: the topic has them, whoever asked for them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionsCreated {
    /// The topic's name.
    pub name: String,
    /// The topic's id.
    pub topic_id: Uuid,
    /// How many partitions it has.
    pub partitions: u32,
    /// The log index at which it was so.
    pub index: u64,
}

/// `GET /v1/topics/{name}`: all of it as of one index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicDescription {
    /// What `GET /v1/topics` says of it.
    #[serde(flatten)]
    pub topic: Topic,
    /// Every config with the value that holds for the topic.
    pub effective_configs: Vec<ConfigEntry>,
    /// What `GET /v1/partitions` says of its partitions.
    pub partition_list: Vec<Partition>,
}
