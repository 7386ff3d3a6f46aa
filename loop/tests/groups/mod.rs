//! Many groups on the nodes of one cluster.

use std::collections::BTreeSet;

use quorate_engine::GroupId;
use quorate_loop::{CreateGroupError, Group, RemoveGroupError};

use super::*;

fn id(number: u64) -> GroupId {
    GroupId::new(number).unwrap()
}

impl Cluster {
    /// Founds a group on every node.
    pub(super) async fn create(&self, number: u64) {
        let voters: Vec<NodeId> = self.nodes.keys().map(|n| NodeId::new(*n).unwrap()).collect();
        for (n, node) in &self.nodes {
            self.until(*n, |status| status.serving).await;
            let created = node.create_group(id(number), &voters);
            let group = tokio::time::timeout(PATIENCE, created).await.unwrap().unwrap();
            assert_eq!(group.id(), id(number));
        }
    }

    pub(super) fn group(&self, n: u64, number: u64) -> Group<Tally> {
        self.nodes[&n].group(id(number)).unwrap()
    }

    /// As [`Cluster::add`], to any group.
    pub(super) async fn add_to(&self, n: u64, number: u64, amount: u64) -> (u64, u64) {
        let group = self.group(n, number);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            match group.propose(tally::add(amount)).await {
                Ok(applied) => return (applied.index, applied.outcome),
                Err(error) if error.never_applied() => {
                    assert!(tokio::time::Instant::now() < deadline, "group {number}: {error}");
                    let mut status = group.watch_status();
                    let _ =
                        tokio::time::timeout(Duration::from_millis(200), status.changed()).await;
                }
                Err(error) => panic!("node {n}, group {number}: {error}"),
            }
        }
    }

    pub(super) async fn agree_in(&self, number: u64, sum: u64, index: u64) {
        for n in self.nodes.keys() {
            let group = self.group(*n, number);
            let applied = tokio::time::timeout(PATIENCE, group.wait_applied(index)).await;
            applied.unwrap().unwrap();
            assert_eq!(group.image().image.sum, sum, "node {n}, group {number}");
        }
    }
}

