//! Stories: what becomes of one partition step by step, from the first failure to the end.
//!
//! Each line is a command and the partition after it, as [`show`] writes it; while it is being
//! reassigned, its replicas too. `Cluster` checks every invariant after each of them.

use crate::command::{
    Command, ConfigChange, ConfigOperation, ConfigResource, ElectLeaders, ElectionType,
    Reassignment,
};
use crate::error::ErrorCode;
use crate::ids::{BrokerId, list};
use crate::outcome::{PartitionResult, Reply};
use crate::testing::{Cluster, ids, key, show, topic_id};

/// Plays a story of topic 1's only partition. A step is `fence N`, `unfence N`, `shutdown N`,
/// `unregister N`, `restart N START [VOUCHED]` (unfenced after it), `isr A,B`, `reassign A,B`, `cancel`,
/// `elect preferred|unclean`, `min N` or `delete`; where it must be refused, the state is the error's
/// name.
fn play(brokers: &[u32], replicas: &[u32], min: u32, steps: &[(&str, &str)]) {
    let min = min.to_string();
    let mut cluster = Cluster::with_topic(brokers, replicas, &[("min.insync.replicas", &min)]);
    for (number, (step, expected)) in steps.iter().enumerate() {
        let refused = carry_out(&mut cluster, step).map(|code| code.name().to_owned());
        let after = refused.unwrap_or_else(|| shown(&cluster));
        assert_eq!(after, *expected, "step {number}: {step}");
    }
}

fn shown(cluster: &Cluster) -> String {
    let Some(partition) = cluster.image().partition(key(1, 0)) else { return "gone".into() };
    let moving = match partition.is_reassigning() {
        true => format!("{} ", list(&partition.replicas)),
        false => String::new(),
    };
    format!("{moving}{}", show(partition))
}

/// Gives the error of a step that is refused.
fn carry_out(cluster: &mut Cluster, step: &str) -> Option<ErrorCode> {
    let words: Vec<&str> = step.split_whitespace().collect();
    let number = |at: usize| words[at].parse::<u32>().expect("a number");
    let brokers = || words[1].split(',').map(|id| id.parse().expect("a number")).collect();
    let command = match words[0] {
        "fence" => Command::FenceBroker(cluster.session(number(1))),
        "unfence" => Command::UnfenceBroker(cluster.session(number(1))),
        "shutdown" => Command::ShutdownBroker(cluster.session(number(1))),
        "unregister" => Command::UnregisterBroker { broker: BrokerId(number(1)), epoch: None },
        "restart" => {
            let vouched: Vec<u32> = words[3..].iter().map(|it| it.parse().expect("one")).collect();
            cluster.restart(number(1), number(2), &vouched);
            Command::UnfenceBroker(cluster.session(number(1)))
        }
        "isr" => {
            let isr: Vec<u32> = brokers();
            Command::AlterPartition(cluster.alter(&isr))
        }
        "reassign" => {
            let target: Vec<u32> = brokers();
            reassignment(Some(&target))
        }
        "cancel" => reassignment(None),
        "elect" => Command::ElectLeaders(ElectLeaders {
            election: match words[1] {
                "preferred" => ElectionType::Preferred,
                _ => ElectionType::Unclean,
            },
            partitions: vec![key(1, 0)],
        }),
        "min" => Command::AlterConfigs {
            resource: ConfigResource::Topic(topic_id(1)),
            changes: vec![ConfigChange {
                key: "min.insync.replicas".into(),
                operation: ConfigOperation::Set(words[1].into()),
            }],
        },
        "delete" => Command::DeleteTopic { topic: topic_id(1) },
        other => panic!("no step is called {other}"),
    };
    match cluster.apply(command).outcome.into_result() {
        Err(rejection) => Some(rejection.code),
        Ok(Reply::LeadersElected { results } | Reply::Reassigned { results }) => {
            results.into_iter().find_map(PartitionResult::err).map(|rejection| rejection.code)
        }
        Ok(_) => None,
    }
}

