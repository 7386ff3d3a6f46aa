//! Nodes in one process, over real sockets and real directories.

#![allow(non_snake_case, reason = "tests carry the numbers of the traps they owe")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod calls;
mod certificates;
mod failover;
mod full_disk;
mod groups;
mod joining;
mod replay;
mod sessions;
mod tally;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use certificates::Authority;
use full_disk::FullDisk;
use quorate_engine::{ClusterId, EngineConfig, Formatted, Founding, GroupId, NodeId, Voter};
use quorate_loop::{
    Binding, GroupStatus, LoopConfig, Node, OpenError, ProposeError, Role, Service, TlsConfig,
};
use tally::Tally;

const PATIENCE: Duration = Duration::from_secs(30);

/// Answers with the caller's number and the request.
struct Echo;

impl Service for Echo {
    fn call(
        &self,
        from: NodeId,
        request: Bytes,
    ) -> Pin<Box<dyn std::future::Future<Output = Bytes> + Send>> {
        Box::pin(
            async move { Bytes::from(format!("{from}:{}", String::from_utf8_lossy(&request))) },
        )
    }

    fn overloaded(&self) -> Bytes {
        Bytes::from_static(b"overloaded")
    }
}

struct Cluster {
    _dir: tempfile::TempDir,
    dirs: BTreeMap<u64, PathBuf>,
    addrs: BTreeMap<u64, SocketAddr>,
    nodes: BTreeMap<u64, Node<Tally>>,
    disks: BTreeMap<u64, Arc<FullDisk>>,
    config: LoopConfig,
    engine: EngineConfig,
    tls: BTreeMap<u64, TlsConfig>,
}

