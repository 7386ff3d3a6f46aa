//! Random commands against the machine: every invariant after each, the same bytes on every replica.

use std::sync::atomic::{AtomicU64, Ordering};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::Config;

use crate::command::{
    AlterPartition, BrokerSession, Checkpoint, Command, ConfigChange, ConfigOperation,
    ConfigResource, CreatePartitions, ElectLeaders, ElectionType, NewTopic, Reassignment,
};
use crate::contract::{Applied, ApplyError, Changes as _, Image, StateHash, StateMachine};
use crate::delta::Delta;
use crate::ids::{BrokerEpoch, BrokerId, FeatureLevel, PartitionKey};
use crate::image::MetadataImage;
use crate::machine::Metadata;
use crate::outcome::Outcome;
use crate::partition::Recovery;
use crate::testing::{Cluster, incarnation, key, registration, topic_id};
use crate::topic::Topic;

/// Few of everything, so that commands meet.
const BROKERS: u32 = 5;
const TOPICS: u128 = 4;
const NAMES: [&str; 4] = ["a", "a.b", "a_b", "no good"];

/// A command in small numbers; what they mean depends on the state it meets.
#[derive(Debug, Clone)]
enum Wish {
    Register {
        broker: u32,
        start: u32,
        vouched: Vec<u32>,
        /// Whether it follows what is registered, or something else.
        follows: Option<bool>,
    },
    Fence {
        broker: u32,
        stale: bool,
    },
    Unfence {
        broker: u32,
        stale: bool,
    },
    ShutDown {
        broker: u32,
    },
    Unregister {
        broker: u32,
        meant: Option<bool>,
    },
    Create {
        topic: u128,
        name: usize,
        partitions: Vec<Vec<u32>>,
        min_insync: u32,
    },
    Delete {
        topic: u128,
    },
    /// The leader's ISR: the replicas by a mask; epochs off by as much.
    Alter {
        topic: u128,
        partition: u32,
        mask: u8,
        leader: i32,
        epoch: i32,
        recovering: bool,
    },
    ProducerIds {
        broker: u32,
    },
    FeatureLevel {
        level: u32,
    },
    /// More partitions; `off` is planned for another count of them.
    Grow {
        topic: u128,
        partitions: Vec<Vec<u32>>,
        off: bool,
    },
    Elect {
        topic: u128,
        partition: u32,
        unclean: bool,
    },
    Reassign {
        topic: u128,
        partition: u32,
        target: Option<Vec<u32>>,
    },
    Configs {
        resource: ConfigResource,
        key: &'static str,
        operation: ConfigOperation,
    },
    /// With what was noted, if anything was by then.
    Compare,
}

fn config() -> impl Strategy<Value = Wish> {
    let resource = prop_oneof![
        3 => (1..=TOPICS).prop_map(|topic| ConfigResource::Topic(topic_id(topic))),
        1 => Just(ConfigResource::Default),
        1 => (1..=BROKERS).prop_map(|broker| ConfigResource::Broker(BrokerId(broker))),
    ];
    let list = || "delete".to_owned();
    let change = prop_oneof![
        4 => (0u32..=3).prop_map(|min| {
            ("min.insync.replicas", ConfigOperation::Set(min.to_string()))
        }),
        1 => Just(("min.insync.replicas", ConfigOperation::Delete)),
        1 => Just(("retention.ms", ConfigOperation::Set("100".to_owned()))),
        1 => Just(("cleanup.policy", ConfigOperation::Append(list()))),
        1 => Just(("cleanup.policy", ConfigOperation::Subtract(list()))),
    ];
    (resource, change).prop_map(|(resource, (key, operation))| Wish::Configs {
        resource,
        key,
        operation,
    })
}

/// One to three brokers in any order.
fn replicas() -> impl Strategy<Value = Vec<u32>> {
    (1usize..=3).prop_flat_map(|factor| {
        proptest::sample::subsequence((1..=BROKERS).collect::<Vec<_>>(), factor).prop_shuffle()
    })
}

