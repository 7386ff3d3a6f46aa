//! What the proposer of a command is told, and its bytes: the quorum leader relays it to the node
//! where the command came from.

use bytes::Bytes;
use prost::Message;

use crate::brokers::Brokers;
use crate::command_wire::{brokers_from_wire, brokers_to_wire, recovery_from_wire};
use crate::error::{ErrorCode, Rejection};
use crate::ids::{
    BrokerEpoch, BrokerId, FeatureLevel, LeaderEpoch, PartitionEpoch, ProducerId, TopicId,
};
use crate::partition::{Partition, Recovery};
use crate::wire::{self, DecodeError, decode_strict, id_from_wire, id_to_wire};

/// The outcome of an applied command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was carried out.
    Accepted(Reply),
    /// It was not allowed; nothing changed.
    Rejected(Rejection),
}

/// What a command gave.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reply {
    /// To RegisterBroker.
    BrokerRegistered {
        /// The epoch to send with later requests.
        epoch: BrokerEpoch,
    },
    /// To FenceBroker.
    BrokerFenced {
        /// How many partitions changed.
        partitions_changed: u64,
    },
    /// To UnfenceBroker.
    BrokerUnfenced {
        /// How many partitions got a leader.
        partitions_changed: u64,
    },
    /// To ShutdownBroker.
    BrokerShuttingDown {
        /// How many partitions changed.
        partitions_changed: u64,
    },
    /// To UnregisterBroker.
    BrokerUnregistered {
        /// How many partitions changed.
        partitions_changed: u64,
    },
    /// To CreateTopics.
    TopicsCreated {
        /// The topics' ids, in the order of the command.
        topics: Vec<TopicId>,
    },
    /// To DeleteTopic.
    TopicDeleted {
        /// The name that is free again.
        name: String,
    },
    /// To AlterPartition.
    PartitionAltered(PartitionAltered),
    /// To AllocateProducerIds.
    ProducerIds {
        /// The first id of the block.
        first: ProducerId,
        /// How many ids the block has.
        len: u32,
    },
    /// To SetFeatureLevel.
    FeatureLevelSet {
        /// The finalized level.
        level: FeatureLevel,
    },
    /// To CreatePartitions.
    PartitionsCreated {
        /// How many partitions the topic has now.
        partitions: u32,
    },
    /// To ElectLeaders: each partition in the order of the command.
    LeadersElected {
        /// The results.
        results: Vec<PartitionResult>,
    },
    /// To AlterReassignments: each partition in the order of the command.
    Reassigned {
        /// The results.
        results: Vec<PartitionResult>,
    },
    /// To AlterConfigs.
    ConfigsAltered {
        /// How many partitions changed, since another `min.insync.replicas` holds for them.
        partitions_changed: u64,
    },
    /// To CompareState: no replica stops.
    StateCompared,
}

/// What became of one partition of a command that names several.
pub type PartitionResult = Result<PartitionAltered, Rejection>;

/// The partition as a command left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionAltered {
    /// The leader.
    pub leader: Option<BrokerId>,
    /// The ISR, in the order of the replicas.
    pub isr: Brokers,
    /// The leader epoch.
    pub leader_epoch: LeaderEpoch,
    /// The partition epoch to send with the next AlterPartition.
    pub partition_epoch: PartitionEpoch,
    /// Whether the leader has recovered.
    pub recovery: Recovery,
    /// The change completed a reassignment and moved the leader: it was made, but the asker is to be
    /// answered with NEW_LEADER_ELECTED and waits for metadata.
    pub new_leader_elected: bool,
}

impl PartitionAltered {
    pub(crate) fn of(partition: &Partition, new_leader_elected: bool) -> Self {
        Self {
            leader: partition.leader,
            isr: partition.isr.clone(),
            leader_epoch: partition.leader_epoch,
            partition_epoch: partition.partition_epoch,
            recovery: partition.recovery,
            new_leader_elected,
        }
    }
}

impl Outcome {
    /// The reply, or why there is none.
    ///
    /// # Errors
    ///
    /// The rejection.
    pub fn into_result(self) -> Result<Reply, Rejection> {
        match self {
            Self::Accepted(reply) => Ok(reply),
            Self::Rejected(rejection) => Err(rejection),
        }
    }

