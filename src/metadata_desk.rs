//! Owns what only the quorum leader may decide about the metadata: where new replicas go, in which
//! epoch a broker is fenced, and whether a feature level is known.
//!
//! Every decision is made on the leader's image and proposed as a command, whose preconditions are
//! checked again where it is applied.

use quorate_loop::{Node, Role};
use quorate_statemachine::placement::{
    PARTITIONS_PER_COMMAND_MAX, TopicShape, check_partition_count, plan,
};
use quorate_statemachine::{
    BrokerId, BrokerSession as RegisteredBroker, Brokers, Command, CreatePartitions, ErrorCode,
    FeatureLevel, FeatureRange, Metadata, MetadataImage, NewTopic, Outcome, Rejection, Reply,
    TopicId,
};
use uuid::Uuid;

use crate::desk::{applied, confirm, propose, rejected};
use crate::wire::{
    CreatePartitionsRequest, CreateTopicRequest, Refusal, Replicas, Response, ResponseKind,
};

/// Plans that are made for one request at most: each but the last was overtaken by another change.
const PLANS_MAX: usize = 3;

/// What the leader decides, looking at an image.
enum Decision {
    /// To be written down.
    Propose(Command),
    /// It is so already, and this is the answer of who made it so.
    AsItIs(Reply),
}

/// Topics, all or none.
///
/// A broker that was planned with may be fenced before the topics are in the log. Then nothing was
/// created, and whoever left the placement to the leader did nothing wrong: it is planned anew, on the
/// image that shows the fence.
pub(crate) async fn create_topics(
    node: &Node<Metadata>,
    topics: &[CreateTopicRequest],
) -> Response {
    let planned = topics.iter().any(|topic| topic.assignment.is_empty());
    let overtaken = |code| planned && code == ErrorCode::InvalidReplicaAssignment;
    decide_until_settled(node, overtaken, |image| {
        check_size(topics)?;
        let topics = topics.iter().map(|topic| new_topic(image, topic));
        let topics = topics.collect::<Result<Vec<_>, Rejection>>()?;
        Ok(Decision::Propose(Command::CreateTopics { topics }))
    })
    .await
}

/// More partitions for a topic, so that it has as many as it shall have.
///
/// Planned anew where another change came first: the topic may have them by now.
pub(crate) async fn create_partitions(
    node: &Node<Metadata>,
    request: &CreatePartitionsRequest,
) -> Response {
    let planned = request.assignment.is_empty();
    let overtaken = |code| {
        code == ErrorCode::InvalidPartitions
            || (planned && code == ErrorCode::InvalidReplicaAssignment)
    };
    decide_until_settled(node, overtaken, |image| new_partitions(image, request)).await
}

/// Fences a broker in the epoch that it is registered with.
///
/// A leader that has just begun may know an epoch of the past, and the log would say STALE_BROKER_EPOCH
/// to somebody who named none: so it is looked up only in an image that is known to be complete.
pub(crate) async fn fence(node: &Node<Metadata>, id: BrokerId) -> Response {
    if let Err(refusal) = confirm(node).await {
        return refusal.into();
    }
    decide(node, |image| match image.broker(id) {
        None => Err(Rejection::new(
            ErrorCode::BrokerIdNotRegistered,
            format!("broker {id} is not registered: name one that `brokers ls` shows"),
        )),
        Some(broker) if broker.fenced => {
            Ok(Decision::AsItIs(Reply::BrokerFenced { partitions_changed: 0 }))
        }
        Some(broker) => {
            let whom = RegisteredBroker { broker: id, epoch: broker.epoch };
            Ok(Decision::Propose(Command::FenceBroker(whom)))
        }
    })
    .await
}

/// Finalizes a feature level that this node supports. What brokers support is in the image, and
/// checked where the command is applied; what the other voters support nobody knows before.
pub(crate) async fn set_feature_level(node: &Node<Metadata>, level: FeatureLevel) -> Response {
    decide(node, |image| {
        let FeatureRange { min, max } = FeatureRange::SUPPORTED;
        if level == image.feature_level() {
            return Ok(Decision::AsItIs(Reply::FeatureLevelSet { level }));
        }
        if level > max {
            return Err(Rejection::new(
                ErrorCode::InvalidUpdateVersion,
                format!(
                    "the node that leads the quorum supports feature levels {min} to {max} and not \
                     {level}: run a version that does on all nodes"
                ),
            ));
        }
        Ok(Decision::Propose(Command::SetFeatureLevel { level }))
    })
    .await
}

