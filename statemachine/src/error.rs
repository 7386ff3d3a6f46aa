//! Kafka's error names: what a rejection is called, so that a Kafka broker can pass it on.

use std::fmt::{self, Display};

macro_rules! error_codes {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $name:literal;)*) => {
        /// An error by Kafka's name and number.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $($(#[$doc])* $variant,)*
        }

        impl ErrorCode {
            /// Every code, in ascending order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The number that Kafka's protocol gives to the error.
            #[must_use]
            pub const fn code(self) -> i16 {
                match self {
                    $(Self::$variant => $code,)*
                }
            }

            /// Kafka's name of the error.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// The error with this number, if it is one that the quorum answers with.
            #[must_use]
            pub const fn from_code(code: i16) -> Option<Self> {
                match code {
                    $($code => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

error_codes! {
    /// Something that should not happen happened.
    UnknownServerError = -1, "UNKNOWN_SERVER_ERROR";
    /// No such topic, or no such partition of it.
    UnknownTopicOrPartition = 3, "UNKNOWN_TOPIC_OR_PARTITION";
    /// The topic's name is not allowed, or collides with another in metric names.
    InvalidTopicException = 17, "INVALID_TOPIC_EXCEPTION";
    /// The finalized feature level is outside the broker's range.
    UnsupportedVersion = 35, "UNSUPPORTED_VERSION";
    /// A topic of this name exists.
    TopicAlreadyExists = 36, "TOPIC_ALREADY_EXISTS";
    /// The number of partitions is not possible.
    InvalidPartitions = 37, "INVALID_PARTITIONS";
    /// The replication factor is not possible.
    InvalidReplicationFactor = 38, "INVALID_REPLICATION_FACTOR";
    /// The replicas of a partition are not possible.
    InvalidReplicaAssignment = 39, "INVALID_REPLICA_ASSIGNMENT";
    /// A configuration key or value is not allowed.
    InvalidConfig = 40, "INVALID_CONFIG";
    /// The asked node is not, or no longer, the one that decides: its state is behind the asker's.
    NotController = 41, "NOT_CONTROLLER";
    /// The request contradicts itself or the state.
    InvalidRequest = 42, "INVALID_REQUEST";
    /// The leader epoch is below the current one.
    FencedLeaderEpoch = 74, "FENCED_LEADER_EPOCH";
    /// The broker epoch is not that of the broker's registration.
    StaleBrokerEpoch = 77, "STALE_BROKER_EPOCH";
    /// The preferred leader cannot lead now.
    PreferredLeaderNotAvailable = 80, "PREFERRED_LEADER_NOT_AVAILABLE";
    /// No replica can lead now.
    EligibleLeadersNotAvailable = 83, "ELIGIBLE_LEADERS_NOT_AVAILABLE";
    /// The leader is already the one that an election would give.
    ElectionNotNeeded = 84, "ELECTION_NOT_NEEDED";
    /// There is no reassignment to cancel.
    NoReassignmentInProgress = 85, "NO_REASSIGNMENT_IN_PROGRESS";
    /// The partition epoch, or the feature level, is not one to go on from.
    InvalidUpdateVersion = 95, "INVALID_UPDATE_VERSION";
    /// No topic has this id.
    UnknownTopicId = 100, "UNKNOWN_TOPIC_ID";
    /// Another process with this broker id has a live session.
    DuplicateBrokerRegistration = 101, "DUPLICATE_BROKER_REGISTRATION";
    /// No broker with this id is registered.
    BrokerIdNotRegistered = 102, "BROKER_ID_NOT_REGISTERED";
    /// The broker belongs to another cluster.
    InconsistentClusterId = 104, "INCONSISTENT_CLUSTER_ID";
    /// A broker that may not be in the ISR.
    IneligibleReplica = 107, "INELIGIBLE_REPLICA";
    /// The change was made, and it moved the leader: wait for metadata.
    NewLeaderElected = 108, "NEW_LEADER_ELECTED";
    /// The registration is not possible.
    InvalidRegistration = 119, "INVALID_REGISTRATION";
}

impl Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a command was not carried out. The state is as it was before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Rejection {
    /// Kafka's name for it.
    pub code: ErrorCode,
    /// One sentence that names the remedy when the input was bad.
    pub message: String,
}

impl Rejection {
    /// A rejection with its sentence.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_kafkas() {
        for (code, number, name) in [
            (ErrorCode::TopicAlreadyExists, 36, "TOPIC_ALREADY_EXISTS"),
            (ErrorCode::StaleBrokerEpoch, 77, "STALE_BROKER_EPOCH"),
            (ErrorCode::UnknownTopicId, 100, "UNKNOWN_TOPIC_ID"),
            (ErrorCode::NewLeaderElected, 108, "NEW_LEADER_ELECTED"),
            (ErrorCode::InvalidRegistration, 119, "INVALID_REGISTRATION"),
            (ErrorCode::UnknownServerError, -1, "UNKNOWN_SERVER_ERROR"),
        ] {
            assert_eq!(code.code(), number);
            assert_eq!(code.to_string(), name);
        }
    }

    #[test]
    fn every_code_is_found_by_its_number() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_code(code.code()), Some(*code));
        }
        assert_eq!(ErrorCode::from_code(0), None);
        assert!(ErrorCode::ALL.windows(2).all(|pair| pair[0].code() < pair[1].code()));
    }

    #[test]
    fn a_rejection_reads_as_name_and_sentence() {
        let rejection = Rejection::new(ErrorCode::InvalidConfig, "x is not a topic config");
        assert_eq!(rejection.to_string(), "INVALID_CONFIG: x is not a topic config");
    }
}
