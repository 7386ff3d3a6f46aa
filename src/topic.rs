//! [`TopicSpec`]: a topic that is wanted; how topics are created, grow and are deleted.

use std::collections::BTreeMap;

use quorate_statemachine::{
    BrokerId, Command, ErrorCode, MetadataImage, Rejection, Reply, Topic, TopicId,
};

use crate::caller::Repeat;
use crate::error::WriteError;
use crate::quorum::{Quorum, unreadable};
use crate::wire::{
    CreatePartitionsRequest, CreateTopicRequest, CreateTopicsRequest, Replicas, RequestKind,
};

/// A topic that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// Its name: 1 to 249 of the characters `a-z A-Z 0-9 . _ -`.
    pub name: String,
    /// Where its partitions go.
    pub placement: Placement,
    /// Its configs; a key that is not here has the broker's default.
    pub configs: BTreeMap<String, String>,
}

/// Which brokers hold the partitions of a new topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// The leader plans it: replicas spread over racks and brokers, unfenced ones first.
    Planned {
        /// How many partitions, 1 to 10,000.
        partitions: u32,
        /// How many replicas each gets; at most as many as brokers are registered.
        replication_factor: u32,
    },
    /// As given: one list a partition, the preferred leader first.
    Assigned(Vec<Vec<BrokerId>>),
}

impl TopicSpec {
    /// A topic that the leader places, without configs.
    pub fn new(name: impl Into<String>, partitions: u32, replication_factor: u32) -> Self {
        let placement = Placement::Planned { partitions, replication_factor };
        Self { name: name.into(), placement, configs: BTreeMap::new() }
    }

    /// # Errors
    ///
    /// INVALID_PARTITIONS for an assignment without partitions: on the wire it would be a wish to
    /// have them planned.
    pub(crate) fn to_request(&self) -> Result<CreateTopicRequest, Rejection> {
        let (partitions, replication_factor, assignment) = match &self.placement {
            Placement::Planned { partitions, replication_factor } => {
                (*partitions, *replication_factor, Vec::new())
            }
            Placement::Assigned(partitions) if partitions.is_empty() => {
                return Err(Rejection::new(
                    ErrorCode::InvalidPartitions,
                    "the assignment names no partition: a topic needs at least one",
                ));
            }
            Placement::Assigned(partitions) => (0, 0, Replicas::all_of(partitions)),
        };
        Ok(CreateTopicRequest {
            name: self.name.clone(),
            partitions,
            replication_factor,
            configs: self.configs.clone(),
            assignment,
        })
    }
}

/// A topic that was created: committed, and in this node's image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedTopic {
    /// Its name.
    pub name: String,
    /// Its new id.
    pub id: TopicId,
    /// The log index at which it was created.
    pub index: u64,
}

/// A topic that has as many partitions as were asked for: committed, and in this node's image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrownTopic {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: TopicId,
    /// How many partitions it has.
    pub partitions: u32,
    /// The log index at which it was so.
    pub index: u64,
}

/// A topic that was deleted: committed, and gone from this node's image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletedTopic {
    /// Its name, which is free again.
    pub name: String,
    /// The id it had.
    pub id: TopicId,
    /// The log index at which it was deleted.
    pub index: u64,
}

impl Quorum {
    /// Creates a topic. When it returns, the topic is committed, and this node's image shows it.
    ///
    /// Asked again after it was created, it answers TOPIC_ALREADY_EXISTS: whether the topic is the one
    /// that was wanted, the image says.
    ///
    /// Not cancel safe: the topic may be created afterwards.
    ///
    /// # Errors
    ///
    /// [`WriteError`]: TOPIC_ALREADY_EXISTS, INVALID_TOPIC_EXCEPTION, INVALID_PARTITIONS,
    /// INVALID_REPLICATION_FACTOR, INVALID_REPLICA_ASSIGNMENT, INVALID_CONFIG.
    pub async fn create_topic(&self, spec: TopicSpec) -> Result<CreatedTopic, WriteError> {
        let request = RequestKind::CreateTopic(spec.to_request()?);
        let mut created = self.created(request, [spec.name].into()).await?;
        created.pop().ok_or_else(unreadable)
    }

