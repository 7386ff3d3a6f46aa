//! The shapes of commands.

use prost::Message;

/// A command as it is in the log.
#[derive(Clone, PartialEq, Message)]
pub struct Command {
    /// Which command.
    #[prost(oneof = "command::Kind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15")]
    pub kind: Option<command::Kind>,
}

/// The kinds of [`Command`].
pub mod command {
    /// Which command.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Kind {
        /// Registers a broker.
        #[prost(message, tag = "1")]
        RegisterBroker(super::RegisterBroker),
        /// Fences a broker.
        #[prost(message, tag = "2")]
        FenceBroker(super::BrokerSession),
        /// Unfences a broker.
        #[prost(message, tag = "3")]
        UnfenceBroker(super::BrokerSession),
        /// Starts a broker's controlled shutdown.
        #[prost(message, tag = "4")]
        ShutdownBroker(super::BrokerSession),
        /// Removes a broker.
        #[prost(message, tag = "5")]
        UnregisterBroker(super::UnregisterBroker),
        /// Creates topics, all or none.
        #[prost(message, tag = "6")]
        CreateTopics(super::CreateTopics),
        /// Deletes a topic.
        #[prost(message, tag = "7")]
        DeleteTopic(super::DeleteTopic),
        /// Changes the ISR of a partition.
        #[prost(message, tag = "8")]
        AlterPartition(super::AlterPartition),
        /// Takes a block of producer ids.
        #[prost(message, tag = "9")]
        AllocateProducerIds(super::BrokerSession),
        /// Finalizes a feature level.
        #[prost(message, tag = "10")]
        SetFeatureLevel(super::SetFeatureLevel),
        /// Gives a topic more partitions.
        #[prost(message, tag = "11")]
        CreatePartitions(super::CreatePartitions),
        /// Elects leaders.
        #[prost(message, tag = "12")]
        ElectLeaders(super::ElectLeaders),
        /// Moves partitions to other brokers, or cancels that.
        #[prost(message, tag = "13")]
        AlterReassignments(super::AlterReassignments),
        /// Changes configs of one resource.
        #[prost(message, tag = "14")]
        AlterConfigs(super::AlterConfigs),
        /// Compares the replicas' states.
        #[prost(message, tag = "15")]
        CompareState(super::Checkpoint),
    }
}

/// A listener of a broker.
#[derive(Clone, PartialEq, Message)]
pub struct Listener {
    /// Name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Host.
    #[prost(string, tag = "2")]
    pub host: String,
    /// Port, in 16 bits.
    #[prost(uint32, tag = "3")]
    pub port: u32,
}

/// A range of feature levels.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct FeatureRange {
    /// Lowest level.
    #[prost(uint32, tag = "1")]
    pub min: u32,
    /// Highest level.
    #[prost(uint32, tag = "2")]
    pub max: u32,
}

/// Registers a broker.
#[derive(Clone, PartialEq, Message)]
pub struct RegisterBroker {
    /// Broker id.
    #[prost(uint32, tag = "1")]
    pub broker: u32,
    /// Incarnation id.
    #[prost(bytes = "vec", tag = "2")]
    pub incarnation: Vec<u8>,
    /// Listeners.
    #[prost(message, repeated, tag = "3")]
    pub listeners: Vec<Listener>,
    /// Rack.
    #[prost(string, optional, tag = "4")]
    pub rack: Option<String>,
    /// Feature range.
    #[prost(message, optional, tag = "5")]
    pub features: Option<FeatureRange>,
    /// Directory ids.
    #[prost(bytes = "vec", repeated, tag = "6")]
    pub directories: Vec<Vec<u8>>,
    /// Incarnations vouched for.
    #[prost(bytes = "vec", repeated, tag = "7")]
    pub vouched: Vec<Vec<u8>>,
    /// The broker epoch that it follows; without it, whichever there is.
    #[prost(uint64, optional, tag = "8")]
    pub follows: Option<u64>,
}

/// A broker and its epoch.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct BrokerSession {
    /// Broker id.
    #[prost(uint32, tag = "1")]
    pub broker: u32,
    /// Broker epoch.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
}

/// Removes a broker.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct UnregisterBroker {
    /// Broker id.
    #[prost(uint32, tag = "1")]
    pub broker: u32,
    /// Broker epoch; without it, whichever there is.
    #[prost(uint64, optional, tag = "2")]
    pub epoch: Option<u64>,
}

/// Creates topics, all or none.
#[derive(Clone, PartialEq, Message)]
pub struct CreateTopics {
    /// The topics.
    #[prost(message, repeated, tag = "1")]
    pub topics: Vec<NewTopic>,
}

/// A topic to create.
#[derive(Clone, PartialEq, Message)]
pub struct NewTopic {
    /// Topic id.
    #[prost(bytes = "vec", tag = "1")]
    pub id: Vec<u8>,
    /// Name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// The replicas of each partition.
    #[prost(message, repeated, tag = "3")]
    pub partitions: Vec<Replicas>,
    /// Configs.
    #[prost(message, repeated, tag = "4")]
    pub configs: Vec<Config>,
}

/// The replicas of a partition.
#[derive(Clone, PartialEq, Message)]
pub struct Replicas {
    /// Broker ids in order of preference.
    #[prost(uint32, repeated, tag = "1")]
    pub brokers: Vec<u32>,
}