fn config() -> LoopConfig {
    LoopConfig { tick_ms: 20, request_timeout_ms: 5_000, ..LoopConfig::default() }
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
    /// Formats `size` nodes and opens none.
    fn format(size: u64, config: LoopConfig) -> Cluster {
        Cluster::format_at(size, config, &[])
    }

    /// As [`Cluster::format`], with some of them at addresses that are given.
    fn format_at(size: u64, config: LoopConfig, given: &[(u64, SocketAddr)]) -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        // The ports are free now; they are held until all are chosen.
        let held: Vec<_> = (1..=size).map(|n| (n, free_port())).collect();
        let mut addrs: BTreeMap<u64, SocketAddr> =
            held.iter().map(|(n, listener)| (*n, listener.local_addr().unwrap())).collect();
        addrs.extend(given.iter().copied());
        drop(held);
        let voters: Vec<Voter> = addrs
            .iter()
            .map(|(n, addr)| Voter { node_id: NodeId::new(*n).unwrap(), addr: addr.to_string() })
            .collect();
        let cluster_id = ClusterId::random();
        let dirs: BTreeMap<u64, PathBuf> =
            addrs.keys().map(|n| (*n, dir.path().join(n.to_string()))).collect();
        for (n, dir) in &dirs {
            let founding = Founding::Voters(voters.clone());
            quorate_engine::format(dir, cluster_id, NodeId::new(*n).unwrap(), founding).unwrap();
        }
        let disks = dirs.keys().map(|n| (*n, Arc::default())).collect();
        let (nodes, engine) = (BTreeMap::new(), EngineConfig::default());
        let tls = BTreeMap::new();
        Cluster { _dir: dir, dirs, addrs, nodes, disks, config, engine, tls }
    }

    /// Gives every node a certificate.
    fn encrypt(&mut self) {
        let authority = Authority::new();
        for (n, dir) in &self.dirs {
            let cluster = Formatted::open(dir).unwrap().identity().cluster_id;
            let files = authority.issue(self._dir.path(), &format!("node-{n}.{cluster}.quorate"));
            let certificates::Files { cert, key, ca } = files;
            self.tls.insert(*n, TlsConfig { cert, key, ca });
        }
    }

    async fn open(&mut self, n: u64) {
        let node = self.try_open(n).await.unwrap();
        self.nodes.insert(n, node);
    }

    async fn try_open(&self, n: u64) -> Result<Node<Tally>, OpenError> {
        self.try_open_with(n, Arc::new(Echo)).await
    }

    async fn try_open_with(
        &self,
        n: u64,
        service: Arc<dyn Service>,
    ) -> Result<Node<Tally>, OpenError> {
        let formatted = Formatted::open(&self.dirs[&n]).unwrap();
        let config = LoopConfig { tls: self.tls.get(&n).cloned(), ..self.config.clone() };
        let engine = self.engine.clone();
        let disk = self.disks[&n].clone();
        Node::open_with(formatted, self.addrs[&n], config, engine, service, disk).await
    }

    async fn start(size: u64, config: LoopConfig) -> Cluster {
        let mut cluster = Cluster::format(size, config);
        for n in 1..=size {
            cluster.open(n).await;
        }
        cluster
    }

    /// Waits until the status of a node is as wanted.
    async fn until(&self, n: u64, wanted: impl FnMut(&GroupStatus) -> bool) -> GroupStatus {
        let waiting = self.nodes[&n].wait(PATIENCE).until("what the test is about", wanted);
        waiting.await.unwrap_or_else(|error| panic!("node {n}: {error}"))
    }

    async fn leader(&self) -> u64 {
        let any = *self.nodes.keys().next().unwrap();
        let runs = |leader: NodeId| self.nodes.contains_key(&leader.get());
        let status = self.until(any, |status| status.leader.is_some_and(runs)).await;
        status.leader.unwrap().get()
    }

    async fn close(&mut self, n: u64) {
        self.nodes.remove(&n).unwrap().shutdown().await;
    }

    /// Proposes until it is surely applied; only refusals without effect are repeated.
    async fn add(&self, n: u64, amount: u64) -> (u64, u64) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            match self.nodes[&n].propose(tally::add(amount)).await {
                Ok(applied) => return (applied.index, applied.outcome),
                Err(error) if error.never_applied() => {
                    assert!(tokio::time::Instant::now() < deadline, "node {n}: {error}");
                    let mut status = self.nodes[&n].watch_status();
                    let _ =
                        tokio::time::timeout(Duration::from_millis(200), status.changed()).await;
                }
                Err(error) => panic!("node {n}: {error}"),
            }
        }
    }

    async fn agree(&self, sum: u64, index: u64) {
        for (n, node) in &self.nodes {
            let applied = tokio::time::timeout(PATIENCE, node.wait_applied(index)).await;
            applied.unwrap().unwrap();
            assert_eq!(node.image().image.sum, sum, "node {n}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_voter_serves_and_remembers() {
    let mut cluster = Cluster::start(1, config()).await;
    assert_eq!(cluster.add(1, 5).await.1, 5);
    let (index, sum) = cluster.add(1, 7).await;
    assert_eq!(sum, 12);
    assert_eq!(cluster.nodes[&1].image().applied, index);
    cluster.close(1).await;
    cluster.open(1).await;
    assert_eq!(cluster.add(1, 1).await.1, 13);
}

/// Thousands may wait for another leader, each with something under way. To see it fail: publish the
/// leadership whenever the status is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_another_leader_is_woken_by_elections_and_not_by_commits() {
    let mut cluster = Cluster::start(3, config()).await;
    let leader = cluster.leader().await;
    let other = 1 + leader % 3;
    cluster.add(other, 1).await;
    let node = cluster.nodes[&other].clone();
    let (mut leadership, mut status) = (node.watch_leader(), node.watch_status());
    let before = *leadership.borrow_and_update();
    status.borrow_and_update();
    for _ in 0..3 {
        cluster.add(other, 1).await;
    }
    assert!(status.has_changed().unwrap());
    // Where the machine is so slow that another was elected, it had to be told.
    let was_told = leadership.has_changed().unwrap();
    assert_eq!(was_told, *leadership.borrow() != before);
    let old = cluster.leader().await;
    let term = leadership.borrow_and_update().term;
    cluster.close(old).await;
    if old != other {
        let newer = leadership.wait_for(|now| now.term > term && now.leader.is_some());
        let newer = tokio::time::timeout(PATIENCE, newer).await.unwrap().unwrap();
        assert_ne!(newer.leader, NodeId::new(old));
    }
}

/// Far more than the loop takes in one round are waiting when it begins. To see it fail: take an event out
/// behind a round's last one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_that_waits_is_answered_however_much_it_is() {
    const MANY: u64 = 3 * 4_096;
    let cluster = Cluster::start(1, config()).await;
    cluster.leader().await;
    let node = &cluster.nodes[&1];
    let mut callers = tokio::task::JoinSet::new();
    {
        let mut status = node.watch_status();
        // While somebody reads it no other is published, and the loop waits with it.
        let held = status.borrow_and_update();
        for _ in 0..MANY {
            let group = node.group(GroupId::new(1).unwrap()).unwrap();
            callers.spawn(async move { group.propose(tally::add(1)).await });
        }
        let deadline = std::time::Instant::now() + PATIENCE;
        while node.metrics().inbox_requests < MANY - 4_096 {
            assert!(std::time::Instant::now() < deadline, "the loop does not wait");
            std::thread::yield_now();
        }
        drop(held);
    }
    let answered = tokio::time::timeout(PATIENCE, callers.join_all()).await;
    let mut sums: Vec<u64> = answered
        .expect("somebody was not answered")
        .into_iter()
        .map(|applied| applied.unwrap().outcome)
        .collect();
    sums.sort_unstable();
    assert_eq!(sums, (1..=MANY).collect::<Vec<_>>());
    assert_eq!(node.metrics().inbox_requests, 0);
}