fn wish() -> impl Strategy<Value = Wish> {
    let broker = 1..=BROKERS;
    let stale = prop::bool::weighted(0.05);
    let off = prop_oneof![20 => Just(0), 1 => Just(-1), 1 => Just(1)];
    let create = (1..=TOPICS, 0..NAMES.len(), 1usize..=3, 1u32..=3).prop_flat_map(
        |(topic, name, factor, min_insync)| {
            let replicas = proptest::sample::subsequence((1..=BROKERS).collect::<Vec<_>>(), factor);
            vec(replicas.prop_shuffle(), 1..=3).prop_map(move |partitions| Wish::Create {
                topic,
                name,
                partitions,
                min_insync,
            })
        },
    );
    // Mostly of the partitions that are there from the start.
    let topic = prop_oneof![6 => 1..=2u128, 1 => 1..=TOPICS];
    let partition = prop_oneof![6 => 0..=1u32, 1 => 0..=3u32];
    let at = (topic.clone(), partition.clone());
    let alter = (topic, partition, any::<u8>(), off.clone(), off, prop::bool::weighted(0.1));
    prop_oneof![
        2 => (broker.clone(), 1u32..=4, vec(1u32..=4, 0..=3), prop::option::of(prop::bool::weighted(0.9)))
            .prop_map(|(broker, start, vouched, follows)| {
                Wish::Register { broker, start, vouched, follows }
            }),
        4 => (broker.clone(), stale).prop_map(|(broker, stale)| Wish::Fence { broker, stale }),
        8 => (broker.clone(), stale).prop_map(|(broker, stale)| Wish::Unfence { broker, stale }),
        1 => broker.clone().prop_map(|broker| Wish::ShutDown { broker }),
        1 => (broker.clone(), prop::option::of(prop::bool::weighted(0.7)))
            .prop_map(|(broker, meant)| Wish::Unregister { broker, meant }),
        3 => create,
        1 => (1..=TOPICS).prop_map(|topic| Wish::Delete { topic }),
        12 => alter.prop_map(|(topic, partition, mask, leader, epoch, recovering)| Wish::Alter {
            topic, partition, mask, leader, epoch, recovering,
        }),
        1 => broker.prop_map(|broker| Wish::ProducerIds { broker }),
        1 => (0..=2u32).prop_map(|level| Wish::FeatureLevel { level }),
        1 => (1..=TOPICS, vec(replicas(), 1..=2), prop::bool::weighted(0.1))
            .prop_map(|(topic, partitions, off)| Wish::Grow { topic, partitions, off }),
        4 => (at.clone(), any::<bool>())
            .prop_map(|((topic, partition), unclean)| Wish::Elect { topic, partition, unclean }),
        6 => (at, prop::option::weighted(0.7, replicas()))
            .prop_map(|((topic, partition), target)| Wish::Reassign { topic, partition, target }),
        4 => config(),
        1 => Just(Wish::Compare),
    ]
}

/// Brokers that are there and partitions to change: most commands would meet nothing otherwise.
fn warm_up() -> impl Iterator<Item = Wish> {
    let register = |broker| Wish::Register { broker, start: 1, vouched: vec![], follows: None };
    let unfence = |broker| Wish::Unfence { broker, stale: false };
    let create = |topic: u32| Wish::Create {
        topic: topic.into(),
        name: usize::from(topic == 2),
        partitions: vec![vec![topic, 3, 4], vec![4, 5, topic]],
        min_insync: topic,
    };
    (1..=BROKERS).map(register).chain((1..=BROKERS).map(unfence)).chain([1, 2].map(create))
}

fn session(cluster: &Cluster, broker: u32, stale: bool) -> BrokerSession {
    let session = cluster.session(broker);
    let epoch = BrokerEpoch(session.epoch.get() + u64::from(stale));
    BrokerSession { epoch, ..session }
}

fn off(number: u32, by: i32) -> u32 {
    number.saturating_add_signed(by)
}

