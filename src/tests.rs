//! Quorums of real nodes in one process: real directories, real sockets on loopback, real time.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use prost::Message as _;
use quorate_engine::{ClusterId, Founding, NodeId, Voter};
use quorate_loop::{LoopConfig, Role};
use quorate_statemachine::{
    BrokerId, ErrorCode, Image as _, MetadataImage, Partition, PartitionKey,
};
use tokio::time::{Instant, timeout};

use crate::wire::{Empty, HeartbeatRequest, Refusal, Request, RequestKind, Response};
use crate::{
    BrokerSession, ErrorKind, MetadataOnly, NotReady, Quorum, QuorumConfig, RegisterError,
    Registration, SessionEnd, SessionState, Snapshot, TopicSpec, Unavailable, WriteError,
};

/// No condition of these tests takes this long on a machine that is not stuck.
const PATIENCE: Duration = Duration::from_secs(30);

mod assignments;
mod failover;
mod history;
mod membership;
mod metadata;
mod upkeep;

struct Cluster {
    dir: tempfile::TempDir,
    addrs: BTreeMap<u64, SocketAddr>,
    nodes: BTreeMap<u64, Quorum>,
    sessions: BTreeMap<u64, BrokerSession>,
}

/// Holds a free port, below the range from which the system takes ports for outgoing connections:
/// so none of those takes a node's port while the node is closed.
fn free_port() -> std::net::TcpListener {
    loop {
        let port = 15_000 + (uuid::Uuid::new_v4().as_u128() % 15_000) as u16;
        if let Ok(listener) = std::net::TcpListener::bind(("127.0.0.1", port)) {
            return listener;
        }
    }
}

impl Cluster {
    fn format(size: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // All are held until each has its own.
        let held: Vec<_> = (1..=size).map(|_| free_port()).collect();
        let addrs: BTreeMap<_, _> =
            (1..).zip(held.iter().map(|listener| listener.local_addr().unwrap())).collect();
        let id = |number| NodeId::new(number).unwrap();
        let voters: Vec<_> = addrs
            .iter()
            .map(|(n, addr)| Voter { node_id: id(*n), addr: addr.to_string() })
            .collect();
        let cluster = ClusterId::random();
        for n in addrs.keys() {
            let at = dir.path().join(n.to_string());
            quorate_engine::format(&at, cluster, id(*n), Founding::Voters(voters.clone())).unwrap();
        }
        Self { dir, addrs, nodes: BTreeMap::new(), sessions: BTreeMap::new() }
    }

    fn config(&self, n: u64) -> QuorumConfig {
        QuorumConfig {
            heartbeat_ms: 100,
            session_ms: 1_500,
            group: LoopConfig { tick_ms: 30, ..LoopConfig::default() },
            ..QuorumConfig::new(self.dir.path().join(n.to_string()), self.addrs[&n])
        }
    }

    async fn open(&mut self, n: u64) {
        let quorum = Quorum::open(self.config(n)).await.unwrap();
        self.nodes.insert(n, quorum);
    }

    async fn start(size: u64) -> Self {
        let mut cluster = Self::format(size);
        for n in 1..=size {
            cluster.open(n).await;
        }
        cluster
    }

    /// A broker without data plane on node `n`, active when this returns.
    async fn join(&mut self, n: u64) {
        let quorum = &self.nodes[&n];
        let broker = BrokerId(u32::try_from(n).unwrap());
        let registration = Registration::without_data_plane(broker, quorum.identity().directory_id);
        let session = quorum.register_broker(registration).await.unwrap();
        timeout(PATIENCE, session.active()).await.unwrap().unwrap();
        tokio::spawn(MetadataOnly::run(quorum.clone(), &session));
        self.sessions.insert(n, session);
    }

    async fn with_brokers(size: u64) -> Self {
        let mut cluster = Self::start(size).await;
        for n in 1..=size {
            cluster.join(n).await;
        }
        cluster
    }

    async fn leader(&self) -> u64 {
        let any = self.nodes.values().next().unwrap();
        let known = |status: &crate::GroupStatus| {
            status.leader.is_some_and(|leader| self.nodes.contains_key(&leader.get()))
        };
        let status = any.wait(PATIENCE).until("a leader that runs", known).await.unwrap();
        status.leader.unwrap().get()
    }

