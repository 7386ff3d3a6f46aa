//! `kill -9` of any node and of all nodes, in several orders: what was acknowledged is there, once,
//! and the nodes that applied the same entries have the same state.

// Tests carry the number of the trap that they guard against.
#![allow(non_snake_case)]
// clippy knows tests by their attribute; what helps them is a test too.
#![allow(clippy::unwrap_used)]

mod cluster;

use std::collections::BTreeMap;
use std::time::Duration;

use cluster::{Cluster, IDS, ids, json_of, program, quorate, throughout, until};
use serde_json::{Value, json};

/// Every acknowledged topic is there, once, under its id; and nothing else is.
#[track_caller]
fn assert_topics(cluster: &Cluster, acknowledged: &BTreeMap<String, Value>) {
    let mut found = BTreeMap::new();
    for topic in cluster.ask(&["topics", "ls", "--timeout", "25"]).as_array().unwrap() {
        let name = topic["name"].as_str().unwrap().to_owned();
        assert!(found.insert(name.clone(), topic["topic_id"].clone()).is_none(), "{name} twice");
    }
    assert_eq!(found, *acknowledged);
}

#[test]
fn trap_I26_any_node_may_be_killed_and_all_have_one_catalogue() {
    let mut cluster = Cluster::running();
    let mut acknowledged = BTreeMap::new();
    let mut create = |cluster: &Cluster, name: String| {
        let answer = cluster.create(&name, 2, 2);
        acknowledged.insert(name, answer["topic_id"].clone());
    };
    create(&cluster, "first".to_owned());
    // Each node once, the leader twice: what was acknowledged while it was away is there when it
    // is back, and what it had alone is not.
    let leader = cluster.leader();
    for (round, victim) in [leader, 1, 2, 3].into_iter().enumerate() {
        cluster.kill(victim);
        // A change that was handed to the dead one just now would have an unknown outcome.
        until("another one leads", || (cluster.leader() != victim).then_some(()));
        create(&cluster, format!("without-{victim}-{round}"));
        cluster.start(victim, &[]);
        create(&cluster, format!("with-{victim}-{round}"));
        cluster.converge();
    }
    assert_topics(&cluster, &acknowledged);
    for id in IDS {
        let own = cluster.ask_one(id, &["topics", "ls", "--local"]).unwrap();
        assert_eq!(own.as_array().unwrap().len(), acknowledged.len(), "node {id}");
    }
}

#[test]
fn all_nodes_may_be_killed_in_any_order_and_started_in_any_other() {
    let mut cluster = Cluster::running();
    let mut acknowledged = BTreeMap::new();
    let orders = [([1, 2, 3], [3, 2, 1]), ([3, 1, 2], [2, 3, 1]), ([2, 3, 1], [1, 2, 3])];
    let mut last_index = 0;
    for (round, (down, up)) in orders.into_iter().enumerate() {
        let name = format!("round-{round}");
        let answer = cluster.create(&name, 1, 3);
        acknowledged.insert(name, answer["topic_id"].clone());
        last_index = answer["index"].as_u64().unwrap();
        cluster.kill_all(&down);
        for id in up {
            cluster.start(id, &["--no-broker", "--session-ms", "600000"]);
        }
        assert!(cluster.converge() >= last_index);
        assert_topics(&cluster, &acknowledged);
        // Nobody was fenced and nobody registered: the ISR is exactly what it was.
        for (name, partition) in cluster.partitions() {
            assert_eq!(ids(&partition["isr"]), IDS.into(), "{name}");
        }
        let epochs = cluster.broker_epochs();
        for id in down {
            cluster.stop(id);
        }
        cluster.start_all(&[]);
        cluster.until_brokers_are_back(&epochs);
        until("every ISR is full", || {
            let now = cluster.partitions();
            now.values().all(|p| ids(&p["isr"]) == IDS.into()).then_some(())
        });
    }
    assert!(cluster.converge() > last_index);
}

/// A wedged cluster must look wedged: without a majority no node is ready, and a change is refused
/// in a way that says it was not made.
#[test]
fn trap_I01_a_node_that_cannot_commit_is_not_ready() {
    let mut cluster = Cluster::running();
    for id in IDS {
        until("the node is ready", || (cluster.http(id, "/health/ready").0 == 200).then_some(()));
    }
    cluster.kill(1);
    cluster.kill(2);
    let (_, body) = until("the last node is not ready any more", || {
        let answer = cluster.http(3, "/health/ready");
        (answer.0 == 503).then_some(answer)
    });
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["ok"], json!(false));
    assert!(body["reasons"].as_array().is_some_and(|r| !r.is_empty()), "{body}");
    assert_eq!(cluster.http(3, "/health/live").0, 200, "it is alive, it only cannot commit");
    let output = quorate(&[
        "topics",
        "create",
        "t",
        "--partitions",
        "1",
        "--replication-factor",
        "1",
        "--timeout",
        "2",
        "--addr",
        cluster.admin(3),
    ]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(said.lines().count(), 1, "{said}");
    // With a majority it is ready again, and nothing was made of the refused change, or of one
    // whose outcome was open at most that one.
    cluster.start(1, &[]);
    until("it is ready again", || (cluster.http(3, "/health/ready").0 == 200).then_some(()));
    if !said.contains("unknown") {
        assert_eq!(cluster.ask(&["topics", "ls"]), json!([]), "{said}");
    }
    cluster.create("after", 1, 2);
}

