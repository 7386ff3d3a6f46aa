//! What an operator may ask of partitions: that leaders are elected, and that replicas move.
//!
//! Partitions are named by topic and number. Names are looked up on the node that is asked, in an image
//! that is complete as of then; the command carries ids. Each partition has its own result: one that is
//! refused keeps no other back.

use std::fmt::{self, Display};

use quorate_statemachine::placement::PARTITIONS_PER_COMMAND_MAX;
use quorate_statemachine::{
    BrokerId, Command, ElectLeaders, ElectionType, ErrorCode, Partition, PartitionKey,
    PartitionResult, Reassignment, Rejection, Reply, Topic,
};

use crate::error::WriteError;
use crate::quorum::{Quorum, unreadable};
use crate::topic::named;
use crate::watch::Snapshot;

/// A partition by the name of its topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: String,
    /// The partition's number, from 0.
    pub partition: u32,
}

impl Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// Of which partitions leaders are to be elected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ElectionScope {
    /// All that need the election.
    All,
    /// All of one topic that need it.
    Topic(String),
    /// These, at most 10,000, each named once.
    Partitions(Vec<TopicPartition>),
}

/// What became of each of several partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionResults {
    /// The log index of the last command; where none was needed, that of the image that said so.
    pub index: u64,
    /// Each partition, in the order in which they were named, as it is now or with why it was not
    /// changed.
    pub partitions: Vec<(TopicPartition, PartitionResult)>,
}

impl Quorum {
    /// Elects leaders (KIP-460): the preferred ones, or, where nobody leads, any active replica, which
    /// may lack acknowledged records.
    ///
    /// Of [`ElectionScope::All`] and [`ElectionScope::Topic`] only those are in the answer whose leader
    /// is not the one wanted; more than 10,000 of them are elected by several commands. Should one of
    /// these fail, what those before it did stays ([`WriteError::Partly`]); asking again goes on from
    /// there.
    ///
    /// Not cancel safe: the elections may be held afterwards.
    ///
    /// # Errors
    ///
    /// [`WriteError`]: UNKNOWN_TOPIC_OR_PARTITION for the topic of a scope, INVALID_REQUEST for no
    /// partition, too many, or one named twice. Of each partition: ELECTION_NOT_NEEDED,
    /// PREFERRED_LEADER_NOT_AVAILABLE, ELIGIBLE_LEADERS_NOT_AVAILABLE, UNKNOWN_TOPIC_OR_PARTITION.
    pub async fn elect_leaders(
        &self,
        election: ElectionType,
        scope: ElectionScope,
    ) -> Result<PartitionResults, WriteError> {
        let now = self.newest().await?;
        let elect = |partitions: Vec<(PartitionKey, ())>| {
            let partitions = partitions.into_iter().map(|(key, ())| key).collect();
            Command::ElectLeaders(ElectLeaders { election, partitions })
        };
        let wanted: Vec<_> = match scope {
            ElectionScope::Partitions(partitions) => {
                let wishes = partitions.into_iter().map(|name| (name, ())).collect();
                return self.change_partitions(&now, wishes, elect).await;
            }
            ElectionScope::Topic(name) => lacking(named(&now.image, &name)?, election).collect(),
            ElectionScope::All => {
                now.image.topics_by_name().flat_map(|topic| lacking(topic, election)).collect()
            }
        };
        let mut done = PartitionResults { index: now.index, partitions: Vec::new() };
        for chunk in wanted.chunks(PARTITIONS_PER_COMMAND_MAX) {
            let wishes = chunk.iter().map(|name| (name.clone(), ())).collect();
            let next = self.change_partitions(&now, wishes, elect).await;
            done = done.and(next, wanted.len())?;
        }
        Ok(done)
    }

    /// Moves partitions to other brokers (KIP-455): each to these, in order of preference. When it
    /// returns the reassignments have begun; each is complete when all of its new replicas are in
    /// sync. Asked again, it changes nothing.
    ///
    /// Not cancel safe: the reassignments may begin afterwards.
    ///
    /// # Errors
    ///
    /// [`WriteError`]: INVALID_REQUEST for no partition, more than 10,000, or one named twice. Of each
    /// partition: INVALID_REPLICA_ASSIGNMENT, UNKNOWN_TOPIC_OR_PARTITION.
    pub async fn reassign_partitions(
        &self,
        targets: Vec<(TopicPartition, Vec<BrokerId>)>,
    ) -> Result<PartitionResults, WriteError> {
        let now = self.newest().await?;
        let wishes = targets.into_iter().map(|(name, brokers)| (name, Some(brokers))).collect();
        self.change_partitions(&now, wishes, reassignments).await
    }

    /// Takes reassignments back that are not complete: each partition returns to the replicas it had.
    ///
    /// Not cancel safe: they may be taken back afterwards.
    ///
    /// # Errors
    ///
    /// [`WriteError`]: INVALID_REQUEST for no partition, more than 10,000, or one named twice. Of each
    /// partition: NO_REASSIGNMENT_IN_PROGRESS, INVALID_REPLICA_ASSIGNMENT,
    /// UNKNOWN_TOPIC_OR_PARTITION.
    pub async fn cancel_reassignments(
        &self,
        partitions: Vec<TopicPartition>,
    ) -> Result<PartitionResults, WriteError> {
        let now = self.newest().await?;
        let wishes = partitions.into_iter().map(|name| (name, None)).collect();
        self.change_partitions(&now, wishes, reassignments).await
    }