    /// The error that a Kafka client is to be answered with, if any: that of a rejection, or
    /// NEW_LEADER_ELECTED for a change that was made.
    #[must_use]
    pub fn error_code(&self) -> Option<ErrorCode> {
        match self {
            Self::Rejected(rejection) => Some(rejection.code),
            Self::Accepted(Reply::PartitionAltered(altered)) if altered.new_leader_elected => {
                Some(ErrorCode::NewLeaderElected)
            }
            Self::Accepted(_) => None,
        }
    }

    /// The same, with no sentence in any rejection.
    pub(crate) fn without_sentences(&self) -> Self {
        let mut wordless = self.clone();
        for rejection in wordless.rejections() {
            rejection.message.clear();
        }
        wordless
    }

    /// The same, with something to read where a rejection has no sentence.
    pub(crate) fn with_sentences(mut self) -> Self {
        for rejection in self.rejections().into_iter().filter(|it| it.message.is_empty()) {
            rejection.message =
                "it was refused when it was applied, and why is not kept: ask again as a new command"
                    .into();
        }
        self
    }

    fn rejections(&mut self) -> Vec<&mut Rejection> {
        match self {
            Self::Rejected(rejection) => vec![rejection],
            Self::Accepted(Reply::LeadersElected { results } | Reply::Reassigned { results }) => {
                results.iter_mut().filter_map(|result| result.as_mut().err()).collect()
            }
            Self::Accepted(_) => vec![],
        }
    }

    /// The outcome's bytes, as they go between nodes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let kind = match self {
            Self::Accepted(reply) => reply_to_wire(reply),
            Self::Rejected(rejection) => {
                wire::outcome::Kind::Rejected(rejection_to_wire(rejection))
            }
        };
        wire::Outcome { kind: Some(kind) }.encode_to_vec().into()
    }

    /// Reads the bytes of an outcome.
    ///
    /// # Errors
    ///
    /// Bytes that are no outcome, or one of a later version. The command was applied all the same.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        use wire::outcome::Kind;
        let outcome: wire::Outcome = decode_strict(bytes)?;
        let kind = outcome.kind.ok_or(DecodeError::Unknown)?;
        if let Kind::Rejected(rejection) = kind {
            return rejection_from_wire(rejection).map(Self::Rejected);
        }
        reply_from_wire(kind).map(Self::Accepted)
    }
}

fn rejection_to_wire(rejection: &Rejection) -> wire::Rejection {
    let code = i32::from(rejection.code.code());
    wire::Rejection { code, message: rejection.message.clone() }
}

fn rejection_from_wire(rejection: wire::Rejection) -> Result<Rejection, DecodeError> {
    let code = i16::try_from(rejection.code).ok().and_then(ErrorCode::from_code);
    let code = code.ok_or(DecodeError::Unknown)?;
    Ok(Rejection { code, message: rejection.message })
}

fn reply_to_wire(reply: &Reply) -> wire::outcome::Kind {
    use wire::outcome::Kind;
    match reply {
        Reply::BrokerRegistered { epoch } => Kind::BrokerRegistered(epoch.get()),
        Reply::BrokerFenced { partitions_changed } => Kind::BrokerFenced(*partitions_changed),
        Reply::BrokerUnfenced { partitions_changed } => Kind::BrokerUnfenced(*partitions_changed),
        Reply::BrokerShuttingDown { partitions_changed } => {
            Kind::BrokerShuttingDown(*partitions_changed)
        }
        Reply::BrokerUnregistered { partitions_changed } => {
            Kind::BrokerUnregistered(*partitions_changed)
        }
        Reply::TopicsCreated { topics } => Kind::TopicsCreated(wire::TopicsCreated {
            ids: topics.iter().map(|id| id_to_wire(id.0)).collect(),
        }),
        Reply::TopicDeleted { name } => {
            Kind::TopicDeleted(wire::TopicDeleted { name: name.clone() })
        }
        Reply::PartitionAltered(altered) => Kind::PartitionAltered(altered_to_wire(altered)),
        Reply::ProducerIds { first, len } => {
            Kind::ProducerIds(wire::ProducerIds { first: first.get(), len: *len })
        }
        Reply::FeatureLevelSet { level } => Kind::FeatureLevelSet(level.get()),
        Reply::PartitionsCreated { partitions } => Kind::PartitionsCreated(*partitions),
        Reply::LeadersElected { results } => Kind::LeadersElected(results_to_wire(results)),
        Reply::Reassigned { results } => Kind::Reassigned(results_to_wire(results)),
        Reply::ConfigsAltered { partitions_changed } => Kind::ConfigsAltered(*partitions_changed),
        Reply::StateCompared => Kind::StateCompared(true),
    }
}

