//! The group record: all of a group that is not an entry, in one checksummed value that is
//! rewritten in every batch that changes the group.
//!
//! Since the record rides in the same batch as the entries it speaks of, hard state, entries,
//! truncation and membership can never be seen apart (traps I03, I04, I05).

use bytes::Bytes;
use prost::Message;
use raft::eraftpb::HardState;

use crate::frame::{self, FrameError};
use crate::ids::{GroupId, LogId};

const KIND: [u8; 4] = *b"QGRP";
const VERSION: u16 = 1;
const GENESIS_KIND: [u8; 4] = *b"QGEN";

/// Key of the record under the group's own id.
pub(crate) const RECORD_KEY: &[u8] = b"record";
/// Key of the loop's founding record under the group's own id.
pub(crate) const GENESIS_KEY: &[u8] = b"genesis";
/// The region of raft-engine that belongs to the engine itself: no group has the number 0.
pub(crate) const ENGINE_REGION: u64 = 0;

/// All of a group that is not an entry.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GroupRecord {
    /// Term, vote and commit index.
    pub hard_state: HardState,
    /// The last position that is compacted away: the log begins after it.
    pub truncated: LogId,
    /// The last position of the log; equal to `truncated` when the log is empty.
    pub last: LogId,
    /// The snapshot file that the state machine is restored from at start; index 0 before the
    /// first one.
    pub snapshot: LogId,
}

#[derive(Clone, PartialEq, Message)]
struct RecordBody {
    #[prost(uint64, tag = "1")]
    group: u64,
    #[prost(uint64, tag = "2")]
    term: u64,
    #[prost(uint64, tag = "3")]
    vote: u64,
    #[prost(uint64, tag = "4")]
    commit: u64,
    #[prost(uint64, tag = "5")]
    truncated_index: u64,
    #[prost(uint64, tag = "6")]
    truncated_term: u64,
    #[prost(uint64, tag = "7")]
    last_index: u64,
    #[prost(uint64, tag = "8")]
    last_term: u64,
    #[prost(uint64, tag = "9")]
    snapshot_index: u64,
    #[prost(uint64, tag = "10")]
    snapshot_term: u64,
    #[prost(uint64, tag = "13")]
    sequence: u64,
    #[prost(uint64, tag = "14")]
    incarnation: u64,
    #[prost(fixed32, optional, tag = "15")]
    genesis_crc: Option<u32>,
}

/// What the engine adds to a record for itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The batch that wrote it.
    pub sequence: u64,
    /// The batch that wrote the first record of this life of the group.
    pub incarnation: u64,
    /// The CRC of the founding record beside it, where there is one.
    pub genesis_crc: Option<u32>,
}

/// A record as it stands on disk.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StoredRecord {
    /// What the group's writer gave.
    pub record: GroupRecord,
    /// What the engine added.
    pub mark: Mark,
}

impl GroupRecord {
    /// What contradicts itself in this record, if anything. Asserted in pairs: before a write,
    /// and after a read.
    pub(crate) fn fault(&self) -> Option<String> {
        let Self { hard_state, truncated, last, snapshot } = self;
        if truncated > last {
            return Some(format!("truncated {truncated} is beyond the last entry {last}"));
        }
        if hard_state.commit > last.index {
            return Some(format!("commit {} is beyond the last entry {last}", hard_state.commit));
        }
        if truncated > snapshot {
            return Some(format!("truncated {truncated} is beyond the snapshot {snapshot}"));
        }
        if snapshot > last {
            return Some(format!("the snapshot {snapshot} is beyond the last entry {last}"));
        }
        if last.term > hard_state.term || snapshot.term > last.term {
            return Some(format!(
                "terms go back: snapshot {snapshot}, last entry {last}, term {}",
                hard_state.term
            ));
        }
        None
    }

    /// The bytes on disk. The group is part of them, so that a misplaced record is found.
    pub(crate) fn encode(&self, group: GroupId, mark: Mark) -> Vec<u8> {
        let Self { hard_state, truncated, last, snapshot } = self;
        let body = RecordBody {
            group: group.get(),
            term: hard_state.term,
            vote: hard_state.vote,
            commit: hard_state.commit,
            truncated_index: truncated.index,
            truncated_term: truncated.term,
            last_index: last.index,
            last_term: last.term,
            snapshot_index: snapshot.index,
            snapshot_term: snapshot.term,
            sequence: mark.sequence,
            incarnation: mark.incarnation,
            genesis_crc: mark.genesis_crc,
        };
        frame::seal_message(KIND, VERSION, &body)
    }
}

