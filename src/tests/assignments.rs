//! What a broker is told that it leads and follows.

use std::collections::BTreeMap;

use quorate_statemachine::LeaderEpoch;

use super::metadata::{assigned, brokers, named};
use super::*;
use crate::ReplicaRole::{Follower, Leader, Leaderless};
use crate::{Assignment, AssignmentUpdate, Assignments, ReplicaRole, WatchEnded};

/// By topic, partition and epoch.
type Told = (String, u32, ReplicaRole, u32);

/// Names the topics as well as an image has them that a test looked at before.
fn told(image: &MetadataImage, all: impl IntoIterator<Item = Assignment>) -> Vec<Told> {
    let one = |it: Assignment| {
        let name = image.topic(it.partition.topic).unwrap().name.to_string();
        (name, it.partition.partition, it.role, it.leader_epoch.get())
    };
    all.into_iter().map(one).collect()
}

fn line(topic: &str, partition: u32, role: ReplicaRole, epoch: u32) -> Told {
    (topic.to_owned(), partition, role, epoch)
}

fn follows(leader: u32) -> ReplicaRole {
    Follower { leader: BrokerId(leader) }
}

async fn next(assignments: &mut Assignments) -> AssignmentUpdate {
    timeout(PATIENCE, assignments.next()).await.unwrap().unwrap()
}

/// What was told, put together.
fn put_together(known: &mut BTreeMap<PartitionKey, Assignment>, update: &AssignmentUpdate) {
    for lost in &update.lost {
        assert_eq!(known.remove(&lost.partition), Some(*lost));
    }
    for gained in &update.gained {
        assert_eq!(known.insert(gained.partition, *gained), None);
    }
    for change in &update.changed {
        assert_ne!(change.before, change.after);
        assert!(change.before.leader_epoch < change.after.leader_epoch, "{change:?}");
        assert_eq!(known.insert(change.after.partition, change.after), Some(change.before));
    }
}

/// To see it fail: leave the topics that were deleted out of `AssignmentUpdate::between`, or the
/// comparison with what was told last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_is_told_what_it_gains_leads_follows_and_loses() {
    let mut cluster = Cluster::with_brokers(3).await;
    let quorum = cluster.follower().await.clone();
    let mut own = quorum.assignments(BrokerId(2));
    assert_eq!(own.all().count(), 0);
    assert_eq!(quorum.assignments(BrokerId(9)).all().count(), 0);

    let topics =
        vec![assigned("orders", &[&[1, 2], &[2, 1], &[3, 1]]), assigned("other", &[&[2], &[1]])];
    let created = quorum.create_topics(topics).await.unwrap()[0].index;
    let image = quorum.image().image;
    let sorted = |mut lines: Vec<Told>| {
        lines.sort_by_key(|line| (line.0.clone(), line.1));
        lines
    };
    let update = next(&mut own).await;
    let given = [
        line("orders", 0, follows(1), 0),
        line("orders", 1, Leader, 0),
        line("other", 0, Leader, 0),
    ];
    assert_eq!((sorted(told(&image, update.gained)), update.index), (given.to_vec(), created));
    assert_eq!((update.lost, update.changed), (vec![], vec![]));
    assert_eq!(sorted(told(&image, own.all())), given);
    assert_eq!(own.seen().index, created);

    // Broker 1 is gone: what it led has another leader. That it left the ISR elsewhere is not told.
    drop(cluster.sessions.remove(&1));
    let fenced = quorum.fence_broker(BrokerId(1)).await.unwrap().index;
    let update = next(&mut own).await;
    let before = update.changed.iter().map(|change| change.before);
    assert_eq!(told(&image, before), given[..1]);
    let after = update.changed.iter().map(|change| change.after);
    let now = vec![line("orders", 0, Leader, 1)];
    assert_eq!((told(&image, after), update.index), (now, fenced));
    assert_eq!((update.lost, update.gained), (vec![], vec![]));

    // One goes elsewhere, one is new, and one is deleted: each in a step of its own.
    let to_3 = vec![(named("orders", 1), brokers(&[3]))];
    quorum.reassign_partitions(to_3).await.unwrap();
    let lost = loop {
        let update = next(&mut own).await;
        assert_eq!(update.gained, []);
        if let [lost] = update.lost[..] {
            break lost;
        }
    };
    assert_eq!(told(&image, [lost]), [line("orders", 1, Leader, lost.leader_epoch.get())]);
    let grown = quorum.create_partitions("orders", 4, vec![brokers(&[3, 2])]).await.unwrap();
    let update = next(&mut own).await;
    assert_eq!(told(&image, update.gained), [line("orders", 3, follows(3), 0)]);
    assert_eq!((update.lost, update.changed, update.index), (vec![], vec![], grown.index));
    let deleted = quorum.delete_topic("other").await.unwrap().index;
    let update = next(&mut own).await;
    assert_eq!(told(&image, update.lost), [line("other", 0, Leader, 0)]);
    assert_eq!((update.gained, update.changed, update.index), (vec![], vec![], deleted));
    let left = [line("orders", 0, Leader, 1), line("orders", 3, follows(3), 0)];
    assert_eq!(told(&image, own.all()), left);

    // It is gone itself: what nobody else has is led by nobody.
    drop(cluster.sessions.remove(&2));
    quorum.fence_broker(BrokerId(2)).await.unwrap();
    let update = next(&mut own).await;
    let after = update.changed.iter().map(|change| change.after);
    assert_eq!(told(&image, after), [line("orders", 0, Leaderless, 2)]);
}