fn reassignment(target: Option<&[u32]>) -> Command {
    let one = Reassignment { partition: key(1, 0), target: target.map(ids) };
    Command::AlterReassignments { reassignments: vec![one] }
}

#[test]
fn a_broker_dies_and_returns() {
    play(
        &[1, 2, 3],
        &[1, 2, 3],
        2,
        &[
            ("fence 1", "leader=2 isr=[2,3] elr=[] last=- epochs=1/1"),
            ("unfence 1", "leader=2 isr=[2,3] elr=[] last=- epochs=1/1"),
            ("isr 1,2,3", "leader=2 isr=[1,2,3] elr=[] last=- epochs=1/2"),
            ("elect preferred", "leader=1 isr=[1,2,3] elr=[] last=- epochs=2/3"),
            ("elect preferred", "ELECTION_NOT_NEEDED"),
        ],
    );
}

#[test]
fn a_clean_restart_keeps_its_place_among_the_eligible() {
    play(
        &[1, 2],
        &[1, 2],
        2,
        &[
            ("fence 2", "leader=1 isr=[1] elr=[2] last=- epochs=0/1"),
            // It vouches for the start that was fenced.
            ("restart 2 2 1", "leader=1 isr=[1] elr=[2] last=- epochs=0/1"),
            ("fence 1", "leader=2 isr=[2] elr=[1] last=- epochs=1/2"),
        ],
    );
}

#[test]
fn an_unclean_restart_loses_it_and_only_an_unclean_election_brings_it_back() {
    play(
        &[1, 2],
        &[1, 2],
        2,
        &[
            ("fence 2", "leader=1 isr=[1] elr=[2] last=- epochs=0/1"),
            ("restart 2 2", "leader=1 isr=[1] elr=[] last=- epochs=0/2"),
            ("fence 1", "leader=- isr=[] elr=[1] last=1 epochs=1/3"),
            ("elect preferred", "PREFERRED_LEADER_NOT_AVAILABLE"),
            ("elect unclean", "leader=2 isr=[2] elr=[] last=- epochs=2/4 RECOVERING"),
            ("elect unclean", "ELECTION_NOT_NEEDED"),
            ("isr 2", "leader=2 isr=[2] elr=[] last=- epochs=2/5"),
            ("unfence 1", "leader=2 isr=[2] elr=[] last=- epochs=2/5"),
            ("isr 1,2", "leader=2 isr=[1,2] elr=[] last=- epochs=2/6"),
        ],
    );
}

#[test]
fn the_last_in_sync_dies_and_an_eligible_one_takes_over() {
    play(
        &[1, 2, 3],
        &[1, 2, 3],
        3,
        &[
            ("fence 3", "leader=1 isr=[1,2] elr=[3] last=- epochs=0/1"),
            ("fence 2", "leader=1 isr=[1] elr=[2,3] last=- epochs=0/2"),
            ("fence 1", "leader=- isr=[] elr=[1,2,3] last=1 epochs=1/3"),
            ("elect unclean", "ELIGIBLE_LEADERS_NOT_AVAILABLE"),
            ("unfence 3", "leader=3 isr=[3] elr=[1,2] last=- epochs=2/4"),
            ("unfence 1", "leader=3 isr=[3] elr=[1,2] last=- epochs=2/4"),
            ("isr 3,1", "leader=3 isr=[1,3] elr=[2] last=- epochs=2/5"),
        ],
    );
}

#[test]
fn all_brokers_shut_down_one_by_one_and_the_last_leads_again_first() {
    play(
        &[1, 2, 3],
        &[1, 2, 3],
        1,
        &[
            ("shutdown 1", "leader=2 isr=[2,3] elr=[] last=- epochs=1/1"),
            ("shutdown 2", "leader=3 isr=[3] elr=[] last=- epochs=2/2"),
            ("shutdown 3", "leader=- isr=[] elr=[3] last=3 epochs=3/3"),
            // Those that left earlier may lack what came after.
            ("restart 1 2 1", "leader=- isr=[] elr=[3] last=3 epochs=3/3"),
            ("restart 3 2 1", "leader=3 isr=[3] elr=[] last=- epochs=4/4"),
            ("isr 3,1", "leader=3 isr=[1,3] elr=[] last=- epochs=4/5"),
        ],
    );
}

