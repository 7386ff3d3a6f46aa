//! The stamp: what every batch says of itself and of everything that is on disk beside it.
//!
//! It rides in every batch under the engine's own region, so that the newest record of the log
//! vouches for all that came before:
//!
//! - its *sequence* is that of the batch before plus one. A record that is lost, moved or doubled
//!   breaks the row, and the [witness](crate::witness) knows where the row must end.
//! - its *directory* is the one it was written in: a file of another directory is not taken.
//! - its *tally* counts the groups and adds up which batch wrote each group's record last. A
//!   record that is gone, or an older one that is back, breaks the sum; and the record in turn
//!   vouches for its group's entries.
//!
//! raft-engine alone would notice none of this (trap E07).

use crate::frame::{self, FrameError};
use crate::ids::{DirectoryId, GroupId};

const KIND: [u8; 4] = *b"QSTP";
const VERSION: u16 = 1;

/// Key of the stamp under [`ENGINE_REGION`](crate::record::ENGINE_REGION).
pub(crate) const STAMP_KEY: &[u8] = b"stamp";

/// Which groups are on disk, and in which version: their number, and a sum over them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    groups: u64,
    sum: u64,
}

impl Tally {
    /// Counts a group whose record was written last by batch `sequence`.
    pub(crate) fn add(&mut self, group: GroupId, sequence: u64) {
        self.groups += 1;
        self.sum = self.sum.wrapping_add(term(group, sequence));
    }

    /// Undoes [`Self::add`].
    pub(crate) fn remove(&mut self, group: GroupId, sequence: u64) {
        self.groups -= 1;
        self.sum = self.sum.wrapping_sub(term(group, sequence));
    }

    /// Whether this is the tally of `known` and of this many `unknown` groups more, as far as that
    /// can be told.
    pub(crate) fn is_of(&self, known: Self, unknown: u64) -> bool {
        self.groups == known.groups + unknown && (unknown > 0 || self.sum == known.sum)
    }

    /// The number of groups counted.
    pub(crate) fn groups(&self) -> u64 {
        self.groups
    }
}

/// A group's part of the sum. A checksum, so that exchanged sequences do not cancel out.
fn term(group: GroupId, sequence: u64) -> u64 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&group.get().to_le_bytes());
    bytes[8..].copy_from_slice(&sequence.to_le_bytes());
    u64::from(crc32fast::hash(&bytes))
}

/// See the [module](self).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The directory that the batch was written in.
    pub directory: DirectoryId,
    /// The engine-wide number of the batch.
    pub sequence: u64,
    /// The groups on disk after the batch, damaged ones left out.
    pub tally: Tally,
}

/// Bytes of a stamp within its frame: directory (16), then sequence, number of groups and sum
/// (8 each, little endian).
const BODY_LEN: usize = 40;

impl Stamp {
    /// The bytes on disk.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = [0; BODY_LEN];
        body[..16].copy_from_slice(self.directory.as_bytes());
        body[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        body[24..32].copy_from_slice(&self.tally.groups.to_le_bytes());
        body[32..].copy_from_slice(&self.tally.sum.to_le_bytes());
        frame::seal(KIND, VERSION, &body)
    }

    /// The stamp in `bytes`.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let body = frame::unseal(KIND, VERSION, bytes)?;
        let body: &[u8; BODY_LEN] = body
            .try_into()
            .map_err(|_| FrameError::Body(format!("it has {} bytes", body.len())))?;
        let number = |at: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&body[at..at + 8]);
            u64::from_le_bytes(number)
        };
        let mut directory = [0; 16];
        directory.copy_from_slice(&body[..16]);
        Ok(Self {
            directory: DirectoryId::from_bytes(directory),
            sequence: number(16),
            tally: Tally { groups: number(24), sum: number(32) },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(number: u64) -> GroupId {
        GroupId::new(number).unwrap()
    }

    #[test]
    fn a_stamp_is_read_as_it_was_written_and_every_flipped_bit_is_found() {
        let mut tally = Tally::default();
        tally.add(group(1), 41);
        let stamp = Stamp { directory: DirectoryId::from_bytes([7; 16]), sequence: 42, tally };
        let bytes = stamp.encode();
        assert_eq!(Stamp::decode(&bytes), Ok(stamp));
        for at in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            assert!(Stamp::decode(&flipped).is_err(), "bit {at}");
        }
    }

    #[test]
    fn a_missing_a_stale_and_an_exchanged_record_change_the_tally() {
        let tally = |records: &[(u64, u64)]| {
            let mut tally = Tally::default();
            records.iter().for_each(|(number, sequence)| tally.add(group(*number), *sequence));
            tally
        };
        let whole = tally(&[(1, 9), (2, 7), (3, 8)]);
        assert_eq!(tally(&[(3, 8), (1, 9), (2, 7)]), whole, "their order does not matter");
        assert_ne!(tally(&[(1, 9), (2, 7)]), whole);
        assert_ne!(tally(&[(1, 9), (2, 6), (3, 8)]), whole);
        assert_ne!(tally(&[(1, 7), (2, 9), (3, 8)]), whole);
        let mut changed = whole;
        changed.remove(group(2), 7);
        changed.add(group(2), 10);
        assert_eq!(changed, tally(&[(1, 9), (2, 10), (3, 8)]));
        let known = tally(&[(1, 9), (3, 8)]);
        assert!(whole.is_of(whole, 0) && whole.is_of(known, 1));
        assert!(!whole.is_of(known, 0) && !whole.is_of(known, 2));
        assert!(!whole.is_of(changed, 0));
    }
}