    /// Has partitions changed by one command, those of them whose topics there are.
    async fn change_partitions<W>(
        &self,
        now: &Snapshot,
        wishes: Vec<(TopicPartition, W)>,
        command: impl Fn(Vec<(PartitionKey, W)>) -> Command,
    ) -> Result<PartitionResults, WriteError> {
        check_count(wishes.len())?;
        let mut known = Vec::new();
        let mut names = Vec::new();
        for (name, wish) in wishes {
            let found = named(&now.image, &name.topic).map(|topic| {
                known.push((PartitionKey { topic: topic.id, partition: name.partition }, wish));
            });
            names.push((name, found));
        }
        let (mut index, mut results) = (now.index, Vec::new());
        let sent = known.len();
        if sent > 0 {
            let done = self.propose_as_is(&command(known)).await?;
            index = done.index;
            results = match done.reply {
                Reply::LeadersElected { results } | Reply::Reassigned { results } => results,
                _ => return Err(unreadable()),
            };
        }
        if results.len() != sent {
            return Err(unreadable());
        }
        let mut results = results.into_iter();
        let partitions = names.into_iter().map(|(name, found)| match found {
            Ok(()) => results.next().map(|result| (name, result)).ok_or_else(unreadable),
            Err(rejection) => Ok((name, Err(rejection))),
        });
        Ok(PartitionResults { index, partitions: partitions.collect::<Result<_, _>>()? })
    }
}

impl PartitionResults {
    /// These and those of the next command, of several for `all` partitions.
    fn and(mut self, next: Result<Self, WriteError>, all: usize) -> Result<Self, WriteError> {
        match next {
            Ok(next) => {
                self.index = next.index;
                self.partitions.extend(next.partitions);
                Ok(self)
            }
            Err(error) if self.partitions.is_empty() => Err(error),
            Err(error) => Err(WriteError::Partly {
                done: self.partitions.len(),
                all,
                index: self.index,
                why: Box::new(error),
            }),
        }
    }
}

fn reassignments(wishes: Vec<(PartitionKey, Option<Vec<BrokerId>>)>) -> Command {
    let reassignment = |(partition, target): (PartitionKey, Option<Vec<BrokerId>>)| Reassignment {
        partition,
        target: target.map(Into::into),
    };
    Command::AlterReassignments { reassignments: wishes.into_iter().map(reassignment).collect() }
}

/// The partitions of a topic that are not led as this election would have it.
fn lacking(topic: &Topic, election: ElectionType) -> impl Iterator<Item = TopicPartition> + '_ {
    let lacks = move |partition: &Partition| match election {
        ElectionType::Preferred => partition.leader != partition.replicas.first().copied(),
        ElectionType::Unclean | ElectionType::UncleanWhereAllowed => partition.leader.is_none(),
    };
    topic
        .partitions()
        .filter(move |(_, partition)| lacks(partition))
        .map(|(number, _)| TopicPartition { topic: topic.name.to_string(), partition: number })
}

fn check_count(partitions: usize) -> Result<(), Rejection> {
    if (1..=PARTITIONS_PER_COMMAND_MAX).contains(&partitions) {
        return Ok(());
    }
    Err(Rejection::new(
        ErrorCode::InvalidRequest,
        format!(
            "the request names {partitions} partitions: name 1 to {PARTITIONS_PER_COMMAND_MAX}"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::{ErrorKind, Unavailable, UnknownReason};

    fn results(index: u64, partitions: u32) -> PartitionResults {
        let failed = || Rejection::new(ErrorCode::ElectionNotNeeded, "it is as it should be");
        let one = |partition| TopicPartition { topic: "orders".to_owned(), partition };
        let partitions = (0..partitions).map(|number| (one(number), Err(failed()))).collect();
        PartitionResults { index, partitions }
    }

    /// To see it fail: pass on what the command that failed says of itself.
    #[test]
    fn what_fails_half_way_does_not_say_that_nothing_was_changed() {
        let unavailable =
            WriteError::Unavailable { reason: Unavailable::NoLeader, waited: Duration::ZERO };
        let nothing = results(7, 0);
        let first = nothing.clone().and(Err(unavailable.clone()), 5);
        assert_eq!(first, Err(unavailable.clone()), "nothing was changed, and so it says");

        let one = nothing.and(Ok(results(8, 2)), 5).unwrap();
        assert_eq!(one, results(8, 2));
        let unknown = WriteError::Unknown { reason: UnknownReason::TimedOut };
        let stopped = WriteError::Stopped { fatal: None };
        for why in [unavailable, unknown, stopped] {
            let partly = one.clone().and(Err(why.clone()), 5).unwrap_err();
            assert_eq!(partly.kind(), ErrorKind::Unknown, "{partly}");
            let said = partly.to_string();
            assert!(said.starts_with("2 of 5 partitions were dealt with, up to index 8"), "{said}");
            assert!(said.ends_with(": ask again, and it goes on from there"), "{said}");
            assert!(!said.contains("nothing was changed"), "{said}");
            assert_eq!(partly, WriteError::Partly { done: 2, all: 5, index: 8, why: why.into() });
        }
        let two = one.and(Ok(results(9, 1)), 5).unwrap();
        assert_eq!((two.index, two.partitions.len()), (9, 3));
    }
}