/// To see it fail: have `shutdown` not wait for the task that holds the listener.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_node_that_was_shut_down_can_be_opened_again_however_busy_the_runtime_is() {
    let mut cluster = Cluster::start(1, config()).await;
    for _ in 0..3 {
        // Its only worker has something else to do, and drops what was aborted when it comes to it.
        let (begin, has_begun) = tokio::sync::oneshot::channel();
        let (_keep, busy) = std::sync::mpsc::channel::<()>();
        tokio::spawn(async move {
            begin.send(()).unwrap();
            let _ = busy.recv_timeout(Duration::from_millis(300));
        });
        has_begun.await.unwrap();
        cluster.close(1).await;
        cluster.open(1).await;
    }
}

/// A port may be another cluster's by now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_cluster_does_not_end_the_founding_of_this_one() {
    let mut other = Cluster::start(1, config()).await;
    other.add(1, 1).await;
    let mut cluster = Cluster::format_at(2, config(), &[(2, other.addrs[&1])]);
    cluster.open(1).await;
    let mut status = cluster.nodes[&1].watch_status();
    let ended = status.wait_for(|status| status.fatal.is_some());
    let ended = tokio::time::timeout(Duration::from_secs(1), ended).await;
    assert!(ended.is_err(), "{:?}", cluster.nodes[&1].status());
    other.close(1).await;
    cluster.open(2).await;
    cluster.add(1, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_I01_I18_what_is_proposed_anywhere_is_applied_when_it_is_answered() {
    let cluster = Cluster::start(3, config()).await;
    let mut sum = 0;
    let mut last = 0;
    for round in 1..=10 {
        for n in 1..=3 {
            let (index, answer) = cluster.add(n, round).await;
            sum += round;
            assert_eq!(answer, sum, "each proposal is applied once, in order");
            assert!(index > last);
            last = index;
            let image = cluster.nodes[&n].image();
            assert!(image.applied >= index, "the caller's own node has applied it");
        }
    }
    cluster.agree(sum, last).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_I02_every_node_knows_all_voters_and_their_directories() {
    let cluster = Cluster::start(3, config()).await;
    cluster.leader().await;
    let expected: Vec<_> = cluster
        .nodes
        .values()
        .map(|node| {
            let identity = node.identity();
            let (node_id, directory_id) = (identity.node_id, identity.directory_id);
            (node_id.get(), Binding { node_id, directory_id, incarnation: 0 })
        })
        .collect();
    for n in cluster.nodes.keys() {
        let members = cluster.until(*n, |status| status.serving).await.members;
        let known: Vec<_> = members.iter().map(|m| (m.member_id, m.binding)).collect();
        assert_eq!(known, expected, "node {n}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_linearizable_read_sees_what_another_node_was_told() {
    let cluster = Cluster::start(3, config()).await;
    for round in 1..=5 {
        let (index, sum) = cluster.add(1 + round % 3, 1).await;
        for node in cluster.nodes.values() {
            let read = node.read_index().await.unwrap();
            assert!(read >= index);
            assert_eq!(node.image().image.sum, sum);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rest_goes_on_when_the_leader_leaves_and_it_catches_up_by_snapshot() {
    catches_up_by_snapshot(Cluster::format(3, config_of_short_logs())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_a_cluster_commits_and_sends_snapshots() {
    let mut cluster = Cluster::format(3, config_of_short_logs());
    cluster.encrypt();
    catches_up_by_snapshot(cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_not_encrypted_is_no_part_of_a_cluster_that_is() {
    let mut cluster = Cluster::format(3, config());
    cluster.encrypt();
    let own = cluster.tls.remove(&3);
    for n in 1..=3 {
        cluster.open(n).await;
    }
    // Founding needs all three of them.
    let found = cluster.nodes[&1].propose(tally::add(1)).await;
    assert!(found.is_err() && !cluster.nodes[&1].status().serving);
    cluster.close(3).await;
    cluster.tls.extend(own.map(|own| (3, own)));
    cluster.open(3).await;
    assert_eq!(cluster.add(3, 1).await.1, 1);
}

#[tokio::test]
async fn an_address_for_everybody_needs_encryption() {
    let mut cluster = Cluster::format(1, config());
    cluster.addrs.insert(1, "0.0.0.0:0".parse().unwrap());
    let refused = cluster.try_open(1).await.unwrap_err();
    assert!(matches!(refused, OpenError::Plaintext(_)), "{refused}");
    cluster.encrypt();
    cluster.open(1).await;
    assert_eq!(cluster.add(1, 1).await.1, 1);
}

fn config_of_short_logs() -> LoopConfig {
    LoopConfig { snapshot_entries: 20, tail_bytes: 0, ..config() }
}

async fn catches_up_by_snapshot(mut cluster: Cluster) {
    for n in 1..=3 {
        cluster.open(n).await;
    }
    let mut sum = 0;
    for _ in 0..10 {
        sum = cluster.add(1, 1).await.1;
    }
    let leader = cluster.leader().await;
    cluster.close(leader).await;
    let other = *cluster.nodes.keys().next().unwrap();
    let mut index = 0;
    for _ in 0..100 {
        (index, sum) = cluster.add(other, 1).await;
    }
    assert_eq!(sum, 110);
    let first = cluster.nodes[&other].status().first_index;
    assert!(first > 12, "the log is compacted beyond what the one that left has: {first}");
    cluster.open(leader).await;
    cluster.agree(sum, index).await;
    let (index, _) = cluster.add(leader, 1).await;
    cluster.agree(111, index).await;
    let status = cluster.nodes[&leader].status();
    assert_ne!(status.role, Role::Candidate);
    // And once more from its own disk, snapshot first (traps I09, I11).
    cluster.close(leader).await;
    cluster.open(leader).await;
    cluster.agree(111, index).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_come_back_with_everything_that_was_acknowledged() {
    let mut cluster = Cluster::start(3, config()).await;
    let mut expected = (0, 0);
    for round in 0..3 {
        for n in 1..=3 {
            expected = cluster.add(n, 10 + round).await;
        }
        for n in 1..=3 {
            cluster.close(n).await;
        }
        for n in [3, 1, 2] {
            cluster.open(n).await;
        }
        let (index, sum) = expected;
        cluster.agree(sum, index).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_answer_calls_and_the_dead_are_unreachable() {
    let mut cluster = Cluster::start(2, config()).await;
    cluster.leader().await;
    let two = NodeId::new(2).unwrap();
    let answer = cluster.nodes[&1].call(two, Bytes::from_static(b"hello")).await.unwrap();
    assert_eq!(answer, Bytes::from_static(b"1:hello"));
    let own = cluster.nodes[&1].call(NodeId::new(1).unwrap(), Bytes::from_static(b"me")).await;
    assert_eq!(own.unwrap(), Bytes::from_static(b"1:me"));
    cluster.close(2).await;
    // The connection breaks a moment after the node has gone; then nothing is sent at all.
    let gone = async {
        loop {
            match cluster.nodes[&1].call(two, Bytes::new()).await {
                Err(quorate_loop::CallError::Unreachable(node)) => break node,
                Err(_) | Ok(_) => tokio::task::yield_now().await,
            }
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, gone).await.unwrap(), two);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_I28_a_node_opens_before_there_is_a_leader_and_says_so() {
    let mut cluster = Cluster::format(3, config());
    cluster.open(1).await;
    let status = cluster.nodes[&1].status();
    assert_eq!((status.serving, status.leader), (false, None));
    let refused = cluster.nodes[&1].propose(tally::add(1)).await.unwrap_err();
    assert!(refused.never_applied(), "{refused}");
    cluster.open(2).await;
    cluster.open(3).await;
    assert_eq!(cluster.add(1, 4).await.1, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_voter_is_refused_and_told_the_remedy() {
    let mut cluster = Cluster::start(3, config()).await;
    cluster.add(1, 1).await;
    let leader = cluster.leader().await;
    let follower = leader % 3 + 1;
    let identity = cluster.nodes[&follower].identity().clone();
    cluster.close(follower).await;
    std::fs::remove_dir_all(&cluster.dirs[&follower]).unwrap();
    quorate_engine::format(
        &cluster.dirs[&follower],
        identity.cluster_id,
        identity.node_id,
        identity.founding,
    )
    .unwrap();
    cluster.open(follower).await;
    let status = cluster.until(follower, |status| status.fatal.is_some()).await;
    let reason = status.fatal.unwrap();
    assert!(reason.contains("quorate format --join"), "{reason}");
    assert_eq!(cluster.add(leader, 1).await.1, 2, "the others go on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_I14_a_dead_peer_delays_nobody() {
    let mut cluster = Cluster::start(3, config()).await;
    let leader = cluster.leader().await;
    let follower = leader % 3 + 1;
    let other = follower % 3 + 1;
    cluster.close(other).await;
    // Both that are left go on, in order, although every message to the third goes nowhere.
    let mut expected = 0;
    for n in [leader, follower].repeat(25) {
        expected += 1;
        assert_eq!(cluster.add(n, 1).await.1, expected);
    }
    assert_eq!(cluster.leader().await, leader);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_I13_I15_a_slow_state_machine_costs_no_leadership() {
    let cluster = Cluster::start(3, config()).await;
    cluster.add(1, 1).await;
    let leader = cluster.leader().await;
    let term = cluster.nodes[&leader].status().term;
    let node = cluster.nodes[&leader].clone();
    let slow = tokio::spawn(async move { node.propose(tally::gate()).await });
    // Several election timeouts pass while no state machine moves.
    let mut status = cluster.nodes[&leader].watch_status();
    let patience = Duration::from_millis(20 * 10 * 4);
    let deposed = tokio::time::timeout(patience, status.wait_for(|s| s.term != term)).await;
    assert!(deposed.is_err(), "the term changed while the state machine was busy");
    assert!(!slow.is_finished());
    tally::open_gate();
    let applied = tokio::time::timeout(PATIENCE, slow).await.unwrap().unwrap().unwrap();
    cluster.agree(1, applied.index).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_see_every_change_without_a_gap() {
    let cluster = Cluster::start(1, config()).await;
    let mut updates = cluster.nodes[&1].updates();
    let mut seen = updates.start().image.sum;
    for _ in 0..50 {
        cluster.add(1, 2).await;
    }
    while seen < 100 {
        let update = tokio::time::timeout(PATIENCE, updates.next()).await.unwrap().unwrap();
        seen += update.changes.added;
        assert_eq!(update.published.image.sum, seen, "what changed adds up to what is");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_ends_with_its_node_although_somebody_still_holds_it() {
    let mut cluster = Cluster::start(1, config()).await;
    let held = cluster.nodes[&1].clone();
    let mut updates = held.updates();
    cluster.add(1, 2).await;
    cluster.close(1).await;
    let update = tokio::time::timeout(PATIENCE, updates.next()).await.unwrap().unwrap();
    assert_eq!(update.published.image.sum, 2);
    let ended = tokio::time::timeout(PATIENCE, updates.next()).await.unwrap();
    assert_eq!(ended.unwrap_err(), quorate_loop::Stopped);
    let mut late = held.updates();
    let ended = tokio::time::timeout(PATIENCE, late.next()).await.unwrap();
    assert_eq!(ended.unwrap_err(), quorate_loop::Stopped);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_that_lost_its_log_is_not_founded_again() {
    let mut cluster = Cluster::format(3, LoopConfig { replace_damaged: false, ..config() });
    let witness = |cluster: &Cluster, n| cluster.dirs[&n].join("witness");
    let as_formatted: BTreeMap<u64, Vec<u8>> =
        (1..=3).map(|n| (n, std::fs::read(witness(&cluster, n)).unwrap())).collect();
    for n in 1..=3 {
        cluster.open(n).await;
    }
    cluster.add(1, 1).await;
    let leader = cluster.leader().await;
    let follower = leader % 3 + 1;
    cluster.close(follower).await;
    // Without its log the node does not even start: the witness knows of it.
    std::fs::remove_dir_all(cluster.dirs[&follower].join("log")).unwrap();
    let lost = cluster.try_open(follower).await.unwrap_err().to_string();
    assert!(lost.contains("what is between is lost"), "{lost}");
    // A directory as it was formatted says nothing; its peers do.
    std::fs::remove_dir_all(cluster.dirs[&follower].join("quarantine")).unwrap();
    std::fs::write(witness(&cluster, follower), &as_formatted[&follower]).unwrap();
    cluster.open(follower).await;
    let status = cluster.until(follower, |status| status.fatal.is_some()).await;
    let reason = status.fatal.unwrap();
    assert!(reason.contains("has lost its log"), "{reason}");
    assert!(!cluster.nodes[&follower].status().serving);
    assert_eq!(cluster.add(leader, 1).await.1, 2, "the others go on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_group_is_damaged_does_not_start_and_says_what_and_why() {
    let mut cluster = Cluster::start(3, LoopConfig { replace_damaged: false, ..config() }).await;
    cluster.add(1, 1).await;
    let leader = cluster.leader().await;
    let follower = leader % 3 + 1;
    cluster.close(follower).await;
    let folder = cluster.dirs[&follower].join("snapshots").join("1");
    let file = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    for _ in 0..2 {
        let error = cluster.try_open(follower).await.unwrap_err();
        assert!(matches!(error, OpenError::DamagedGroup { .. }), "{error:?}");
        let said = error.to_string();
        assert!(said.contains("1-1.snap") && said.contains("Remedy: "), "{said}");
        assert!(said.contains("majority") && !said.contains('\n'), "{said}");
    }
    assert_eq!(cluster.add(leader, 1).await.1, 2, "the others go on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_command_and_one_that_is_too_long_are_refused_at_once() {
    let cluster = Cluster::start(1, config()).await;
    cluster.add(1, 1).await;
    let too_long = vec![0; config().command_bytes_max + 1];
    for command in [Bytes::new(), Bytes::from(too_long)] {
        let refused = cluster.nodes[&1].propose(command).await;
        assert_eq!(refused, Err(quorate_loop::ProposeError::Unsound));
    }
    assert_eq!(cluster.add(1, 1).await.1, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undecodable_command_stops_the_node_and_answers_everyone() {
    let cluster = Cluster::start(1, config()).await;
    cluster.add(1, 1).await;
    let error = cluster.nodes[&1].propose(Bytes::from_static(b"nonsense")).await.unwrap_err();
    assert!(!error.never_applied(), "{error}");
    let error = cluster.nodes[&1].propose(tally::add(1)).await.unwrap_err();
    assert!(matches!(error, quorate_loop::ProposeError::Fatal(_)), "{error}");
    assert!(cluster.nodes[&1].status().fatal.is_some());
    assert!(cluster.nodes[&1].read_index().await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_E06_a_leader_without_room_gives_way_and_comes_back_without_a_restart() {
    let cluster = Cluster::start(3, config()).await;
    let (_, mut sum) = cluster.add(1, 1).await;
    let full = cluster.leader().await;
    cluster.disks[&full].fill(true);
    // What is under way when it finds out has an end like any other.
    let under_way = cluster.nodes[&full].propose(tally::add(0)).await;
    assert!(under_way.is_err(), "nothing was written");
    cluster.until(full, |s| s.storage_full && s.role != Role::Leader).await;
    let other = full % 3 + 1;
    cluster.until(other, |s| s.leader.is_some_and(|leader| leader.get() != full)).await;
    let refused = cluster.nodes[&full].propose(tally::add(1)).await;
    assert_eq!(refused, Err(ProposeError::StorageFull));
    for _ in 0..20 {
        sum += 1;
        assert_eq!(cluster.add(other, 1).await.1, sum, "the others go on");
    }
    assert_eq!(cluster.nodes[&full].image().image.sum, 1, "what it has it shows");
    assert_eq!(cluster.nodes[&full].status().fatal, None);
    cluster.disks[&full].fill(false);
    cluster.until(full, |s| !s.storage_full).await;
    let (index, sum) = cluster.add(full, 1).await;
    cluster.agree(sum, index).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_E06_when_all_disks_are_full_nothing_is_lost_and_all_go_on_when_there_is_room() {
    let mut cluster = Cluster::start(3, config()).await;
    let (_, sum) = cluster.add(1, 5).await;
    let leader = cluster.leader().await;
    cluster.disks.values().for_each(|disk| disk.fill(true));
    assert!(cluster.nodes[&leader].propose(tally::add(0)).await.is_err());
    cluster.until(leader, |s| s.storage_full).await;
    let refused = cluster.nodes[&leader].propose(tally::add(1)).await;
    assert_eq!(refused, Err(ProposeError::StorageFull));
    for node in cluster.nodes.values() {
        assert_eq!((node.image().image.sum, node.status().fatal), (sum, None));
    }
    cluster.disks.values().for_each(|disk| disk.fill(false));
    let (index, sum) = cluster.add(leader, 1).await;
    assert_eq!(sum, 6);
    cluster.agree(sum, index).await;
    // A node that is closed while it has no room is opened without any, and comes back with all
    // that it acknowledged.
    cluster.disks[&leader].fill(true);
    assert!(cluster.nodes[&leader].propose(tally::add(0)).await.is_err());
    cluster.until(leader, |s| s.storage_full).await;
    cluster.close(leader).await;
    cluster.open(leader).await;
    let other = leader % 3 + 1;
    assert_eq!(cluster.add(other, 1).await.1, 7, "the others go on");
    cluster.disks[&leader].fill(false);
    let (index, sum) = cluster.add(leader, 1).await;
    assert_eq!(sum, 8);
    cluster.agree(sum, index).await;
}

/// Entries that the tail would keep for the follower that is down; the threshold matters more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_takes_at_most_twice_its_threshold_however_long_a_follower_is_down() {
    const THRESHOLD: u64 = 256 << 10;
    let config = LoopConfig { snapshot_entries: 1 << 20, ..config() };
    let mut cluster = Cluster::format(3, config);
    cluster.engine.target_file_size_bytes = 16 << 10;
    cluster.engine.purge_threshold_bytes = THRESHOLD;
    for n in 1..=3 {
        cluster.open(n).await;
    }
    cluster.add(1, 1).await;
    let leader = cluster.leader().await;
    let (down, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    cluster.close(down).await;
    let (mut sum, mut peak) = (1, 0);
    for _ in 0..100 {
        // Many at a time, so that it does not take long.
        let node = cluster.nodes[&leader].clone();
        let adding: Vec<_> = (0..512)
            .map(|_| {
                let node = node.clone();
                tokio::spawn(async move { node.propose(tally::add(1)).await })
            })
            .collect();
        for added in adding {
            tokio::time::timeout(PATIENCE, added).await.unwrap().unwrap().unwrap();
            sum += 1;
        }
        let used = |n: &u64| cluster.nodes[n].status().log_disk_bytes;
        peak = peak.max(used(&leader)).max(used(&other));
    }
    assert!(peak > THRESHOLD / 2, "the files were never purged: the test shows nothing ({peak})");
    assert!(peak <= 2 * THRESHOLD, "{peak} bytes");
    assert!(cluster.nodes[&leader].status().last_index > 50_000);
    eprintln!("at most {peak} bytes, with a threshold of {THRESHOLD}");
    cluster.open(down).await;
    let (index, total) = cluster.add(down, 1).await;
    assert_eq!(total, sum + 1);
    cluster.agree(total, index).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_witness_is_synced_soon_after_a_batch_and_not_while_nothing_happens() {
    let mut cluster = Cluster::start(1, config()).await;
    cluster.add(1, 1).await;
    let disk = cluster.disks[&1].clone();
    // What was written by now is synced, and then there is nothing more to sync.
    let quiet = async |least: u64| {
        let mut before = disk.witness_syncs();
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            match disk.witness_syncs() {
                now if now == before && now >= least => break now,
                now => before = now,
            }
        }
    };
    let before = tokio::time::timeout(PATIENCE, quiet(1)).await.unwrap();
    cluster.add(1, 1).await;
    let after = tokio::time::timeout(PATIENCE, quiet(before + 1)).await.unwrap();
    assert_eq!(after, before + 1, "once for one batch");
    // Under constant load too, and not for every batch.
    let end = tokio::time::Instant::now() + Duration::from_secs(1);
    let mut batches = 0;
    while tokio::time::Instant::now() < end {
        cluster.add(1, 1).await;
        batches += 1;
    }
    let synced = disk.witness_syncs() - after;
    assert!((2..=batches.min(20)).contains(&synced), "{synced} times for {batches} batches");
    // Closed in order, it says so in both of its slots.
    let before = disk.witness_syncs();
    cluster.close(1).await;
    assert!(disk.witness_syncs() >= before + 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_cannot_be_closed_in_order_is_reported() {
    let mut cluster = Cluster::start(1, config()).await;
    cluster.add(1, 1).await;
    let held = cluster.nodes[&1].clone();
    cluster.disks[&1].break_syncs();
    cluster.close(1).await;
    let fatal = held.status().fatal.unwrap();
    assert!(fatal.contains("the disk failed"), "{fatal}");
}
