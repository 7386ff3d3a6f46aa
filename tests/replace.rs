//! Real processes whose disks are damaged, wiped, or slept through everything: each is a voter again,
//! and nothing that was acknowledged is lost.

// clippy knows tests by their attribute; what helps them is a test too.
#![allow(clippy::unwrap_used)]

mod cluster;

use cluster::{Cluster, IDS, program, until};
use serde_json::Value;

/// What all nodes know: topics by name.
fn topics(cluster: &Cluster) -> Vec<String> {
    let topics = cluster.ask(&["topics", "ls", "--timeout", "25"]);
    topics.as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap().to_owned()).collect()
}

fn row(cluster: &Cluster, id: u64) -> Option<Value> {
    let members = cluster.ask(&["members", "ls", "--timeout", "25"]);
    let mut rows = members.as_array().unwrap().iter().filter(|m| m["node_id"] == id).cloned();
    match (rows.next(), rows.next()) {
        (Some(row), None) => Some(row),
        _ => None,
    }
}

/// Waits until this node is one member, with a vote, by its present directory.
fn until_voter(cluster: &Cluster, id: u64) -> Value {
    until("the node is a voter again", || {
        let directory = cluster.ask_one(id, &["status"])?["directory_id"].clone();
        row(cluster, id).filter(|row| row["role"] == "voter" && row["directory_id"] == directory)
    })
}

fn cluster_id(cluster: &Cluster) -> String {
    cluster.ask(&["status"])["cluster_id"].as_str().unwrap().to_owned()
}

#[test]
fn a_damaged_log_is_reported_and_its_node_replaces_itself() {
    let mut cluster = Cluster::running();
    cluster.create("before", 3, 3);
    let before = row(&cluster, 2).unwrap();
    cluster.kill(2);
    // A byte in the middle of what the log holds.
    let log = cluster.data_dir(2).join("log");
    let file = std::fs::read_dir(log).unwrap().map(|f| f.unwrap().path());
    let file = file.filter(|f| f.extension().is_some_and(|e| e == "raftlog")).min().unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[used / 2] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let verify = program().arg("verify").arg("--data-dir").arg(cluster.data_dir(2)).output();
    assert_eq!(verify.unwrap().status.code(), Some(1), "damaged");
    cluster.create("meanwhile", 3, 2);

    cluster.start(2, &[]);
    let after = until_voter(&cluster, 2);
    assert_ne!(after["member_id"], before["member_id"]);
    let said = cluster.log(2);
    assert!(said.contains("becomes another member") && said.contains(".raftlog"), "{said}");
    assert!(cluster.data_dir(2).join("aside").exists());
    cluster.create("after", 3, 3);
    cluster.converge();
    assert_eq!(topics(&cluster), ["after", "before", "meanwhile"]);
    // The majority is with it, and not without it.
    cluster.kill(if cluster.leader() == 1 { 3 } else { 1 });
    cluster.create("with-two", 1, 1);
}

#[test]
fn a_wiped_node_is_refused_as_the_old_voter_and_comes_back_by_joining() {
    let mut cluster = Cluster::running();
    cluster.create("before", 3, 3);
    let id = cluster_id(&cluster);
    let wiped = cluster.leader();
    cluster.kill(wiped);
    std::fs::remove_dir_all(cluster.data_dir(wiped)).unwrap();
    cluster.format(wiped, &cluster.data_dir(wiped), id.parse().unwrap());
    cluster.start(wiped, &[]);
    assert_eq!(cluster.exit_code(wiped), Some(1));
    let said = cluster.log(wiped);
    assert!(said.lines().last().unwrap().contains("quorate format --join"), "{said}");

    cluster.format_to_join(wiped, &id);
    cluster.start(wiped, &[]);
    until_voter(&cluster, wiped);
    cluster.converge();
    assert_eq!(topics(&cluster), ["before"]);
    // A fourth that nobody knew observes.
    cluster.format_to_join(4, &id);
    cluster.start(4, &["--no-broker"]);
    until("it observes", || row(&cluster, 4).filter(|row| row["role"] == "observer"));
    cluster.ask(&["members", "add", "4"]);
    until_voter(&cluster, 4);
}

#[test]
fn a_node_that_slept_while_the_others_were_replaced_finds_its_way_back() {
    let mut cluster = Cluster::running();
    cluster.create("before", 3, 3);
    let id = cluster_id(&cluster);
    for new in [4, 5] {
        cluster.format_to_join(new, &id);
        cluster.start(new, &["--no-broker"]);
        until("it observes", || row(&cluster, new).filter(|row| row["role"] == "observer"));
        cluster.ask(&["members", "add", &new.to_string(), "--timeout", "25"]);
        until_voter(&cluster, new);
    }
    // One of five sleeps; the others lose their disks, one after the other.
    cluster.kill(3);
    for replaced in IDS.into_iter().chain([4, 5]).filter(|id| *id != 3) {
        cluster.kill(replaced);
        cluster.format_to_join(replaced, &id);
        cluster.start(replaced, &["--no-broker"]);
        until_voter(&cluster, replaced);
    }
    cluster.start(3, &["--no-broker"]);
    cluster.converge();
    assert_eq!(topics(&cluster), ["before"]);
    until_voter(&cluster, 3);
}
