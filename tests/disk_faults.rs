//! Disks that fail under real nodes: what was acknowledged stays, the cluster goes on, and a node
//! says in one sentence why it cannot.
//!
//! Runs with `cargo test -p quorate-cli --features faults --test disk_faults`.

// Tests carry the number of the trap that they guard against.
#![allow(non_snake_case)]
// clippy knows tests by their attribute; what helps them is a test too.
#![allow(clippy::unwrap_used)]

mod cluster;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cluster::{Cluster, IDS, until};
use serde_json::{Value, json};

/// A leader without room has been succeeded by then, with much to spare on a busy machine.
const SUCCESSION_MAX: Duration = Duration::from_secs(10);

/// The file that makes a disk fail while it exists.
fn switch(cluster: &Cluster, id: u64, fault: &str) -> PathBuf {
    cluster.scratch().join(format!("{fault}-{id}"))
}

fn start(cluster: &mut Cluster, id: u64) {
    let env = [
        ("QUORATE_FAULT_SYNC", switch(cluster, id, "sync")),
        ("QUORATE_FAULT_FULL", switch(cluster, id, "full")),
    ];
    cluster.start_with_env(id, &env);
}

fn fill(cluster: &Cluster, id: u64) {
    File::create(switch(cluster, id, "full")).unwrap();
}

fn empty(cluster: &Cluster, id: u64) {
    std::fs::remove_file(switch(cluster, id, "full")).unwrap();
}

fn running() -> Cluster {
    let mut cluster = Cluster::formatted();
    for id in IDS {
        start(&mut cluster, id);
    }
    cluster.until_brokers_are_live(3);
    cluster
}

/// What clients were told while they created topics.
#[derive(Default)]
struct Told {
    acknowledged: Mutex<BTreeMap<String, Value>>,
    unknown: Mutex<BTreeSet<String>>,
}

impl Told {
    fn acknowledged(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    /// Creates topics, each by one request to one node, until it is told to stop.
    fn create(&self, client: usize, admins: &[String], stop: &AtomicBool) {
        for round in 0.. {
            if stop.load(Ordering::SeqCst) {
                return;
            }
            let name = format!("load-{client}-{round}");
            match Cluster::wish(&admins[(client + round) % admins.len()], &name) {
                Some((200, topic)) => {
                    self.acknowledged.lock().unwrap().insert(name, topic["topic_id"].clone());
                }
                Some((_, refused)) if refused["outcome"] != "unknown" => {}
                _ => {
                    self.unknown.lock().unwrap().insert(name);
                }
            }
        }
    }

    /// Every acknowledged topic is on every node, once, under its id; and no other but those whose
    /// outcome is unknown.
    fn assert_on_all(&self, cluster: &Cluster) {
        cluster.converge();
        let (acknowledged, unknown) =
            (self.acknowledged.lock().unwrap(), self.unknown.lock().unwrap());
        for id in IDS {
            let mut found = BTreeMap::new();
            let topics = cluster.ask_one(id, &["topics", "ls", "--local"]).unwrap();
            for topic in topics.as_array().unwrap() {
                let name = topic["name"].as_str().unwrap().to_owned();
                let twice = found.insert(name.clone(), topic["topic_id"].clone());
                assert!(twice.is_none(), "{name} is twice on node {id}");
            }
            for (name, topic_id) in acknowledged.iter() {
                assert_eq!(found.remove(name).as_ref(), Some(topic_id), "{name} on node {id}");
            }
            assert!(found.keys().all(|name| unknown.contains(name)), "node {id}: {found:?}");
        }
    }
}

/// The fsyncs of one node fail under load, then it restarts on a disk that works.
fn fsync_fails(choose: impl FnOnce(u64) -> u64) {
    let mut cluster = running();
    let victim = choose(cluster.leader());
    let victims_admin = cluster.admin(victim).to_owned();
    let admins: Vec<String> = IDS.iter().map(|id| cluster.admin(*id).to_owned()).collect();
    let (told, stop) = (Told::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for client in 0..3 {
            let (told, stop, admins) = (&told, &stop, &admins);
            scope.spawn(move || told.create(client, admins, stop));
        }
        until("clients are at work", || (told.acknowledged() >= 30).then_some(()));
        let broken = switch(&cluster, victim, "sync");
        File::create(&broken).unwrap();
        // Asked after that, it acknowledges nothing: it cannot write what would have to be written.
        let late = Cluster::wish(&victims_admin, "asked-too-late");
        assert!(late.as_ref().is_none_or(|(status, _)| *status != 200), "{late:?}");
        told.unknown.lock().unwrap().insert("asked-too-late".to_owned());
        assert_eq!(cluster.exit_code(victim), Some(1));
        let log = cluster.log(victim);
        let said: Vec<&str> = log.lines().filter(|line| line.starts_with("quorate: ")).collect();
        assert_eq!(said.len(), 1, "{log}");
        assert!(said[0].contains("the disk failed") && said[0].contains("check it"), "{said:?}");
        assert!(!log.contains("panicked"), "{log}");
        // The others go on.
        let before = told.acknowledged();
        until("the others acknowledge", || (told.acknowledged() >= before + 30).then_some(()));
        std::fs::remove_file(broken).unwrap();
        start(&mut cluster, victim);
        stop.store(true, Ordering::SeqCst);
    });
    cluster.until_brokers_are_live(3);
    told.assert_on_all(&cluster);
    eprintln!(
        "{} acknowledged, {} unknown",
        told.acknowledged(),
        told.unknown.lock().unwrap().len()
    );
}

