//! The bytes of commands, outcomes and snapshot records: prost messages with stable field numbers.
//!
//! They are in logs and snapshots on disk and go between nodes of different versions. A number is
//! given once and never reused; what a field means changes only behind a feature level. Ids are 16
//! bytes, epochs and counts varints, lists of brokers packed.
//!
//! The messages are only shapes. What may be in them is checked where they become commands,
//! outcomes and state.

use prost::Message;
use uuid::Uuid;

/// Bytes that are not the message they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Not a message of this shape.
    #[error("not a valid message")]
    Malformed(#[from] prost::DecodeError),
    /// A message of a kind, or with a field, that this version does not know.
    #[error("a kind or a field that this version does not know: upgrade this node")]
    Unknown,
    /// A part that cannot be left out.
    #[error("{field} is missing")]
    Missing {
        /// Which part.
        field: &'static str,
    },
    /// An id that is not 16 bytes.
    #[error("{field} has {len} bytes and not 16")]
    NotAnId {
        /// Which part.
        field: &'static str,
        /// Its length.
        len: usize,
    },
    /// A number beyond its range.
    #[error("{field} is {value}, which is out of range")]
    OutOfRange {
        /// Which part.
        field: &'static str,
        /// Its value.
        value: u64,
    },
}

/// Decodes a message of which every byte must be understood.
///
/// Protobuf skips fields that it does not know, and reads any number as true. In replicated state this
/// would be a change of meaning that nobody noticed, so a message that is not the same when encoded
/// again is refused.
pub(crate) fn decode_strict<M: Message + Default>(bytes: &[u8]) -> Result<M, DecodeError> {
    let message = M::decode(bytes)?;
    if message.encode_to_vec() == bytes { Ok(message) } else { Err(DecodeError::Unknown) }
}

pub(crate) fn id_to_wire(id: Uuid) -> Vec<u8> {
    id.as_bytes().to_vec()
}

pub(crate) fn id_from_wire(field: &'static str, bytes: &[u8]) -> Result<Uuid, DecodeError> {
    Uuid::from_slice(bytes).map_err(|_| DecodeError::NotAnId { field, len: bytes.len() })
}

/// A command as it is in the log.
#[derive(Clone, PartialEq, Message)]
pub struct Command {
    /// Which command.
    #[prost(oneof = "command::Kind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10")]
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

/// What a proposer is told.
#[derive(Clone, PartialEq, Message)]
pub struct Outcome {
    /// Rejected, or which reply.
    #[prost(oneof = "outcome::Kind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11")]
    pub kind: Option<outcome::Kind>,
}

/// The kinds of [`Outcome`]. A reply has the number of its command plus one.
pub mod outcome {
    /// Rejected, or which reply.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Kind {
        /// Not carried out.
        #[prost(message, tag = "1")]
        Rejected(super::Rejection),
        /// To RegisterBroker: the broker epoch.
        #[prost(uint64, tag = "2")]
        BrokerRegistered(u64),
        /// To FenceBroker: partitions changed.
        #[prost(uint64, tag = "3")]
        BrokerFenced(u64),
        /// To UnfenceBroker: partitions changed.
        #[prost(uint64, tag = "4")]
        BrokerUnfenced(u64),
        /// To ShutdownBroker: partitions changed.
        #[prost(uint64, tag = "5")]
        BrokerShuttingDown(u64),
        /// To UnregisterBroker: partitions changed.
        #[prost(uint64, tag = "6")]
        BrokerUnregistered(u64),
        /// To CreateTopics.
        #[prost(message, tag = "7")]
        TopicsCreated(super::TopicsCreated),
        /// To DeleteTopic.
        #[prost(message, tag = "8")]
        TopicDeleted(super::TopicDeleted),
        /// To AlterPartition.
        #[prost(message, tag = "9")]
        PartitionAltered(super::PartitionAltered),
        /// To AllocateProducerIds.
        #[prost(message, tag = "10")]
        ProducerIds(super::ProducerIds),
        /// To SetFeatureLevel: the level.
        #[prost(uint32, tag = "11")]
        FeatureLevelSet(u32),
    }
}

/// Why a command was not carried out.
#[derive(Clone, PartialEq, Message)]
pub struct Rejection {
    /// Kafka's number of the error.
    #[prost(sint32, tag = "1")]
    pub code: i32,
    /// One sentence.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// The topics that were created.
#[derive(Clone, PartialEq, Message)]
pub struct TopicsCreated {
    /// Topic ids in the order of the command.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub ids: Vec<Vec<u8>>,
}

/// The topic that was deleted.
#[derive(Clone, PartialEq, Message)]
pub struct TopicDeleted {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
}

/// A partition as an AlterPartition left it.
#[derive(Clone, PartialEq, Message)]
pub struct PartitionAltered {
    /// Leader.
    #[prost(uint32, optional, tag = "1")]
    pub leader: Option<u32>,
    /// ISR.
    #[prost(uint32, repeated, tag = "2")]
    pub isr: Vec<u32>,
    /// Leader epoch.
    #[prost(uint32, tag = "3")]
    pub leader_epoch: u32,
    /// Partition epoch.
    #[prost(uint32, tag = "4")]
    pub partition_epoch: u32,
    /// Whether the leader is still recovering.
    #[prost(bool, tag = "5")]
    pub recovering: bool,
    /// Whether the change moved the leader.
    #[prost(bool, tag = "6")]
    pub new_leader_elected: bool,
}

/// A block of producer ids.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct ProducerIds {
    /// First id.
    #[prost(uint64, tag = "1")]
    pub first: u64,
    /// How many.
    #[prost(uint32, tag = "2")]
    pub len: u32,
}

/// A record of a snapshot.
#[derive(Clone, PartialEq, Message)]
pub struct Record {
    /// Which record.
    #[prost(oneof = "record::Kind", tags = "1, 2, 3, 4, 5, 6")]
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
    }
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