/// A configuration key and its value.
#[derive(Clone, PartialEq, Message)]
pub struct Config {
    /// Name of the key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Value.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// Deletes a topic.
#[derive(Clone, PartialEq, Message)]
pub struct DeleteTopic {
    /// Topic id.
    #[prost(bytes = "vec", tag = "1")]
    pub id: Vec<u8>,
}

/// Changes the ISR of a partition.
#[derive(Clone, PartialEq, Message)]
pub struct AlterPartition {
    /// The leader that asks.
    #[prost(message, optional, tag = "1")]
    pub sender: Option<BrokerSession>,
    /// Topic id.
    #[prost(bytes = "vec", tag = "2")]
    pub topic: Vec<u8>,
    /// Partition number.
    #[prost(uint32, tag = "3")]
    pub partition: u32,
    /// Leader epoch that the sender knows.
    #[prost(uint32, tag = "4")]
    pub leader_epoch: u32,
    /// Partition epoch that the sender knows.
    #[prost(uint32, tag = "5")]
    pub partition_epoch: u32,
    /// The new ISR.
    #[prost(message, repeated, tag = "6")]
    pub isr: Vec<BrokerSession>,
    /// Whether the leader is still recovering.
    #[prost(bool, tag = "7")]
    pub recovering: bool,
}

/// Finalizes a feature level.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct SetFeatureLevel {
    /// The level.
    #[prost(uint32, tag = "1")]
    pub level: u32,
}

/// Gives a topic more partitions.
#[derive(Clone, PartialEq, Message)]
pub struct CreatePartitions {
    /// Topic id.
    #[prost(bytes = "vec", tag = "1")]
    pub topic: Vec<u8>,
    /// Number of the first new partition: how many there are.
    #[prost(uint32, tag = "2")]
    pub first: u32,
    /// The replicas of each new partition.
    #[prost(message, repeated, tag = "3")]
    pub partitions: Vec<Replicas>,
}

/// A partition by topic id and number.
#[derive(Clone, PartialEq, Message)]
pub struct PartitionKey {
    /// Topic id.
    #[prost(bytes = "vec", tag = "1")]
    pub topic: Vec<u8>,
    /// Number.
    #[prost(uint32, tag = "2")]
    pub partition: u32,
}

/// Elects leaders.
#[derive(Clone, PartialEq, Message)]
pub struct ElectLeaders {
    /// An unclean election; otherwise of the preferred leaders.
    #[prost(bool, tag = "1")]
    pub unclean: bool,
    /// The partitions.
    #[prost(message, repeated, tag = "2")]
    pub partitions: Vec<PartitionKey>,
    /// An unclean election where the topic's configs allow it; only with `unclean`.
    #[prost(bool, tag = "3")]
    pub where_allowed: bool,
}

/// Moves partitions to other brokers, or cancels that.
#[derive(Clone, PartialEq, Message)]
pub struct AlterReassignments {
    /// The partitions.
    #[prost(message, repeated, tag = "1")]
    pub reassignments: Vec<Reassignment>,
}

/// Where a partition is to go.
#[derive(Clone, PartialEq, Message)]
pub struct Reassignment {
    /// The partition.
    #[prost(message, optional, tag = "1")]
    pub partition: Option<PartitionKey>,
    /// Its new replicas; without them the reassignment is cancelled.
    #[prost(message, optional, tag = "2")]
    pub target: Option<Replicas>,
}

/// Changes configs of one resource.
#[derive(Clone, PartialEq, Message)]
pub struct AlterConfigs {
    /// Of what.
    #[prost(oneof = "alter_configs::Resource", tags = "1, 2, 3")]
    pub resource: Option<alter_configs::Resource>,
    /// The changes.
    #[prost(message, repeated, tag = "4")]
    pub changes: Vec<ConfigChange>,
}

/// The resources of [`AlterConfigs`].
pub mod alter_configs {
    /// Of what.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Resource {
        /// The default of all brokers and topics.
        #[prost(bool, tag = "1")]
        Default(bool),
        /// A broker.
        #[prost(uint32, tag = "2")]
        Broker(u32),
        /// A topic, by its id.
        #[prost(bytes, tag = "3")]
        Topic(Vec<u8>),
    }
}

/// A change of one config key.
#[derive(Clone, PartialEq, Message)]
pub struct ConfigChange {
    /// Key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// What is done to it.
    #[prost(oneof = "config_change::Operation", tags = "2, 3, 4, 5")]
    pub operation: Option<config_change::Operation>,
}

/// The operations of [`ConfigChange`].
pub mod config_change {
    /// What is done to a key.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Operation {
        /// This value from now on.
        #[prost(string, tag = "2")]
        Set(String),
        /// No value of its own any more.
        #[prost(bool, tag = "3")]
        Delete(bool),
        /// These values more in the list.
        #[prost(string, tag = "4")]
        Append(String),
        /// These values less in the list.
        #[prost(string, tag = "5")]
        Subtract(String),
    }
}

/// The hash of the state behind one command.
#[derive(Clone, PartialEq, Message)]
pub struct Checkpoint {
    /// Index of the command.
    #[prost(uint64, tag = "1")]
    pub index: u64,
    /// State hash, big-endian.
    #[prost(bytes = "vec", tag = "2")]
    pub hash: Vec<u8>,
    /// How the hash was computed.
    #[prost(uint32, tag = "3")]
    pub algorithm: u32,
}
