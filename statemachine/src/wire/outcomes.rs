//! The shapes of outcomes.

use prost::Message;

/// What a proposer is told.
#[derive(Clone, PartialEq, Message)]
pub struct Outcome {
    /// Rejected, or which reply.
    #[prost(
        oneof = "outcome::Kind",
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16"
    )]
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
        /// To CreatePartitions: partitions of the topic.
        #[prost(uint32, tag = "12")]
        PartitionsCreated(u32),
        /// To ElectLeaders.
        #[prost(message, tag = "13")]
        LeadersElected(super::PartitionResults),
        /// To AlterReassignments.
        #[prost(message, tag = "14")]
        Reassigned(super::PartitionResults),
        /// To AlterConfigs: partitions changed.
        #[prost(uint64, tag = "15")]
        ConfigsAltered(u64),
        /// To CompareState: always true.
        #[prost(bool, tag = "16")]
        StateCompared(bool),
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

/// What became of each partition of a command, in its order.
#[derive(Clone, PartialEq, Message)]
pub struct PartitionResults {
    /// The results.
    #[prost(message, repeated, tag = "1")]
    pub results: Vec<PartitionResult>,
}

/// What became of one partition.
#[derive(Clone, PartialEq, Message)]
pub struct PartitionResult {
    /// Changed or refused.
    #[prost(oneof = "partition_result::Kind", tags = "1, 2")]
    pub kind: Option<partition_result::Kind>,
}

/// The kinds of [`PartitionResult`].
pub mod partition_result {
    /// Changed or refused.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Kind {
        /// The partition as it is now.
        #[prost(message, tag = "1")]
        Altered(super::PartitionAltered),
        /// Why it is as it was.
        #[prost(message, tag = "2")]
        Rejected(super::Rejection),
    }
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