fn command(cluster: &Cluster, wish: Wish) -> Command {
    match wish {
        Wish::Register { broker, start, vouched, follows } => {
            let of = |start: u32| incarnation(u128::from(broker * 100 + start));
            let mut register = registration(broker);
            register.incarnation = of(start);
            register.vouched = vouched.into_iter().map(of).collect();
            register.follows = follows.map(|is_so| session(cluster, broker, !is_so).epoch);
            Command::RegisterBroker(register)
        }
        Wish::Fence { broker, stale } => Command::FenceBroker(session(cluster, broker, stale)),
        Wish::Unfence { broker, stale } => Command::UnfenceBroker(session(cluster, broker, stale)),
        Wish::ShutDown { broker } => Command::ShutdownBroker(session(cluster, broker, false)),
        Wish::Unregister { broker, meant } => {
            let epoch = meant.map(|meant| session(cluster, broker, !meant).epoch);
            Command::UnregisterBroker { broker: BrokerId(broker), epoch }
        }
        Wish::Create { topic, name, partitions, min_insync } => {
            let partitions =
                partitions.iter().map(|replicas| crate::testing::ids(replicas)).collect();
            let configs = vec![("min.insync.replicas".to_owned(), min_insync.to_string())];
            let (id, name) = (topic_id(topic), NAMES[name].to_owned());
            Command::CreateTopics { topics: vec![NewTopic { id, name, partitions, configs }] }
        }
        Wish::Delete { topic } => Command::DeleteTopic { topic: topic_id(topic) },
        Wish::Alter { topic, partition, mask, leader, epoch, recovering } => {
            let key = PartitionKey { topic: topic_id(topic), partition };
            alter(cluster, key, mask, (leader, epoch), recovering)
        }
        Wish::ProducerIds { broker } => {
            Command::AllocateProducerIds(session(cluster, broker, false))
        }
        Wish::FeatureLevel { level } => Command::SetFeatureLevel { level: FeatureLevel(level) },
        Wish::Grow { topic, partitions, off } => {
            let id = topic_id(topic);
            let count = cluster.image().topic(id).map_or(0, Topic::partition_count);
            let partitions = partitions.iter().map(|on| crate::testing::ids(on)).collect();
            let first = count + u32::from(off);
            Command::CreatePartitions(CreatePartitions { topic: id, first, partitions })
        }
        Wish::Elect { topic, partition, unclean } => Command::ElectLeaders(ElectLeaders {
            election: if unclean { ElectionType::Unclean } else { ElectionType::Preferred },
            partitions: vec![key(topic, partition)],
        }),
        Wish::Reassign { topic, partition, target } => {
            let target = target.map(|on| crate::testing::ids(&on));
            let reassignments = vec![Reassignment { partition: key(topic, partition), target }];
            Command::AlterReassignments { reassignments }
        }
        Wish::Configs { resource, key, operation } => {
            let changes = vec![ConfigChange { key: key.into(), operation }];
            Command::AlterConfigs { resource, changes }
        }
        Wish::Compare => {
            let nothing = Checkpoint { algorithm: 0, index: 1, hash: StateHash::new(1) };
            Command::CompareState(cluster.image().checkpoints().last().copied().unwrap_or(nothing))
        }
    }
}

fn alter(
    cluster: &Cluster,
    key: PartitionKey,
    mask: u8,
    off_by: (i32, i32),
    recovering: bool,
) -> Command {
    let state = cluster.image().partition(key);
    let replicas = state.map(|state| state.replicas.clone()).unwrap_or_default();
    let leader = state.and_then(|state| state.leader).unwrap_or_default();
    let recovery = if recovering { Recovery::Recovering } else { Recovery::Recovered };
    let chosen = |at: usize, id: BrokerId| {
        let active = cluster.image().broker(id).is_some_and(|broker| broker.is_active());
        // Mostly such as may be in sync; the two highest bits ask for a mistake.
        id == leader && mask & 0x80 == 0 || (mask >> at) & 1 == 1 && (active || mask & 0x40 != 0)
    };
    let isr = replicas.iter().enumerate().filter(|(at, id)| chosen(*at, **id));
    Command::AlterPartition(AlterPartition {
        sender: cluster.session(leader.get()),
        partition: key,
        leader_epoch: off(state.map_or(0, |state| state.leader_epoch.get()), off_by.0).into(),
        partition_epoch: off(state.map_or(0, |state| state.partition_epoch.get()), off_by.1).into(),
        isr: isr.map(|(_, id)| cluster.session(id.get())).collect(),
        recovery,
    })
}

fn bytes(image: &MetadataImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    image.write_snapshot(&mut bytes).expect("a vector takes all");
    bytes
}

fn restored(image: &MetadataImage) -> Metadata {
    Metadata::restore(&mut &bytes(image)[..]).expect("what was written can be read")
}

/// How often a replica was asked for what it had noted itself, and would have stopped at anything else.
static COMPARED: AtomicU64 = AtomicU64::new(0);