    /// Creates topics, all or none, in one command; in the order of `specs`. Otherwise as
    /// [`Quorum::create_topic`].
    ///
    /// Not cancel safe: the topics may be created afterwards.
    ///
    /// # Errors
    ///
    /// As there, for one topic that cannot be (where brokers are lacking for one, that one); INVALID_REQUEST for no topic at all, and
    /// INVALID_PARTITIONS for more than 10,000 partitions together.
    pub async fn create_topics(
        &self,
        specs: Vec<TopicSpec>,
    ) -> Result<Vec<CreatedTopic>, WriteError> {
        let topics = specs.iter().map(TopicSpec::to_request).collect::<Result<_, _>>()?;
        let request = RequestKind::CreateTopics(CreateTopicsRequest { topics });
        self.created(request, specs.into_iter().map(|spec| spec.name).collect()).await
    }

    async fn created(
        &self,
        request: RequestKind,
        names: Vec<String>,
    ) -> Result<Vec<CreatedTopic>, WriteError> {
        let done = self.write(request, Repeat::Never).await?;
        let Reply::TopicsCreated { topics } = done.reply else { return Err(unreadable()) };
        if topics.len() != names.len() {
            return Err(unreadable());
        }
        let created = |(name, id)| CreatedTopic { name, id, index: done.index };
        Ok(names.into_iter().zip(topics).map(created).collect())
    }

    /// Gives the topic of this name more partitions, so that it has `total`. Their replicas are those of
    /// `assignment`, one list for each new partition with the preferred leader first; where that is
    /// empty, the leader plans them.
    ///
    /// A topic that has `total` partitions already is left as it is, so that asking twice is the same
    /// as asking once. An unknown outcome is therefore tried again.
    ///
    /// Not cancel safe: the partitions may be created afterwards.
    ///
    /// # Errors
    ///
    /// [`WriteError`]: UNKNOWN_TOPIC_OR_PARTITION, or UNKNOWN_TOPIC_ID when it is deleted at the same
    /// time; INVALID_PARTITIONS when it has more, or for more than 10,000 new ones;
    /// INVALID_REPLICATION_FACTOR when fewer brokers than replicas are there;
    /// INVALID_REPLICA_ASSIGNMENT.
    pub async fn create_partitions(
        &self,
        topic: &str,
        total: u32,
        assignment: Vec<Vec<BrokerId>>,
    ) -> Result<GrownTopic, WriteError> {
        let id = named(&self.newest().await?.image, topic)?.id;
        let request = RequestKind::CreatePartitions(CreatePartitionsRequest {
            topic: id.0.as_bytes().to_vec(),
            total,
            assignment: Replicas::all_of(&assignment),
        });
        let done = self.write(request, Repeat::Harmless).await?;
        let Reply::PartitionsCreated { partitions } = done.reply else { return Err(unreadable()) };
        Ok(GrownTopic { name: topic.to_owned(), id, partitions, index: done.index })
    }

    /// Deletes the topic of this name, with all that is in it.
    ///
    /// Not cancel safe: the topic may be deleted afterwards.
    ///
    /// # Errors
    ///
    /// [`WriteError`]: UNKNOWN_TOPIC_OR_PARTITION when there is none, and UNKNOWN_TOPIC_ID when
    /// somebody else has deleted it at the same time.
    pub async fn delete_topic(&self, name: &str) -> Result<DeletedTopic, WriteError> {
        // The name is looked up here, and what is deleted is the id: never a topic of the same name
        // that is made a moment later. Which one it is now, only a complete image can say.
        let id = named(&self.newest().await?.image, name)?.id;
        let done = self.propose_as_is(&Command::DeleteTopic { topic: id }).await?;
        match done.reply {
            Reply::TopicDeleted { name } => Ok(DeletedTopic { name, id, index: done.index }),
            _ => Err(unreadable()),
        }
    }
}

/// The topic of this name.
pub(crate) fn named<'a>(image: &'a MetadataImage, name: &str) -> Result<&'a Topic, Rejection> {
    image.topic_by_name(name).ok_or_else(|| {
        Rejection::new(
            ErrorCode::UnknownTopicOrPartition,
            format!("there is no topic `{}`: see the names with `topics ls`", name.escape_debug()),
        )
    })
}
