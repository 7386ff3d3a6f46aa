//! Nodes that join, come back in another directory, replace what is damaged, and are removed.

use std::path::Path;

use quorate_engine::Identity;
use quorate_loop::{MemberChange, MemberRole, MembershipError, MembershipRequest};

use super::*;

pub(super) fn node(n: u64) -> NodeId {
    NodeId::new(n).unwrap()
}

impl Cluster {
    /// Formats a directory for node `n` to join by the others; one that was there is wiped.
    pub(super) fn format_to_join(&mut self, n: u64) {
        let cluster_id = self.nodes.values().next().unwrap().identity().cluster_id;
        self.addrs.entry(n).or_insert_with(|| free_port().local_addr().unwrap());
        let dir = self._dir.path().join(n.to_string());
        if dir.exists() {
            std::fs::remove_dir_all(&dir).unwrap();
        }
        let others = self.nodes.keys().filter(|other| **other != n);
        let addrs = others.map(|other| self.addrs[other].to_string()).collect();
        quorate_engine::format(&dir, cluster_id, node(n), Founding::Join(addrs)).unwrap();
        self.dirs.insert(n, dir);
        self.disks.insert(n, Arc::default());
    }

    /// Asks whoever leads for another membership, until it is done or refused for a reason that
    /// does not go away by itself.
    async fn change(&self, changes: &[MemberChange]) -> Result<u64, MembershipError> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let leader = self.leader().await;
            let request = MembershipRequest::Change(changes.to_vec());
            match self.nodes[&leader].change_membership(request, false).await {
                Ok(changed) => return Ok(changed.index),
                Err(error) if error.is_retryable() => {
                    assert!(tokio::time::Instant::now() < deadline, "{changes:?}: {error}");
                    let mut status = self.nodes[&leader].watch_status();
                    let _ =
                        tokio::time::timeout(Duration::from_millis(100), status.changed()).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits until every node knows node `n` in this role, and by this directory alone.
    async fn know(&self, n: u64, role: MemberRole, identity: &Identity) {
        for at in self.nodes.keys() {
            self.until(*at, |status| {
                let members: Vec<_> = status.members.all_of_node(node(n)).collect();
                let [member] = members[..] else { return false };
                member.binding.directory_id == identity.directory_id
                    && status.members.role(member.member_id) == Some(role)
                    && !status.members.is_joint()
            })
            .await;
        }
    }

    fn identity(&self, n: u64) -> Identity {
        self.nodes[&n].identity().clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_is_let_in_observes_and_is_given_a_vote() {
    let mut cluster = Cluster::start(3, config()).await;
    let (caught_up, _) = cluster.add(1, 7).await;
    cluster.format_to_join(4);
    cluster.open(4).await;
    cluster.know(4, MemberRole::Observer, &cluster.identity(4)).await;
    // What it is sent before it has caught up may overtake what it asked for.
    cluster.until(4, |status| status.applied_index >= caught_up).await;
    let (index, sum) = cluster.add(4, 5).await;
    assert_eq!(sum, 12, "what was there before, it was sent");
    cluster.agree(12, index).await;
    assert_eq!(cluster.nodes[&4].status().role, Role::Observer);

    cluster.change(&[MemberChange::Add(node(4))]).await.unwrap();
    cluster.know(4, MemberRole::Voter, &cluster.identity(4)).await;
    // One of four may go; it is found again after a restart.
    cluster.close(4).await;
    cluster.add(1, 1).await;
    cluster.open(4).await;
    let (index, _) = cluster.add(4, 1).await;
    cluster.agree(14, index).await;
    assert_ne!(cluster.nodes[&4].status().role, Role::Observer);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_joins_again_and_is_the_voter_that_it_was() {
    let mut cluster = Cluster::start(3, config()).await;
    cluster.add(1, 3).await;
    let wiped = cluster.leader().await;
    cluster.close(wiped).await;
    cluster.format_to_join(wiped);
    cluster.open(wiped).await;
    cluster.know(wiped, MemberRole::Voter, &cluster.identity(wiped)).await;
    let (index, _) = cluster.add(wiped, 4).await;
    cluster.agree(7, index).await;
    let known = cluster.nodes[&wiped].status().members;
    assert_eq!(known.of_node(node(wiped)).unwrap().member_id, 4, "a name that nobody had");
}

/// A node notices at its start that it has lost what it acknowledged, and becomes another member,
/// without anybody's help.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_directory_replaces_itself_and_nothing_is_lost() {
    let mut cluster = Cluster::start(3, config()).await;
    cluster.add(1, 3).await;
    for damaged in [cluster.leader().await, 1] {
        let before = cluster.identity(damaged);
        cluster.close(damaged).await;
        std::fs::remove_dir_all(cluster.dirs[&damaged].join("log")).unwrap();
        cluster.open(damaged).await;
        let after = cluster.identity(damaged);
        assert_ne!(after.directory_id, before.directory_id);
        cluster.know(damaged, MemberRole::Voter, &after).await;
        assert!(cluster.dirs[&damaged].join("aside").exists());
        cluster.add(damaged, 4).await;
    }
    let (index, _) = cluster.add(1, 1).await;
    cluster.agree(12, index).await;
}

/// In the middle of the only snapshot of a group.
fn flip_a_bit(folder: &Path) {
    let file = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_group_replaces_itself_and_the_others_stay() {
    let mut cluster = Cluster::start(3, config()).await;
    cluster.create(2).await;
    cluster.add(1, 3).await;
    cluster.add_to(1, 2, 5).await;
    for group in ["2", "1"] {
        let damaged = cluster.leader().await;
        let before = cluster.identity(damaged);
        cluster.close(damaged).await;
        flip_a_bit(&cluster.dirs[&damaged].join("snapshots").join(group));
        cluster.open(damaged).await;
        assert_eq!(cluster.identity(damaged), before, "the directory is what it was");
        let renewed = cluster.group(damaged, group.parse().unwrap());
        let mended = |status: &GroupStatus| status.damaged.is_none();
        let mended = renewed.wait(PATIENCE).until("nothing that is damaged", mended);
        assert!(mended.await.unwrap().applied_index > 0, "it has what the others have");
        for number in [1, 2] {
            let waiting = cluster.group(damaged, number).wait(PATIENCE);
            let again = |status: &GroupStatus| {
                let members = status.members.all_of_node(node(damaged));
                let ids: Vec<u64> = members.map(|member| member.member_id).collect();
                let expected = if number.to_string() == group { 4.. } else { 1.. };
                status.serving
                    && ids.len() == 1
                    && expected.contains(&ids[0])
                    && status.members.role(ids[0]) == Some(MemberRole::Voter)
            };
            waiting.until("its voter again", again).await.unwrap();
        }
    }
    let (index, _) = cluster.add(1, 1).await;
    cluster.agree(4, index).await;
    let (index, _) = cluster.add_to(1, 2, 1).await;
    cluster.agree_in(2, 6, index).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_group_that_may_not_be_replaced_stays_down_and_says_why() {
    let mut cluster = Cluster::start(3, config()).await;
    cluster.create(2).await;
    cluster.add_to(1, 2, 5).await;
    cluster.close(1).await;
    flip_a_bit(&cluster.dirs[&1].join("snapshots/2"));
    cluster.config.replace_damaged = false;
    // Or the proposal below could be handed to the node that has lost the group.
    let mut status = cluster.group(2, 2).watch_status();
    let led = status.wait_for(|status| status.leader.is_some_and(|leader| leader.get() != 1));
    tokio::time::timeout(PATIENCE, led).await.unwrap().unwrap();
    cluster.open(1).await;
    let down = cluster.group(1, 2).status();
    assert!(down.damaged.is_some() && !down.serving);
    assert_eq!(down.damaged, down.fatal);
    assert_eq!(cluster.nodes[&1].status().damaged, None, "it is that group's own");
    cluster.add_to(2, 2, 1).await;
    cluster.add(1, 1).await;
}

/// Where the others are no quorum, what is left may be all that is left: it is not touched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_majority_stays_as_it_is() {
    let mut cluster = Cluster::start(3, config()).await;
    cluster.add(1, 3).await;
    let log = |cluster: &Cluster, n| cluster.dirs[&n].join("log");
    for n in [1, 2] {
        cluster.close(n).await;
        std::fs::remove_dir_all(log(&cluster, n)).unwrap();
    }
    for n in [1, 2] {
        let error = cluster.try_open(n).await.unwrap_err().to_string();
        assert!(error.contains("is lost"), "{error}");
        assert!(!cluster.dirs[&n].join("aside").exists());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_node_learns_it_whether_it_runs_or_sleeps() {
    let mut cluster = Cluster::start(4, config()).await;
    cluster.add(1, 1).await;
    let leader = cluster.leader().await;
    let [runs, sleeps] = [leader % 4 + 1, (leader + 1) % 4 + 1];
    cluster.change(&[MemberChange::Remove(node(runs))]).await.unwrap();
    let status = cluster.until(runs, |status| status.fatal.is_some()).await;
    assert_eq!(status.role, Role::Removed);
    cluster.close(runs).await;

    cluster.close(sleeps).await;
    cluster.change(&[MemberChange::Remove(node(sleeps))]).await.unwrap();
    cluster.open(sleeps).await;
    let status = cluster.until(sleeps, |status| status.fatal.is_some()).await;
    assert_eq!(status.role, Role::Removed);
    let reason = status.fatal.unwrap();
    assert!(reason.contains("quorate format --join"), "{reason}");
    cluster.close(sleeps).await;
    let (index, _) = cluster.add(leader, 1).await;
    cluster.agree(2, index).await;
}

/// All whom it knew are other members now, in other directories.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_slept_while_all_others_were_replaced_finds_its_way_back() {
    let mut cluster = Cluster::start(5, config()).await;
    cluster.add(1, 1).await;
    cluster.close(5).await;
    for replaced in 1..=4 {
        cluster.close(replaced).await;
        cluster.format_to_join(replaced);
        cluster.open(replaced).await;
        cluster.know(replaced, MemberRole::Voter, &cluster.identity(replaced)).await;
        cluster.add(replaced, 1).await;
    }
    cluster.open(5).await;
    let (index, _) = cluster.add(5, 1).await;
    cluster.agree(6, index).await;
}

/// The one leader that there can be is on a node that it has never heard of. To see it fail: never
/// answer on a connection that the peer has made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_slept_answers_a_leader_on_a_node_that_it_does_not_know() {
    let mut cluster = Cluster::start(3, config()).await;
    cluster.add(1, 1).await;
    cluster.close(3).await;
    cluster.format_to_join(4);
    cluster.open(4).await;
    cluster.know(4, MemberRole::Observer, &cluster.identity(4)).await;
    cluster.change(&[MemberChange::Add(node(4))]).await.unwrap();
    cluster.know(4, MemberRole::Voter, &cluster.identity(4)).await;
    let lead = |leader: u64| move |status: &GroupStatus| status.leader == Some(node(leader));
    // One that finds the successor with a write under way comes to nothing, and is asked for again.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while cluster.leader().await != 4 {
        assert!(tokio::time::Instant::now() < deadline, "node 4 takes no leadership");
        cluster.nodes[&cluster.leader().await].transfer_leadership(Some(node(4)));
        let moved = cluster.nodes[&1].wait(Duration::from_millis(500));
        let _ = moved.until("node 4 leads", lead(4)).await;
    }
    for n in [1, 2, 4] {
        cluster.until(n, lead(4)).await;
    }
    cluster.change(&[MemberChange::Remove(node(1))]).await.unwrap();
    cluster.close(1).await;
    cluster.close(2).await;
    cluster.until(4, |status| status.leader.is_none()).await;
    cluster.open(3).await;
    cluster.until(4, |status| status.leader.is_some()).await;
    let (index, _) = cluster.add(4, 1).await;
    cluster.agree(2, index).await;
}

/// Of three, node 2 is down, and node 1 comes back elsewhere, before node 3 or after it. The address under
/// which it is reached is in no log yet, and cannot come there without it.
async fn a_moved_node_is_answered(is_first: bool) {
    let mut cluster = Cluster::start(3, config()).await;
    let (index, _) = cluster.add(1, 1).await;
    cluster.agree(1, index).await;
    for n in [3, 2, 1] {
        cluster.close(n).await;
    }
    let moved = free_port().local_addr().unwrap();
    cluster.addrs.insert(1, moved);
    for n in if is_first { [1, 3] } else { [3, 1] } {
        cluster.config.advertise = (n == 1).then(|| moved.to_string());
        cluster.open(n).await;
    }
    cluster.config.advertise = None;
    let (index, _) = cluster.add(3, 1).await;
    cluster.agree(2, index).await;
    let knows = |status: &GroupStatus| {
        status.members.of_node(node(1)).is_some_and(|member| member.addr == moved.to_string())
    };
    for n in [1, 3] {
        cluster.until(n, knows).await;
    }
}

/// To see it fail: never answer on a connection that the peer has made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_moved_is_answered_before_the_members_know_its_address() {
    a_moved_node_is_answered(true).await;
}

/// As above. It greets those who are there before it knows its own members.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_moved_is_answered_by_who_was_there_before() {
    a_moved_node_is_answered(false).await;
}

/// Nobody is there to let it in: whoever asks it something is told so, and does not wait with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_waits_to_be_let_in_has_nobody_wait() {
    let mut cluster = Cluster::start(1, config()).await;
    cluster.format_to_join(2);
    cluster.close(1).await;
    cluster.open(2).await;
    let waiting = cluster.nodes[&2].clone();
    let answered = async {
        let refused = waiting.propose(tally::add(1)).await;
        assert_eq!(refused, Err(ProposeError::NotLeader { leader: None }));
        assert_eq!(waiting.read_index().await, Err(quorate_loop::ReadError::TimedOut));
        let leave = MembershipRequest::Change(vec![MemberChange::Remove(node(1))]);
        let refused = waiting.change_membership(leave, false).await;
        assert_eq!(refused, Err(MembershipError::NotLeader { leader: None }));
        let group = quorate_engine::GroupId::new(2).unwrap();
        let refused = waiting.create_group(group, &[node(2)]).await;
        assert_eq!(refused, Err(quorate_loop::CatalogueError::NotLeader { leader: None }));
    };
    tokio::time::timeout(PATIENCE, answered).await.unwrap();
    assert_eq!(waiting.status().fatal, None);
}