/// Whether that replica noted something for the checkpoint's index: then it stops at another hash.
fn compares(replica: &Metadata, index: u64, checkpoint: Checkpoint) -> bool {
    let image = replica.image();
    let notes = image.checkpoints().iter().any(|noted| noted.index == checkpoint.index);
    let hash = StateHash::new(checkpoint.hash.as_u128() ^ 1);
    let other = Command::CompareState(Checkpoint { hash, ..checkpoint });
    match Metadata::of(image).apply_command(index, &other) {
        Err(ApplyError::Diverged { checkpoint: at, .. }) => {
            assert!(notes && at == checkpoint.index, "stopped at {at}, and noted {notes}");
            true
        }
        passed => {
            assert!(!notes && passed.is_ok(), "{passed:?}");
            false
        }
    }
}

/// To see it fail: have the indexes stay below the first checkpoint.
#[test]
fn replicas_agree_with_restarts_from_snapshots_in_the_middle() {
    replicas_agree();
    // A few hundred as a rule.
    let compared = COMPARED.load(Ordering::Relaxed);
    assert!(compared > 50, "{compared}");
}

proptest! {
    #![proptest_config(Config { cases: 1_000, failure_persistence: None, ..Config::default() })]

    /// A log of random commands, with snapshots at random points of it: whoever is restored from one, and
    /// applies what is behind it once more, ends with the same bytes. `Cluster::apply` checks every
    /// invariant, and that a delta names what differs, after each.
    fn replicas_agree(
        warm in prop::bool::weighted(0.9),
        // Between two commands a log has entries of other kinds, so that it comes to some checkpoints.
        wishes in vec((wish(), 0u64..60), 1..120),
        restart_at in 0usize..120,
        snapshot_at in proptest::collection::btree_set(0usize..120, 0..4),
        watch_from in 0usize..120,
    ) {
        let mut cluster = Cluster::default();
        let mut follower = Metadata::new();
        let first = warm_up().map(|wish| (wish, 0));
        let wishes = if warm { first.chain(wishes).collect() } else { wishes };
        let mut watched: Option<(MetadataImage, Delta)> = None;
        let mut accepted = 0;
        let mut log = Vec::new();
        let mut snapshots = Vec::new();
        for (at, (wish, skipped)) in wishes.into_iter().enumerate() {
            if at == restart_at {
                follower = restored(&follower.image());
            }
            if snapshot_at.contains(&at) {
                snapshots.push((at, bytes(cluster.image())));
            }
            if at == watch_from {
                watched = Some((cluster.image().clone(), Delta::default()));
            }
            let command = command(&cluster, wish);
            cluster.index += skipped;
            if let Command::CompareState(checkpoint) = &command
                && compares(&follower, cluster.index + 1, *checkpoint)
            {
                COMPARED.fetch_add(1, Ordering::Relaxed);
            }
            let applied = cluster.apply(command.clone());
            accepted += usize::from(matches!(applied.outcome, Outcome::Accepted(_)));
            let mut changes = Delta::default();
            let followed = follower.apply(cluster.index, &command.encode(), &mut changes);
            let followed = Applied { outcome: followed.expect("known"), changes };
            prop_assert_eq!(&followed, &applied);
            log.push((cluster.index, command.encode(), applied.clone()));
            if let Some((_, delta)) = &mut watched {
                delta.merge(applied.changes);
            }
        }
        prop_assume!(accepted > 0);
        let image = cluster.image();
        prop_assert_eq!(bytes(image), bytes(&follower.image()));
        prop_assert_eq!(image.state_hash(), follower.image().state_hash());
        prop_assert_eq!(&restored(image).image(), image);
        for (from, snapshot) in snapshots {
            let mut again = Metadata::restore(&mut &snapshot[..]).expect("written just now");
            for (index, command, applied) in &log[from..] {
                let mut changes = Delta::default();
                let outcome = again.apply(*index, command, &mut changes).expect("known");
                prop_assert_eq!(&Applied { outcome, changes }, applied);
            }
            prop_assert_eq!(bytes(&again.image()), bytes(image));
            prop_assert_eq!(again.image().state_hash(), image.state_hash());
        }
        if let Some((from, delta)) = watched {
            let differs = Delta::between(&from, image);
            prop_assert!(differs.brokers.is_subset(&delta.brokers));
            prop_assert!(differs.partitions.is_subset(&delta.partitions));
        }
    }
}
