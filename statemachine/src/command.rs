//! The commands: everything that can be asked of the metadata.
//!
//! A command carries what must not be decided twice: ids, placement, the broker's own claims. Its
//! preconditions are checked in apply, where the state is the one it acts on.

use serde::{Serialize, Serializer};

use crate::broker::{FeatureRange, Listener};
use crate::brokers::Brokers;
use crate::contract::StateHash;
use crate::ids::{
    BrokerEpoch, BrokerId, DirectoryId, FeatureLevel, Incarnation, LeaderEpoch, PartitionEpoch,
    PartitionKey, TopicId,
};
use crate::partition::Recovery;

/// A broker and the epoch of the registration that it speaks for. Another epoch than the registered
/// one is STALE_BROKER_EPOCH.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct BrokerSession {
    /// The broker.
    pub broker: BrokerId,
    /// Its epoch.
    pub epoch: BrokerEpoch,
}

/// A broker that starts, or that amends what it said when it started (KIP-631).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RegisterBroker {
    /// The broker.
    pub broker: BrokerId,
    /// This start of its process. The registered one amends; another one begins a new epoch.
    pub incarnation: Incarnation,
    /// Where it is reached. May be empty for a broker without data plane.
    pub listeners: Vec<Listener>,
    /// Its rack.
    pub rack: Option<String>,
    /// The feature levels it supports.
    pub features: FeatureRange,
    /// Its log directories; at least one.
    pub directories: Vec<DirectoryId>,
    /// The earlier incarnations of which everything that was acknowledged is still on the broker's
    /// disks. If the registered one is not among them, the broker leaves every ELR.
    pub vouched: Vec<Incarnation>,
    /// The registration that it follows, as whoever let it in knew: epoch 0 where there was none. Where
    /// another incarnation was registered meanwhile, that one stays: it may be alive, and this one gone.
    /// Without it, whichever there is.
    pub follows: Option<BrokerEpoch>,
}

/// A topic to create, with the placement that the leader planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NewTopic {
    /// The topic's id: random, not nil.
    pub id: TopicId,
    /// The topic's name.
    pub name: String,
    /// The replicas of each partition, in order of preference.
    pub partitions: Vec<Brokers>,
    /// Configuration keys and values.
    #[serde(serialize_with = "as_map")]
    pub configs: Vec<(String, String)>,
}

/// A leader's wish to change the ISR of its partition (KIP-497, KIP-704, KIP-903).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AlterPartition {
    /// The leader that asks.
    pub sender: BrokerSession,
    /// The partition.
    pub partition: PartitionKey,
    /// The leader epoch that the sender knows.
    pub leader_epoch: LeaderEpoch,
    /// The partition epoch that the sender knows.
    pub partition_epoch: PartitionEpoch,
    /// The ISR it wants, each member with the epoch in which it fetched (KIP-903).
    pub isr: Vec<BrokerSession>,
    /// Whether the leader has recovered.
    pub recovery: Recovery,
}

/// More partitions for a topic, with the placement that the leader planned (KIP-195).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CreatePartitions {
    /// The topic.
    pub topic: TopicId,
    /// The number of the first new partition: how many the topic had when this was planned. With
    /// another number of them it is refused, so that a retry adds nothing.
    pub first: u32,
    /// The replicas of each new partition, in order of preference.
    pub partitions: Vec<Brokers>,
}

/// Which election is asked for (KIP-460).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ElectionType {
    /// The first replica is to lead.
    Preferred,
    /// Where nobody leads, any active replica may, which may lack acknowledged records.
    Unclean,
    /// As `Unclean`, of topics whose `unclean.leader.election.enable` is true when the command is applied:
    /// what nobody asked for must not lose what somebody has forbidden to lose a moment before.
    #[serde(rename = "unclean-where-allowed")]
    UncleanWhereAllowed,
}

