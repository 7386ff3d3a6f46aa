//! What the leading node puts in order by itself.

use quorate_engine::{Engine, EngineConfig, Formatted, GroupId};
use quorate_statemachine::{
    ClientSessions, Command, ConfigChange, ConfigOperation, ConfigResource, DirectoryId,
    ElectLeaders, ElectionType, Metadata, Recovery, Reply, StateMachine as _,
};
use uuid::Uuid;

use super::*;
use crate::Vouch;

/// To see it fail: leave `preferred_elections` out of the upkeep's look.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_go_back_to_where_they_should_be() {
    let mut cluster = Cluster::format(3);
    for n in 1..=3 {
        let config = QuorumConfig { upkeep_ms: 50, balance_ms: 50, ..cluster.config(n) };
        cluster.nodes.insert(n, Quorum::open(config).await.unwrap());
    }
    for n in 1..=3 {
        cluster.join(n).await;
    }
    let quorum = cluster.follower().await.clone();
    quorum.create_topic(TopicSpec::new("t", 6, 3)).await.unwrap();
    let first = |it: &Partition| it.replicas.first().copied();
    let is_in_order =
        |image: &MetadataImage| image.partitions().all(|(_, it)| it.leader == first(it));
    let snapshot = until(&quorum, "their first replicas lead them", is_in_order).await;
    // Whose turn it was to be the first replica depends on who was active at that moment.
    let gone = snapshot.image.partitions().find_map(|(_, it)| first(it)).unwrap();
    let leads = |image: &MetadataImage| image.partitions().any(|(_, it)| it.leader == Some(gone));
    assert!(leads(&snapshot.image));

    let gone_at = u64::from(gone.get());
    let session = cluster.sessions.remove(&gone_at).unwrap();
    session.shut_down().await.unwrap();
    cluster.everywhere("it leads nothing", |image| !leads(image)).await;
    cluster.join(gone_at).await;
    cluster.everywhere("it leads again what it should", is_in_order).await;
}

/// To see it fail: leave `CompareState` out of the upkeep's look.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_cluster_compares_its_states() {
    let mut cluster = Cluster::format(1);
    let config = QuorumConfig { upkeep_ms: 20, ..cluster.config(1) };
    cluster.nodes.insert(1, Quorum::open(config).await.unwrap());
    cluster.join(1).await;
    let quorum = cluster.nodes[&1].clone();
    let begin = quorum.image().index;
    let mut asked = 0;
    while quorum.image().image.checkpoints().is_empty() {
        let mut asking = tokio::task::JoinSet::new();
        for _ in 0..64 {
            let quorum = quorum.clone();
            asking.spawn(async move { quorum.allocate_producer_ids(BrokerId(1)).await.unwrap() });
        }
        asked += asking.join_all().await.len() as u64;
    }
    // Nobody else writes: the one command more is the comparison.
    quorum.wait(PATIENCE).applied(begin + asked + 1).await.unwrap();
    let image = quorum.image().image;
    assert_eq!(image.next_producer_id().get(), asked * 1_000);
    assert!(image.checkpoints().iter().all(|noted| noted.index > begin));
}

/// The state of a stopped node is not what it was any more: the first snapshot, behind which the log is
/// replayed, holds a config that nobody set.
fn spoil(cluster: &Cluster, n: u64) {
    let formatted = Formatted::open(cluster.dir.path().join(n.to_string())).unwrap();
    let opened = Engine::open(formatted, &EngineConfig::default()).unwrap();
    let first = GroupId::new(1).unwrap();
    let id = opened.snapshots.latest(first).unwrap().unwrap();
    let mut reader = opened.snapshots.open(first, id).unwrap();
    let meta = reader.meta().clone();
    let (sessions, mut state) = ClientSessions::read_snapshot(&mut reader).unwrap();
    let mut metadata = Metadata::restore(&mut *state).unwrap();
    drop(state);
    let set =
        ConfigChange { key: "retention.ms".into(), operation: ConfigOperation::Set("1".into()) };
    let command = Command::AlterConfigs { resource: ConfigResource::Default, changes: vec![set] };
    metadata.apply_command(1, &command).unwrap().outcome.into_result().unwrap();
    let mut writer = opened.snapshots.create(meta).unwrap();
    sessions.write_snapshot(&mut writer).unwrap();
    metadata.image().write_snapshot(&mut writer).unwrap();
    writer.finish().unwrap();
}