/// Decides, and again while the log says that another change came first.
async fn decide_until_settled(
    node: &Node<Metadata>,
    overtaken: impl Fn(ErrorCode) -> bool,
    decision: impl Fn(&MetadataImage) -> Result<Decision, Rejection>,
) -> Response {
    for _ in 1..PLANS_MAX {
        let response = decide(node, &decision).await;
        if !refused_by_the_log(&response).is_some_and(&overtaken) {
            return response;
        }
    }
    let last = decide(node, decision).await;
    match refused_by_the_log(&last) {
        // The number it was planned for was right, and is not any more. It is for whoever asked to ask
        // again for as long as there is time: that more partitions are wanted than there are is no fault.
        Some(ErrorCode::InvalidPartitions) => Refusal::Overtaken.into(),
        _ => last,
    }
}

/// Decides on this node's image, if it leads, and proposes.
///
/// What is not written down (a refusal, or that all is as wanted) must not come from an image of the
/// past: a leader that has just begun may not have seen the newest changes.
async fn decide(
    node: &Node<Metadata>,
    decision: impl Fn(&MetadataImage) -> Result<Decision, Rejection>,
) -> Response {
    if node.status().role != Role::Leader {
        return Refusal::NotLeader.into();
    }
    let mut confirmed = false;
    loop {
        let (decided, index) = {
            let now = node.image();
            (decision(&now.image), now.applied)
        };
        match decided {
            Ok(Decision::Propose(command)) => return propose(node, &command).await,
            Ok(Decision::AsItIs(reply)) if confirmed => {
                return applied(&Outcome::Accepted(reply), index);
            }
            Err(rejection) if confirmed => return rejected(rejection, index),
            _ => {}
        }
        if let Err(refusal) = confirm(node).await {
            return refusal.into();
        }
        confirmed = true;
    }
}

/// Why the log has refused a command, if it has.
fn refused_by_the_log(response: &Response) -> Option<ErrorCode> {
    let Some(ResponseKind::Applied(applied)) = &response.kind else { return None };
    match Outcome::decode(&applied.outcome) {
        Ok(Outcome::Rejected(rejection)) => Some(rejection.code),
        _ => None,
    }
}

/// Refuses more partitions than one command creates before any of them is planned.
fn check_size(topics: &[CreateTopicRequest]) -> Result<(), Rejection> {
    let partitions = |topic: &CreateTopicRequest| match topic.assignment.len() {
        0 => usize::try_from(topic.partitions).unwrap_or(usize::MAX),
        assigned => assigned,
    };
    let all = topics.iter().map(partitions).fold(0, usize::saturating_add);
    if all > PARTITIONS_PER_COMMAND_MAX { check_partition_count(all) } else { Ok(()) }
}

/// The topic with an id and with a placement, its own or one that is planned now.
fn new_topic(image: &MetadataImage, request: &CreateTopicRequest) -> Result<NewTopic, Rejection> {
    let id = TopicId(Uuid::new_v4());
    let partitions = if request.assignment.is_empty() {
        let CreateTopicRequest { partitions, replication_factor, .. } = *request;
        let shape = TopicShape { partitions, replication_factor };
        plan(image, shape, first_offset(id)).map_err(|rejection| {
            let name = request.name.escape_debug();
            Rejection::new(rejection.code, format!("topic {name}: {}", rejection.message))
        })?
    } else {
        assigned(&request.assignment)
    };
    let configs = request.configs.iter().map(|(key, value)| (key.clone(), value.clone()));
    Ok(NewTopic { id, name: request.name.clone(), partitions, configs: configs.collect() })
}

