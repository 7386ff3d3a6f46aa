//! Owns the JSON shapes of the HTTP API: what the server writes, the program `quorate` reads back.
//!
//! The shapes are a contract that scripts rely on: a field may be added, none is removed or renamed.
//! So answers are read tolerantly (an unknown field is ignored, for the server may be newer), and
//! requests are read strictly (an unknown field is an error, for it is a mistake of the sender).
//!
//! Numbers are plain JSON numbers, and so are ids: an id of a node or a broker, an epoch and an index
//! count up from a small number and stay far below 2^53, where JSON readers lose digits.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

mod brokers;
mod configs;
mod explanations;
mod features;
mod partitions;
mod topics;

pub use brokers::BrokerChanged;
pub use configs::{
    AlterConfigs, ConfigChange, ConfigEntry, ConfigOperation, ConfigSource, ConfigsAltered,
};
pub use explanations::{Explanation, MissingReplica, PartitionChange, WhatIf};
pub use features::{BrokerFeatures, FeatureLevelSet, FeatureRange, Features, SetFeatureLevel};
pub use partitions::{
    CancelReassignments, ElectLeaders, Election, PartitionName, PartitionResult, PartitionResults,
    ReassignPartitions, Reassignment,
};
pub use topics::{
    CreatePartitions, CreateTopic, CreateTopics, CreatedTopic, CreatedTopics, DeletedTopic,
    NewTopics, PartitionsCreated, TopicDescription,
};

/// `GET /status`: what the asked node knows of itself and its group (the metadata quorum).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The cluster that the node's data directory was formatted for.
    pub cluster_id: Uuid,
    /// The node's id.
    pub node_id: u64,
    /// The id of the node's data directory, new at every format.
    pub directory_id: Uuid,
    /// What the node is in the group right now.
    pub role: Role,
    /// The node that leads, as far as this node knows.
    pub leader_id: Option<u64>,
    /// The term of Raft that the node is in.
    pub term: u64,
    /// The highest index known committed.
    pub commit_index: u64,
    /// The index of the image that `state_hash` and `feature_level` speak of.
    pub applied_index: u64,
    /// The first index that is still in the node's log.
    pub first_index: u64,
    /// The last index in the node's log.
    pub last_index: u64,
    /// The members that vote.
    pub voters: Vec<Voter>,
    /// The members that receive the log and do not vote.
    pub learners: Vec<Voter>,
    /// The feature level that gates the meaning of commands.
    pub feature_level: u32,
    /// The hash of the whole state at `applied_index`, in hexadecimal: equal on every node that has
    /// applied the same index.
    pub state_hash: String,
    /// Why the node has stopped for good, if it has.
    pub fatal: Option<String>,
    /// What was found damaged, so that the node may have lost what it acknowledged. It does not act
    /// then, until it has come back as another member, with its first snapshot.
    pub damaged: Option<String>,
    /// Whether the node has no room on its disk: it refuses changes, and goes on by itself when
    /// there is.
    #[serde(default)]
    pub storage_full: bool,
    /// Bytes of the log's files on disk, counted in whole files.
    #[serde(default)]
    pub log_disk_bytes: u64,
    /// How many messages from and to peers the node has dropped since it started, by cause; causes
    /// that did not occur are left out.
    #[serde(default)]
    pub dropped: BTreeMap<String, u64>,
    /// How many connections of peers it has closed or refused, in the same way.
    #[serde(default)]
    pub closed: BTreeMap<String, u64>,
}

/// What a node is in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It leads.
    Leader,
    /// It follows a leader, or waits for one.
    Follower,
    /// It asks to lead.
    Candidate,
    /// It receives the log and does not vote.
    Learner,
    /// It receives the log, does not vote, and is no member on its way to vote.
    Observer,
    /// It is no member any more.
    Removed,
}

impl Role {
    /// The word that JSON and tables show.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::Learner => "learner",
            Self::Observer => "observer",
            Self::Removed => "removed",
        }
    }
}

/// A voter or a learner as `GET /status` lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Voter {
    /// Its node id.
    pub node_id: u64,
    /// The id that Raft knows it by: given once for a node and its directory, never used again.
    pub member_id: u64,
    /// The id of its data directory.
    pub directory_id: Uuid,
    /// The address, HOST:PORT, where its peers reach it.
    pub addr: String,
}

/// One row of `GET /v1/members`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its node id.
    pub node_id: u64,
    /// The id that Raft knows it by.
    pub member_id: u64,
    /// The id of its data directory.
    pub directory_id: Uuid,
    /// The address, HOST:PORT, where its peers reach it.
    pub addr: String,
    /// Whether it votes.
    pub role: MemberRole,
    /// How many entries of the leader's log it has not acknowledged; null where that is not known.
    pub trails_leader_by: Option<u64>,
    /// How long ago it last answered the leader, in milliseconds, to a tick of Raft's clock; null
    /// where that is not known.
    pub last_contact_ms: Option<u64>,
}

/// Whether a member votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberRole {
    /// It votes and counts for the majority.
    Voter,
    /// It receives the log, and may be promoted.
    Learner,
    /// It receives the log, and stays without a vote.
    Observer,
}

impl MemberRole {
    /// The word that JSON and tables show.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Voter => "voter",
            Self::Learner => "learner",
            Self::Observer => "observer",
        }
    }
}

