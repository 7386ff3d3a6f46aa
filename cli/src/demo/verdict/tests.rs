//! Each kind of loss, made by hand in an otherwise perfect node, is noticed as what it is.

// The number of the trap that these tests guard against.
#![allow(non_snake_case)]

use quorate_admin::views::{CreateTopic, CreatedTopic, ProducerIdBlock, Recovery};
use uuid::Uuid;

use super::*;

fn topic_id(n: u64) -> Uuid {
    Uuid::from_u128(u128::from(n))
}

fn partition(topic: &str, id: u64, number: u32) -> Partition {
    Partition {
        topic: topic.to_owned(),
        topic_id: topic_id(id),
        partition: number,
        replicas: vec![1, 2, 3],
        isr: vec![1, 2, 3],
        elr: vec![],
        leader: Some(1),
        leader_epoch: 4,
        partition_epoch: 7,
        adding: vec![],
        removing: vec![],
        recovery: Recovery::Recovered,
        last_known_leader: None,
    }
}

fn broker(id: u64, epoch: u64) -> Broker {
    Broker { id, epoch, fenced: false, in_shutdown: false, listeners: BTreeMap::new(), rack: None }
}

/// Two topics, two blocks, one unknown topic, one unknown block; and a node that has it all.
fn perfect() -> (Ledger, Found) {
    let mut ledger = Ledger { first_producer_id: 0, ..Ledger::default() };
    let mut found = Found {
        topics: vec![],
        partitions: vec![],
        brokers: vec![broker(1, 3), broker(2, 4)],
        next_producer_id: 2000,
        applied_index: 20,
    };
    for (name, id, partitions, index) in [("orders", 1, 2, 10), ("demo-1", 2, 1, 11)] {
        let asked = CreateTopic {
            name: name.to_owned(),
            partitions,
            replication_factor: 3,
            assignment: Vec::new(),
            configs: BTreeMap::new(),
        };
        let answer = CreatedTopic { name: name.to_owned(), topic_id: topic_id(id), index };
        ledger.topic_acknowledged(&asked, &answer);
        found.topics.push(Topic {
            name: name.to_owned(),
            topic_id: topic_id(id),
            partitions,
            replication_factor: 3,
            configs: BTreeMap::new(),
        });
        found.partitions.extend((0..partitions).map(|n| partition(name, id, n)));
    }
    ledger.block_acknowledged(ProducerIdBlock { first: 0, len: 1000, index: 12 });
    ledger.block_acknowledged(ProducerIdBlock { first: 1000, len: 1000, index: 13 });
    ledger.topic_unknown("demo-2");
    ledger.block_unknown();
    ledger.remember(&found.partitions, &found.brokers);
    (ledger, found)
}

/// The findings after one thing was changed in the perfect pair.
fn after(change: impl FnOnce(&mut Ledger, &mut Found)) -> Vec<String> {
    let (mut ledger, mut found) = perfect();
    change(&mut ledger, &mut found);
    verify(&ledger, &found).iter().map(Finding::to_string).collect()
}

#[track_caller]
fn assert_noticed(change: impl FnOnce(&mut Ledger, &mut Found), wanted: &str) {
    let findings = after(change);
    assert!(findings.iter().any(|f| f.starts_with(wanted)), "{wanted:?} in {findings:?}");
}

#[test]
fn trap_I30_nothing_is_found_where_nothing_is_wrong() {
    assert_eq!(after(|_, _| {}), [""; 0]);
}

#[test]
fn what_is_unknown_may_be_there_or_not() {
    let findings = after(|_, found| {
        found.topics.push(Topic {
            name: "demo-2".to_owned(),
            topic_id: topic_id(3),
            partitions: 1,
            replication_factor: 3,
            configs: BTreeMap::new(),
        });
        found.partitions.push(partition("demo-2", 3, 0));
        found.next_producer_id = 3000;
    });
    assert_eq!(findings, [""; 0]);
}

#[test]
fn a_later_epoch_may_bring_another_leader_and_isr() {
    let findings = after(|_, found| {
        let moved = &mut found.partitions[0];
        (moved.leader, moved.isr) = (Some(2), vec![2, 3]);
        (moved.leader_epoch, moved.partition_epoch) = (5, 8);
        found.brokers[0].epoch = 19;
    });
    assert_eq!(findings, [""; 0]);
}

#[test]
fn trap_I30_a_lost_topic_is_noticed() {
    assert_noticed(|_, found| drop(found.topics.remove(1)), "lost: topic demo-1");
}

#[test]
fn a_lost_partition_is_noticed() {
    assert_noticed(|_, found| drop(found.partitions.remove(1)), "lost: partition orders-1");
}

#[test]
fn a_partition_that_was_only_seen_is_missed_too() {
    let lost = |ledger: &mut Ledger, _: &mut Found| {
        ledger.unknown_topics.insert("demo-9".to_owned());
        ledger.remember(&[partition("demo-9", 9, 0)], &[]);
    };
    assert_noticed(lost, "lost: partition demo-9-0");
}

#[test]
fn trap_I30_a_lost_block_is_noticed() {
    let lost = |_: &mut Ledger, found: &mut Found| found.next_producer_id = 1000;
    assert_noticed(lost, "lost: producer ids from 1000 (the next one is 1000)");
}