#[test]
fn a_reassignment_is_completed() {
    play(
        &[1, 2, 3, 4],
        &[1, 2],
        1,
        &[
            ("reassign 3,4", "[3, 4, 1, 2] leader=1 isr=[1,2] elr=[] last=- epochs=0/1"),
            ("isr 1,2,3", "[3, 4, 1, 2] leader=1 isr=[3,1,2] elr=[] last=- epochs=0/2"),
            // Asked for once more: nothing changes.
            ("reassign 3,4", "[3, 4, 1, 2] leader=1 isr=[3,1,2] elr=[] last=- epochs=0/2"),
            // The leader leaves, and another is elected with the same change.
            ("isr 1,2,3,4", "leader=3 isr=[3,4] elr=[] last=- epochs=1/3"),
            ("cancel", "NO_REASSIGNMENT_IN_PROGRESS"),
            ("reassign 4,3", "leader=3 isr=[4,3] elr=[] last=- epochs=1/4"),
        ],
    );
}

#[test]
fn a_reassignment_is_cancelled_or_replaced_by_another() {
    play(
        &[1, 2, 3, 4],
        &[1, 2],
        1,
        &[
            ("reassign 3,2", "[3, 2, 1] leader=1 isr=[2,1] elr=[] last=- epochs=0/1"),
            ("reassign 3,2", "[3, 2, 1] leader=1 isr=[2,1] elr=[] last=- epochs=0/1"),
            // A replica leaves, so the leader is written again.
            ("cancel", "leader=1 isr=[2,1] elr=[] last=- epochs=1/2"),
            ("reassign 3,1", "[3, 1, 2] leader=1 isr=[1,2] elr=[] last=- epochs=1/3"),
            ("isr 1,2,3", "leader=1 isr=[3,1] elr=[] last=- epochs=2/4"),
            ("reassign 2,1", "[2, 1, 3] leader=1 isr=[1,3] elr=[] last=- epochs=2/5"),
            // All that are replicas now count, 2 among them, though it is new.
            ("reassign 4,1", "[4, 1, 2, 3] leader=1 isr=[1,3] elr=[] last=- epochs=2/6"),
            ("cancel", "leader=1 isr=[1,3] elr=[] last=- epochs=3/7"),
            // And a cancellation keeps it.
            ("reassign 2,1", "[2, 1, 3] leader=1 isr=[1,3] elr=[] last=- epochs=3/8"),
            ("isr 1,2", "leader=1 isr=[2,1] elr=[] last=- epochs=4/9"),
            ("reassign 9", "INVALID_REPLICA_ASSIGNMENT"),
            ("reassign 1,1", "INVALID_REPLICA_ASSIGNMENT"),
        ],
    );
}

/// The first brings 3 and 4 in and is about to end; 1 and 2 fail while the second one is asked for. To
/// see it fail: begin the second at the replicas before the first.
#[test]
fn a_reassignment_over_another_keeps_whoever_holds_the_data() {
    play(
        &[1, 2, 3, 4, 5],
        &[1, 2],
        1,
        &[
            ("reassign 3,4", "[3, 4, 1, 2] leader=1 isr=[1,2] elr=[] last=- epochs=0/1"),
            ("isr 1,3", "[3, 4, 1, 2] leader=1 isr=[3,1] elr=[] last=- epochs=0/2"),
            ("fence 1", "[3, 4, 1, 2] leader=3 isr=[3] elr=[] last=- epochs=1/3"),
            // Only 3 has it all, and the second reassignment wants others.
            ("reassign 5,2", "[5, 2, 3, 4, 1] leader=3 isr=[3] elr=[] last=- epochs=1/4"),
            ("fence 3", "[5, 2, 3, 4, 1] leader=- isr=[] elr=[3] last=3 epochs=2/5"),
            // Nobody leads, and the candidate stays through another one.
            ("reassign 5", "[5, 2, 3, 4, 1] leader=- isr=[] elr=[3] last=3 epochs=2/6"),
            ("unfence 3", "[5, 2, 3, 4, 1] leader=3 isr=[3] elr=[] last=- epochs=3/7"),
            ("isr 3,5", "leader=5 isr=[5] elr=[] last=- epochs=4/8"),
        ],
    );
}

