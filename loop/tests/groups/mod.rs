//! Many groups on the nodes of one cluster.

use quorate_engine::GroupId;
use quorate_loop::{CatalogueError, Group, MemberChange, MembershipRequest};

use super::*;

fn id(number: u64) -> GroupId {
    GroupId::new(number).unwrap()
}

impl Cluster {
    /// Creates a group with every node as a voter, and waits until all have it.
    pub(super) async fn create(&self, number: u64) {
        self.create_all([number]).await;
    }

    pub(super) async fn create_all(&self, numbers: impl IntoIterator<Item = u64>) {
        let groups: Vec<GroupId> = numbers.into_iter().map(id).collect();
        let voters: Vec<NodeId> = self.nodes.keys().map(|n| NodeId::new(*n).unwrap()).collect();
        self.ask(Some(&voters), &groups).await.unwrap();
        for (n, node) in &self.nodes {
            for group in &groups {
                let waiting = tokio::time::timeout(PATIENCE, node.wait_group(*group)).await;
                assert_eq!(waiting.unwrap().unwrap().id(), *group, "node {n}");
            }
        }
    }

    pub(super) async fn remove_all(&self, numbers: impl IntoIterator<Item = u64>) {
        let groups: Vec<GroupId> = numbers.into_iter().map(id).collect();
        self.ask(None, &groups).await.unwrap();
    }