/// Node 3 has another state than 1 and 2, and is the one that stops; it may lead.
async fn who_differs_stops(leads: bool) {
    let mut cluster = Cluster::format(3);
    let config = |cluster: &Cluster, n| QuorumConfig { upkeep_ms: 20, ..cluster.config(n) };
    for n in 1..=3 {
        let quorum = Quorum::open(config(&cluster, n)).await.unwrap();
        cluster.nodes.insert(n, quorum);
    }
    cluster.join(1).await;
    cluster.nodes.remove(&3).unwrap().shut_down().await;
    spoil(&cluster, 3);
    let spoilt = Quorum::open(config(&cluster, 3)).await.unwrap();
    spoilt.read_index().await.unwrap();
    assert!(!spoilt.image().image.default_configs().is_empty());
    cluster.nodes.insert(3, spoilt.clone());
    let node = |n| NodeId::new(n).unwrap();
    let to = if leads { 3 } else { 1 };
    while cluster.leader().await != to {
        // Who is asked may lead no more, or whom it is given to be behind: then it is asked again.
        let _ = cluster.nodes[&1].transfer_leadership(Some(node(to))).await;
    }

    let quorum = cluster.nodes[&1].clone();
    let deadline = Instant::now() + PATIENCE;
    while spoilt.status().fatal.is_none() {
        assert!(Instant::now() < deadline, "it goes on with another state: {}", spoilt.status());
        let mut asking = tokio::task::JoinSet::new();
        for _ in 0..64 {
            let quorum = quorum.clone();
            // The leader may stop in the middle of it.
            asking.spawn(async move { quorum.allocate_producer_ids(BrokerId(1)).await.is_ok() });
        }
        asking.join_all().await;
    }
    let fatal = spoilt.status().fatal.unwrap();
    assert!(fatal.contains("behind index 10"), "{fatal}");
    // The others go on, and agree.
    while let Err(error) = quorum.allocate_producer_ids(BrokerId(1)).await {
        assert!(Instant::now() < deadline, "nobody leads: {error}");
    }
    let index = quorum.read_index().await.unwrap();
    cluster.nodes[&2].wait(PATIENCE).applied(index).await.unwrap();
    for n in [1, 2] {
        assert_eq!(cluster.nodes[&n].status().fatal, None, "node {n}");
        assert!(cluster.nodes[&n].image().image.default_configs().is_empty());
    }
}

/// To see it fail: propose no `CompareState`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_whose_state_differs_stops_and_the_others_go_on() {
    who_differs_stops(false).await;
}

/// To see it fail: propose the checkpoint of the leader, without asking the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_state_differs_stops_itself_and_the_others_go_on() {
    who_differs_stops(true).await;
}

/// To see it fail: leave `unclean_elections` out of the upkeep's look, or the check of the config out of
/// the state machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_lack_records_leads_only_where_that_is_allowed() {
    let mut cluster = Cluster::format(1);
    let config = QuorumConfig { upkeep_ms: 20, session_ms: 500, ..cluster.config(1) };
    cluster.nodes.insert(1, Quorum::open(config).await.unwrap());
    let quorum = cluster.nodes[&1].clone();
    let broker = BrokerId(7);
    let registration = || Registration {
        directories: vec![DirectoryId(Uuid::new_v4())],
        vouch: Vouch::Nothing,
        ..Registration::without_data_plane(broker, quorum.identity().directory_id)
    };
    let session = quorum.register_broker(registration()).await.unwrap();
    timeout(PATIENCE, session.active()).await.unwrap().unwrap();
    for (name, allows) in [("allows", "true"), ("forbids", "false")] {
        let mut spec = TopicSpec::new(name, 1, 1);
        spec.configs.insert("unclean.leader.election.enable".into(), allows.into());
        quorum.create_topic(spec).await.unwrap();
    }
    // It comes back with empty disks.
    drop(session);
    let session = quorum.register_broker(registration()).await.unwrap();
    timeout(PATIENCE, session.active()).await.unwrap().unwrap();
    let partition = |image: &MetadataImage, name| {
        image.topic_by_name(name).unwrap().partition(0).unwrap().clone()
    };
    let leads = |image: &MetadataImage| partition(image, "allows").leader == Some(broker);
    let now = until(&quorum, "it leads where it may", leads).await;
    assert_eq!(partition(&now.image, "allows").recovery, Recovery::Recovering);
    assert_eq!(partition(&now.image, "forbids").leader, None);
    // Asked for as the upkeep asks, the configs still decide.
    let key = PartitionKey { topic: now.image.topic_by_name("forbids").unwrap().id, partition: 0 };
    let elect = ElectLeaders { election: ElectionType::UncleanWhereAllowed, partitions: vec![key] };
    let (_, reply) = quorum.propose(Command::ElectLeaders(elect)).await.unwrap();
    let Reply::LeadersElected { results } = reply else { panic!("{reply:?}") };
    let refused = results[0].as_ref().unwrap_err();
    assert_eq!(refused.code, ErrorCode::EligibleLeadersNotAvailable);
}