/// Leaders to elect. Each partition has its own result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ElectLeaders {
    /// Which election.
    pub election: ElectionType,
    /// The partitions, each named once.
    pub partitions: Vec<PartitionKey>,
}

/// Where a partition is to go (KIP-455).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reassignment {
    /// The partition.
    pub partition: PartitionKey,
    /// Its new replicas, in order of preference; `None` cancels what is under way.
    pub target: Option<Brokers>,
}

/// Whose configs (KIP-226, KIP-339).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ConfigResource {
    /// What holds for all brokers and topics that have no value of their own.
    Default,
    /// A broker.
    Broker(BrokerId),
    /// A topic.
    Topic(TopicId),
}

/// What is done to a config key (KIP-339).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ConfigOperation {
    /// This value from now on.
    Set(String),
    /// No value of its own any more.
    Delete,
    /// These values, separated by commas, more in the list.
    Append(String),
    /// These values, separated by commas, less in the list.
    Subtract(String),
}

/// A change of one config key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConfigChange {
    /// The key.
    pub key: String,
    /// What is done to it.
    pub operation: ConfigOperation,
}

/// The hash of the state behind one command ([`MetadataImage::checkpoints`](crate::MetadataImage::checkpoints)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Checkpoint {
    /// How the hash was computed ([`Checkpoint::ALGORITHM`]). Hashes of two ways to compute them say nothing about
    /// each other.
    pub algorithm: u32,
    /// The index of the command.
    pub index: u64,
    /// The hash.
    pub hash: StateHash,
}

impl Checkpoint {
    /// How this version computes the hash of a state. It changes with everything that gives the same state
    /// another hash.
    pub const ALGORITHM: u32 = 0;
}

/// A command to the metadata.
///
/// Its `Display` is one line for people, its `Serialize` `{"name":..,"fields":{..}}` for tools. In the
/// log and on the wire it has neither of these forms, but that of [`Command::encode`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "name", content = "fields")]
#[non_exhaustive]
pub enum Command {
    /// Registers a broker, or amends its registration.
    RegisterBroker(RegisterBroker),
    /// Takes a broker out of every ISR and leads its partitions by others; its session ended.
    FenceBroker(BrokerSession),
    /// Lets a broker lead and be in ISRs again.
    UnfenceBroker(BrokerSession),
    /// Controlled shutdown: as fencing, while the broker is still there to hand over.
    ShutdownBroker(BrokerSession),
    /// Removes a broker that will not come back.
    UnregisterBroker {
        /// The broker.
        broker: BrokerId,
        /// Which registration of it, or whichever there is. One that comes before this in the log and was
        /// not known to whoever asked is another one.
        epoch: Option<BrokerEpoch>,
    },
    /// Creates topics, all or none.
    CreateTopics {
        /// The topics.
        topics: Vec<NewTopic>,
    },
    /// Deletes a topic with everything in it.
    DeleteTopic {
        /// The topic.
        topic: TopicId,
    },
    /// Changes the ISR of a partition.
    AlterPartition(AlterPartition),
    /// Takes the next block of producer ids for a broker.
    AllocateProducerIds(BrokerSession),
    /// Finalizes a feature level.
    SetFeatureLevel {
        /// The level.
        level: FeatureLevel,
    },
    /// Gives a topic more partitions.
    CreatePartitions(CreatePartitions),
    /// Elects leaders.
    ElectLeaders(ElectLeaders),
    /// Moves partitions to other brokers, or cancels that; each has its own result.
    AlterReassignments {
        /// The partitions, each named once.
        reassignments: Vec<Reassignment>,
    },
    /// Changes configs of one resource, all or none.
    AlterConfigs {
        /// Whose.
        resource: ConfigResource,
        /// The changes, each of another key.
        changes: Vec<ConfigChange>,
    },
    /// Compares the state of every replica with that of the leader: whoever had another stops.
    CompareState(Checkpoint),
}

fn as_map<S: Serializer>(pairs: &[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(key, value)| (key, value)))
}