/// Waits until the group has stopped for good on a majority of three: the last one then has nobody
/// left to learn from what is committed.
async fn stopped_on_two(cluster: &Cluster, number: u64) -> Vec<u64> {
    let stopped = async {
        loop {
            let fatal = |n: &u64| cluster.group(*n, number).status().fatal.is_some();
            let stopped: Vec<u64> = (1..=3).filter(fatal).collect();
            if stopped.len() >= 2 {
                break stopped;
            }
            let running = (1..=3).find(|n| !stopped.contains(n)).unwrap();
            let mut status = cluster.group(running, number).watch_status();
            let _ = tokio::time::timeout(Duration::from_millis(50), status.changed()).await;
        }
    };
    tokio::time::timeout(PATIENCE, stopped).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_serve_beside_one_another_and_come_back_with_their_nodes() {
    let mut cluster = Cluster::start(3, config()).await;
    let numbers = 2..=12u64;
    for number in numbers.clone() {
        cluster.create(number).await;
    }
    let all: Vec<GroupId> = (1..=12).map(id).collect();
    let mut sums = BTreeMap::new();
    for round in 0..3 {
        for number in numbers.clone() {
            let n = 1 + (number + round) % 3;
            let (index, sum) = cluster.add_to(n, number, number).await;
            assert_eq!(sum, number * (round + 1), "what belongs to one group is in no other");
            let read = cluster.group(n % 3 + 1, number).read_index().await.unwrap();
            assert!(read >= index);
            sums.insert(number, (index, sum));
        }
        for n in 1..=3 {
            assert_eq!(cluster.nodes[&n].groups(), all);
            cluster.close(n).await;
        }
        for n in [2, 3, 1] {
            cluster.open(n).await;
        }
        for (number, (index, sum)) in &sums {
            cluster.agree_in(*number, *sum, *index).await;
        }
    }
    // Founded byte for byte alike on all.
    let first = |n: u64| {
        let folder = cluster.dirs[&n].join("snapshots").join("7");
        std::fs::read(folder.join("1-1.snap")).unwrap()
    };
    assert!(first(1) == first(2) && first(2) == first(3));
    assert_eq!(cluster.add(1, 5).await.1, 5, "group 1 knows nothing of them");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_E08_the_writes_of_many_groups_share_one_fsync() {
    let cluster = Cluster::start(1, config()).await;
    let numbers = 2..=60u64;
    for number in numbers.clone() {
        cluster.create(number).await;
        cluster.add_to(1, number, 1).await;
    }
    let disk = &cluster.disks[&1];
    let before = disk.log_syncs();
    disk.hold_syncs(true);
    let mut proposed = Vec::new();
    for number in numbers.clone() {
        let group = cluster.group(1, number);
        let last = group.status().last_index;
        let waiting = group.clone();
        proposed.push(tokio::spawn(async move { waiting.propose(tally::add(1)).await }));
        // The write is with the log writer when the status shows the entry.
        let appended = |status: &GroupStatus| status.last_index > last;
        group.wait(PATIENCE).until("the entry in the log", appended).await.unwrap();
    }
    assert!(proposed.iter().all(|proposed| !proposed.is_finished()), "nothing is durable");
    disk.hold_syncs(false);
    for proposed in proposed {
        let applied = tokio::time::timeout(PATIENCE, proposed).await.unwrap().unwrap().unwrap();
        assert_eq!(applied.outcome, 2);
    }
    let fsyncs = disk.log_syncs() - before;
    assert!(
        (1..=2).contains(&fsyncs),
        "{fsyncs} fsyncs: the one that was held, and one for the rest"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_is_removed_stays_removed() {
    let mut cluster = Cluster::start(1, config()).await;
    for number in 2..=4 {
        cluster.create(number).await;
        cluster.add_to(1, number, number).await;
    }
    let held = cluster.group(1, 3);
    let node = cluster.nodes[&1].clone();
    tokio::time::timeout(PATIENCE, node.remove_group(id(3))).await.unwrap().unwrap();
    assert_eq!(node.groups(), [1, 2, 4].map(id));
    assert!(!cluster.dirs[&1].join("snapshots/3").exists());
    assert!(held.status().fatal.unwrap().contains("removed"));
    assert!(matches!(held.propose(tally::add(1)).await, Err(ProposeError::Fatal(_))));
    assert_eq!(node.remove_group(id(3)).await, Err(RemoveGroupError::Unknown(id(3))));
    assert_eq!(node.remove_group(id(1)).await, Err(RemoveGroupError::First));
    drop(node);
    for _ in 0..2 {
        cluster.close(1).await;
        cluster.open(1).await;
        assert_eq!(cluster.nodes[&1].groups(), [1, 2, 4].map(id));
        assert_eq!(cluster.add_to(1, 4, 0).await.1, 4, "the others are as they were");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_cannot_go_on_leaves_the_others_alone() {
    let mut cluster = Cluster::start(3, config()).await;
    for number in [2, 3] {
        cluster.create(number).await;
        cluster.add_to(1, number, 1).await;
    }
    let error = loop {
        let nonsense = Bytes::from_static(b"nonsense");
        match cluster.group(1, 2).propose(nonsense).await.unwrap_err() {
            error if error.never_applied() => tokio::task::yield_now().await,
            error => break error,
        }
    };
    assert!(matches!(error, ProposeError::Fatal(_)), "{error}");
    for round in 0..2 {
        for n in stopped_on_two(&cluster, 2).await {
            let reason = cluster.group(n, 2).status().fatal.unwrap();
            assert!(reason.contains("command"), "{reason}");
            assert!(cluster.group(n, 2).read_index().await.is_err());
            assert_eq!(cluster.nodes[&n].status().fatal, None);
            assert_eq!(cluster.nodes[&n].groups(), [1, 2, 3].map(id));
        }
        assert_eq!(cluster.add_to(2, 3, 1).await.1, 2 + round);
        assert_eq!(cluster.add(3, 1).await.1, 1 + round);
        // It is the same after a restart: the command is committed.
        for n in 1..=3 {
            cluster.close(n).await;
        }
        for n in 1..=3 {
            cluster.open(n).await;
        }
    }
    // What stands still can be removed.
    let removed = cluster.nodes[&1].remove_group(id(2));
    tokio::time::timeout(PATIENCE, removed).await.unwrap().unwrap();
    assert_eq!(cluster.nodes[&1].groups(), [1, 3].map(id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_group_is_listed_and_the_others_serve() {
    let mut cluster = Cluster::start(1, config()).await;
    for number in [2, 3] {
        cluster.create(number).await;
        cluster.add_to(1, number, 1).await;
    }
    cluster.close(1).await;
    let file = cluster.dirs[&1].join("snapshots/2/1-1.snap");
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    for round in 1..=2 {
        cluster.open(1).await;
        let node = &cluster.nodes[&1];
        assert_eq!(node.groups(), [1, 2, 3].map(id));
        let status = cluster.group(1, 2).status();
        assert!(!status.serving);
        let reason = status.fatal.unwrap();
        assert!(reason.contains("damaged") && reason.contains("1-1.snap"), "{reason}");
        assert!(cluster.group(1, 2).propose(tally::add(1)).await.is_err());
        assert_eq!(cluster.add_to(1, 3, 1).await.1, 1 + round);
        let kept = cluster.nodes[&1].remove_group(id(2)).await;
        assert_eq!(kept, Err(RemoveGroupError::Damaged(id(2))));
        let voters = [NodeId::new(1).unwrap()];
        let refused = cluster.nodes[&1].create_group(id(2), &voters).await.unwrap_err();
        assert_eq!(refused, CreateGroupError::Exists(id(2)));
        cluster.close(1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_founded_once_by_its_voters_and_when_group_1_serves() {
    let mut cluster = Cluster::format(3, config());
    cluster.open(1).await;
    let [one, two, nine] = [1, 2, 9].map(|n| NodeId::new(n).unwrap());
    let node = cluster.nodes[&1].clone();
    let early = node.create_group(id(2), &[one]).await.unwrap_err();
    assert_eq!(early, CreateGroupError::NotReady);
    cluster.open(2).await;
    cluster.open(3).await;
    cluster.until(1, |status| status.serving).await;
    let not_voter = node.create_group(id(2), &[two]).await.unwrap_err();
    assert_eq!(not_voter, CreateGroupError::NotVoter { group: id(2), node: one });
    let unknown = node.create_group(id(2), &[one, nine]).await.unwrap_err();
    assert_eq!(unknown, CreateGroupError::UnknownVoter(nine));
    // Many at once, each once; alone on its node a group needs nobody else.
    let asked: Vec<_> = (2..=40u64)
        .flat_map(|number| [number, number])
        .map(|number| {
            let node = node.clone();
            tokio::spawn(async move { node.create_group(id(number), &[one]).await.map(|g| g.id()) })
        })
        .collect();
    let mut created = BTreeSet::new();
    for asked in asked {
        match tokio::time::timeout(PATIENCE, asked).await.unwrap().unwrap() {
            Ok(group) => assert!(created.insert(group), "{group} was founded twice"),
            Err(CreateGroupError::Exists(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(created.len(), 39);
    assert_eq!(cluster.add_to(1, 40, 7).await.1, 7);
    assert!(cluster.nodes[&2].group(id(40)).is_none());
}