/// One row of `GET /v1/brokers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broker {
    /// The broker's id.
    pub id: u64,
    /// The log index of its registration.
    pub epoch: u64,
    /// Whether it may lead and be in an ISR: a fenced broker may not.
    pub fenced: bool,
    /// Whether it is in controlled shutdown.
    pub in_shutdown: bool,
    /// Where clients and brokers reach it: the listener's name and HOST:PORT.
    pub listeners: BTreeMap<String, String>,
    /// The rack it said it stands in.
    pub rack: Option<String>,
}

/// One row of `GET /v1/topics`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topic {
    /// The topic's name.
    pub name: String,
    /// The topic's id, never used again.
    pub topic_id: Uuid,
    /// How many partitions it has.
    pub partitions: u32,
    /// How many replicas its first partition has.
    pub replication_factor: u32,
    /// What was set for this topic; what was not is the broker's default.
    pub configs: BTreeMap<String, String>,
}

/// One row of `GET /v1/partitions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// The topic's name.
    pub topic: String,
    /// The topic's id.
    pub topic_id: Uuid,
    /// The partition's number within the topic, from 0.
    pub partition: u32,
    /// The brokers that hold it, in the order of preference.
    pub replicas: Vec<u64>,
    /// The replicas that are in sync.
    pub isr: Vec<u64>,
    /// The replicas that may be elected although they left the ISR (KIP-966).
    pub elr: Vec<u64>,
    /// The broker that leads, or null.
    pub leader: Option<u64>,
    /// Counts every write of the leader.
    pub leader_epoch: u64,
    /// Counts every change of the partition.
    pub partition_epoch: u64,
    /// The replicas that a reassignment adds.
    #[serde(default)]
    pub adding: Vec<u64>,
    /// The replicas that leave when the reassignment is complete.
    #[serde(default)]
    pub removing: Vec<u64>,
    /// Whether the leader holds all that was ever acknowledged.
    #[serde(default)]
    pub recovery: Recovery,
    /// The broker that led before nobody did, for as long as nobody does, or null.
    #[serde(default)]
    pub last_known_leader: Option<u64>,
}

/// Whether a leader holds all that was ever acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recovery {
    /// It does.
    #[default]
    Recovered,
    /// It was elected without that guarantee, and has not said yet that it has recovered.
    Recovering,
}

impl Recovery {
    /// The word that JSON and tables show.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Recovered => "recovered",
            Self::Recovering => "recovering",
        }
    }
}

/// `GET /v1/producer-ids`: where the next block begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProducerIds {
    /// The first producer id that was never given away.
    pub next: u64,
}

/// The body of `POST /v1/producer-ids`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllocateProducerIds {
    /// The broker that the block is for: one that the asked node has registered itself.
    pub broker_id: u64,
}

/// The answer to `POST /v1/producer-ids`: the ids `first..first + len`, given to nobody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProducerIdBlock {
    /// The first id of the block.
    pub first: u64,
    /// How many ids the block has.
    pub len: u64,
    /// The log index at which it was given away.
    pub index: u64,
}

/// The body of `POST /v1/members`: all of it happens at once, or nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeMembers {
    /// What becomes of which member; every node once.
    pub changes: Vec<MemberChange>,
    /// Only ask whether it would be accepted; may be left out.
    #[serde(default)]
    pub dry_run: bool,
}

/// What becomes of one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberChange {
    /// What becomes of it.
    pub change: ChangeKind,
    /// The node that the member is on.
    pub node_id: u64,
}

/// What can become of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// A voter, as soon as it has caught up.
    Add,
    /// A voter now; it must have caught up.
    Promote,
    /// An observer: it loses its vote.
    Demote,
    /// No member any more.
    Remove,
}

/// The answer to `POST /v1/members` and `POST /v1/members/{node_id}/address`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersChanged {
    /// The log index at which the change was committed; of a dry run, that of the present members.
    pub index: u64,
    /// Whether it was only asked for, and nothing is changed.
    pub dry_run: bool,
    /// The members from then on; of a dry run, the present ones.
    pub members: Vec<Member>,
}

/// The body of `POST /v1/members/{node_id}/address`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetAddress {
    /// Where its peers reach the node from now on, HOST:PORT.
    pub addr: String,
}

/// The body of `POST /v1/leader/transfer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferLeader {
    /// The node that shall lead; left out, the most advanced voter.
    #[serde(default)]
    pub to: Option<u64>,
}

/// The answer to `POST /v1/leader/transfer`: leadership has moved, or was there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderTransferred {
    /// The node that leads now.
    pub leader_id: u64,
}

/// The answer to `GET /health/live` and `GET /health/ready`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Whether the node is live, or ready.
    pub ok: bool,
    /// Why not, one sentence each; empty when `ok`.
    pub reasons: Vec<String>,
}

/// The body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// A name for programs: Kafka's where Kafka has one (`TOPIC_ALREADY_EXISTS`), else our own.
    pub error: String,
    /// One sentence for people, with the remedy.
    pub message: String,
    /// Whether the same request may succeed later without anybody changing anything.
    pub retryable: bool,
    /// What is known about the effect of the request.
    pub outcome: FailureOutcome,
}

/// What is known about the effect of a request that did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureOutcome {
    /// The request was looked at and refused: it changed nothing, and would be refused again as
    /// things are.
    Rejected,
    /// The request did not reach the log: it changed nothing, and may be sent again.
    NeverApplied,
    /// The request may have been applied, or may be still. Look before you send it again.
    Unknown,
}