impl StoredRecord {
    /// The record in `bytes`, which must be that of `group`.
    pub(crate) fn decode(group: GroupId, bytes: &[u8]) -> Result<Self, FrameError> {
        let body = RecordBody::decode(frame::unseal(KIND, VERSION, bytes)?)
            .map_err(|error| FrameError::Body(error.to_string()))?;
        if body.group != group.get() {
            let text = format!("it is the record of group {}", body.group);
            return Err(FrameError::Body(text));
        }
        let hard_state = HardState {
            term: body.term,
            vote: body.vote,
            commit: body.commit,
            ..HardState::default()
        };
        let record = GroupRecord {
            hard_state,
            truncated: LogId::new(body.truncated_index, body.truncated_term),
            last: LogId::new(body.last_index, body.last_term),
            snapshot: LogId::new(body.snapshot_index, body.snapshot_term),
        };
        let RecordBody { sequence, incarnation, genesis_crc, .. } = body;
        Ok(Self { record, mark: Mark { sequence, incarnation, genesis_crc } })
    }
}

/// The loop's founding record, as it stands on disk: the group's number, then its bytes.
pub(crate) fn encode_genesis(group: GroupId, genesis: &[u8]) -> Vec<u8> {
    let mut body = group.get().to_le_bytes().to_vec();
    body.extend_from_slice(genesis);
    frame::seal(GENESIS_KIND, VERSION, &body)
}

/// The loop's founding record in `bytes`, which must be that of `group`.
pub(crate) fn decode_genesis(group: GroupId, bytes: &[u8]) -> Result<Bytes, FrameError> {
    let body = frame::unseal(GENESIS_KIND, VERSION, bytes)?;
    match body.split_first_chunk::<8>() {
        Some((number, genesis)) if u64::from_le_bytes(*number) == group.get() => {
            Ok(Bytes::copy_from_slice(genesis))
        }
        _ => Err(FrameError::Body("it is not the founding record of this group".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(number: u64) -> GroupId {
        GroupId::new(number).unwrap()
    }

    fn record() -> GroupRecord {
        let mut hard_state = HardState::default();
        (hard_state.term, hard_state.vote, hard_state.commit) = (7, 2, 90);
        GroupRecord {
            hard_state,
            truncated: LogId::new(50, 3),
            last: LogId::new(100, 7),
            snapshot: LogId::new(60, 4),
        }
    }

    fn stored() -> StoredRecord {
        let mark = Mark { sequence: 900, incarnation: 17, genesis_crc: Some(0) };
        StoredRecord { record: record(), mark }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let stored = stored();
        assert_eq!(stored.record.fault(), None);
        assert_eq!(
            StoredRecord::decode(group(5), &stored.record.encode(group(5), stored.mark)),
            Ok(stored)
        );
        let empty = StoredRecord { record: GroupRecord::default(), mark: Mark::default() };
        assert_eq!(
            StoredRecord::decode(group(5), &empty.record.encode(group(5), empty.mark)),
            Ok(empty)
        );
    }

    #[test]
    fn trap_I04_a_record_of_another_kind_or_group_is_never_taken() {
        let bytes = stored().record.encode(group(5), stored().mark);
        assert!(StoredRecord::decode(group(6), &bytes).is_err());
        assert!(decode_genesis(group(5), &bytes).is_err());
        let genesis = encode_genesis(group(5), b"founding");
        assert_eq!(decode_genesis(group(5), &genesis).unwrap(), &b"founding"[..]);
        assert!(decode_genesis(group(6), &genesis).is_err());
        assert!(StoredRecord::decode(group(5), &genesis).is_err());
    }

    #[test]
    fn every_flipped_bit_of_a_record_is_found() {
        let bytes = stored().record.encode(group(5), stored().mark);
        for at in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            assert!(StoredRecord::decode(group(5), &flipped).is_err(), "bit {at}");
        }
    }

    #[test]
    fn a_record_that_contradicts_itself_is_found() {
        let cases: [fn(&mut GroupRecord); 6] = [
            |r| r.truncated = LogId::new(101, 7),
            |r| r.hard_state.commit = 101,
            |r| r.truncated = LogId::new(61, 4),
            |r| r.snapshot = LogId::new(101, 7),
            |r| r.hard_state.term = 6,
            |r| r.snapshot = LogId::new(60, 8),
        ];
        for (number, change) in cases.into_iter().enumerate() {
            let mut record = record();
            change(&mut record);
            assert!(record.fault().is_some(), "case {number}");
        }
    }
}
