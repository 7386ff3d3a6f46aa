//! A topic: its id, its name, its configuration and its partitions.

use std::sync::Arc;

use crate::ids::TopicId;
use crate::partition::Partition;
use crate::partitions::Partitions;
use crate::topic_config::TopicConfigs;

/// A topic and all of its partitions. Clones share the partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its id: a topic that is deleted and created again has another one (KIP-516).
    pub id: TopicId,
    /// Its name.
    pub name: Arc<str>,
    /// What was configured for it.
    pub configs: Arc<TopicConfigs>,
    pub(crate) partitions: Partitions,
}

impl Topic {
    /// How many partitions the topic has; at least one.
    #[must_use]
    pub fn partition_count(&self) -> u32 {
        // The number is bounded at creation, far below.
        u32::try_from(self.partitions.len()).unwrap_or(u32::MAX)
    }

    /// How many replicas the first partition has, or is to have where it moves: so many get new ones. A
    /// reassignment may have given others another number.
    #[must_use]
    pub fn replication_factor(&self) -> usize {
        self.partition(0).map_or(0, |first| first.replicas.len() - first.removing.len())
    }

    /// The partition with this number.
    #[must_use]
    pub fn partition(&self, number: u32) -> Option<&Partition> {
        self.partitions.get(usize::try_from(number).ok()?)
    }

    /// The partitions with their numbers, in order.
    pub fn partitions(&self) -> impl Iterator<Item = (u32, &Partition)> {
        (0u32..).zip(self.partitions.iter())
    }
}