    async fn follower(&self) -> &Quorum {
        let leader = self.leader().await;
        self.nodes.iter().find(|(n, _)| **n != leader).unwrap().1
    }

    /// The node is gone, and its broker with it.
    async fn stop(&mut self, n: u64) {
        self.sessions.remove(&n);
        self.nodes.remove(&n).unwrap().shut_down().await;
    }

    /// Waits on every node for the same condition of its image.
    async fn everywhere(&self, what: &str, holds: impl Fn(&MetadataImage) -> bool) {
        for (n, quorum) in &self.nodes {
            until(quorum, &format!("node {n}: {what}"), &holds).await;
        }
    }
}

/// A quorum of one node with the defaults, in a directory of its own.
pub(crate) async fn alone() -> (tempfile::TempDir, Quorum) {
    let dir = tempfile::tempdir().unwrap();
    let node_id = NodeId::new(1).unwrap();
    // Nobody dials the only voter.
    let voters = vec![Voter { node_id, addr: "127.0.0.1:1".to_owned() }];
    let founding = Founding::Voters(voters);
    quorate_engine::format(dir.path(), ClusterId::random(), node_id, founding).unwrap();
    let config = QuorumConfig::new(dir.path(), ([127, 0, 0, 1], 0).into());
    let quorum = Quorum::open(config).await.unwrap();
    (dir, quorum)
}

async fn until(quorum: &Quorum, what: &str, holds: impl Fn(&MetadataImage) -> bool) -> Snapshot {
    let mut watch = quorum.watch();
    let mut now = watch.start();
    let deadline = Instant::now() + PATIENCE;
    while !holds(&now.image) {
        let update = tokio::time::timeout_at(deadline, watch.next()).await;
        let update = update.unwrap_or_else(|_| panic!("{what}: {:#?}", now.image)).unwrap();
        now = Snapshot { image: update.image, index: update.index };
    }
    now
}

fn ids(brokers: &[BrokerId]) -> BTreeSet<u32> {
    brokers.iter().map(|id| id.get()).collect()
}

