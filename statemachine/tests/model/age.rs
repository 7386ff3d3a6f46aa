//! Partitions that were changed two thousand million times: nobody waits for that.

use prost::Message as _;
use quorate_statemachine::wire::{Record, record::Kind};
use quorate_statemachine::{EPOCH_MAX, EPOCHS_RESERVED};

use crate::random::Random;

/// The last epoch to which a client's request leads.
pub(crate) const LAST_FOR_CLIENTS: u32 = EPOCH_MAX - EPOCHS_RESERVED;

/// The snapshot of the same state, with some partitions that have few epochs left for clients.
pub(crate) fn aged(mut snapshot: &[u8], random: &mut Random) -> Vec<u8> {
    let mut aged = Vec::new();
    while !snapshot.is_empty() {
        let mut record = Record::decode_length_delimited(&mut snapshot).unwrap();
        if let Some(Kind::Partition(partition)) = &mut record.kind
            && partition.partition_epoch <= LAST_FOR_CLIENTS
            && random.chance(150)
        {
            partition.partition_epoch = LAST_FOR_CLIENTS - random.below(6) as u32;
            partition.leader_epoch += random.below(1_000_000) as u32;
        }
        record.encode_length_delimited(&mut aged).unwrap();
    }
    aged
}