#[test]
fn a_lost_entry_is_noticed_by_its_index() {
    let lost = |_: &mut Ledger, found: &mut Found| found.applied_index = 12;
    assert_noticed(lost, "lost: producer ids from 1000 at index 13");
}

#[test]
fn a_lost_broker_is_noticed() {
    assert_noticed(|_, found| drop(found.brokers.pop()), "lost: broker 2");
}

#[test]
fn a_duplicated_topic_is_noticed() {
    let twice = |_: &mut Ledger, found: &mut Found| {
        let mut copy = found.topics[1].clone();
        copy.topic_id = topic_id(77);
        found.topics.push(copy);
    };
    assert_noticed(twice, "duplicated: topic demo-1");
}

#[test]
fn a_duplicated_topic_id_is_noticed() {
    let twice = |_: &mut Ledger, found: &mut Found| found.topics[1].topic_id = topic_id(1);
    assert_noticed(twice, "duplicated: topic id");
}

#[test]
fn a_duplicated_partition_is_noticed() {
    let twice = |_: &mut Ledger, found: &mut Found| {
        found.partitions.push(found.partitions[0].clone());
    };
    assert_noticed(twice, "duplicated: partition orders-0");
}

#[test]
fn trap_I30_a_block_given_to_two_callers_is_noticed() {
    let twice = |ledger: &mut Ledger, _: &mut Found| ledger.blocks[1].first = 0;
    assert_noticed(twice, "duplicated: producer ids from 0 were given away twice");
}

#[test]
fn blocks_that_overlap_in_part_are_noticed() {
    let overlap = |ledger: &mut Ledger, _: &mut Found| ledger.blocks[1].first = 999;
    assert_noticed(overlap, "duplicated: producer ids from 999 were given away twice");
}

#[test]
fn a_block_from_before_the_first_is_noticed() {
    let again = |ledger: &mut Ledger, _: &mut Found| ledger.first_producer_id = 1000;
    assert_noticed(again, "duplicated: producer ids from 0 were given away twice");
}

#[test]
fn a_block_command_applied_twice_is_noticed() {
    let twice = |_: &mut Ledger, found: &mut Found| found.next_producer_id = 4000;
    assert_noticed(twice, "duplicated: 4 blocks of producer ids were given away, 3 at most wanted");
}

#[test]
fn a_counter_within_a_block_is_noticed() {
    let odd = |_: &mut Ledger, found: &mut Found| found.next_producer_id = 2001;
    assert_noticed(odd, "altered: the next producer id 2001");
}

#[test]
fn one_index_for_two_changes_is_noticed() {
    let twice = |ledger: &mut Ledger, _: &mut Found| ledger.blocks[1].index = 12;
    assert_noticed(twice, "duplicated: index 12 was acknowledged for");
}

#[test]
fn a_topic_under_another_id_or_size_is_noticed() {
    let id = |_: &mut Ledger, found: &mut Found| found.topics[1].topic_id = topic_id(9);
    assert_noticed(id, "altered: topic demo-1");
    let size = |_: &mut Ledger, found: &mut Found| found.topics[0].partitions = 3;
    assert_noticed(size, "altered: topic orders");
}

#[test]
fn what_nobody_asked_for_is_noticed() {
    let topic = |_: &mut Ledger, found: &mut Found| {
        let mut ghost = found.topics[0].clone();
        (ghost.name, ghost.topic_id) = ("ghost".to_owned(), topic_id(99));
        found.topics.push(ghost);
    };
    assert_noticed(topic, "unasked: topic ghost");
    let more = |_: &mut Ledger, found: &mut Found| {
        found.partitions.push(partition("orders", 1, 2));
    };
    assert_noticed(more, "unasked: partition orders-2");
}

#[test]
fn trap_I30_a_lower_epoch_is_noticed() {
    let leader = |_: &mut Ledger, found: &mut Found| found.partitions[0].leader_epoch = 3;
    assert_noticed(leader, "epoch went back: leader epoch of orders-0 is 3, 4 was seen");
    let partition = |_: &mut Ledger, found: &mut Found| found.partitions[0].partition_epoch = 6;
    assert_noticed(partition, "epoch went back: partition epoch of orders-0 is 6, 7 was seen");
    let broker = |_: &mut Ledger, found: &mut Found| found.brokers[1].epoch = 3;
    assert_noticed(broker, "epoch went back: broker 2 is 3, 4 was seen");
}

#[test]
fn trap_I30_another_isr_at_the_same_epoch_is_noticed() {
    let isr = |_: &mut Ledger, found: &mut Found| found.partitions[0].isr = vec![1, 2];
    assert_noticed(isr, "changed within one epoch: orders-0 is leader Some(1) isr [1, 2]");
}

#[test]
fn another_leader_at_the_same_leader_epoch_is_noticed() {
    let leader = |_: &mut Ledger, found: &mut Found| {
        let moved = &mut found.partitions[0];
        (moved.leader, moved.partition_epoch) = (Some(2), 8);
    };
    assert_noticed(leader, "changed within one epoch: leader of orders-0 is Some(2)");
}
