//! What a snapshot file is: its metadata, its layout, and what can be wrong with it.
//!
//! | bytes | what |
//! | --- | --- |
//! | header | a frame of kind `QSNP` around the metadata |
//! | blocks | each: length (4, 1 to 65536), CRC32 (4), data; all but the last are full |
//! | footer | 0 (4), number of blocks (8), length of all data (8), CRC32 of all data (4), CRC32 of the footer (4) |
//!
//! Integers are little endian. The CRC of a block covers its number, its length and the CRC of
//! the header too, so that a block of another place or another file does not pass; that of the
//! footer covers the CRC of the header.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;
use raft::eraftpb::ConfState;
use thiserror::Error;

use crate::damage::Damage;
use crate::frame::{self, FrameError};
use crate::ids::{GroupId, LogId};

/// Kind of the frame at the head of a snapshot file.
pub(crate) const KIND: [u8; 4] = *b"QSNP";
const VERSION: u16 = 1;
/// Data bytes of a full block: what a reader or writer holds in memory.
pub(crate) const BLOCK_LEN: usize = 64 * 1024;
/// Bytes before the data of a block.
pub(crate) const BLOCK_HEADER_LEN: usize = 8;
/// Bytes of the footer.
pub(crate) const FOOTER_LEN: usize = 28;
/// Metadata beyond this are not ours: it holds the members of the largest cluster many times.
pub(crate) const META_BYTES_MAX: u32 = 16 << 20;
/// Snapshot files beyond this are refused from a peer: 64 GiB, far above what fits in memory.
pub(crate) const FILE_BYTES_MAX: u64 = 64 << 30;

/// What to do about a damaged snapshot file.
pub(crate) const REMEDY: &str = "the file is damaged: keep it for inspection; the group needs a \
     snapshot of its leader, or must be replaced";

/// What to do about a damaged snapshot file of a peer, which is not kept.
pub(crate) const REMEDY_RECEIVED: &str = "the leader sends it again; if that goes on, its own \
     file is damaged: make another member the leader and verify the directory of this one";

/// What a snapshot is of.
#[derive(Debug, Clone, PartialEq)]
pub struct SnapshotMeta {
    /// The group.
    pub group: GroupId,
    /// The position of the last entry whose effect it contains: what was *applied*, never what
    /// was only committed (trap I09).
    pub id: LogId,
    /// The membership at that position.
    pub conf_state: ConfState,
    /// The loop's table of members at that position; opaque to the engine.
    pub members: Bytes,
}

/// A ConfState in our own stable encoding.
#[derive(Clone, PartialEq, Message)]
struct ConfStateBody {
    #[prost(uint64, repeated, tag = "1")]
    voters: Vec<u64>,
    #[prost(uint64, repeated, tag = "2")]
    learners: Vec<u64>,
    #[prost(uint64, repeated, tag = "3")]
    voters_outgoing: Vec<u64>,
    #[prost(uint64, repeated, tag = "4")]
    learners_next: Vec<u64>,
    #[prost(bool, tag = "5")]
    auto_leave: bool,
}

impl From<&ConfState> for ConfStateBody {
    fn from(conf: &ConfState) -> Self {
        Self {
            voters: conf.voters.clone(),
            learners: conf.learners.clone(),
            voters_outgoing: conf.voters_outgoing.clone(),
            learners_next: conf.learners_next.clone(),
            auto_leave: conf.auto_leave,
        }
    }
}

impl From<ConfStateBody> for ConfState {
    fn from(body: ConfStateBody) -> Self {
        Self {
            voters: body.voters,
            learners: body.learners,
            voters_outgoing: body.voters_outgoing,
            learners_next: body.learners_next,
            auto_leave: body.auto_leave,
            ..Self::default()
        }
    }
}

/// What tells a snapshot file from another of the same group and position, so that two are never
/// spliced together: its length, and the CRCs in its footer, over all data and over the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotDigest {
    /// Bytes in the file.
    pub len_bytes: u64,
    /// The last eight bytes of the footer, little endian.
    pub crcs: u64,
}

impl SnapshotDigest {
    /// That of a whole file in memory; `None` if the bytes are fewer than those of a footer. They
    /// are not verified.
    pub fn of(file: &[u8]) -> Option<Self> {
        let footer = file.last_chunk::<FOOTER_LEN>()?;
        Some(Self { len_bytes: file.len() as u64, crcs: footer_crcs(footer) })
    }
}

impl fmt::Display for SnapshotDigest {
    /// As in the name of a partial file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.len_bytes, self.crcs)
    }
}

#[derive(Clone, PartialEq, Message)]
struct MetaBody {
    #[prost(uint64, tag = "1")]
    group: u64,
    #[prost(uint64, tag = "2")]
    index: u64,
    #[prost(uint64, tag = "3")]
    term: u64,
    #[prost(message, optional, tag = "4")]
    conf_state: Option<ConfStateBody>,
    #[prost(bytes = "bytes", tag = "5")]
    members: Bytes,
}