fn new_partitions(
    image: &MetadataImage,
    request: &CreatePartitionsRequest,
) -> Result<Decision, Rejection> {
    let id = TopicId(Uuid::from_slice(&request.topic).unwrap_or_default());
    let topic = image.topic(id).ok_or_else(|| {
        Rejection::new(
            ErrorCode::UnknownTopicId,
            format!("no topic has the id {id} any more: it was deleted, see `topics ls`"),
        )
    })?;
    let (name, first) = (&topic.name, topic.partition_count());
    let Some(missing) = request.total.checked_sub(first) else {
        return Err(Rejection::new(
            ErrorCode::InvalidPartitions,
            format!(
                "topic {name} has {first} partitions and none is ever taken away: ask for more than \
                 {first}"
            ),
        ));
    };
    if missing == 0 {
        return Ok(Decision::AsItIs(Reply::PartitionsCreated { partitions: first }));
    }
    // The log would say so with the code that it has for what was planned too late.
    check_partition_count(usize::try_from(missing).unwrap_or(usize::MAX))?;
    let partitions = if request.assignment.is_empty() {
        let factor = u32::try_from(topic.replication_factor()).unwrap_or(u32::MAX);
        let shape = TopicShape { partitions: missing, replication_factor: factor };
        plan(image, shape, first_offset(id).wrapping_add(u64::from(first)))?
    } else {
        let named = request.assignment.len();
        if u32::try_from(named) != Ok(missing) {
            return Err(Rejection::new(
                ErrorCode::InvalidReplicaAssignment,
                format!(
                    "the assignment is for {named} partitions, and topic {name} has {first} of \
                     {}: assign the {missing} new ones",
                    request.total
                ),
            ));
        }
        assigned(&request.assignment)
    };
    Ok(Decision::Propose(Command::CreatePartitions(CreatePartitions {
        topic: id,
        first,
        partitions,
    })))
}

fn assigned(assignment: &[Replicas]) -> Vec<Brokers> {
    assignment.iter().map(Replicas::to_brokers).collect()
}

/// Where the placement of a topic begins. Its id is random, so its first half is as good an offset
/// as any: topics do not all begin at the same broker.
fn first_offset(topic: TopicId) -> u64 {
    topic.0.as_u64_pair().0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Registration, TopicSpec};

    /// To see it fail: answer as the log did.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn plans_that_are_overtaken_each_time_are_no_fault_of_who_asked() {
        let (_dir, quorum) = crate::tests::alone().await;
        let directory = quorum.identity().directory_id;
        let registration = Registration::without_data_plane(BrokerId(1), directory);
        let session = quorum.register_broker(registration).await.unwrap();
        session.active().await.unwrap();
        let topic = quorum.create_topic(TopicSpec::new("orders", 1, 1)).await.unwrap();

        // Each time that it was planned somebody else has made one partition more, so that the plan is for
        // one too few.
        let before = quorum.status().last_index;
        let late = |image: &MetadataImage| {
            let first = image.topic(topic.id).unwrap().partition_count() - 1;
            let partitions = vec![[BrokerId(1)].into_iter().collect()];
            let create = CreatePartitions { topic: topic.id, first, partitions };
            Ok(Decision::Propose(Command::CreatePartitions(create)))
        };
        let overtaken = |code| code == ErrorCode::InvalidPartitions;
        let answer = decide_until_settled(quorum.node(), overtaken, late).await;
        assert_eq!(answer, Refusal::Overtaken.into());
        assert_eq!(quorum.status().last_index, before + PLANS_MAX as u64);

        // What can never be is refused as ever, planned or not, and the log has nothing of it.
        for assignment in [vec![], vec![Replicas { brokers: vec![1] }; 10_001]] {
            let total = 10_002;
            let topic = topic.id.0.as_bytes().to_vec();
            let request = CreatePartitionsRequest { topic, total, assignment };
            let answer = create_partitions(quorum.node(), &request).await;
            let Some(ResponseKind::Rejected(rejected)) = answer.kind else { panic!("{answer:?}") };
            assert_eq!(rejected.code, i32::from(ErrorCode::InvalidPartitions.code()));
        }
        assert_eq!(quorum.status().last_index, before + PLANS_MAX as u64);
    }
}
