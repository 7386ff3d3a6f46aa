//! The shapes of snapshot records.

use prost::Message;

use super::commands::{Config, FeatureRange, Listener};

/// A record of a snapshot.
#[derive(Clone, PartialEq, Message)]
pub struct Record {
    /// Which record.
    #[prost(oneof = "record::Kind", tags = "1, 2, 3, 4, 5, 6, 7")]
    pub kind: Option<record::Kind>,
}

/// The kinds of [`Record`].
pub mod record {
    /// Which record.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Kind {
        /// The feature level: always the first record.
        #[prost(uint32, tag = "1")]
        FeatureLevel(u32),
        /// The first producer id that was not given out.
        #[prost(uint64, tag = "2")]
        NextProducerId(u64),
        /// A broker.
        #[prost(message, tag = "3")]
        Broker(super::Broker),
        /// A topic; its partitions follow in order.
        #[prost(message, tag = "4")]
        Topic(super::Topic),
        /// The next partition of the topic before.
        #[prost(message, tag = "5")]
        Partition(super::Partition),
        /// The last record: how many came before it.
        #[prost(uint64, tag = "6")]
        End(u64),
        /// Configs of all brokers and topics, or of one broker.
        #[prost(message, tag = "7")]
        Configs(super::Configs),
    }
}

/// Configs that are no topic's.
#[derive(Clone, PartialEq, Message)]
pub struct Configs {
    /// The broker; none for the default of all.
    #[prost(uint32, optional, tag = "1")]
    pub broker: Option<u32>,
    /// Configs in order of key; at least one.
    #[prost(message, repeated, tag = "2")]
    pub configs: Vec<Config>,
}

/// A registered broker.
#[derive(Clone, PartialEq, Message)]
pub struct Broker {
    /// Broker id.
    #[prost(uint32, tag = "1")]
    pub id: u32,
    /// Broker epoch.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// Incarnation id.
    #[prost(bytes = "vec", tag = "3")]
    pub incarnation: Vec<u8>,
    /// Listeners in order of name.
    #[prost(message, repeated, tag = "4")]
    pub listeners: Vec<Listener>,
    /// Rack.
    #[prost(string, optional, tag = "5")]
    pub rack: Option<String>,
    /// Feature range.
    #[prost(message, optional, tag = "6")]
    pub features: Option<FeatureRange>,
    /// Directory ids, ascending.
    #[prost(bytes = "vec", repeated, tag = "7")]
    pub directories: Vec<Vec<u8>>,
    /// Fenced.
    #[prost(bool, tag = "8")]
    pub fenced: bool,
    /// Shutting down.
    #[prost(bool, tag = "9")]
    pub in_shutdown: bool,
}

/// A topic.
#[derive(Clone, PartialEq, Message)]
pub struct Topic {
    /// Topic id.
    #[prost(bytes = "vec", tag = "1")]
    pub id: Vec<u8>,
    /// Name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Configs in order of key.
    #[prost(message, repeated, tag = "3")]
    pub configs: Vec<Config>,
    /// How many partition records follow.
    #[prost(uint32, tag = "4")]
    pub partitions: u32,
}

/// A partition.
#[derive(Clone, PartialEq, Message)]
pub struct Partition {
    /// Replicas in order of preference.
    #[prost(uint32, repeated, tag = "1")]
    pub replicas: Vec<u32>,
    /// ISR in the order of the replicas.
    #[prost(uint32, repeated, tag = "2")]
    pub isr: Vec<u32>,
    /// ELR in the order of the replicas.
    #[prost(uint32, repeated, tag = "3")]
    pub elr: Vec<u32>,
    /// Last known leader.
    #[prost(uint32, optional, tag = "4")]
    pub last_known_leader: Option<u32>,
    /// Leader.
    #[prost(uint32, optional, tag = "5")]
    pub leader: Option<u32>,
    /// Leader epoch.
    #[prost(uint32, tag = "6")]
    pub leader_epoch: u32,
    /// Partition epoch.
    #[prost(uint32, tag = "7")]
    pub partition_epoch: u32,
    /// Replicas being added.
    #[prost(uint32, repeated, tag = "8")]
    pub adding: Vec<u32>,
    /// Replicas being removed.
    #[prost(uint32, repeated, tag = "9")]
    pub removing: Vec<u32>,
    /// Whether the leader is still recovering.
    #[prost(bool, tag = "10")]
    pub recovering: bool,
}