#[test]
fn a_reassignment_is_interrupted_by_a_fence() {
    play(
        &[1, 2, 3],
        &[1, 2],
        1,
        &[
            ("reassign 3,2", "[3, 2, 1] leader=1 isr=[2,1] elr=[] last=- epochs=0/1"),
            ("isr 1,2,3", "leader=3 isr=[3,2] elr=[] last=- epochs=1/2"),
            ("reassign 1,2", "[1, 2, 3] leader=3 isr=[2,3] elr=[] last=- epochs=1/3"),
            ("fence 2", "[1, 2, 3] leader=3 isr=[3] elr=[] last=- epochs=1/4"),
            // All that are left in sync are to leave.
            ("isr 3,1", "[1, 2, 3] leader=3 isr=[1,3] elr=[] last=- epochs=1/5"),
            ("fence 3", "[1, 2, 3] leader=1 isr=[1] elr=[] last=- epochs=2/6"),
            // Back to 2 and 3, of which none is in sync.
            ("cancel", "INVALID_REPLICA_ASSIGNMENT"),
            ("unfence 2", "[1, 2, 3] leader=1 isr=[1] elr=[] last=- epochs=2/6"),
            ("isr 1,2", "leader=1 isr=[1,2] elr=[] last=- epochs=3/7"),
        ],
    );
}

#[test]
fn a_topic_is_deleted_while_it_moves() {
    play(
        &[1, 2],
        &[1],
        1,
        &[
            ("reassign 2", "[2, 1] leader=1 isr=[1] elr=[] last=- epochs=0/1"),
            ("delete", "gone"),
            ("cancel", "UNKNOWN_TOPIC_ID"),
            ("elect preferred", "UNKNOWN_TOPIC_ID"),
            ("unregister 2", "gone"),
        ],
    );
}

#[test]
fn min_insync_replicas_is_raised_and_lowered() {
    play(
        &[1, 2, 3],
        &[1, 2, 3],
        1,
        &[
            // Nobody is kept who left while the ISR was large enough.
            ("fence 3", "leader=1 isr=[1,2] elr=[] last=- epochs=0/1"),
            ("min 3", "leader=1 isr=[1,2] elr=[] last=- epochs=0/1"),
            ("fence 2", "leader=1 isr=[1] elr=[2] last=- epochs=0/2"),
            ("min 1", "leader=1 isr=[1] elr=[] last=- epochs=0/3"),
            ("min 0", "INVALID_CONFIG"),
            ("fence 1", "leader=- isr=[] elr=[1] last=1 epochs=1/4"),
            // Nobody leads: the candidates stay.
            ("min 3", "leader=- isr=[] elr=[1] last=1 epochs=1/4"),
            ("min 1", "leader=- isr=[] elr=[1] last=1 epochs=1/4"),
            ("unfence 2", "leader=- isr=[] elr=[1] last=1 epochs=1/4"),
            ("unfence 1", "leader=1 isr=[1] elr=[] last=- epochs=2/5"),
        ],
    );
}

#[test]
fn a_broker_that_is_unregistered_leaves_everything_but_its_name_among_the_replicas() {
    play(
        &[1, 2],
        &[1, 2],
        2,
        &[
            ("fence 2", "leader=1 isr=[1] elr=[2] last=- epochs=0/1"),
            ("unregister 2", "leader=1 isr=[1] elr=[] last=- epochs=0/2"),
            ("unregister 2", "BROKER_ID_NOT_REGISTERED"),
            ("unregister 1", "leader=- isr=[] elr=[] last=1 epochs=1/3"),
        ],
    );
}