/// To see it fail: have `Assignments::next` leave `seen` as it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_slow_is_told_once_and_misses_nothing() {
    let mut cluster = Cluster::with_brokers(3).await;
    let quorum = cluster.follower().await.clone();
    quorum.create_topic(assigned("kept", &[&[1, 2], &[3, 1]])).await.unwrap();
    let mut slow = quorum.assignments(BrokerId(2));
    let begin = quorum.image().image;
    assert_eq!(told(&begin, slow.all()), [line("kept", 0, follows(1), 0)]);
    let mut busy = quorum.assignments(BrokerId(2));
    let mut known: BTreeMap<_, _> = busy.all().map(|it| (it.partition, it)).collect();
    let busy = tokio::spawn(async move {
        let mut updates = 0;
        while let Ok(update) = timeout(PATIENCE, busy.next()).await.unwrap() {
            put_together(&mut known, &update);
            updates += 1;
            let all: BTreeMap<_, _> = busy.all().map(|it| (it.partition, it)).collect();
            assert_eq!(known, all, "as of {}", update.index);
        }
        (known, updates)
    });

    quorum.create_topic(assigned("brief", &[&[2]])).await.unwrap();
    quorum.delete_topic("brief").await.unwrap();
    // Nothing of these concerns it.
    quorum.create_topic(assigned("others", &[&[1], &[3]])).await.unwrap();
    quorum.create_topic(assigned("new", &[&[2, 3]])).await.unwrap();
    drop(cluster.sessions.remove(&1));
    let last = quorum.fence_broker(BrokerId(1)).await.unwrap().index;
    // An image can be seen a moment before the watchers are told of it; what is applied, they were told.
    quorum.wait(PATIENCE).applied(last).await.unwrap();
    let image = quorum.image().image;
    let update = next(&mut slow).await;
    assert_eq!(update.index, last);
    assert_eq!(told(&image, update.gained), [line("new", 0, Leader, 0)]);
    let change = update.changed[..].first().unwrap();
    assert_eq!(told(&image, [change.before]), [line("kept", 0, follows(1), 0)]);
    assert_eq!(told(&image, [change.after]), [line("kept", 0, Leader, 1)]);
    assert_eq!((update.lost, update.changed.len()), (vec![], 1));
    assert_eq!(change.after.leader_epoch, LeaderEpoch(1));

    // What concerns it not does not wake it: it ends with the node, and has told all until then.
    quorum.create_topic(assigned("late", &[&[2]])).await.unwrap();
    quorum.create_topic(assigned("elsewhere", &[&[3]])).await.unwrap();
    let image = quorum.image().image;
    quorum.shut_down().await;
    let update = next(&mut slow).await;
    assert_eq!(told(&image, update.gained), [line("late", 0, Leader, 0)]);
    assert_eq!(timeout(PATIENCE, slow.next()).await.unwrap(), Err(WatchEnded));
    let (known, updates) = timeout(PATIENCE, busy).await.unwrap().unwrap();
    assert_eq!(known, slow.all().map(|it| (it.partition, it)).collect());
    assert!((1..=5).contains(&updates), "{updates}");
}
