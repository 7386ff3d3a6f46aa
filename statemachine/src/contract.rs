//! The contract between the ready loop and any replicated state: what it must do, and must never do.
//!
//! The loop hands over committed commands one by one, in log order, each exactly once since the
//! state was made ([`StateMachine::new`]) or restored ([`StateMachine::restore`]). All replicas see
//! the same commands at the same indexes, so they hold the same state if `apply` is a function of
//! (state, index, command) alone.

use std::error::Error;
use std::fmt::{self, Debug, Display};
use std::io;

use bytes::Bytes;
use serde::{Serialize, Serializer};

/// Deterministic replicated state. No I/O, no clock, no randomness.
///
/// Duties of an implementation:
///
/// 1. `apply` depends on nothing but the state, the index and the command. Whatever needs time, a
///    random id or a choice is decided by the proposer and carried in the command.
/// 2. A command that is well formed but not allowed (stale epoch, unknown topic) is an *outcome*: a
///    typed rejection that leaves the state as it was, on every replica alike.
/// 3. A command that cannot be understood is an [`ApplyError`], which stops this replica. Skipping it
///    would let replicas of different versions drift apart without a sign.
/// 4. An image is cheap (O(1)) and never changes after it was taken, so that readers and the
///    snapshot worker do not stop the apply thread.
pub trait StateMachine: Sized + Send + 'static {
    /// An immutable view of the state after some command.
    type Image: Image;
    /// What the proposer is told: accepted with a reply, or a typed rejection.
    type Outcome: Clone + Debug + Send + 'static;
    /// What one command, or several, changed; feeds watches.
    type Changes: Changes<Self::Image>;

    /// The state before the first command: genesis. The same on every replica, byte for byte.
    fn new() -> Self;

    /// Applies the committed command at `index`, and adds what it changed to `changes`, where what the
    /// commands before it changed may stand already. A rejection changes nothing.
    ///
    /// # Errors
    ///
    /// Only for what no replica of this version can carry out. The error is fatal for the replica;
    /// the state is then not to be used any more.
    fn apply(
        &mut self,
        index: u64,
        command: &[u8],
        changes: &mut Self::Changes,
    ) -> Result<Self::Outcome, ApplyError>;

    /// The bytes of an outcome, as the table of client sessions keeps it for whoever asks again. Equal
    /// outcomes give equal bytes, on every replica, and their length decides which sessions expire: what may
    /// be said otherwise by another version, as words for people, is no part of them.
    fn encode_outcome(outcome: &Self::Outcome) -> Bytes;

    /// Reads the bytes of an outcome, also those that an earlier version wrote.
    ///
    /// # Errors
    ///
    /// Bytes that are no outcome, or one of a later version: a snapshot that holds them is not restored.
    fn decode_outcome(bytes: &[u8]) -> Result<Self::Outcome, Cause>;

    /// The state as it is now. O(1).
    fn image(&self) -> Self::Image;

    /// Rebuilds the state from a stream that [`Image::write_snapshot`] wrote, reading it to its end.
    ///
    /// The stream needs no buffering by the caller.
    ///
    /// # Errors
    ///
    /// Any stream that is cut short, malformed, too long or describes a state that cannot be. Never
    /// panics on bad bytes.
    fn restore(snapshot: &mut dyn io::Read) -> Result<Self, RestoreError>;
}

/// An immutable view of a [`StateMachine`]. Clones are O(1) and may be sent to other threads.
pub trait Image: Clone + Send + Sync + 'static {
    /// Writes the state as a deterministic stream: feature level first; equal states, equal bytes.
    ///
    /// The stream has no checksum of its own: whoever stores or sends it frames it.
    ///
    /// # Errors
    ///
    /// Those of `out`, and where the state is found damaged: no snapshot is taken of it.
    fn write_snapshot(&self, out: &mut dyn io::Write) -> io::Result<()>;

    /// A hash of the state, equal on all replicas at the same index. It may cost a pass over the state:
    /// where it is not kept up to date, call it off the apply path.
    fn state_hash(&self) -> StateHash;
}

/// What changed from one image to a later one; nothing by default. It names what differs; the image says
/// how it is now.
pub trait Changes<I>: Clone + Default + Send + Sync + 'static {
    /// Adds what changed after this, so that a slow watcher gets one collapsed delta.
    fn merge(&mut self, later: Self);

    /// What differs between two images: the delta of a loaded snapshot.
    fn between(before: &I, after: &I) -> Self;

    /// Whether nothing changed.
    fn is_empty(&self) -> bool;
}

/// The result of one command that was applied by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied<O, C> {
    /// What the proposer is told.
    pub outcome: O,
    /// What watchers are told. Empty for a rejection.
    pub changes: C,
}

/// A 128-bit hash of a state. Displayed as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateHash(u128);

impl StateHash {
    /// Wraps a hash value.
    #[must_use]
    pub const fn new(hash: u128) -> Self {
        Self(hash)
    }

    /// The hash as a number.
    #[must_use]
    pub const fn as_u128(self) -> u128 {
        self.0
    }

