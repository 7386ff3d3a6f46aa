//! `kill -9` of the quorum's leader, where no timeout could explain that somebody takes over; and a
//! leader that is only silent.

// Tests carry the number of the trap that they guard against.
#![allow(non_snake_case)]
// clippy knows tests by their attribute; what helps them is a test too.
#![allow(clippy::unwrap_used)]

mod cluster;

use std::collections::BTreeMap;
use std::time::Duration;

use cluster::{Cluster, IDS, ids, signal, throughout, until};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Sessions that outlive the test.
const SESSION: [&str; 2] = ["--session-ms", "600000"];

/// A loop that would wait eight minutes for its leader.
const PATIENT: &str = "[loop]\nelection_ticks = 5000\nrequest_timeout_ms = 600000\n";

/// A cluster that node 1 leads: the others would not notice for minutes if nobody did. No session ends
/// by itself.
fn led_by_one() -> Cluster {
    let mut cluster = Cluster::formatted();
    cluster.start(1, &SESSION);
    for id in [2, 3] {
        start_patient(&mut cluster, id);
    }
    cluster.until_brokers_are_live(3);
    assert_eq!(cluster.leader(), 1);
    cluster
}

fn start_patient(cluster: &mut Cluster, id: u64) {
    let config = cluster.scratch().join("patient.toml");
    std::fs::write(&config, PATIENT).unwrap();
    cluster.start(id, &[&SESSION[..], &["--config", config.to_str().unwrap()]].concat());
}

fn brokers(cluster: &Cluster) -> BTreeMap<u64, Value> {
    let brokers = cluster.ask(&["brokers", "ls", "--timeout", "25"]);
    let brokers = brokers.as_array().unwrap().iter();
    brokers.map(|broker| (broker["id"].as_u64().unwrap(), broker.clone())).collect()
}

#[test]
fn trap_R16_after_kill_9_a_leader_and_its_broker_are_succeeded_without_a_timeout() {
    let mut cluster = led_by_one();
    cluster.create("orders", 3, 3);
    // Node 1, and then whoever has succeeded it.
    for _ in 0..2 {
        let (dead, epochs) = (cluster.leader(), cluster.broker_epochs());
        cluster.kill(dead);
        until("another node leads", || (cluster.leader() != dead).then_some(()));
        until("the dead broker leads nothing", || {
            let partitions = cluster.partitions();
            let led = |p: &Value| p["leader"].as_u64().is_some_and(|leader| leader != dead);
            partitions.values().all(led).then_some(())
        });
        for (name, partition) in cluster.partitions() {
            assert!(!ids(&partition["isr"]).contains(&dead), "{name}: {partition}");
        }
        for (id, broker) in brokers(&cluster) {
            assert_eq!(broker["fenced"], json!(id == dead), "{broker}");
            assert_eq!(broker["epoch"], json!(epochs[&id]), "{broker}");
        }
        // Its session is over, so it registers anew at once.
        start_patient(&mut cluster, dead);
        until("the broker is back", || {
            let broker = &brokers(&cluster)[&dead];
            let is_new = broker["epoch"].as_u64() > Some(epochs[&dead]);
            (is_new && broker["fenced"] == false).then_some(())
        });
        until("every ISR is full", || {
            cluster.partitions().values().all(|p| ids(&p["isr"]) == IDS.into()).then_some(())
        });
    }
    cluster.converge();
}

/// Its connections stay, and its port accepts: it may live.
#[test]
fn trap_R16_a_process_that_is_only_stopped_is_not_taken_for_gone() {
    let cluster = led_by_one();
    let epochs = cluster.broker_epochs();
    signal(cluster.pid(1), Signal::STOP);
    throughout(Duration::from_secs(2), || {
        for id in [2, 3] {
            let status = cluster.ask_one(id, &["status"]).unwrap();
            assert_eq!(status["leader_id"], json!(1), "node {id}");
        }
    });
    signal(cluster.pid(1), Signal::CONT);
    // It has led all the time, but may have stepped down by its own clock, and been elected again.
    until("node 1 leads", || (cluster.leader() == 1).then_some(()));
    for (id, broker) in brokers(&cluster) {
        let (fenced, epoch) = (&broker["fenced"], broker["epoch"].as_u64());
        assert_eq!((fenced, epoch), (&json!(false), Some(epochs[&id])), "{broker}");
    }
}