    /// Asks whoever leads to create groups with these voters, or to remove them, until it is done or
    /// refused for a reason that does not go away by itself.
    async fn ask(
        &self,
        voters: Option<&[NodeId]>,
        groups: &[GroupId],
    ) -> Result<u64, CatalogueError> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let node = &self.nodes[&self.leader().await];
            let asked = async {
                match voters {
                    Some(voters) => node.create_groups(groups, voters).await,
                    None => node.remove_groups(groups).await,
                }
            };
            match tokio::time::timeout(PATIENCE, asked).await.unwrap() {
                Err(error) if error.is_retryable() => {
                    assert!(tokio::time::Instant::now() < deadline, "{error}");
                    let mut status = node.watch_status();
                    let _ =
                        tokio::time::timeout(Duration::from_millis(100), status.changed()).await;
                }
                answer => return answer,
            }
        }
    }

    /// Waits until exactly these groups are on node `n`.
    async fn has(&self, n: u64, numbers: &[u64]) {
        let (node, expected) = (&self.nodes[&n], numbers.iter().copied().map(id));
        let expected: Vec<GroupId> = expected.collect();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while node.groups() != expected {
            let found = node.groups();
            assert!(tokio::time::Instant::now() < deadline, "node {n}: {found:?}");
            let mut status = node.watch_status();
            let _ = tokio::time::timeout(Duration::from_millis(50), status.changed()).await;
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
    cluster.create_all(numbers.clone()).await;
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
    cluster.create_all(numbers.clone()).await;
    for number in numbers.clone() {
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
    let config = LoopConfig { snapshot_entries: 4, tail_entries: 0, ..config() };
    let mut cluster = Cluster::start(1, config).await;
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
    assert_eq!(node.remove_group(id(3)).await, Err(CatalogueError::NoGroup(id(3))));
    assert_eq!(node.remove_group(id(1)).await, Err(CatalogueError::First));
    drop(node);
    let voters = [NodeId::new(1).unwrap()];
    for _ in 0..3 {
        let again = cluster.ask(Some(&voters), &[id(3)]).await;
        assert_eq!(again, Err(CatalogueError::Spent { group: id(3), next: 5 }));
        // So many that group 1 has a snapshot behind all that was said of groups.
        for _ in 0..8 {
            cluster.add(1, 1).await;
        }
        cluster.close(1).await;
        cluster.open(1).await;
        assert_eq!(cluster.add_to(1, 4, 0).await.1, 4, "the others are as they were");
        assert_eq!(cluster.nodes[&1].groups(), [1, 2, 4].map(id));
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
    cluster.remove_all([2]).await;
    for n in 1..=3 {
        cluster.has(n, &[1, 3]).await;
    }
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
        let voters = [NodeId::new(1).unwrap()];
        let refused = cluster.ask(Some(&voters), &[id(2)]).await;
        assert_eq!(refused, Err(CatalogueError::Exists(id(2))));
        cluster.close(1).await;
    }
    // Once it is removed it is still there, for inspection.
    cluster.open(1).await;
    cluster.remove_all([2]).await;
    for _ in 0..2 {
        assert_eq!(cluster.nodes[&1].groups(), [1, 2, 3].map(id));
        assert!(file.exists());
        cluster.close(1).await;
        cluster.open(1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_founded_once_by_its_voters_and_when_group_1_serves() {
    let mut cluster = Cluster::format(3, config());
    cluster.open(1).await;
    let [one, two, nine] = [1, 2, 9].map(|n| NodeId::new(n).unwrap());
    let node = cluster.nodes[&1].clone();
    let early = node.create_group(id(2), &[one]).await.unwrap_err();
    assert_eq!(early, CatalogueError::NotLeader { leader: None });
    cluster.open(2).await;
    cluster.open(3).await;
    let unknown = cluster.ask(Some(&[one, nine]), &[id(2)]).await;
    assert_eq!(unknown, Err(CatalogueError::UnknownVoter(nine)));
    assert_eq!(cluster.ask(Some(&[one]), &[]).await, Err(CatalogueError::Unsound));
    let leader = cluster.leader().await;
    let follower = cluster.nodes[&(leader % 3 + 1)].clone();
    cluster.until(leader % 3 + 1, |status| status.leader == NodeId::new(leader)).await;
    let refused = follower.create_group(id(2), &[one]).await;
    assert_eq!(refused, Err(CatalogueError::NotLeader { leader: NodeId::new(leader) }));
    // Many at once, each once; alone on its node a group needs nobody else, and whoever leads group 1
    // need not have it.
    let groups: Vec<GroupId> = (2..=40).map(id).collect();
    for voters in [[one], [two]] {
        let asked = cluster.ask(Some(&voters), &groups).await;
        match voters == [one] {
            true => drop(asked.unwrap()),
            false => assert_eq!(asked, Err(CatalogueError::Exists(id(2)))),
        }
    }
    let waiting = tokio::time::timeout(PATIENCE, node.wait_group(id(40))).await;
    waiting.unwrap().unwrap();
    assert_eq!(cluster.add_to(1, 40, 7).await.1, 7);
    cluster.add(2, 1).await;
    assert!(cluster.nodes[&2].group(id(40)).is_none());
    assert_eq!(cluster.nodes[&2].catalogue().len(), 39);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_does_what_was_decided_meanwhile() {
    // Once by the entries, and once by a snapshot.
    for snapshot_entries in [10_000, 3] {
        let config = LoopConfig { snapshot_entries, tail_entries: 0, ..config() };
        let mut cluster = Cluster::start(3, config).await;
        cluster.create_all(2..=4).await;
        for number in 2..=4 {
            cluster.add_to(1, number, number).await;
        }
        let away = cluster.leader().await;
        cluster.close(away).await;
        let others: Vec<u64> = cluster.nodes.keys().copied().collect();
        cluster.remove_all([3]).await;
        let voters = [1, 2, 3].map(|n| NodeId::new(n).unwrap());
        cluster.ask(Some(&voters), &[id(6), id(7)]).await.unwrap();
        cluster.remove_all([6]).await;
        for _ in 0..8 {
            cluster.add(others[0], 1).await;
        }
        for n in &others {
            cluster.has(*n, &[1, 2, 4, 7]).await;
        }
        let (index, _) = cluster.add_to(others[0], 7, 7).await;
        assert!(cluster.dirs[&away].join("snapshots/3").exists());
        cluster.open(away).await;
        cluster.has(away, &[1, 2, 4, 7]).await;
        cluster.agree_in(7, 7, index).await;
        assert_eq!(cluster.add_to(away, 4, 1).await.1, 5);
        let gone = cluster.nodes[&away].wait_group(id(3)).await.unwrap_err();
        assert_eq!(gone, CatalogueError::NoGroup(id(3)));
        // With another one down, the group needs the node that began it late.
        cluster.close(others[0]).await;
        assert_eq!(cluster.add_to(away, 7, 1).await.1, 8);
        cluster.close(away).await;
        assert!(!cluster.dirs[&away].join("snapshots/3").exists());
        cluster.open(away).await;
        assert_eq!(cluster.add_to(away, 7, 1).await.1, 9);
        assert_eq!(cluster.nodes[&away].groups(), [1, 2, 4, 7].map(id));
    }
}

/// A node cannot write the first snapshot of a group when it hears of it: it begins when it can, by itself
/// or when it is opened again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_was_decided_begins_however_long_it_takes() {
    let mut cluster = Cluster::start(3, config()).await;
    let voters = [1, 2, 3].map(|n| NodeId::new(n).unwrap());
    for number in [2, 3] {
        let leader = cluster.leader().await;
        let stuck = leader % 3 + 1;
        let in_its_way = cluster.dirs[&stuck].join("snapshots").join(number.to_string());
        std::fs::write(&in_its_way, "a file where a folder is wanted").unwrap();
        cluster.ask(Some(&voters), &[id(number)]).await.unwrap();
        let (index, _) = cluster.add_to(leader, number, 5).await;
        let (known, _) = cluster.add(stuck, 1).await;
        cluster.nodes[&stuck].wait_applied(known).await.unwrap();
        assert!(cluster.nodes[&stuck].catalogue().contains(id(number)));
        assert!(cluster.nodes[&stuck].group(id(number)).is_none(), "it cannot");
        if number == 3 {
            cluster.close(stuck).await;
        }
        std::fs::remove_file(&in_its_way).unwrap();
        if number == 3 {
            cluster.open(stuck).await;
        }
        let waiting = cluster.nodes[&stuck].wait_group(id(number));
        tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap();
        cluster.agree_in(number, 5, index).await;
    }
}

/// The directory of a node is renewed, or wiped and formatted to join: once it was a founder of its
/// groups, then the member that took that one's place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_directory_comes_back_into_all_its_groups() {
    let mut cluster = Cluster::start(3, config()).await;
    cluster.create_all([2, 3]).await;
    cluster.add(1, 1).await;
    for number in [2, 3] {
        cluster.add_to(1, number, number).await;
    }
    let lost = 3;
    for (round, is_wiped) in [(1, false), (2, true), (3, false)] {
        cluster.close(lost).await;
        match is_wiped {
            true => cluster.format_to_join(lost),
            false => std::fs::remove_dir_all(cluster.dirs[&lost].join("log")).unwrap(),
        }
        cluster.open(lost).await;
        let directory = cluster.nodes[&lost].identity().directory_id;
        for number in [2, 3] {
            let waiting = cluster.nodes[&lost].wait_group(id(number));
            let group = tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap();
            let mut status = group.watch_status();
            let is_back = |status: &GroupStatus| {
                let mut members = status.members.all_of_node(NodeId::new(lost).unwrap());
                members.next().is_some_and(|member| {
                    member.binding.directory_id == directory
                        && status.members.is_voter(member.member_id)
                }) && !status.members.is_joint()
            };
            let back = tokio::time::timeout(PATIENCE, status.wait_for(is_back)).await;
            back.unwrap_or_else(|_| panic!("{:?}", group.status())).unwrap();
        }
        let other = 1 + round % 2;
        cluster.close(other).await;
        for number in [2, 3] {
            assert_eq!(cluster.add_to(lost, number, 1).await.1, number + round);
        }
        cluster.open(other).await;
        cluster.add(other, 1).await;
    }
}

/// It was removed from the group by a change of that group's members: nobody takes it in again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_does_not_come_back_into_a_group_that_its_node_left() {
    let mut cluster = Cluster::start(3, config()).await;
    cluster.create_all([2, 3]).await;
    cluster.add_to(1, 2, 1).await;
    let gone = 3;
    let removal = MembershipRequest::Change(vec![MemberChange::Remove(joining::node(gone))]);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    'removed: loop {
        for n in [1, 2] {
            if cluster.group(n, 2).change_membership(removal.clone(), false).await.is_ok() {
                break 'removed;
            }
        }
        cluster.group(gone, 2).transfer_leadership(NodeId::new(1));
        assert!(tokio::time::Instant::now() < deadline);
        let mut status = cluster.group(1, 2).watch_status();
        let _ = tokio::time::timeout(Duration::from_millis(50), status.changed()).await;
    }
    cluster.close(gone).await;
    cluster.format_to_join(gone);
    cluster.open(gone).await;
    let waiting = cluster.nodes[&gone].wait_group(id(2));
    let group = tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap();
    let mut status = group.watch_status();
    let failed = status.wait_for(|status| status.fatal.is_some());
    let reason = tokio::time::timeout(PATIENCE, failed).await.unwrap().unwrap().fatal.clone();
    assert!(reason.unwrap().contains("no member of it any more"));
    assert_eq!(cluster.group(1, 2).status().members.len(), 2);
    let (index, _) = cluster.add_to(1, 3, 4).await;
    cluster.agree_in(3, 4, index).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_nobody_decided_on_is_left_alone() {
    let mut cluster = Cluster::start(1, config()).await;
    cluster.create(2).await;
    cluster.close(1).await;
    let formatted = Formatted::open(&cluster.dirs[&1]).unwrap();
    let mut engine = quorate_engine::Engine::open(formatted, &EngineConfig::default()).unwrap();
    let meta = engine.groups[&id(2)].snapshot.clone();
    let meta = quorate_engine::SnapshotMeta { group: id(9), ..meta };
    let mut state = engine.snapshots.open(id(2), meta.id).unwrap();
    let mut file = engine.snapshots.create(meta).unwrap();
    std::io::copy(&mut state, &mut file).unwrap();
    let meta = file.finish().unwrap();
    let log = quorate_engine::GroupLog::founded(id(9), &meta, &engine.cache);
    let write = quorate_engine::GroupWrite {
        group: id(9),
        number: 1,
        entries: Vec::new(),
        record: log.record(),
        install: false,
        genesis: None,
    };
    engine.writer.write(vec![write]).unwrap();
    engine.writer.close().unwrap();
    for _ in 0..2 {
        cluster.open(1).await;
        cluster.add_to(1, 2, 1).await;
        assert_eq!(cluster.nodes[&1].groups(), [1, 2, 9].map(id));
        let status = cluster.group(1, 9).status();
        assert!(!status.serving && status.fatal.unwrap().contains("never known"));
        assert!(cluster.group(1, 9).propose(tally::add(1)).await.is_err());
        cluster.close(1).await;
        assert!(cluster.dirs[&1].join("snapshots/9/1-1.snap").exists());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_groups_take_two_entries() {
    let cluster = Cluster::start(3, config()).await;
    cluster.add(1, 1).await;
    let before = cluster.nodes[&cluster.leader().await].status().last_index;
    cluster.create_all(2..=1_001).await;
    let created = cluster.nodes[&1].catalogue();
    assert_eq!((created.len(), created.next_group_id()), (1_000, 1_002));
    assert_eq!(cluster.add_to(2, 777, 3).await.1, 3);
    cluster.remove_all(2..=1_001).await;
    for n in 1..=3 {
        cluster.has(n, &[1]).await;
    }
    let after = cluster.add(1, 1).await.0;
    assert!(after <= before + 6, "{before} to {after}: with two elections, if there were any");
    // The leader has answered when its files were gone; others may still be at it.
    let leader = cluster.leader().await;
    let left = std::fs::read_dir(cluster.dirs[&leader].join("snapshots")).unwrap().count();
    assert_eq!(left, 1, "group 1's");
}
