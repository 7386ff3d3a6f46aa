//! The shapes of what changes partitions: each of them has its own result.

use serde::{Deserialize, Serialize};

/// A partition that is named in a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartitionName {
    /// The topic's name.
    pub topic: String,
    /// The partition's number, from 0.
    pub partition: u32,
}

/// Which election.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Election {
    /// The first replica is to lead.
    Preferred,
    /// Where nobody leads, any active replica may, which may lack acknowledged records.
    Unclean,
}

/// The body of `POST /v1/partitions/elect`. It names one of `partitions`, `topic` and `all`; of the
/// last two, only partitions that need the election are in the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ElectLeaders {
    /// Which election.
    pub election: Election,
    /// These partitions, at most 10,000.
    #[serde(default)]
    pub partitions: Option<Vec<PartitionName>>,
    /// Those of this topic.
    #[serde(default)]
    pub topic: Option<String>,
    /// All.
    #[serde(default)]
    pub all: bool,
}

/// The body of `POST /v1/partitions/reassign`: the plan that Kafka's tools write, too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReassignPartitions {
    /// The version of this shape: 1.
    pub version: u32,
    /// Where which partition goes; at most 10,000.
    pub partitions: Vec<Reassignment>,
}

/// Where one partition goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reassignment {
    /// The topic's name.
    pub topic: String,
    /// The partition's number, from 0.
    pub partition: u32,
    /// The brokers that shall hold it, in order of preference.
    pub replicas: Vec<u64>,
    /// The log directory of each replica: `any`, since brokers choose them. May be left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log_dirs: Vec<String>,
}

/// The body of `POST /v1/partitions/cancel`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CancelReassignments {
    /// The partitions whose reassignment is taken back; at most 10,000.
    pub partitions: Vec<PartitionName>,
}

/// The answer to `POST /v1/partitions/elect`, `reassign` and `cancel`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionResults {
    /// The log index of the change; where none was made, that of the image that was looked at.
    pub index: u64,
    /// What became of each partition.
    pub results: Vec<PartitionResult>,
}

/// What became of one partition: how it is now, or why it was not changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionResult {
    /// The topic's name.
    pub topic: String,
    /// The partition's number, from 0.
    pub partition: u32,
    /// Kafka's name of the error, or null.
    pub error: Option<String>,
    /// One sentence for people, with the remedy, or null.
    pub message: Option<String>,
    /// The broker that leads, or null.
    pub leader: Option<u64>,
    /// The replicas that are in sync; null with an error.
    pub isr: Option<Vec<u64>>,
    /// The leader epoch; null with an error.
    pub leader_epoch: Option<u64>,
    /// The partition epoch; null with an error.
    pub partition_epoch: Option<u64>,
}
