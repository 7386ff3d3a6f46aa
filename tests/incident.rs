//! The table at the end of the incident's report, row by row, over three real processes.

// clippy knows tests by their attribute; what helps them is a test too.
#![allow(clippy::unwrap_used)]

mod cluster;

use std::collections::BTreeSet;

use cluster::{Cluster, IDS, by_name, ids, until};
use serde_json::json;

/// "Partition metadata proposal: fails" -> it succeeds, through every node, and is there once.
#[test]
fn incident_proposal_succeeds() {
    let cluster = Cluster::running();
    let mut created = Vec::new();
    for id in IDS {
        let name = format!("through-{id}");
        let answer = cluster.ask_one(
            id,
            &["topics", "create", &name, "--partitions", "2", "--replication-factor", "3"],
        );
        let answer = answer.unwrap_or_else(|| panic!("node {id} did not create its topic"));
        assert_eq!(answer["name"], json!(name));
        created.push((name, answer["topic_id"].clone(), answer["index"].as_u64().unwrap()));
    }
    assert!(created.windows(2).all(|pair| pair[0].2 < pair[1].2), "{created:?}");
    // Each node acknowledged when its own image had it, so that its own image shows it now.
    let topics = cluster.ask(&["topics", "ls"]);
    let listed: BTreeSet<(String, String)> = topics
        .as_array()
        .unwrap()
        .iter()
        .map(|t| (t["name"].as_str().unwrap().to_owned(), t["topic_id"].to_string()))
        .collect();
    let expected: BTreeSet<(String, String)> =
        created.iter().map(|(name, id, _)| (name.clone(), id.to_string())).collect();
    assert_eq!(listed, expected);
    assert_eq!(topics.as_array().unwrap().len(), IDS.len());
    for topic in topics.as_array().unwrap() {
        assert_eq!((&topic["partitions"], &topic["replication_factor"]), (&json!(2), &json!(3)));
    }
    cluster.converge();
}

/// "No node knows the ISR" -> every node's own image has it, complete and the same.
#[test]
fn incident_isr_known_on_all_nodes() {
    let cluster = Cluster::running();
    cluster.create("orders", 3, 3);
    let index = cluster.converge();
    let truth = cluster.partitions();
    let names: Vec<&str> = truth.keys().map(String::as_str).collect();
    assert_eq!(names, ["orders-0", "orders-1", "orders-2"]);
    for partition in truth.values() {
        assert_eq!(ids(&partition["isr"]), IDS.into());
        assert_eq!(ids(&partition["replicas"]), IDS.into());
        assert_eq!(partition["isr"].as_array().unwrap().len(), 3);
        assert_eq!(partition["leader"], partition["replicas"][0], "the preferred one leads");
        assert_eq!(partition["leader_epoch"], json!(0));
        assert_eq!(partition["partition_epoch"], json!(0));
    }
    // One partition for each broker to lead: placement spreads them.
    let leaders: BTreeSet<u64> = truth.values().map(|p| p["leader"].as_u64().unwrap()).collect();
    assert_eq!(leaders, IDS.into());
    for id in IDS {
        let own = cluster.ask_one(id, &["partitions", "ls", "--local"]).unwrap();
        assert_eq!(by_name(&own), truth, "node {id} at index {index}");
    }
}

