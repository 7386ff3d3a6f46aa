//! The shapes of what tells why a partition is as it is, and how it would be.

use serde::{Deserialize, Serialize};

/// One row of `GET /v1/partitions/history`: a change of the partition, the oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionChange {
    /// The log index of the command.
    pub index: u64,
    /// The broker that led from then on, or null.
    pub leader: Option<u64>,
    /// The leader epoch from then on.
    pub leader_epoch: u64,
    /// The partition epoch from then on.
    pub partition_epoch: u64,
    /// The replicas that were in sync from then on.
    pub isr: Vec<u64>,
    /// The name of the command.
    pub command: String,
    /// Why the partition changed, and how: one sentence for people.
    pub reason: String,
}

/// `GET /v1/partitions/explain`: why a partition has the leader that it has, or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The broker that leads, or null.
    pub leader: Option<u64>,
    /// Why that one leads, or why nobody does and what would help.
    pub why: String,
    /// The replicas that are not in the ISR.
    pub missing: Vec<MissingReplica>,
}

/// A replica that is not in the ISR.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingReplica {
    /// The broker.
    pub replica: u64,
    /// Why it is out, and what would bring it in.
    pub why: String,
    /// The log index of the command that took it out; null where the log does not reach so far, or it was
    /// never in.
    pub index: Option<u64>,
}

/// `GET /v1/partitions/what-if`: what would become of the partitions, each as `topic-partition`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhatIf {
    /// The brokers that would be dead.
    pub killed: Vec<u64>,
    /// Nobody would lead these.
    pub leaderless: Vec<String>,
    /// Fewer replicas of these would be in sync than `acks=all` needs.
    pub under_min_isr: Vec<String>,
    /// Whoever surely has all that was acknowledged of these would be gone.
    pub data_at_risk: Vec<String>,
}