impl SnapshotMeta {
    /// That of a group that waits for its first snapshot.
    pub fn none(group: GroupId) -> Self {
        let (conf_state, members) = (ConfState::default(), Bytes::new());
        Self { group, id: LogId::default(), conf_state, members }
    }

    /// The header of the file.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let body = MetaBody {
            group: self.group.get(),
            index: self.id.index,
            term: self.id.term,
            conf_state: Some((&self.conf_state).into()),
            members: self.members.clone(),
        };
        frame::seal_message(KIND, VERSION, &body)
    }

    /// The metadata in a header.
    pub(crate) fn decode(header: &[u8]) -> Result<Self, FrameError> {
        let body = MetaBody::decode(frame::unseal(KIND, VERSION, header)?)
            .map_err(|error| FrameError::Body(error.to_string()))?;
        let group =
            GroupId::new(body.group).ok_or_else(|| FrameError::Body("group 0".to_owned()))?;
        Ok(Self {
            group,
            id: LogId::new(body.index, body.term),
            conf_state: body.conf_state.unwrap_or_default().into(),
            members: body.members,
        })
    }
}

/// The CRC of a block.
pub(crate) fn block_crc(number: u64, header_crc: u32, data: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(&(data.len() as u64).to_le_bytes());
    hasher.update(&header_crc.to_le_bytes());
    hasher.update(data);
    hasher.finalize()
}

/// The footer of a file with this many blocks and bytes of data, and this CRC over the data.
pub(crate) fn footer(
    blocks: u64,
    data_len: u64,
    data_crc: u32,
    header_crc: u32,
) -> [u8; FOOTER_LEN] {
    let mut footer = [0; FOOTER_LEN];
    footer[4..12].copy_from_slice(&blocks.to_le_bytes());
    footer[12..20].copy_from_slice(&data_len.to_le_bytes());
    footer[20..24].copy_from_slice(&data_crc.to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&footer[..24]);
    hasher.update(&header_crc.to_le_bytes());
    footer[24..].copy_from_slice(&hasher.finalize().to_le_bytes());
    footer
}

/// The CRCs in a footer: of all data, and of the footer with that of the header.
pub(crate) fn footer_crcs(footer: &[u8; FOOTER_LEN]) -> u64 {
    let mut crcs = [0; 8];
    crcs.copy_from_slice(&footer[FOOTER_LEN - 8..]);
    u64::from_le_bytes(crcs)
}

/// Why a snapshot was not written, read or received.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// There is no such snapshot.
    #[error("there is no snapshot {}: it was never made here, or is superseded", path.display())]
    Missing {
        /// The file it would be.
        path: PathBuf,
    },
    /// A file is not what was written. One that was being received is removed.
    #[error("{0}")]
    Damaged(Damage),
    /// A received file is of another snapshot than was announced. It is removed.
    #[error(
        "received snapshot {} of group {} where {} of group {} was announced: report it, the peer \
         has a defect", found.1, found.0, expected.1, expected.0
    )]
    Mismatch {
        /// What was announced.
        expected: (GroupId, LogId),
        /// What was received.
        found: (GroupId, LogId),
    },
    /// A received file is longer or shorter than was announced.
    #[error("received {received} bytes of a snapshot of {announced}: receive it again")]
    Length {
        /// Bytes announced.
        announced: u64,
        /// Bytes received.
        received: u64,
    },
    /// A snapshot of a peer is larger than any can be.
    #[error("a snapshot of {announced} bytes is refused: the limit is {max}")]
    TooLarge {
        /// Bytes announced.
        announced: u64,
        /// Bytes allowed.
        max: u64,
    },
    /// There is no room for the file. Nothing of it is left, and nothing is lost: the log keeps
    /// what the snapshot would have replaced.
    #[error("{}: {source}: free some room on the disk", path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A file operation failed.
    #[error("{}: {source}: check the disk", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}

impl SnapshotError {
    /// The error of an operation on `path`.
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::Full { path, source }
            }
            _ => Self::Io { path, source },
        }
    }

    /// The error of opening `path`.
    pub(crate) fn opening(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| match error.kind() {
            io::ErrorKind::NotFound => Self::Missing { path },
            _ => Self::io(&path)(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_are_read_as_they_were_written() {
        let meta = SnapshotMeta {
            group: GroupId::new(4).unwrap(),
            id: LogId::new(11192, 9),
            conf_state: ConfState {
                voters_outgoing: vec![1, 2, 5],
                learners_next: vec![5],
                auto_leave: true,
                ..ConfState::from((vec![1, 2, 3], vec![7]))
            },
            members: Bytes::from_static(b"table"),
        };
        assert_eq!(SnapshotMeta::decode(&meta.encode()), Ok(meta));
    }
}