/// "No automatic recovery" -> when a broker dies, its partitions get live leaders, and the dead one
/// is never among them, not even for a moment.
#[test]
fn incident_leader_moves_when_its_broker_dies_never_to_the_dead_one() {
    let mut cluster = Cluster::running();
    cluster.create("orders", 6, 3);
    // The quorum's leader is the worst to lose: there has to be an election first.
    let dead = cluster.leader();
    let before = cluster.partitions();
    let led: BTreeSet<&String> =
        before.iter().filter(|(_, p)| p["leader"] == json!(dead)).map(|(name, _)| name).collect();
    assert_eq!(led.len(), 2, "each of three brokers leads two of six partitions");
    cluster.kill(dead);
    let after = until("every partition has a live leader", || {
        let now = cluster.partitions();
        for (name, partition) in &now {
            let same_epoch = partition["leader_epoch"] == before[name]["leader_epoch"];
            let leads_still = partition["leader"] == json!(dead);
            // Before it is fenced it leads in its old epoch. In a new epoch it never does.
            assert!(!leads_still || same_epoch, "{name} was given to the dead broker: {partition}");
            assert!(!partition["leader"].is_null(), "{name} has no leader though two are in sync");
        }
        now.values().all(|p| p["leader"] != json!(dead)).then_some(now)
    });
    for (name, partition) in &after {
        let survivors: BTreeSet<u64> = IDS.into_iter().filter(|id| *id != dead).collect();
        assert_eq!(ids(&partition["isr"]), survivors, "{name}");
        let leader = partition["leader"].as_u64().unwrap();
        assert!(survivors.contains(&leader), "{name}");
        let was = &before[name];
        let moved = u64::from(led.contains(name));
        // One change, and the leader's epoch counts it only where the leader moved.
        let epoch = |p: &serde_json::Value, key: &str| p[key].as_u64().unwrap();
        assert_eq!(epoch(partition, "partition_epoch"), epoch(was, "partition_epoch") + 1);
        assert_eq!(epoch(partition, "leader_epoch"), epoch(was, "leader_epoch") + moved, "{name}");
        if moved == 0 {
            assert_eq!(partition["leader"], was["leader"], "{name} had a live leader");
        }
    }
    // Work goes on without it, and it comes back as a follower.
    cluster.create("meanwhile", 1, 2);
    cluster.start(dead, &[]);
    let back = until("the broker is back in every ISR", || {
        let now = cluster.partitions();
        let orders = now.iter().filter(|(name, _)| name.starts_with("orders"));
        orders.clone().all(|(_, p)| ids(&p["isr"]) == IDS.into()).then_some(now)
    });
    for (name, partition) in &after {
        assert_eq!(
            back[name]["leader"], partition["leader"],
            "{name}: coming back moves no leader"
        );
    }
    cluster.converge();
}

/// "ISR only in memory" -> after `kill -9` of all, the ISR is read from disk, and full again soon.
#[test]
fn incident_isr_recovers_after_restart_of_all() {
    let mut cluster = Cluster::running();
    cluster.create("orders", 3, 3);
    cluster.create("pairs", 2, 2);
    let before = cluster.partitions();
    assert_eq!(before.len(), 5);
    let epochs = cluster.broker_epochs();
    assert_eq!(epochs.len(), 3);
    cluster.kill_all(&IDS);
    cluster.start_all(&[]);
    // The disk says that every ISR is full and every leader there. What counts is what is so once
    // every broker has come back with a new epoch, and so has left every ISR.
    cluster.until_brokers_are_back(&epochs);
    let after = until("every ISR is full", || {
        let now = cluster.partitions();
        let full = now.values().all(|p| ids(&p["isr"]) == ids(&p["replicas"]));
        (full && now.values().all(|p| !p["leader"].is_null())).then_some(now)
    });
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    for (name, partition) in &after {
        let was = &before[name];
        for same in ["topic_id", "replicas"] {
            assert_eq!(partition[same], was[same], "{name}");
        }
        let epoch = |p: &serde_json::Value| p["partition_epoch"].as_u64().unwrap();
        assert!(epoch(partition) > epoch(was), "{name}: replicas left the ISR and came back");
        assert!(ids(&partition["isr"]).contains(&partition["leader"].as_u64().unwrap()));
        for grows in ["leader_epoch", "partition_epoch"] {
            assert!(partition[grows].as_u64() >= was[grows].as_u64(), "{name}: {grows}");
        }
    }
    cluster.converge();
}
