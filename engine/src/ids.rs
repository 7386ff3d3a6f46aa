//! Names of things: cluster, node, directory, group, and a position in a log.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A new random id (UUID version 4).
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }

            /// The id with these 16 bytes.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// The 16 bytes of the id, as they stand on disk and on the wire.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                Uuid::from_str(text).map(Self)
            }
        }

        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }
    };
}

uuid_id! {
    /// The cluster a directory belongs to. Two clusters never share one.
    ClusterId
}

uuid_id! {
    /// One formatting of one directory: random, and new at every format, so that a wiped disk
    /// cannot pass for the one whose acknowledgements the others remember.
    DirectoryId
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(NonZeroU64);

        impl $name {
            /// The id with this number; `None` for 0, which stands for "none" everywhere.
            pub const fn new(number: u64) -> Option<Self> {
                match NonZeroU64::new(number) {
                    Some(number) => Some(Self(number)),
                    None => None,
                }
            }

            /// The number, never 0.
            pub const fn get(self) -> u64 {
                self.0.get()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

number_id! {
    /// A node: a machine of the cluster, given by its operator. Never 0.
    NodeId
}

number_id! {
    /// A Raft group on this node. Never 0: that number is the engine's own.
    GroupId
}

/// A position in a log: an index and the term of the entry there. `(0, 0)` is before the first.
///
/// Ordered by index, then term.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogId {
    /// Index of the entry; 0 is before the first.
    pub index: u64,
    /// Term in which a leader made it.
    pub term: u64,
}

impl LogId {
    /// The position of `index` and `term`.
    pub const fn new(index: u64, term: u64) -> Self {
        Self { index, term }
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.index, self.term)
    }
}

impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogId({}-{})", self.index, self.term)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_no_id() {
        assert_eq!(NodeId::new(0), None);
        assert_eq!(GroupId::new(0), None);
        assert_eq!(NodeId::new(7).unwrap().get(), 7);
        assert!(serde_json::from_str::<NodeId>("0").is_err());
        assert_eq!(serde_json::from_str::<GroupId>("3").unwrap().get(), 3);
    }

    #[test]
    fn ids_are_read_as_they_are_written() {
        let id = ClusterId::from_bytes([7; 16]);
        assert_eq!(id.to_string().parse::<ClusterId>().unwrap(), id);
        assert!("not-a-uuid".parse::<ClusterId>().is_err());
        assert_ne!(DirectoryId::random(), DirectoryId::random());
    }

    #[test]
    fn positions_are_ordered_by_index_first() {
        assert!(LogId::new(9637, 9) < LogId::new(11192, 1));
        assert_eq!(LogId::new(10, 3).to_string(), "10-3");
    }
}
