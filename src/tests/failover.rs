//! The brokers of nodes whose processes are gone.

use quorate_statemachine::DirectoryId;

use super::*;
use crate::wire::ResponseKind;

impl Cluster {
    /// As [`Cluster::start`], with sessions that outlive the test.
    async fn start_with_endless_sessions() -> Self {
        let mut cluster = Self::format(3);
        for n in 1..=3 {
            let config = QuorumConfig { session_ms: 600_000, ..cluster.config(n) };
            cluster.nodes.insert(n, Quorum::open(config).await.unwrap());
        }
        cluster
    }
}

fn is_fenced(image: &MetadataImage, broker: u64) -> bool {
    let broker = image.brokers().find(|it| u64::from(it.id.get()) == broker);
    broker.is_some_and(|broker| broker.fenced)
}

/// To see it fail: leave the check of the directory out of `Departures`, for the broker from elsewhere;
/// or `fence_departed` out of the duties, for the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_R16_a_broker_is_fenced_when_the_process_of_its_node_is_gone_and_no_other_is() {
    let mut cluster = Cluster::start_with_endless_sessions().await;
    for n in 1..=3 {
        cluster.join(n).await;
    }
    let dead = cluster.leader().await;
    // A process of its own, on another directory, that talks to the quorum by the same node.
    let elsewhere = Registration {
        directories: vec![DirectoryId(uuid::Uuid::from_u128(77))],
        ..Registration::without_data_plane(
            BrokerId(77),
            cluster.nodes[&dead].identity().directory_id,
        )
    };
    let session = cluster.nodes[&dead].register_broker(elsewhere).await.unwrap();
    timeout(PATIENCE, session.active()).await.unwrap().unwrap();
    let epochs: BTreeMap<_, _> = cluster.nodes[&dead]
        .image()
        .image
        .brokers()
        .map(|broker| (broker.id, broker.epoch))
        .collect();

    // It leads, and hands leadership over when it stops; then its process is gone to the others.
    cluster.stop(dead).await;
    cluster
        .everywhere("the broker of the dead node is fenced", |image| is_fenced(image, dead))
        .await;
    let other = cluster.nodes.values().next().unwrap();
    other.create_topic(TopicSpec::new("after", 3, 2)).await.unwrap();
    let now = other.image();
    for broker in now.image.brokers() {
        let id = u64::from(broker.id.get());
        assert_eq!((broker.fenced, broker.epoch), (id == dead, epochs[&broker.id]), "{id}");
    }

    // The session that ran out with the process keeps nobody out of its place.
    let config = QuorumConfig { session_ms: 600_000, ..cluster.config(dead) };
    cluster.nodes.insert(dead, Quorum::open(config).await.unwrap());
    cluster.join(dead).await;
    cluster.everywhere("the broker is back", |image| !is_fenced(image, dead)).await;
}

/// To see it fail: plan once only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_whose_placement_a_fence_has_overtaken_is_placed_elsewhere() {
    let mut cluster = Cluster::start_with_endless_sessions().await;
    for n in 1..=3 {
        cluster.join(n).await;
    }
    let leader = cluster.leader().await;
    let (dead, other) = (leader % 3 + 1, cluster.nodes[&leader].clone());
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let clients: Vec<_> = (0..16)
        .map(|client| {
            let (quorum, stopped) = (other.clone(), stopped.clone());
            tokio::spawn(async move {
                for number in 0.. {
                    let topic = TopicSpec::new(format!("t-{client}-{number}"), 1, 1);
                    quorum.create_topic(topic).await.unwrap();
                    if *stopped.borrow() {
                        break;
                    }
                }
            })
        })
        .collect();
    cluster.stop(dead).await;
    cluster.everywhere("the broker is fenced", |image| is_fenced(image, dead)).await;
    stop.send_replace(true);
    for client in clients {
        timeout(PATIENCE, client).await.unwrap().unwrap();
    }
}

/// The epoch of a broker is looked up by a leader that was confirmed to lead. To see it fail: propose the
/// fence before that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_cannot_be_confirmed_fences_nobody() {
    let mut cluster = Cluster::start_with_endless_sessions().await;
    let leader = cluster.leader().await;
    // Its process is no node's, so that nobody is fenced because the others go.
    cluster.join(leader).await;
    let quorum = cluster.nodes[&leader].clone();
    let before = quorum.status().last_index;
    let others: Vec<_> = (1..=3).filter(|n| *n != leader).collect();
    let [one, two] = [others[0], others[1]].map(|n| cluster.nodes.remove(&n).unwrap());
    tokio::join!(one.shut_down(), two.shut_down());
    let broker = u32::try_from(leader).unwrap();
    let request = Request::from(RequestKind::FenceBroker(broker)).encode_to_vec();
    let asking = quorum.node().call(quorum.identity().node_id, request.into());
    let answer = Response::decode(timeout(PATIENCE, asking).await.unwrap().unwrap()).unwrap();
    assert_eq!(answer, Refusal::NotLeader.into());
    assert_eq!(quorum.status().last_index, before);
    assert!(!is_fenced(&quorum.image().image, leader));
}

/// What a leader knew of sessions ends with its term. To see it fail: have `follow_term` keep them, or
/// take them up again in the next term.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_succeeded_has_no_sessions_and_begins_them_anew() {
    let mut cluster = Cluster::start_with_endless_sessions().await;
    for n in 1..=3 {
        cluster.join(n).await;
    }
    let old = cluster.leader().await;
    let node = cluster.nodes[&old].identity().node_id;
    let other = cluster.nodes.iter().find(|(n, _)| **n != old).unwrap().1;
    // A live session keeps another incarnation out, wherever the sessions are kept.
    let newcomer = Registration::without_data_plane(
        BrokerId(u32::try_from(old).unwrap()),
        cluster.nodes[&old].identity().directory_id,
    );
    let ask = async || {
        let register = RequestKind::Register(newcomer.to_request());
        let asking = other.node().call(node, Request::from(register).encode_to_vec().into());
        Response::decode(timeout(PATIENCE, asking).await.unwrap().unwrap()).unwrap()
    };
    let duplicate = |answer: &Response| match &answer.kind {
        Some(ResponseKind::Rejected(rejected)) => {
            rejected.code == i32::from(ErrorCode::DuplicateBrokerRegistration.code())
        }
        _ => false,
    };
    assert!(duplicate(&ask().await));

    let next = other.identity().node_id;
    other.transfer_leadership(Some(next)).await.unwrap();
    let followed = cluster.nodes[&old].wait(PATIENCE);
    followed.until("another leads", |status| status.leader == Some(next)).await.unwrap();
    assert_eq!(ask().await, Refusal::NotLeader.into());

    other.transfer_leadership(Some(node)).await.unwrap();
    // It leads before it keeps sessions: until it has all that was committed before.
    let deadline = Instant::now() + PATIENCE;
    let answer = loop {
        let answer = ask().await;
        if answer != Refusal::NotLeader.into() {
            break answer;
        }
        assert!(Instant::now() < deadline, "it keeps no sessions");
    };
    assert!(duplicate(&answer), "{answer:?}");
    other.read_index().await.unwrap();
    assert!(other.image().image.brokers().all(|broker| !broker.fenced));
}
