//! Newtypes for the numbers and ids that could be taken for one another.

use std::cmp::Ordering;
use std::fmt::{self, Display};

use serde::Serialize;
use uuid::Uuid;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The plain number.
            #[must_use]
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }

        impl Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                Display::fmt(&self.0, f)
            }
        }
    };
}

macro_rules! uuid {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        /// The order of the bytes, compared as one number: every look into a tree is a row of these.
        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                self.0.as_u128().cmp(&other.0.as_u128())
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl From<Uuid> for $name {
            fn from(value: Uuid) -> Self {
                Self(value)
            }
        }

        impl Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                Display::fmt(&self.0, f)
            }
        }
    };
}

number! {
    /// A broker's id, chosen by its operator. Kafka sends it as a signed 32-bit number, where
    /// negative values mean "none": at most [`BrokerId::MAX`].
    BrokerId(u32)
}

impl BrokerId {
    /// The highest id that fits Kafka's signed 32 bits.
    pub const MAX: Self = Self(i32::MAX as u32);
}

number! {
    /// One registration of a broker: the log index of the command that registered this incarnation
    /// (KIP-631). Later requests name it, so that a zombie of an earlier incarnation is told apart.
    BrokerEpoch(u64)
}

number! {
    /// Grows by one whenever the leader of a partition is written: new, none, or the same again
    /// (KIP-101, KIP-320).
    LeaderEpoch(u32)
}

number! {
    /// Grows by one with any change to a partition (KIP-497).
    PartitionEpoch(u32)
}

number! {
    /// An idempotent producer's id (KIP-98).
    ProducerId(u64)
}

number! {
    /// The replicated feature level: what meanings commands and records may have (KIP-584).
    FeatureLevel(u32)
}

uuid! {
    /// A topic's id, random and chosen by the proposer; a topic that is created again has another
    /// one (KIP-516).
    TopicId
}

uuid! {
    /// One start of a broker process, random and chosen by the broker (KIP-631).
    Incarnation
}

uuid! {
    /// A log directory of a broker, random and chosen when it is formatted (KIP-858).
    DirectoryId
}

/// A partition: the topic's id and the partition's number within it, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct PartitionKey {
    /// The topic.
    pub topic: TopicId,
    /// The partition's number.
    pub partition: u32,
}

impl Display for PartitionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// How many brokers a message names: it is relayed between nodes, and whoever sent them may send any number.
const LISTED_MAX: usize = 16;

/// `[1, 2, 3]`, for messages; of a long list its beginning.
pub(crate) fn list(brokers: &[BrokerId]) -> String {
    let (shown, more) = brokers.split_at(brokers.len().min(LISTED_MAX));
    let mut ids: Vec<String> = shown.iter().map(ToString::to_string).collect();
    if !more.is_empty() {
        ids.push(format!("and {} more", more.len()));
    }
    format!("[{}]", ids.join(", "))
}

/// `[1, 2, 3]`, however many they are.
pub(crate) fn whole_list(brokers: &[BrokerId]) -> String {
    let ids: Vec<String> = brokers.iter().map(ToString::to_string).collect();
    format!("[{}]", ids.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_a_few_brokers_of_many() {
        let brokers: Vec<BrokerId> = (1..=18).map(BrokerId).collect();
        let sixteen = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16";
        assert_eq!(list(&brokers[..16]), format!("[{sixteen}]"));
        assert_eq!(list(&brokers), format!("[{sixteen}, and 2 more]"));
        assert_eq!(whole_list(&brokers), format!("[{sixteen}, 17, 18]"));
        assert_eq!(list(&[]), "[]");
    }

    /// The order is in logs and snapshots. To see it fail: compare as little-endian numbers.
    #[test]
    fn ids_are_in_the_order_of_their_bytes() {
        let of = |at: usize, byte: u8| {
            let mut bytes = [7; 16];
            bytes[at] = byte;
            (bytes, TopicId(Uuid::from_bytes(bytes)))
        };
        let ids: Vec<_> =
            (0..16).flat_map(|at| [0, 6, 7, 8, 255].map(|byte| of(at, byte))).collect();
        for (bytes, id) in &ids {
            for (other_bytes, other) in &ids {
                assert_eq!(id.cmp(other), bytes.cmp(other_bytes), "{id} and {other}");
                let key = |topic: &TopicId, partition| PartitionKey { topic: *topic, partition };
                let keys = key(id, 2).cmp(&key(other, 1));
                assert_eq!(keys, bytes.cmp(other_bytes).then(Ordering::Greater));
            }
        }
    }
}
