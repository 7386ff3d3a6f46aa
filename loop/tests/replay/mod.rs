//! Going through a log once more.

use std::sync::mpsc;

use quorate_loop::{Picked, ReplayError, Replayed};

use super::*;

/// All that a test picks, and more.
const ALL: usize = 1_000;

type Sums = Picked<Tally, (u64, (u64, u64))>;

/// As it was found.
fn found(found: Sums) -> Sums {
    found
}

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
    let whole = node.replay(group, PATIENCE, ALL, sums, found).await.unwrap();
    assert_eq!(whole.since, snapshot);
    let behind: Vec<_> = expected.split_off(&(snapshot + 1)).into_iter().collect();
    assert!(behind.len() > 15, "{behind:?}");
    assert_eq!(whole.picked, behind);
    let (last, (_, sum)) = behind[behind.len() - 1];
    assert_eq!((whole.until, whole.image.sum), (last, sum));

    // Of so much it keeps the latest, and begins behind the last that it let go.
    for keep in [0, 1, behind.len() - 1] {
        let part = node.replay(group, PATIENCE, keep, sums, found).await.unwrap();
        let (gone, kept) = behind.split_at(behind.len() - keep);
        assert_eq!((part.since, &part.picked[..]), (gone[gone.len() - 1].0, kept));
    }
    let nowhere = GroupId::new(77).unwrap();
    let error = node.replay(nowhere, PATIENCE, ALL, sums, found).await.unwrap_err();
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
    let replay = tokio::spawn(async move { node.replay(group, PATIENCE, ALL, sums, found).await });
    tokio::task::spawn_blocking(tally::until_restore_waits).await.unwrap();

    // It has read a snapshot, and the next one comes to take the log behind that away.
    let mut expected = BTreeMap::new();
    let mut add = async || {
        let (index, sum) = cluster.add(1, 1).await;
        expected.insert(index, (sum - 1, sum));
        index
    };
    // A snapshot comes with an entry, and not while another is still being written.
    while add().await < overtaken + ENTRIES
        || cluster.nodes[&1].status().first_index <= overtaken + 1
    {}
    let first = cluster.nodes[&1].status().first_index;
    // The compaction is in the log before these.
    while add().await <= first {}
    tally::let_restore_go_on();

    let found = replay.await.unwrap().unwrap();
    assert!(found.since + 1 >= first, "{found:?}");
    let behind: Vec<_> = expected.split_off(&(found.since + 1)).into_iter().collect();
    assert!(!behind.is_empty(), "{found:?}");
    assert_eq!(found.picked, behind);
}

/// To see it fail: leave `still_wanted` out of the loop over the entries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_that_nobody_waits_for_any_more_ends_before_the_next_command() {
    let cluster = Cluster::start(1, config()).await;
    let group = GroupId::new(1).unwrap();
    for amount in 1..=3 {
        cluster.add(1, amount).await;
    }
    let node = &cluster.nodes[&1];
    // Each command is shown to the test, and waits for its leave.
    let begin = |limit: Duration| {
        let (shown, seen) = mpsc::channel();
        let (leave, may_go_on) = mpsc::channel();
        let pick = move |replayed: Replayed<'_, Tally>| {
            shown.send(replayed.after.sum).unwrap();
            may_go_on.recv().ok()
        };
        let node = node.clone();
        let end = |found: Picked<Tally, ()>| found.image.sum;
        let replay = async move { node.replay(group, limit, ALL, pick, end).await };
        (tokio::spawn(replay), seen, leave)
    };
    // What is shown after the first: nothing, until the thread has ended.
    let ends = |seen: mpsc::Receiver<u64>, leave: mpsc::Sender<()>| {
        leave.send(()).unwrap();
        assert_eq!(seen.recv_timeout(PATIENCE), Err(mpsc::RecvTimeoutError::Disconnected));
    };

    let (replay, seen, leave) = begin(PATIENCE);
    assert_eq!(seen.recv_timeout(PATIENCE), Ok(1));
    replay.abort();
    assert!(replay.await.unwrap_err().is_cancelled());
    ends(seen, leave);

    // Long enough for the first command to be shown on a slow machine.
    let limit = Duration::from_secs(5);
    let (replay, seen, leave) = begin(limit);
    assert_eq!(seen.recv_timeout(PATIENCE), Ok(1));
    let error = replay.await.unwrap().unwrap_err();
    assert!(matches!(error, ReplayError::TimedOut { limit: told, .. } if told == limit), "{error}");
    ends(seen, leave);

    let (replay, seen, leave) = begin(PATIENCE);
    assert_eq!(seen.recv_timeout(PATIENCE), Ok(1));
    // The group goes on meanwhile; the replay ends where it was to end when it began.
    assert_eq!(cluster.add(1, 10).await.1, 16);
    (0..3).for_each(|_| leave.send(()).unwrap());
    assert_eq!(replay.await.unwrap().unwrap(), 6);
    assert_eq!(seen.iter().collect::<Vec<_>>(), [3, 6]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_that_panics_says_so_and_the_group_goes_on() {
    let cluster = Cluster::start(1, config()).await;
    let group = GroupId::new(1).unwrap();
    cluster.add(1, 1).await;
    let panics = |replayed: Replayed<'_, Tally>| -> Option<(u64, (u64, u64))> {
        panic!("at the sum {}", replayed.after.sum)
    };
    let node = &cluster.nodes[&1];
    let error = node.replay(group, PATIENCE, ALL, panics, found).await.unwrap_err();
    let told = matches!(&error, ReplayError::Panicked { group: told, reason }
        if *told == group && reason.ends_with("at the sum 1"));
    assert!(told, "{error}");
    assert_eq!(cluster.add(1, 1).await.1, 2);
}