fn full(image: &MetadataImage, topic: &str) -> bool {
    image.topic_by_name(topic).is_some_and(|topic| {
        topic.partitions().all(|(_, partition)| partition.isr.len() == partition.replicas.len())
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_I12_a_rejected_command_costs_those_beside_it_nothing() {
    let cluster = Cluster::with_brokers(1).await;
    let quorum = &cluster.nodes[&1];
    let create = |name: String| {
        let quorum = quorum.clone();
        tokio::spawn(async move { quorum.create_topic(TopicSpec::new(&name, 1, 1)).await })
    };
    // They are in the log side by side, and two of them cannot both be.
    let same = [create("same".to_owned()), create("same".to_owned())];
    let others: Vec<_> = (0..20).map(|n| create(format!("other-{n}"))).collect();
    let mut rejected = 0;
    for task in same {
        if let Err(error) = task.await.unwrap() {
            assert_eq!(error.kind(), ErrorKind::Rejected, "{error}");
            rejected += 1;
        }
    }
    assert_eq!(rejected, 1);
    for task in others {
        task.await.unwrap().unwrap();
    }
    assert_eq!(quorum.image().image.topic_count(), 21);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_I01_I28_startup_waits_for_nobody_and_says_what_is_missing() {
    let mut cluster = Cluster::format(3);
    let config = QuorumConfig { operation_timeout_ms: 200, ..cluster.config(1) };
    let alone = timeout(PATIENCE, Quorum::open(config)).await.unwrap().unwrap();
    assert_eq!(alone.readiness(), Err(vec![NotReady::NotFounded]));
    // Nothing is queued for ever: it ends, and surely changed nothing.
    let error = alone.create_topic(TopicSpec::new("early", 1, 1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retryable);
    assert!(
        matches!(error, WriteError::Unavailable { reason: Unavailable::NoLeader, .. }),
        "{error}"
    );
    assert!(alone.read_index().await.is_err());
    alone.shut_down().await;
    let error = alone.create_topic(TopicSpec::new("late", 1, 1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fatal);
    drop(alone);

    for n in 1..=3 {
        cluster.open(n).await;
    }
    cluster.leader().await;
    cluster.nodes[&1].read_index().await.unwrap();
    assert_eq!(cluster.nodes[&1].readiness(), Ok(()));
    let image = cluster.nodes[&1].image().image;
    assert!(image.topic_by_name("early").is_none(), "never applied means never");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_I17_I18_I22_I26_I27_what_a_follower_creates_is_the_same_everywhere() {
    let cluster = Cluster::with_brokers(3).await;
    let quorum = cluster.follower().await;
    let created = quorum.create_topic(TopicSpec::new("orders", 3, 3)).await.unwrap();
    // Answered means applied, here.
    let snapshot = quorum.image();
    assert!(snapshot.index >= created.index);
    let topic = snapshot.image.topic_by_name("orders").unwrap();
    assert_eq!(topic.id, created.id);
    let leaders: BTreeSet<_> = topic.partitions().map(|(_, it)| it.leader.unwrap()).collect();
    assert_eq!(leaders.len(), 3, "the leaders are spread");
    for (_, partition) in topic.partitions() {
        assert_eq!(ids(&partition.isr), BTreeSet::from([1, 2, 3]), "every partition has its ISR");
    }

    // Many at a time from every node: each caller gets its own answer.
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..30u32 {
        let quorum = cluster.nodes[&u64::from(n % 3 + 1)].clone();
        calls.spawn(async move {
            let name = format!("many-{n}");
            let created = quorum.create_topic(TopicSpec::new(&name, 1, 3)).await.unwrap();
            let seen = quorum.image().image.topic_by_name(&name).map(|topic| topic.id);
            assert_eq!(seen, Some(created.id));
            (created.name, created.id, created.index)
        });
    }
    let made = calls.join_all().await;
    assert_eq!(made.iter().map(|(_, id, _)| id).collect::<BTreeSet<_>>().len(), 30);
    assert_eq!(made.iter().map(|(.., index)| index).collect::<BTreeSet<_>>().len(), 30);

    // A linearizable read on any node shows all of them, and all nodes hold the same.
    let mut hashes = BTreeMap::new();
    for quorum in cluster.nodes.values() {
        quorum.read_index().await.unwrap();
        let now = quorum.image();
        assert!(made.iter().all(|(name, id, _)| {
            now.image.topic_by_name(name).is_some_and(|topic| topic.id == *id)
        }));
        hashes.entry(now.index).or_insert_with(BTreeSet::new).insert(now.image.state_hash());
    }
    assert!(hashes.values().all(|hashes| hashes.len() == 1), "{hashes:?}");

    let error = quorum.create_topic(TopicSpec::new("orders", 1, 1)).await.unwrap_err();
    assert!(matches!(&error, WriteError::Rejected(it) if it.code == ErrorCode::TopicAlreadyExists));
    let error = quorum.create_topic(TopicSpec::new("wide", 1, 4)).await.unwrap_err();
    assert!(
        matches!(&error, WriteError::Rejected(it) if it.code == ErrorCode::InvalidReplicationFactor)
    );

    let deleted = quorum.delete_topic("orders").await.unwrap();
    assert_eq!(deleted.id, created.id);
    let error = quorum.delete_topic("orders").await.unwrap_err();
    assert!(
        matches!(&error, WriteError::Rejected(it) if it.code == ErrorCode::UnknownTopicOrPartition)
    );

    // Producer ids: a block for the broker of this node, and for nobody else's.
    let own = BrokerId(u32::try_from(quorum.identity().node_id.get()).unwrap());
    let first = quorum.allocate_producer_ids(own).await.unwrap();
    let second = quorum.allocate_producer_ids(own).await.unwrap();
    assert!(second.first.get() >= first.first.get() + u64::from(first.len));
    let other = BrokerId(own.get() % 3 + 1);
    let error = quorum.allocate_producer_ids(other).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_I18_I19_a_node_that_does_not_lead_proposes_nothing_for_a_leader() {
    let cluster = Cluster::with_brokers(3).await;
    let leader = cluster.leader().await;
    let asking = &cluster.nodes[&leader];
    let follower = cluster.follower().await.identity().node_id;
    let own = cluster.sessions[&leader].registered();
    let allocate = quorate_statemachine::Command::AllocateProducerIds(own).encode();
    let beat = HeartbeatRequest { broker: 1, epoch: own.epoch.get(), ..Default::default() };
    let topic = TopicSpec::new("orders", 1, 3).to_request().unwrap();
    let before = asking.image().image.next_producer_id();
    // As if each had been decided there an instant before leadership was lost: not passed on.
    for kind in [
        RequestKind::Propose(allocate),
        RequestKind::Heartbeat(beat),
        RequestKind::CreateTopic(topic),
        RequestKind::CreatePartitions(Default::default()),
        RequestKind::FenceBroker(1),
        RequestKind::SetFeatureLevel(1),
        RequestKind::ReadIndex(Empty {}),
        RequestKind::Progress(Empty {}),
    ] {
        let request = Request::from(kind.clone()).encode_to_vec();
        let answer = timeout(PATIENCE, asking.node().call(follower, request.into())).await;
        let answer = Response::decode(answer.unwrap().unwrap()).unwrap();
        assert_eq!(answer, Refusal::NotLeader.into(), "{kind:?}");
    }
    asking.read_index().await.unwrap();
    let image = asking.image().image;
    assert_eq!(image.next_producer_id(), before);
    assert_eq!(image.topic_count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_I21_the_leader_moves_when_its_session_dies_and_never_to_the_dead_one() {
    let mut cluster = Cluster::with_brokers(3).await;
    // With a process gone while its node lives on, and with both gone, which here is the quorum
    // leader's too: nobody else may be fenced by the election (trap I20).
    let quorum = cluster.follower().await.clone();
    let topic = quorum.create_topic(TopicSpec::new("orders", 3, 3)).await.unwrap();
    let dead = quorum.identity().node_id.get();
    let dead_id = BrokerId(u32::try_from(dead).unwrap());
    let before = led_by(&quorum.image().image, dead_id);
    assert!(!before.is_empty());
    drop(cluster.sessions.remove(&dead));
    cluster
        .everywhere("the dead one leads nothing", |image| {
            image.broker(dead_id).is_some_and(|broker| broker.fenced)
        })
        .await;
    let after = quorum.image().image;
    for key in before.keys() {
        let (old, new) = (before[key], after.partition(*key).unwrap());
        assert!(new.leader.is_some_and(|leader| leader != dead_id), "{new:?}");
        assert!(new.leader_epoch.get() > old, "{new:?}");
        assert!(!new.isr.contains(&dead_id), "{new:?}");
    }

    // It comes back with a new incarnation, and the leaders take it in again.
    cluster.join(dead).await;
    cluster.everywhere("the ISR is full again", |image| full(image, "orders")).await;

    // Now the node that leads the quorum, with its broker.
    let leader = cluster.leader().await;
    let survivors: Vec<_> = (1..=3u32).filter(|n| u64::from(*n) != leader).map(BrokerId).collect();
    let gone = BrokerId(u32::try_from(leader).unwrap());
    let epochs = |image: &MetadataImage| -> Vec<_> {
        survivors.iter().map(|id| image.broker(*id).unwrap().epoch).collect()
    };
    let epochs_before = epochs(&cluster.nodes[&leader].image().image);
    let witness = cluster.nodes.iter().find(|(n, _)| **n != leader).unwrap().1.clone();
    let mut watch = witness.watch();
    cluster.stop(leader).await;
    let image = loop {
        let update = timeout(PATIENCE, watch.next()).await.unwrap().unwrap();
        for id in &survivors {
            assert!(!update.image.broker(*id).unwrap().fenced, "trap I20: {id} was alive");
        }
        if update.image.broker(gone).is_some_and(|broker| broker.fenced) {
            break update.image;
        }
    };
    assert_eq!(epochs(&image), epochs_before);
    for (_, partition) in image.topic(topic.id).unwrap().partitions() {
        assert!(partition.leader.is_some_and(|leader| survivors.contains(&leader)));
    }
    for n in cluster.sessions.keys() {
        assert_eq!(cluster.sessions[n].state(), SessionState::Active);
    }
}

fn led_by(image: &MetadataImage, broker: BrokerId) -> BTreeMap<PartitionKey, u32> {
    image
        .partitions()
        .filter(|(_, partition)| partition.leader == Some(broker))
        .map(|(key, partition)| (key, partition.leader_epoch.get()))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controlled_shutdown_moves_the_leaders_first_and_frees_the_id() {
    let mut cluster = Cluster::with_brokers(3).await;
    let quorum = cluster.follower().await.clone();
    quorum.create_topic(TopicSpec::new("orders", 3, 3)).await.unwrap();
    let node = quorum.identity().node_id.get();
    let id = BrokerId(u32::try_from(node).unwrap());
    let session = cluster.sessions.remove(&node).unwrap();
    let mut state = session.watch();
    timeout(PATIENCE, session.shut_down()).await.unwrap().unwrap();
    let ended = SessionState::Ended(SessionEnd::ShutDown);
    timeout(PATIENCE, state.wait_for(|state| *state == ended)).await.unwrap().unwrap();
    let image = quorum.image().image;
    assert!(image.broker(id).unwrap().in_shutdown);
    for (_, partition) in image.topic_by_name("orders").unwrap().partitions() {
        assert!(partition.leader.is_some_and(|leader| leader != id), "{partition:?}");
    }
    // At once, without waiting for a session to end.
    let again = Registration::without_data_plane(id, quorum.identity().directory_id);
    let registering = Instant::now();
    let again = quorum.register_broker(again).await.unwrap();
    assert!(registering.elapsed() < quorum.config().session() / 2);
    timeout(PATIENCE, again.active()).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_waits_for_the_first_ones_session_and_the_first_does_not_fight_back() {
    let mut cluster = Cluster::with_brokers(1).await;
    let quorum = cluster.nodes[&1].clone();
    let directory = quorum.identity().directory_id;
    let newcomer = || Registration::without_data_plane(BrokerId(1), directory);

    // Alive: refused until the caller's patience ends.
    let impatient = timeout(Duration::from_millis(300), quorum.register_broker(newcomer()));
    assert!(impatient.await.is_err(), "the first one is alive");
    let registered = quorum.image().image.broker(BrokerId(1)).unwrap().epoch;
    assert_eq!(registered, cluster.sessions[&1].epoch());

    // Silent: the newcomer comes in when the session has ended.
    drop(cluster.sessions.remove(&1));
    let second = timeout(PATIENCE, quorum.register_broker(newcomer())).await.unwrap().unwrap();
    assert!(second.epoch() > registered);
    timeout(PATIENCE, second.active()).await.unwrap().unwrap();

    // Unregistered, by a leader that took it for dead: the session ends, and does not register again.
    let command =
        quorate_statemachine::Command::UnregisterBroker { broker: BrokerId(1), epoch: None };
    quorum.node().propose(command.encode()).await.unwrap();
    let mut state = second.watch();
    let ended = SessionState::Ended(SessionEnd::Unregistered);
    timeout(PATIENCE, state.wait_for(|state| *state == ended)).await.unwrap().unwrap();
    assert!(quorum.image().image.broker(BrokerId(1)).is_none());
}

/// To see it fail: leave the leader's look at the directories out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_names_its_directories() {
    let cluster = Cluster::start(1).await;
    let quorum = &cluster.nodes[&1];
    let own = Registration::without_data_plane(BrokerId(1), quorum.identity().directory_id);
    let nil = quorate_statemachine::DirectoryId(uuid::Uuid::nil());
    let directories = vec![own.directories[0], nil];
    let unnamed = Registration { directories, ..own.clone() };
    let RegisterError::Write(WriteError::Rejected(refused)) =
        quorum.register_broker(unnamed).await.unwrap_err()
    else {
        panic!()
    };
    assert_eq!(refused.code, ErrorCode::InvalidRegistration);
    assert!(refused.message.contains("the nil id"), "{refused}");
    assert_eq!(quorum.image().image.broker_count(), 0);
    // Nobody is in its way.
    quorum.register_broker(own).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_cluster_writes_nothing() {
    let cluster = Cluster::with_brokers(1).await;
    let quorum = &cluster.nodes[&1];
    quorum.read_index().await.unwrap();
    let before = quorum.status().last_index;
    // Time for ten heartbeats: each changes a timer, and nothing that anybody could watch.
    let mut watch = quorum.watch();
    timeout(Duration::from_millis(1_000), watch.next()).await.unwrap_err();
    assert_eq!(quorum.status().last_index, before);
    assert_eq!(quorum.status().role, Role::Leader);
    assert_eq!(cluster.sessions[&1].state(), SessionState::Active);
}
