//! [`StateSum`]: the hash of the state, kept up to date by every change.
//!
//! The sum of the hashes of all parts of the state, each a record as in a snapshot; a partition's with its
//! key. A part that changes is taken out and put back in, so a command costs what it changes, and the
//! hash of a state does not depend on the way to it. It finds replicas that differ by accident; it need
//! not resist anybody who may write to the log.

use prost::Message as _;
use xxhash_rust::xxh3::xxh3_128;

use crate::contract::StateHash;
use crate::ids::PartitionKey;
use crate::partition::Partition;
use crate::record::partition_to_wire;
use crate::wire::record::Kind;
use crate::wire::{self, PartitionKey as KeyWire};

/// The sum so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct StateSum(u128);

impl StateSum {
    pub(crate) fn hash(self) -> StateHash {
        StateHash::new(self.0)
    }

    pub(crate) fn add(&mut self, part: Kind) {
        self.0 = self.0.wrapping_add(hash_of(part));
    }

    pub(crate) fn remove(&mut self, part: Kind) {
        self.0 = self.0.wrapping_sub(hash_of(part));
    }

    pub(crate) fn add_partition(&mut self, key: PartitionKey, partition: &Partition) {
        self.0 = self.0.wrapping_add(hash_of_partition(key, partition));
    }

    pub(crate) fn remove_partition(&mut self, key: PartitionKey, partition: &Partition) {
        self.0 = self.0.wrapping_sub(hash_of_partition(key, partition));
    }
}

fn hash_of(part: Kind) -> u128 {
    xxh3_128(&wire::Record { kind: Some(part) }.encode_to_vec())
}

fn hash_of_partition(key: PartitionKey, partition: &Partition) -> u128 {
    let partition = partition_to_wire(partition);
    let key = KeyWire { topic: key.topic.0.as_bytes().to_vec(), partition: key.partition };
    // With its length the key ends where it ends, and the whole is no other part's record: that begins
    // with the number of a field, and none is as high.
    let mut bytes = key.encode_length_delimited_to_vec();
    bytes.extend(partition.encode_to_vec());
    xxh3_128(&bytes)
}