fn altered_to_wire(altered: &PartitionAltered) -> wire::PartitionAltered {
    wire::PartitionAltered {
        leader: altered.leader.map(BrokerId::get),
        isr: brokers_to_wire(&altered.isr),
        leader_epoch: altered.leader_epoch.get(),
        partition_epoch: altered.partition_epoch.get(),
        recovering: altered.recovery == Recovery::Recovering,
        new_leader_elected: altered.new_leader_elected,
    }
}

fn altered_from_wire(altered: &wire::PartitionAltered) -> PartitionAltered {
    PartitionAltered {
        leader: altered.leader.map(BrokerId),
        isr: brokers_from_wire(&altered.isr),
        leader_epoch: LeaderEpoch(altered.leader_epoch),
        partition_epoch: PartitionEpoch(altered.partition_epoch),
        recovery: recovery_from_wire(altered.recovering),
        new_leader_elected: altered.new_leader_elected,
    }
}

fn results_to_wire(results: &[PartitionResult]) -> wire::PartitionResults {
    use wire::partition_result::Kind;
    let to_wire = |result: &PartitionResult| {
        let kind = match result {
            Ok(altered) => Kind::Altered(altered_to_wire(altered)),
            Err(rejection) => Kind::Rejected(rejection_to_wire(rejection)),
        };
        wire::PartitionResult { kind: Some(kind) }
    };
    wire::PartitionResults { results: results.iter().map(to_wire).collect() }
}

fn results_from_wire(wire: wire::PartitionResults) -> Result<Vec<PartitionResult>, DecodeError> {
    use wire::partition_result::Kind;
    let from_wire = |result: wire::PartitionResult| match result.kind {
        Some(Kind::Altered(altered)) => Ok(Ok(altered_from_wire(&altered))),
        Some(Kind::Rejected(rejection)) => rejection_from_wire(rejection).map(Err),
        None => Err(DecodeError::Unknown),
    };
    wire.results.into_iter().map(from_wire).collect()
}

