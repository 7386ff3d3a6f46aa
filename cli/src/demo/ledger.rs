//! The ledger: what the cluster acknowledged, what it left open, and what was seen of it.
//!
//! It is written only from what nodes answered, never from what the demo believes it did.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use quorate_admin::views::{Broker, CreateTopic, CreatedTopic, Partition, ProducerIdBlock};
use uuid::Uuid;

/// A partition by its topic's name and its number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PartitionName {
    pub(crate) topic: String,
    pub(crate) partition: u32,
}

impl PartitionName {
    /// The name of a partition that a node listed.
    pub(crate) fn of(partition: &Partition) -> Self {
        PartitionName { topic: partition.topic.clone(), partition: partition.partition }
    }
}

impl fmt::Display for PartitionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// A topic whose creation was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AcknowledgedTopic {
    pub(crate) topic_id: Uuid,
    pub(crate) partitions: u32,
    pub(crate) replication_factor: u32,
    pub(crate) index: u64,
}

/// Everything that the cluster will be held to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    /// Acknowledged topics by name.
    pub(crate) topics: BTreeMap<String, AcknowledgedTopic>,
    /// Acknowledged blocks of producer ids, in the order of their acknowledgements.
    pub(crate) blocks: Vec<ProducerIdBlock>,
    /// Topics that may exist or not.
    pub(crate) unknown_topics: BTreeSet<String>,
    /// Blocks that may have been given away or not.
    pub(crate) unknown_blocks: u64,
    /// What was refused although nothing should have been, in the cluster's words.
    pub(crate) refused: Vec<String>,
    /// The next producer id before the first block was asked for.
    pub(crate) first_producer_id: u64,
    /// The last that was seen of each partition, each by a linearizable read.
    pub(crate) seen: BTreeMap<PartitionName, Partition>,
    /// The highest epoch that was seen of each broker.
    pub(crate) broker_epochs: BTreeMap<u64, u64>,
}

impl Ledger {
    /// A topic was created, says the cluster.
    pub(crate) fn topic_acknowledged(&mut self, asked: &CreateTopic, answer: &CreatedTopic) {
        let topic = AcknowledgedTopic {
            topic_id: answer.topic_id,
            partitions: asked.partitions,
            replication_factor: asked.replication_factor,
            index: answer.index,
        };
        let before = self.topics.insert(asked.name.clone(), topic);
        assert!(before.is_none(), "the workload never asks for a name twice");
    }

    /// Nobody knows whether this topic was created.
    pub(crate) fn topic_unknown(&mut self, name: &str) {
        self.unknown_topics.insert(name.to_owned());
    }

    /// A block of producer ids was given away, says the cluster.
    pub(crate) fn block_acknowledged(&mut self, block: ProducerIdBlock) {
        self.blocks.push(block);
    }

    /// Nobody knows whether a block was given away.
    pub(crate) fn block_unknown(&mut self) {
        self.unknown_blocks += 1;
    }

    /// Changes that were acknowledged.
    pub(crate) fn acknowledged(&self) -> u64 {
        (self.topics.len() + self.blocks.len()) as u64
    }

    /// Changes whose outcome is unknown.
    pub(crate) fn unknown(&self) -> u64 {
        self.unknown_topics.len() as u64 + self.unknown_blocks
    }

    /// The highest log index that any acknowledgement named.
    pub(crate) fn last_index(&self) -> u64 {
        self.indexes().map(|(index, _)| index).max().unwrap_or(0)
    }

    /// Every acknowledged index with what it stands for.
    pub(crate) fn indexes(&self) -> impl Iterator<Item = (u64, String)> {
        let topics = self.topics.iter().map(|(name, t)| (t.index, format!("topic {name}")));
        let blocks =
            self.blocks.iter().map(|b| (b.index, format!("producer ids from {}", b.first)));
        topics.chain(blocks)
    }

    /// Remembers what a linearizable read showed, after [`super::verdict::went_back`] has judged it.
    pub(crate) fn remember(&mut self, partitions: &[Partition], brokers: &[Broker]) {
        for partition in partitions {
            self.seen.insert(PartitionName::of(partition), partition.clone());
        }
        for broker in brokers {
            let epoch = self.broker_epochs.entry(broker.id).or_default();
            *epoch = broker.epoch.max(*epoch);
        }
    }
}
