//! The bytes of commands, outcomes and snapshot records: prost messages with stable field numbers.
//!
//! They are in logs and snapshots on disk and go between nodes of different versions. A number is
//! given once and never reused; what a field means changes only behind a feature level. Ids are 16
//! bytes, epochs and counts varints, lists of brokers packed.
//!
//! The messages are only shapes. What may be in them is checked where they become commands,
//! outcomes and state.

mod commands;
mod outcomes;
mod records;

use prost::Message;
use uuid::Uuid;

pub use self::commands::*;
pub use self::outcomes::*;
pub use self::records::*;

/// Bytes that are not the message they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Not a message of this shape.
    #[error("not a valid message")]
    Malformed(#[from] prost::DecodeError),
    /// A message of a kind, or with a field, that this version does not know.
    #[error("a kind or a field that this version does not know: upgrade this node")]
    Unknown,
    /// A part that cannot be left out.
    #[error("{field} is missing")]
    Missing {
        /// Which part.
        field: &'static str,
    },
    /// An id that is not 16 bytes.
    #[error("{field} has {len} bytes and not 16")]
    NotAnId {
        /// Which part.
        field: &'static str,
        /// Its length.
        len: usize,
    },
    /// A number beyond its range.
    #[error("{field} is {value}, which is out of range")]
    OutOfRange {
        /// Which part.
        field: &'static str,
        /// Its value.
        value: u64,
    },
}

/// Decodes a message of which every byte must be understood.
///
/// Protobuf skips fields that it does not know, and reads any number as true. In replicated state this
/// would be a change of meaning that nobody noticed, so a message that is not the same when encoded
/// again is refused.
pub(crate) fn decode_strict<M: Message + Default>(bytes: &[u8]) -> Result<M, DecodeError> {
    let message = M::decode(bytes)?;
    if message.encode_to_vec() == bytes { Ok(message) } else { Err(DecodeError::Unknown) }
}

pub(crate) fn id_to_wire(id: Uuid) -> Vec<u8> {
    id.as_bytes().to_vec()
}

pub(crate) fn id_from_wire(field: &'static str, bytes: &[u8]) -> Result<Uuid, DecodeError> {
    Uuid::from_slice(bytes).map_err(|_| DecodeError::NotAnId { field, len: bytes.len() })
}