fn reply_from_wire(kind: wire::outcome::Kind) -> Result<Reply, DecodeError> {
    use wire::outcome::Kind;
    Ok(match kind {
        Kind::Rejected(_) => return Err(DecodeError::Missing { field: "reply" }),
        Kind::BrokerRegistered(epoch) => Reply::BrokerRegistered { epoch: BrokerEpoch(epoch) },
        Kind::BrokerFenced(partitions_changed) => Reply::BrokerFenced { partitions_changed },
        Kind::BrokerUnfenced(partitions_changed) => Reply::BrokerUnfenced { partitions_changed },
        Kind::BrokerShuttingDown(partitions_changed) => {
            Reply::BrokerShuttingDown { partitions_changed }
        }
        Kind::BrokerUnregistered(partitions_changed) => {
            Reply::BrokerUnregistered { partitions_changed }
        }
        Kind::TopicsCreated(created) => Reply::TopicsCreated {
            topics: created
                .ids
                .iter()
                .map(|id| id_from_wire("topic id", id).map(TopicId))
                .collect::<Result<_, _>>()?,
        },
        Kind::TopicDeleted(deleted) => Reply::TopicDeleted { name: deleted.name },
        Kind::PartitionAltered(altered) => Reply::PartitionAltered(altered_from_wire(&altered)),
        Kind::ProducerIds(ids) => Reply::ProducerIds { first: ProducerId(ids.first), len: ids.len },
        Kind::FeatureLevelSet(level) => Reply::FeatureLevelSet { level: FeatureLevel(level) },
        Kind::PartitionsCreated(partitions) => Reply::PartitionsCreated { partitions },
        Kind::LeadersElected(results) => {
            Reply::LeadersElected { results: results_from_wire(results)? }
        }
        Kind::Reassigned(results) => Reply::Reassigned { results: results_from_wire(results)? },
        Kind::ConfigsAltered(partitions_changed) => Reply::ConfigsAltered { partitions_changed },
        Kind::StateCompared(true) => Reply::StateCompared,
        Kind::StateCompared(false) => return Err(DecodeError::Unknown),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::testing::{ids, topic_id};

    fn altered(new_leader_elected: bool) -> Outcome {
        Outcome::Accepted(Reply::PartitionAltered(PartitionAltered {
            leader: new_leader_elected.then_some(BrokerId(0)),
            isr: ids(&[3, 1]),
            leader_epoch: LeaderEpoch(2),
            partition_epoch: PartitionEpoch(3),
            recovery: Recovery::Recovering,
            new_leader_elected,
        }))
    }

    /// Every reply, and a rejection with each code.
    pub(crate) fn every_outcome() -> Vec<Outcome> {
        let Outcome::Accepted(Reply::PartitionAltered(one)) = altered(false) else {
            unreachable!("it was accepted")
        };
        let refused = Rejection::new(ErrorCode::ElectionNotNeeded, "why");
        let replies = [
            Reply::BrokerRegistered { epoch: BrokerEpoch(0) },
            Reply::BrokerFenced { partitions_changed: 1 },
            Reply::BrokerUnfenced { partitions_changed: 0 },
            Reply::BrokerShuttingDown { partitions_changed: u64::MAX },
            Reply::BrokerUnregistered { partitions_changed: 2 },
            Reply::TopicsCreated { topics: vec![topic_id(2), topic_id(1)] },
            Reply::TopicDeleted { name: "t".into() },
            Reply::ProducerIds { first: ProducerId(0), len: 1_000 },
            Reply::FeatureLevelSet { level: FeatureLevel(1) },
            Reply::PartitionsCreated { partitions: 7 },
            Reply::LeadersElected { results: vec![Err(refused), Ok(one.clone())] },
            Reply::Reassigned { results: vec![Ok(one)] },
            Reply::ConfigsAltered { partitions_changed: 0 },
            Reply::StateCompared,
        ];
        let rejections =
            ErrorCode::ALL.iter().map(|code| Outcome::Rejected(Rejection::new(*code, "why")));
        let outcomes = replies.map(Outcome::Accepted).into_iter().chain(rejections);
        outcomes.chain([altered(true), altered(false)]).collect()
    }

    #[test]
    fn every_outcome_survives_its_bytes() {
        for outcome in every_outcome() {
            assert_eq!(Outcome::decode(&outcome.encode()), Ok(outcome));
        }
    }

    #[test]
    fn bytes_that_are_no_outcome_are_refused() {
        assert_eq!(Outcome::decode(&[]), Err(DecodeError::Unknown));
        assert!(matches!(Outcome::decode(&[0x0a, 9]), Err(DecodeError::Malformed(_))));
        // Rejected with the number 14 (zigzag 28), which the quorum never answers with.
        assert_eq!(Outcome::decode(&[0x0a, 2, 8, 28]), Err(DecodeError::Unknown));
        // With a field more, a later version means more by it.
        for outcome in every_outcome() {
            let later = [&outcome.encode()[..], &[0x9a, 0x06, 0x00]].concat();
            assert_eq!(Outcome::decode(&later), Err(DecodeError::Unknown), "{outcome:?}");
        }
    }

    /// What is kept decides how many outcomes a session may hold, so that it must not hang on words.
    #[test]
    fn the_words_of_a_rejection_are_not_kept() {
        use crate::contract::StateMachine as _;
        use crate::machine::Metadata;
        for outcome in every_outcome() {
            let mut reworded = outcome.clone();
            for rejection in reworded.rejections() {
                rejection.message.push_str(", as another version says it: at length");
            }
            let kept = Metadata::encode_outcome(&outcome);
            assert_eq!(Metadata::encode_outcome(&reworded), kept, "{outcome:?}");
            let mut again = Metadata::decode_outcome(&kept).expect("what was kept can be read");
            assert!(again.rejections().iter().all(|rejection| rejection.message.contains(": ")));
            assert_eq!(again.without_sentences(), outcome.without_sentences());
        }
    }

    #[test]
    fn the_error_of_a_change_that_was_made() {
        assert_eq!(altered(true).error_code(), Some(ErrorCode::NewLeaderElected));
        assert_eq!(altered(false).error_code(), None);
        let rejection = Rejection::new(ErrorCode::InvalidRequest, "why");
        let rejected = Outcome::Rejected(rejection.clone());
        assert_eq!(rejected.error_code(), Some(ErrorCode::InvalidRequest));
        assert_eq!(rejected.into_result(), Err(rejection));
    }
}