#[test]
fn trap_E03_a_leader_whose_fsync_fails_ends_and_nothing_acknowledged_is_lost() {
    fsync_fails(|leader| leader);
}

#[test]
fn trap_E03_a_follower_whose_fsync_fails_ends_and_nothing_acknowledged_is_lost() {
    fsync_fails(|leader| leader % 3 + 1);
}

fn is_full(cluster: &Cluster, id: u64) -> bool {
    cluster.ask_one(id, &["status"]).is_some_and(|s| s["storage_full"] == json!(true))
}

/// A wish that is refused for want of room, and surely changed nothing.
#[track_caller]
fn assert_refused(cluster: &Cluster, id: u64, topic: &str) {
    let (status, body) = Cluster::wish(cluster.admin(id), topic).unwrap();
    assert_eq!((status, &body["error"]), (503, &json!("STORAGE_FULL")), "{body}");
    assert_eq!(body["outcome"], json!("never_applied"));
}

#[test]
fn trap_E06_a_leader_whose_disk_is_full_gives_way_and_works_again_when_there_is_room() {
    let cluster = running();
    cluster.create("before", 1, 3);
    let full = cluster.leader();
    let others: Vec<u64> = IDS.into_iter().filter(|id| *id != full).collect();
    fill(&cluster, full);
    let begun = Instant::now();
    // What makes it notice may have any end but an acknowledgement by this leader.
    let _ = Cluster::wish(cluster.admin(others[0]), "while-it-fills");
    until("another one leads", || {
        let status = cluster.ask_one(others[0], &["status"])?;
        status["leader_id"].as_u64().filter(|leader| *leader != full)
    });
    let succession = begun.elapsed();
    assert!(succession < SUCCESSION_MAX, "{succession:?}");
    eprintln!("another one led, and the client that filled it was told, within {succession:?}");
    for round in 0..10 {
        cluster.create(&format!("meanwhile-{round}"), 1, 2);
    }
    // It says so, serves what it has, and keeps its broker alive.
    let status = cluster.ask_one(full, &["status"]).unwrap();
    assert_eq!((&status["storage_full"], &status["fatal"]), (&json!(true), &Value::Null));
    assert_ne!(status["role"], json!("leader"));
    assert_eq!(status["leader_id"].as_u64(), Some(cluster.leader()));
    assert_refused(&cluster, full, "refused");
    let metrics = cluster.http(full, "/metrics").1;
    assert!(metrics.contains("quorate_storage_full{group=\"1\"} 1\n"), "{metrics}");
    let own = cluster.ask_one(full, &["topics", "ls", "--local"]).unwrap();
    assert!(own.as_array().unwrap().iter().any(|topic| topic["name"] == "before"));
    let ready = cluster.http(full, "/health/ready");
    assert!(ready.0 == 503 && ready.1.contains("make room"), "{ready:?}");
    let brokers = cluster.ask(&["brokers", "ls", "--timeout", "25"]);
    assert!(brokers.as_array().unwrap().iter().all(|b| b["fenced"] == false), "{brokers}");

    empty(&cluster, full);
    until("it writes again", || (!is_full(&cluster, full)).then_some(()));
    cluster.converge();
    let created = cluster.ask_one(
        full,
        &["topics", "create", "after", "--partitions", "1", "--replication-factor", "3"],
    );
    assert!(created.is_some(), "it takes part again");
    let topics = cluster.ask_one(full, &["topics", "ls"]).unwrap();
    let names: BTreeSet<&str> =
        topics.as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap()).collect();
    assert!(names.contains("meanwhile-9") && !names.contains("refused"), "{names:?}");
    assert!(!cluster.log(full).contains("panicked"));
}

#[test]
fn trap_E06_when_every_disk_is_full_changes_are_refused_and_all_comes_back() {
    let cluster = running();
    cluster.create("before", 1, 3);
    let leader = cluster.leader();
    IDS.iter().for_each(|id| fill(&cluster, *id));
    let _ = Cluster::wish(cluster.admin(leader), "while-they-fill");
    until("the leader has noticed", || is_full(&cluster, leader).then_some(()));
    assert_refused(&cluster, leader, "refused");
    // One sentence, and not an outcome that is unknown.
    let args = ["topics", "create", "refused", "--partitions", "1", "--replication-factor", "2"];
    let output = cluster.run(&args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("no room on the disk") && !said.contains("unknown"), "{said}");
    for id in IDS {
        let status = cluster.ask_one(id, &["status"]).unwrap();
        assert_eq!(status["fatal"], Value::Null);
        let own = cluster.ask_one(id, &["topics", "ls", "--local"]).unwrap();
        assert_eq!(own[0]["name"], json!("before"), "node {id}");
    }
    IDS.iter().for_each(|id| empty(&cluster, *id));
    until("there is a leader again", || {
        Cluster::wish(cluster.admin(leader), "after")
            .filter(|(status, _)| [200, 409].contains(status))
    });
    cluster.until_brokers_are_live(3);
    cluster.converge();
    for id in IDS {
        assert!(!is_full(&cluster, id), "node {id}");
        let own = cluster.ask_one(id, &["topics", "ls", "--local"]).unwrap();
        let names: BTreeSet<&str> =
            own.as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap()).collect();
        assert!(names.contains("before") && names.contains("after"), "{names:?}");
        assert!(!names.contains("refused"));
        assert!(!cluster.log(id).contains("panicked"));
    }
}
