//! Going through a log once more.

use quorate_loop::Replayed;

use super::*;

/// A command's index, and the sums around it.
fn sums(replayed: Replayed<'_, Tally>) -> Option<(u64, (u64, u64))> {
    Some((replayed.at.index, (replayed.before.sum, replayed.after.sum)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_behind_the_last_snapshot_can_be_gone_through_again() {
    // There are more commands than that, and less than twice as many: one snapshot is begun.
    let config = LoopConfig { snapshot_entries: 30, tail_bytes: 0, ..config() };
    let cluster = Cluster::start(1, config).await;
    let group = GroupId::new(1).unwrap();
    let node = &cluster.nodes[&1];
    let session = {
        cluster.leader().await;
        node.group(group).unwrap().open_session(PATIENCE).await.unwrap()
    };
    let mut expected = BTreeMap::new();
    for amount in 1..=25 {
        let (index, sum) = cluster.add(1, amount).await;
        expected.insert(index, (sum - amount, sum));
        let applied = session.propose(tally::add(100), PATIENCE).await.unwrap();
        expected.insert(applied.index, (applied.outcome - 100, applied.outcome));
    }
    let snapshot = cluster.until(1, |status| status.first_index > 20).await.first_index - 1;
    let found = node.replay(group, sums).await.unwrap();
    assert_eq!(found.since, snapshot);
    let behind: Vec<_> = expected.split_off(&(snapshot + 1)).into_iter().collect();
    assert!(behind.len() > 15, "{behind:?}");
    assert_eq!(found.picked, behind);
    let nowhere = GroupId::new(77).unwrap();
    let error = node.replay(nowhere, |_| Some(())).await.unwrap_err();
    assert_eq!(error.to_string(), "this node has no group 77: ask one that has it");
}

/// To see it fail: have a replay end again where its first attempt was to end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_that_compaction_overtakes_begins_anew_at_the_newer_snapshot() {
    const ENTRIES: u64 = 20;
    let config = LoopConfig { snapshot_entries: ENTRIES, tail_bytes: 0, ..config() };
    let cluster = Cluster::start(1, config).await;
    let group = GroupId::new(1).unwrap();
    let (held, _) = cluster.add(1, tally::HELD_SUM).await;
    let mut overtaken = held;
    while cluster.nodes[&1].status().first_index <= held {
        overtaken = cluster.add(1, 0).await.0;
    }
    let node = cluster.nodes[&1].clone();
    let replay = tokio::spawn(async move { node.replay(group, sums).await });
    tokio::task::spawn_blocking(tally::until_restore_waits).await.unwrap();

    // It has read a snapshot, and the next one comes to take the log behind that away.
    let mut expected = BTreeMap::new();
    let mut add = async || {
        let (index, sum) = cluster.add(1, 1).await;
        expected.insert(index, (sum - 1, sum));
        index
    };
    while add().await < overtaken + ENTRIES {}
    let first = cluster.until(1, |status| status.first_index > overtaken + 1).await.first_index;
    // The compaction is in the log before these.
    while add().await <= first {}
    tally::let_restore_go_on();

    let found = tokio::time::timeout(PATIENCE, replay).await.unwrap().unwrap().unwrap();
    assert!(found.since + 1 >= first, "{found:?}");
    let behind: Vec<_> = expected.split_off(&(found.since + 1)).into_iter().collect();
    assert!(!behind.is_empty(), "{found:?}");
    assert_eq!(found.picked, behind);
}