/// Listeners open, and the ready line is printed, before there can be a leader: otherwise nobody
/// could ever be elected.
#[test]
fn trap_I28_a_lone_node_is_up_before_any_leader_and_joins_when_others_come() {
    let mut cluster = Cluster::formatted();
    // `start` returns after the ready line; alone, it can have no leader.
    cluster.start(2, &[]);
    let status = cluster.ask_one(2, &["status"]).unwrap();
    assert_eq!(status["leader_id"], Value::Null);
    assert_eq!(status["fatal"], Value::Null);
    assert_eq!(cluster.http(2, "/health/live").0, 200);
    assert_eq!(cluster.http(2, "/health/ready").0, 503);
    cluster.start(1, &[]);
    cluster.start(3, &[]);
    let leader = cluster.leader();
    assert!(IDS.contains(&leader));
    // The broker was waiting in the background, and registers by itself.
    cluster.until_brokers_are_live(3);
    // After the founding two are enough, and they need not wait for the third.
    cluster.kill_all(&IDS);
    cluster.start(3, &[]);
    assert_eq!(cluster.ask_one(3, &["status"]).unwrap()["leader_id"], Value::Null);
    cluster.start(1, &[]);
    assert!([1, 3].contains(&cluster.leader()));
}

/// A new quorum leader knows nothing of the heartbeats that the old one got: it starts its timers
/// afresh and fences only the broker that is gone.
#[test]
fn trap_I20_a_new_quorum_leader_fences_only_the_dead_broker() {
    let mut cluster = Cluster::running();
    let epochs: BTreeMap<u64, u64> = brokers(&cluster)
        .into_iter()
        .map(|(id, broker)| (id, broker["epoch"].as_u64().unwrap()))
        .collect();
    let dead = cluster.leader();
    cluster.kill(dead);
    let live = |cluster: &Cluster| {
        for (id, broker) in brokers(cluster) {
            assert_eq!(broker["epoch"].as_u64(), Some(epochs[&id]), "{broker}");
            assert!(id == dead || broker["fenced"] == false, "{broker}");
        }
    };
    until("the dead broker is fenced", || {
        live(&cluster);
        (brokers(&cluster)[&dead]["fenced"] == true).then_some(())
    });
    throughout(Duration::from_secs(2), || live(&cluster));
}

fn brokers(cluster: &Cluster) -> BTreeMap<u64, Value> {
    let brokers = cluster.ask(&["brokers", "ls", "--timeout", "25"]);
    let brokers = brokers.as_array().unwrap().iter();
    brokers.map(|broker| (broker["id"].as_u64().unwrap(), broker.clone())).collect()
}

/// Not the first partition only, and not with the same replicas for every topic.
#[test]
fn trap_I27_every_partition_gets_its_own_replicas_leader_and_isr() {
    let cluster = Cluster::running();
    cluster.create("singles", 6, 1);
    cluster.create("pairs", 6, 2);
    let partitions = cluster.partitions();
    assert_eq!(partitions.len(), 12);
    for (topic, factor) in [("singles", 1), ("pairs", 2)] {
        let of_topic: Vec<&Value> = partitions.values().filter(|p| p["topic"] == topic).collect();
        assert_eq!(of_topic.len(), 6);
        for partition in &of_topic {
            assert_eq!(partition["replicas"].as_array().unwrap().len(), factor, "{partition}");
            assert_eq!(ids(&partition["replicas"]).len(), factor, "{partition}");
            assert_eq!(ids(&partition["isr"]), ids(&partition["replicas"]));
            assert_eq!(partition["leader"], partition["replicas"][0]);
        }
        for id in IDS {
            let leads = of_topic.iter().filter(|p| p["leader"] == json!(id)).count();
            assert_eq!(leads, 2, "broker {id} of {topic}");
        }
    }
}

