//! The members of a quorum of real processes: listed, changed, and refused to be.
//!
//! How a node joins by a directory of `format --join` has a test of its own.

// clippy knows tests by their attribute; what helps them is a test too.
#![allow(clippy::unwrap_used)]

mod cluster;

use std::collections::BTreeMap;
use std::process::Output;

use cluster::{Cluster, IDS, program, quorate, until};
use serde_json::{Value, json};

/// By node: its role, and milliseconds since it answered the leader.
fn members(cluster: &Cluster) -> BTreeMap<u64, (String, Option<u64>)> {
    let members = cluster.ask(&["members", "ls", "--timeout", "25"]);
    let row = |m: &Value| {
        let role = m["role"].as_str().unwrap().to_owned();
        (m["node_id"].as_u64().unwrap(), (role, m["last_contact_ms"].as_u64()))
    };
    members.as_array().unwrap().iter().map(row).collect()
}

fn roles(cluster: &Cluster) -> BTreeMap<u64, String> {
    members(cluster).into_iter().map(|(id, (role, _))| (id, role)).collect()
}

fn voters(ids: &[u64]) -> BTreeMap<u64, String> {
    ids.iter().map(|id| (*id, "voter".to_owned())).collect()
}

/// Failed with one sentence that has all of these words, and no data.
#[track_caller]
fn assert_refused(output: &Output, words: &[&str]) {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!((said.lines().count(), &output.stdout[..]), (1, &b""[..]), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} in {said}");
    }
}

/// Waits until the leader has heard of this node lately, or has not for longer than an election
/// timeout.
#[track_caller]
fn until_heard(cluster: &Cluster, id: u64, lately: bool) {
    until("the leader knows who answers", || {
        let (_, ms) = members(cluster).remove(&id)?;
        (ms.is_some_and(|ms| ms < 1_000) == lately && ms != Some(1_000)).then_some(())
    });
}

#[test]
fn members_are_listed_moved_and_removed_and_never_so_that_the_quorum_is_lost() {
    let mut cluster = Cluster::formatted();
    cluster.start_all(&["--no-broker"]);
    let leader = cluster.leader();
    assert_eq!(roles(&cluster), voters(&IDS));
    IDS.iter().for_each(|id| until_heard(&cluster, *id, true));
    let table = quorate(&["members", "ls", "--addr", &cluster.addrs()]);
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.starts_with("NODE_ID") && table.lines().count() == 4, "{table}");

    // The leader keeps its vote, and whoever wants to take it is told what to do first.
    let demote = ["members", "demote", &leader.to_string()];
    assert_refused(&cluster.run(&demote), &["leads", "leader transfer", "MEMBER_LEADS"]);
    let next = leader % 3 + 1;
    let moved = cluster.ask(&["leader", "transfer", "--to", &next.to_string()]);
    assert_eq!(moved, json!({"leader_id": next}));
    assert_eq!(cluster.leader(), next);
    assert_refused(&cluster.run(&["leader", "transfer", "--to", "9"]), &["no member", "NO_MEMBER"]);

    // Only asked for.
    let [dead, other] = [1, 2].map(|step| (next + step - 1) % 3 + 1);
    let (gone, other_id) = (dead.to_string(), other.to_string());
    IDS.iter().for_each(|id| until_heard(&cluster, *id, true));
    let index = cluster.converge();
    let asked = cluster.ask(&["members", "remove", &other_id, "--dry-run"]);
    assert_eq!((&asked["dry_run"], asked["members"].as_array().unwrap().len()), (&json!(true), 3));
    let asked = ["members", "demote", &other_id, "--dry-run", "--addr", &cluster.addrs()];
    let asked = program().args(asked).output().unwrap();
    assert_eq!(asked.status.code(), Some(0), "{asked:?}");
    assert!(String::from_utf8_lossy(&asked.stderr).contains("nothing was changed"), "{asked:?}");
    assert_eq!((cluster.converge(), roles(&cluster)), (index, voters(&IDS)));

    // With one dead, the other follower is needed.
    cluster.kill(dead);
    until_heard(&cluster, dead, false);
    for change in ["remove", "demote"] {
        let refused = cluster.run(&["members", change, &other_id]);
        assert_refused(&refused, &["quorum would be lost", "bring others back"]);
    }
    let to_dead = cluster.run(&["leader", "transfer", "--to", &gone]);
    assert_refused(&to_dead, &["does not answer", "another voter"]);
    assert_eq!(roles(&cluster), voters(&IDS));

    // With all alive it may go.
    cluster.start(dead, &["--no-broker"]);
    until_heard(&cluster, dead, true);
    let removed = cluster.ask(&["members", "remove", &other_id]);
    assert_eq!(removed["dry_run"], false);
    let left: Vec<u64> = IDS.into_iter().filter(|id| *id != other).collect();
    assert_eq!(roles(&cluster), voters(&left));
    // Whether it has heard of it or not: started again, it is told.
    cluster.kill(other);
    cluster.start(other, &["--no-broker"]);
    assert_eq!(cluster.exit_code(other), Some(1));
    let log = cluster.log(other);
    let sentence = log.lines().last().unwrap();
    assert!(sentence.contains("no member") && sentence.contains("--join"), "{sentence}");
    let again = cluster.run(&["members", "remove", &other_id]);
    assert_refused(&again, &["no member", "--join", "NO_MEMBER"]);

    // What was changed is in the log, readable.
    let dir = cluster.data_dir(next);
    let dump = ["log", "dump", "--kind", "conf-change", "--data-dir"];
    let dumped = program().args(dump).arg(dir).output().unwrap();
    let lines = String::from_utf8(dumped.stdout).unwrap();
    let changes: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [.., removal, behind] = changes.as_slice() else { panic!("{lines}") };
    assert_eq!(removal["change"]["steps"], json!([{"step": "remove", "member_id": other}]));
    // One that changes nothing, so that a majority is sure to remember the removal.
    assert_eq!(behind["change"]["steps"][0]["step"], "update");
    cluster.converge();
}