    /// The hash in big-endian byte order: the order of its hexadecimal digits.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The reverse of [`StateHash::to_bytes`].
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }
}

impl Serialize for StateHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Display for StateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl Debug for StateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StateHash({self})")
    }
}

/// The cause inside an error of this contract; each state machine has its own.
pub type Cause = Box<dyn Error + Send + Sync + 'static>;

/// A committed command that this replica cannot carry out. Always fatal: never skip the command.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The bytes are not a command.
    #[error(
        "the command at index {index} cannot be decoded: this replica stops; restore it from a \
         healthy one"
    )]
    Undecodable {
        /// Where in the log the command is.
        index: u64,
        /// What is wrong with it.
        #[source]
        source: Cause,
    },
    /// A command, or a part of one, from a later version.
    #[error(
        "the command at index {index} is of a kind that this version does not know: upgrade this \
         node"
    )]
    Unknown {
        /// Where in the log the command is.
        index: u64,
    },
    /// The cluster moved to a feature level that this version does not have.
    #[error(
        "the command at index {index} finalizes feature level {level}, and this version ends at \
         {supported}: upgrade this node"
    )]
    UnsupportedFeatureLevel {
        /// Where in the log the command is.
        index: u64,
        /// The level the cluster is now at.
        level: u32,
        /// The highest level of this version.
        supported: u32,
    },
    /// The state of most voters at an earlier index was another than this replica's: its memory or its
    /// disk is damaged, or its version does not do the same.
    #[error(
        "the state behind index {checkpoint} is not that of most voters, as the command at index \
         {index} tells: this replica stops; have it join anew with an empty directory, and report this"
    )]
    Diverged {
        /// Where in the log the comparison is.
        index: u64,
        /// The index behind which the states differ.
        checkpoint: u64,
    },
    /// The caller broke the contract: commands come in log order.
    #[error("index {index} was applied after index {applied}: the log was replayed out of order")]
    OutOfOrder {
        /// The index of the command.
        index: u64,
        /// An index that the state has surely seen.
        applied: u64,
    },
}

impl ApplyError {
    /// The log index of the command that could not be applied.
    #[must_use]
    pub fn index(&self) -> u64 {
        match self {
            Self::Undecodable { index, .. }
            | Self::Unknown { index }
            | Self::UnsupportedFeatureLevel { index, .. }
            | Self::Diverged { index, .. }
            | Self::OutOfOrder { index, .. } => *index,
        }
    }
}

/// A snapshot stream that cannot become a state.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// Reading failed.
    #[error("the snapshot cannot be read")]
    Io(#[from] io::Error),
    /// The stream ends before its end record.
    #[error(
        "the snapshot ends within or after record {record}, before its end record: it is cut short"
    )]
    Truncated {
        /// The number of the record, from 0, that is missing or incomplete.
        record: u64,
    },
    /// A record claims more bytes than any record has.
    #[error("record {record} of the snapshot claims {len} bytes, above the limit of {max}")]
    RecordTooLong {
        /// The number of the record, from 0.
        record: u64,
        /// The claimed length.
        len: u64,
        /// The limit.
        max: u64,
    },
    /// A record that is not what must come at its place.
    #[error("record {record} of the snapshot is malformed")]
    Malformed {
        /// The number of the record, from 0.
        record: u64,
        /// What is wrong with it.
        #[source]
        source: Cause,
    },
    /// A record, or a part of one, from a later version.
    #[error(
        "record {record} of the snapshot is of a kind that this version does not know: upgrade \
         this node"
    )]
    Unknown {
        /// The number of the record, from 0.
        record: u64,
    },
    /// The snapshot was made at a feature level that this version does not have.
    #[error(
        "the snapshot has feature level {level}, and this version knows {min} to {max}: upgrade \
         this node"
    )]
    UnsupportedFeatureLevel {
        /// The level of the snapshot.
        level: u32,
        /// The lowest level of this version.
        min: u32,
        /// The highest level of this version.
        max: u32,
    },
    /// Bytes after the end record.
    #[error("the snapshot goes on after its end record ({records} records)")]
    Trailing {
        /// How many records were read, the end record included.
        records: u64,
    },
    /// All records are well formed, but together they break an invariant.
    #[error("the snapshot describes a state that cannot be")]
    Inconsistent(#[source] Cause),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_hash_is_shown_as_32_hex_digits_and_survives_bytes() {
        let hash = StateHash::new(0xab);
        assert_eq!(hash.to_string(), "000000000000000000000000000000ab");
        assert_eq!(StateHash::from_bytes(hash.to_bytes()), hash);
        assert_eq!(hash.as_u128(), 0xab);
    }

    #[test]
    fn apply_errors_name_their_index() {
        for error in [
            ApplyError::Undecodable { index: 7, source: "x".into() },
            ApplyError::Unknown { index: 7 },
            ApplyError::UnsupportedFeatureLevel { index: 7, level: 3, supported: 1 },
            ApplyError::OutOfOrder { index: 7, applied: 9 },
        ] {
            assert_eq!(error.index(), 7);
            assert!(error.to_string().contains("index 7"), "{error}");
        }
    }
}