/// SIGTERM hands over what the node has: no partition is without a leader, and no session has to
/// run out.
#[test]
fn a_clean_stop_hands_leadership_over() {
    let mut cluster = Cluster::running();
    cluster.create("orders", 3, 3);
    let leader = cluster.leader();
    cluster.stop(leader);
    // It left before its process ended, so the first look shows it.
    for (name, partition) in cluster.partitions() {
        assert!(!ids(&partition["isr"]).contains(&leader), "{name}: {partition}");
        assert_ne!(partition["leader"], json!(leader), "{name}");
        assert!(!partition["leader"].is_null(), "{name}");
    }
    cluster.start(leader, &[]);
    until("it is back in every ISR", || {
        cluster.partitions().values().all(|p| ids(&p["isr"]) == IDS.into()).then_some(())
    });
    cluster.converge();
}

/// `members ls` shows who votes, whichever node is asked.
#[test]
fn members_are_the_voters_of_the_format() {
    let cluster = Cluster::running();
    for id in IDS {
        let members = cluster.ask_one(id, &["members", "ls"]).unwrap();
        let listed: Vec<(u64, &str, String)> = members
            .as_array()
            .unwrap()
            .iter()
            .map(|m| {
                let addr = m["addr"].as_str().unwrap().to_owned();
                (m["node_id"].as_u64().unwrap(), m["role"].as_str().unwrap(), addr)
            })
            .collect();
        assert_eq!(listed, IDS.map(|id| (id, "voter", cluster.listen(id))));
        let status = cluster.ask_one(id, &["status"]).unwrap();
        assert_eq!(status["node_id"], json!(id));
        assert_eq!(status["voters"].as_array().unwrap().len(), 3);
        assert_eq!(status["learners"], json!([]));
        let role = if status["leader_id"] == json!(id) { "leader" } else { "follower" };
        assert_eq!(status["role"], json!(role));
    }
    // The next address is asked when the first is down, and a table is one line a row.
    let addrs = format!("127.0.0.1:1,{}", cluster.admin(2));
    let output = quorate(&["status", "--addr", &addrs, "--output", "json"]);
    assert_eq!(json_of(&output)["node_id"], json!(2));
    let output = quorate(&["members", "ls", "--addr", &addrs]);
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 4);
}

/// A disk that fails is fatal for its node, which says so and ends; nothing that it could not write
/// is acknowledged by it, and the others go on.
#[test]
fn a_node_whose_disk_fails_ends_with_one_sentence_and_without_a_panic() {
    let mut cluster = Cluster::formatted();
    cluster.start(1, &[]);
    cluster.start(2, &[]);
    cluster.start_with_broken_disk(3);
    cluster.until_brokers_are_live(3);
    // One entry that is longer than the broken disk takes. When that node leads, nobody can say what
    // becomes of the entry; otherwise the two others acknowledge it.
    let args = ["topics", "create", "big", "--partitions", "2000", "--replication-factor", "2"];
    let output = cluster.run(&args);
    let acknowledged = output.status.success();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(acknowledged || said.contains("outcome is unknown"), "{said}");
    assert_eq!(cluster.exit_code(3), Some(1));
    let log = cluster.log(3);
    let sentence = log.lines().last().unwrap();
    assert!(sentence.starts_with("quorate: ") && sentence.contains("check the disk"), "{sentence}");
    assert!(!log.contains("panicked"), "{log}");
    cluster.create("after", 1, 2);
    // With a sound disk it comes back and catches up.
    cluster.start(3, &[]);
    cluster.until_brokers_are_live(3);
    cluster.converge();
    let topics = cluster.ask_one(3, &["topics", "ls", "--local"]).unwrap();
    let names: Vec<&str> =
        topics.as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap()).collect();
    let both = ["after", "big"];
    assert!(names == both || (!acknowledged && names == both[..1]), "{names:?}");
}

/// A damaged group must not act as the member it was: the node does not start, and says what is
/// wrong and what can be done.
#[test]
fn a_node_with_a_damaged_group_stays_out_with_one_sentence() {
    let mut cluster = Cluster::running();
    let victim = cluster.leader();
    cluster.kill(victim);
    let folder = cluster.data_dir(victim).join("snapshots").join("1");
    let file = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    // It would replace itself, since the other two are sound.
    let config = cluster.scratch().join("stays.toml");
    std::fs::write(&config, "[loop]\nreplace_damaged = false\n").unwrap();
    // And it stays so, however often it is started.
    for _ in 0..2 {
        let output = program()
            .args(["node", "--admin", "127.0.0.1:0", "--listen", &cluster.listen(victim)])
            .arg("--data-dir")
            .arg(cluster.data_dir(victim))
            .arg("--config")
            .arg(&config)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr.clone()).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(output.stdout.is_empty() && !said.contains("panicked"), "{output:?}");
        let sentence = said.lines().last().unwrap();
        assert!(sentence.starts_with("quorate: this node does not start"), "{sentence}");
        assert!(sentence.contains(".snap") && sentence.contains("Remedy: "), "{sentence}");
    }
    cluster.create("after", 1, 2);
}
