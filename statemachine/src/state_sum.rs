//! [`StateSum`]: the hash of the state, kept up to date by every change.
//!
//! The sum of the hashes of all parts of the state: each a record as in a snapshot, but partitions, which
//! are hashed with their keys. A part that changes is taken out and put back in, so a command costs what it changes, and the
//! hash of a state does not depend on the way to it. It finds replicas that differ by accident; it need
//! not resist anybody who may write to the log.

use prost::Message as _;
use xxhash_rust::xxh3::{xxh3_128, xxh3_128_with_seed};

use crate::contract::StateHash;
use crate::ids::PartitionKey;
use crate::partition::{Partition, Recovery};
use crate::wire;
use crate::wire::record::Kind;

/// The hashes of partitions begin with it, and those of other parts with 0.
const PARTITION_SEED: u64 = 1;

/// Bytes of a topic's id, and of a number.
const KEY_BYTES: usize = 16;
const NUMBER_BYTES: usize = 4;

/// The numbers of a partition beside its lists.
const NUMBERS: usize = 4;

/// Enough for a dozen replicas in sync; with longer lists it takes memory of its own.
const PARTITION_BYTES: usize = 160;

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

/// Not of its record, as the other parts: it is needed twice for every change of a partition, and to
/// encode records took as long as the change itself. Numbers have four bytes each, lists their length
/// before them, and the seed tells a partition from other parts.
fn hash_of_partition(key: PartitionKey, partition: &Partition) -> u128 {
    // All of them by name, so that a new one is not forgotten here.
    let Partition {
        replicas,
        isr,
        elr,
        last_known_leader,
        leader,
        leader_epoch,
        partition_epoch,
        adding,
        removing,
        recovery,
    } = partition;
    let recovering = u32::from(*recovery == Recovery::Recovering);
    let (leader, last_known_leader) = (leader.as_slice(), last_known_leader.as_slice());
    let lists = [&**replicas, isr, elr, adding, removing, leader, last_known_leader];
    let listed: usize = lists.iter().map(|list| list.len()).sum();
    let len = KEY_BYTES + NUMBER_BYTES * (NUMBERS + lists.len() + listed);
    let (mut usual, mut longer) = ([0; PARTITION_BYTES], Vec::new());
    let bytes = match usual.get_mut(..len) {
        Some(bytes) => bytes,
        None => {
            longer.resize(len, 0);
            &mut longer[..]
        }
    };
    let (topic, numbers) = bytes.split_at_mut(KEY_BYTES);
    topic.copy_from_slice(key.topic.0.as_bytes());
    let mut numbers = numbers.chunks_exact_mut(NUMBER_BYTES);
    let mut put = |number: u32| match numbers.next() {
        Some(bytes) => bytes.copy_from_slice(&number.to_le_bytes()),
        None => panic!("{NUMBERS} numbers beside the lists are not enough"),
    };
    for number in [key.partition, leader_epoch.get(), partition_epoch.get(), recovering] {
        put(number);
    }
    for list in lists {
        // A replication factor has 16 bits.
        put(u32::try_from(list.len()).unwrap_or(u32::MAX));
        list.iter().for_each(|broker| put(broker.get()));
    }
    assert!(numbers.next().is_none(), "all of it is hashed");
    xxh3_128_with_seed(bytes, PARTITION_SEED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::brokers::Brokers;
    use crate::ids::{BrokerId, LeaderEpoch, PartitionEpoch};
    use crate::testing::{ids, key};

    /// The hash is in the log, as checkpoints. To see it fail: leave a number out.
    #[test]
    fn a_partition_is_hashed_as_its_numbers_one_after_the_other() {
        let many: Brokers = (1..=40).map(BrokerId).collect();
        for replicas in [ids(&[]), ids(&[1, 2, 3]), many] {
            let partition = Partition {
                elr: ids(&[7]),
                last_known_leader: Some(BrokerId(8)),
                leader_epoch: LeaderEpoch(300),
                partition_epoch: PartitionEpoch(u32::MAX),
                adding: ids(&[9, 10]),
                removing: ids(&[11]),
                recovery: Recovery::Recovering,
                ..Partition::created(replicas.clone(), replicas.clone())
            };
            let key = key(5, 6);
            let mut bytes = key.topic.0.as_bytes().to_vec();
            let leader: Vec<u32> = replicas.first().iter().map(|id| id.get()).collect();
            let all: Vec<u32> = replicas.iter().map(|id| id.get()).collect();
            let list = |ids: &[u32]| [&[ids.len() as u32], ids].concat();
            for number in [
                vec![6, 300, u32::MAX, 1],
                list(&all),
                list(&all),
                list(&[7]),
                list(&[9, 10]),
                list(&[11]),
                list(&leader),
                list(&[8]),
            ]
            .concat()
            {
                bytes.extend(number.to_le_bytes());
            }
            assert_eq!(hash_of_partition(key, &partition), xxh3_128_with_seed(&bytes, 1));
        }
    }
}
