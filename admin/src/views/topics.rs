//! The shapes of what changes topics, and of one topic with all that belongs to it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{ConfigEntry, Partition, Topic};

/// The body of `POST /v1/topics`: one topic, or several that come together or not at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, try_from = "Fields")]
pub enum NewTopics {
    /// One, answered with a [`CreatedTopic`].
    One(CreateTopic),
    /// Several, answered with [`CreatedTopics`].
    Many(CreateTopics),
}

/// The fields of either body. Each of them is read strictly, and what is wrong with it is said, which
/// serde does not of what it tries as one shape after the other.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    topics: Option<Vec<CreateTopic>>,
    name: Option<String>,
    partitions: Option<u32>,
    replication_factor: Option<u32>,
    assignment: Option<Vec<Vec<u64>>>,
    configs: Option<BTreeMap<String, String>>,
}

impl TryFrom<Fields> for NewTopics {
    type Error = &'static str;

    fn try_from(fields: Fields) -> Result<Self, Self::Error> {
        let Fields { topics, name, partitions, replication_factor, assignment, configs } = fields;
        let Some(topics) = topics else {
            return Ok(Self::One(CreateTopic {
                name: name.ok_or("missing field `name`")?,
                partitions: partitions.ok_or("missing field `partitions`")?,
                replication_factor: replication_factor
                    .ok_or("missing field `replication_factor`")?,
                assignment: assignment.unwrap_or_default(),
                configs: configs.unwrap_or_default(),
            }));
        };
        let alone = name.is_none()
            && partitions.is_none()
            && replication_factor.is_none()
            && assignment.is_none()
            && configs.is_none();
        match alone {
            true => Ok(Self::Many(CreateTopics { topics })),
            false => Err("beside `topics` there is a field of one topic"),
        }
    }
}

/// Topics that are created all or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateTopics {
    /// The topics, with at most 10,000 partitions together.
    pub topics: Vec<CreateTopic>,
}

/// A topic that is wanted.
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

/// The answer to `POST /v1/topics` with one: it is committed, and the asked node's image shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedTopic {
    /// The topic's name.
    pub name: String,
    /// The topic's new id.
    pub topic_id: Uuid,
    /// The log index at which it was created.
    pub index: u64,
}

/// The answer to `POST /v1/topics` with several: all of them are committed, at one index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedTopics {
    /// The topics, in the order in which they were asked for.
    pub topics: Vec<CreatedTopic>,
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
