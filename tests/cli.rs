//! Bad input: one clear sentence that names the remedy, exit status 2 or 1, and nothing changed.

// clippy knows tests by their attribute; what helps them is a test too.
#![allow(clippy::unwrap_used)]

#[path = "../loop/tests/certificates/mod.rs"]
mod certificates;
mod cluster;
#[path = "cli/metadata.rs"]
mod metadata;

use std::net::TcpListener;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use certificates::Authority;
use cluster::{Cluster, by_name, contents, json_of, program, quorate, throughout, until};
use serde_json::json;
use uuid::Uuid;

const CLUSTER: &str = "6f7f3b0e-3a5f-4b7e-9a53-0a5c34a2f0d1";
const VOTERS: &str = "1=127.0.0.1:7001,2=127.0.0.1:7002,3=127.0.0.1:7003";

/// Failed with this status, said one sentence that contains all of `words`, and printed no data.
#[track_caller]
fn assert_refused(output: &Output, status: i32, words: &[&str]) {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(status), "{said}");
    assert_eq!(output.stdout, b"", "{said}");
    let sentence = said.lines().last().unwrap_or_default();
    assert!(sentence.starts_with("quorate: "), "{said}");
    for word in words {
        assert!(sentence.contains(word), "{word:?} in {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

/// As [`assert_refused`], with nothing else on stderr.
#[track_caller]
fn assert_one_sentence(output: &Output, status: i32, words: &[&str]) {
    assert_refused(output, status, words);
    assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 1, "{output:?}");
}

fn format(dir: &Path, node: &str, voters: &str) -> Output {
    program()
        .args(["format", "--cluster-id", CLUSTER, "--node-id", node, "--voters", voters])
        .arg("--data-dir")
        .arg(dir)
        .output()
        .unwrap()
}

/// Tries to run a node that must refuse; ends by itself then.
fn node(dir: &Path, extra: &[&str]) -> Output {
    program()
        .args(["node", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data-dir"])
        .arg(dir)
        .args(extra)
        .output()
        .unwrap()
}

#[test]
fn help_and_version_are_no_failure_and_nothing_at_all_is_wrong_usage() {
    for arg in ["--help", "--version", "-h", "-V"] {
        let output = quorate(&[arg]);
        assert_eq!(output.status.code(), Some(0));
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{arg}");
    }
    assert_eq!(quorate(&[]).status.code(), Some(2));
    assert_one_sentence(&quorate(&["frobnicate"]), 2, &["frobnicate", "--help"]);
    assert_one_sentence(&quorate(&["topics", "ls"]), 2, &["--addr", "QUORATE_ADDR"]);
    assert_one_sentence(&quorate(&["status", "--addr", "nonsense"]), 2, &["HOST:PORT"]);
    assert_one_sentence(
        &quorate(&["topics", "delete", "", "--addr", "127.0.0.1:1"]),
        2,
        &["empty"],
    );
}

#[test]
fn the_environment_names_nodes_to_those_who_ask_one_and_troubles_nobody_else() {
    let with = |value: &str, args: &[&str]| {
        program().env("QUORATE_ADDR", value).args(args).output().unwrap()
    };
    let nonsense = with("127.0.0.1:1,nonsense", &["topics", "ls"]);
    assert_one_sentence(&nonsense, 2, &["QUORATE_ADDR", "nonsense"]);
    assert_one_sentence(&with("", &["topics", "ls"]), 2, &["--addr", "QUORATE_ADDR"]);
    for value in ["", ",", "nonsense"] {
        let missing = with(
            value,
            &[
                "node",
                "--data-dir",
                "/nowhere",
                "--listen",
                "127.0.0.1:0",
                "--admin",
                "127.0.0.1:0",
            ],
        );
        assert!(!String::from_utf8(missing.stderr).unwrap().contains("addr"), "{value}");
    }
}

#[test]
fn a_cluster_that_cannot_be_is_not_formatted() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("data");
    for (node, voters, words) in [
        ("1", "1=127.0.0.1:1,1=127.0.0.1:2", &["node id 1 is doubled", "once"][..]),
        ("4", VOTERS, &["node 4 is not among the voters", "--node-id"]),
        ("1", "1=127.0.0.1:1,2=127.0.0.1:1", &["the same address"]),
        ("1", "1=127.0.0.1", &["HOST:PORT"]),
        ("1", "1=127.0.0.1:99999", &["99999", "65535"]),
        ("one", VOTERS, &["one", "--node-id"]),
        ("0", VOTERS, &["--node-id"]),
    ] {
        assert_one_sentence(&format(&dir, node, voters), 2, words);
        assert!(!dir.exists(), "{voters}");
    }
    let args = ["format", "--cluster-id", "not-a-uuid", "--node-id", "1", "--voters", VOTERS];
    let output = program().args(args).arg("--data-dir").arg(&dir).output().unwrap();
    assert_one_sentence(&output, 2, &["not-a-uuid", "UUID"]);
    assert!(!dir.exists());
}

#[test]
fn format_says_what_it_made_and_refuses_to_do_it_again() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("deep/data");
    let output = program()
        .args(["format", "--cluster-id", CLUSTER, "--node-id", "2", "--voters", VOTERS])
        .args(["--output", "json", "--data-dir"])
        .arg(&dir)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let made = json_of(&output);
    assert_eq!((&made["cluster_id"], &made["node_id"]), (&json!(CLUSTER), &json!(2)));
    made["directory_id"].as_str().unwrap().parse::<Uuid>().unwrap();
    let before = contents(&dir);
    assert_one_sentence(&format(&dir, "2", VOTERS), 1, &["formatted"]);
    assert_one_sentence(&format(&dir, "3", VOTERS), 1, &["formatted"]);
    assert_eq!(contents(&dir), before);
}

#[test]
fn a_directory_that_is_not_ours_stays_as_it_is() {
    let root = tempfile::tempdir().unwrap();
    // Never formatted: empty, or not there at all.
    let empty = root.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let missing = root.path().join("missing");
    for dir in [&empty, &missing] {
        assert_refused(&node(dir, &[]), 1, &["not formatted", "quorate format"]);
    }
    assert!(contents(&empty).is_empty());
    assert!(!missing.exists());
    // Somebody else's.
    let foreign = root.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("precious"), b"data").unwrap();
    let before = contents(&foreign);
    assert_refused(&format(&foreign, "1", VOTERS), 1, &["precious"]);
    assert_refused(&node(&foreign, &[]), 1, &["not formatted"]);
    assert_eq!(contents(&foreign), before);
    // A file, and something that looks like an identity.
    std::fs::write(foreign.join("identity"), b"not an identity").unwrap();
    let before = contents(&foreign);
    assert_refused(&node(&foreign, &[]), 1, &["identity"]);
    let mut after = contents(&foreign);
    // A directory with an identity is locked before that is read; the lock's file is empty.
    after.remove(&foreign.join("LOCK").display().to_string());
    assert_eq!(after, before);
}

#[test]
fn settings_with_unknown_keys_or_bad_values_are_wrong_usage() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("data");
    assert!(format(&dir, "1", VOTERS).status.success());
    let before = contents(&dir);
    let file = root.path().join("node.toml");
    let path = file.to_str().unwrap();
    for (text, words) in [
        ("sesion_ms = 3000\n", &["line 1", "sesion_ms"][..]),
        ("[loop]\ntick = 3\n", &["[loop]", "tick"]),
        ("session_ms = \"soon\"\n", &["line 1"]),
        ("session_ms = 1\n", &["session_ms is 1", "at least"]),
        ("= 3\n", &["line 1"]),
    ] {
        std::fs::write(&file, text).unwrap();
        assert_one_sentence(&node(&dir, &["--config", path]), 2, words);
    }
    assert_one_sentence(&node(&dir, &["--config", "/nowhere/node.toml"]), 2, &["/nowhere"]);
    let output = node(&dir, &["--advertise", "nonsense"]);
    assert_one_sentence(&output, 2, &["--advertise", "HOST:PORT"]);
    assert_eq!(contents(&dir), before);
}

#[test]
fn an_address_or_a_directory_that_is_taken_is_named() {
    let mut cluster = Cluster::formatted();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let dir = cluster.data_dir(1);
    for option in ["--listen", "--admin"] {
        let mut args = vec!["node", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        let at = args.iter().position(|arg| *arg == option).unwrap();
        args[at + 1] = &addr;
        let output = program().args(&args).arg("--data-dir").arg(&dir).output().unwrap();
        assert_refused(&output, 1, &[&addr, "in use"]);
    }
    // The same directory for two processes.
    cluster.start(1, &[]);
    assert_refused(&node(&dir, &[]), 1, &["in use", "stop it"]);
    assert!(cluster.ask_one(1, &["status"]).is_some(), "the first one goes on");
}

#[test]
fn what_the_cluster_refuses_changes_nothing() {
    let cluster = Cluster::running();
    cluster.create("orders", 1, 3);
    let index = cluster.converge();
    let before = (cluster.ask(&["topics", "ls"]), cluster.ask(&["partitions", "ls"]));
    let create = |name: &str, partitions: &str, factor: &str, config: &str| {
        let mut args = vec!["topics", "create", name, "--partitions", partitions];
        args.extend(["--replication-factor", factor]);
        if !config.is_empty() {
            args.extend(["--config", config]);
        }
        cluster.run(&args)
    };
    for (output, error) in [
        (create("big", "1", "4", ""), "INVALID_REPLICATION_FACTOR"),
        (create("none", "1", "0", ""), "INVALID_REPLICATION_FACTOR"),
        (create("empty", "0", "1", ""), "INVALID_PARTITIONS"),
        (create("bad name!", "1", "1", ""), "INVALID_TOPIC_EXCEPTION"),
        (create("a/b", "1", "1", ""), "INVALID_TOPIC_EXCEPTION"),
        (create("..", "1", "1", ""), "INVALID_TOPIC_EXCEPTION"),
        (create(&"x".repeat(300), "1", "1", ""), "INVALID_TOPIC_EXCEPTION"),
        (create("keyed", "1", "1", "no.such.key=1"), "INVALID_CONFIG"),
        (create("valued", "1", "1", "min.insync.replicas=none"), "INVALID_CONFIG"),
        (create("orders", "1", "3", ""), "TOPIC_ALREADY_EXISTS"),
        (cluster.run(&["topics", "delete", "nobody"]), "UNKNOWN_TOPIC_OR_PARTITION"),
        (cluster.run(&["topics", "delete", "a/../b c"]), "UNKNOWN_TOPIC_OR_PARTITION"),
    ] {
        assert_one_sentence(&output, 1, &[error]);
    }
    let after = (cluster.ask(&["topics", "ls"]), cluster.ask(&["partitions", "ls"]));
    assert_eq!(after, before);
    // Rejections may stand in the log, in their order, and have no effect.
    assert!(cluster.converge() >= index);
}

#[test]
fn topics_are_created_listed_and_deleted() {
    let cluster = Cluster::running();
    let created = cluster.ask(&[
        "topics",
        "create",
        "orders.eu-1_x",
        "--partitions",
        "2",
        "--replication-factor",
        "3",
        "--config",
        "min.insync.replicas=2",
        "--config",
        "retention.ms=1000",
    ]);
    assert_eq!(created["name"], "orders.eu-1_x");
    cluster.create("other", 1, 1);
    let topics = cluster.ask(&["topics", "ls"]);
    assert_eq!(topics[0]["topic_id"], created["topic_id"]);
    let configs = json!({"min.insync.replicas": "2", "retention.ms": "1000"});
    assert_eq!(topics[0]["configs"], configs);
    let one = cluster.ask(&["partitions", "ls", "--topic", "orders.eu-1_x"]);
    assert_eq!(one.as_array().unwrap().len(), 2);
    assert!(one.as_array().unwrap().iter().all(|p| p["topic"] == "orders.eu-1_x"));
    // For people: a header, and a line for each of three partitions.
    let table = quorate(&["partitions", "ls", "--addr", &cluster.addrs()]);
    let table = String::from_utf8(table.stdout).unwrap();
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(table.lines().next().unwrap().starts_with("TOPIC"), "{table}");
    let deleted = cluster.ask(&["topics", "delete", "orders.eu-1_x"]);
    assert_eq!(deleted["name"], "orders.eu-1_x");
    assert!(deleted["index"].as_u64() > created["index"].as_u64());
    let topics = cluster.ask(&["topics", "ls"]);
    assert_eq!(topics.as_array().unwrap().len(), 1);
    assert_eq!(topics[0]["name"], "other");
    cluster.converge();
}

/// A node of another cluster on the address of a voter: both sides say so, once, and go on.
#[test]
fn a_peer_of_another_cluster_is_refused_and_logged_once() {
    let mut cluster = Cluster::formatted();
    let stranger = cluster.scratch().join("stranger");
    cluster.format(3, &stranger, Uuid::new_v4());
    cluster.start(1, &[]);
    cluster.start(2, &[]);
    cluster.start_on(3, &stranger, &[]);
    let complaints = |cluster: &Cluster, id: u64| -> Vec<String> {
        let log = cluster.log(id);
        log.lines().filter(|l| l.contains("of another cluster")).map(str::to_owned).collect()
    };
    until("both clusters have noticed", || {
        [1, 2, 3].iter().all(|id| !complaints(&cluster, *id).is_empty()).then_some(())
    });
    // Connections are tried again several times a second; not so their complaints. Each node may
    // complain once of each other one for each direction of the connection.
    throughout(Duration::from_secs(3), || {});
    for (id, most) in [(1, 2), (2, 2), (3, 4)] {
        let complaints = complaints(&cluster, id);
        assert!(complaints.len() <= most, "node {id}: {complaints:#?}");
    }
    // No voter of the other cluster was counted: there is no founding, and nobody leads.
    for id in [1, 2, 3] {
        let status = cluster.ask_one(id, &["status"]).unwrap();
        assert_eq!((&status["leader_id"], &status["fatal"]), (&json!(null), &json!(null)));
    }
    // The real one comes, and the cluster is founded.
    cluster.kill(3);
    cluster.start(3, &[]);
    cluster.until_brokers_are_live(3);
}

/// A wiped disk, formatted again under the old id, is told so by its peers and ends with the
/// remedy.
#[test]
fn a_doubled_node_is_refused_by_its_cluster_and_says_how_to_join() {
    let mut cluster = Cluster::running();
    let cluster_id = cluster.ask(&["status"])["cluster_id"].as_str().unwrap().parse().unwrap();
    cluster.create("orders", 1, 3);
    cluster.kill(3);
    let wiped = cluster.scratch().join("wiped");
    cluster.format(3, &wiped, cluster_id);
    cluster.start_on(3, &wiped, &[]);
    assert_eq!(cluster.exit_code(3), Some(1));
    let log = cluster.log(3);
    let sentence = log.lines().last().unwrap();
    assert!(sentence.starts_with("quorate: ") && sentence.contains("--join"), "{sentence}");
    assert!(!log.contains("panicked"), "{log}");
    // The disk that it was is welcome.
    cluster.start(3, &[]);
    cluster.converge();
}

#[test]
fn an_encrypted_cluster_is_asked_over_https_and_changed_with_a_token_or_a_certificate() {
    let mut cluster = Cluster::formatted();
    let (id, scratch) = (Uuid::new_v4(), cluster.scratch().to_owned());
    let (nodes, clients) = (Authority::new(), Authority::new());
    let admin = nodes.issue(&scratch, "127.0.0.1");
    let client = clients.issue(&scratch, "operator");
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (token, token_file) = ("0123456789abcdef0123456789abcdef", scratch.join("token"));
    std::fs::write(&token_file, token).unwrap();
    for n in cluster::IDS {
        let dir = scratch.join(format!("encrypted-{n}"));
        cluster.format(n, &dir, id);
        let own = nodes.issue(&scratch, &format!("node-{n}.{id}.quorate"));
        let options = [
            ("--tls-cert", &own.cert),
            ("--tls-key", &own.key),
            ("--tls-ca", &own.ca),
            ("--admin-tls-cert", &admin.cert),
            ("--admin-tls-key", &admin.key),
            ("--admin-tls-client-ca", &client.ca),
            ("--admin-token-file", &token_file),
        ];
        let words: Vec<String> =
            options.iter().flat_map(|(name, path)| [(*name).to_owned(), text(path)]).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        cluster.start_on(n, &dir, &words);
    }
    let run = |args: &[&str], token: &str| {
        let mut command = program();
        command.args(args).args(["--output", "json", "--addr", &cluster.addrs()]);
        command.env("QUORATE_TOKEN", token).output().unwrap()
    };
    let ca = text(&admin.ca);
    until("brokers are live", || {
        let listed = run(&["brokers", "ls", "--ca", &ca], "");
        let brokers = listed.status.success().then(|| json_of(&listed))?;
        let all = brokers.as_array()?;
        (all.len() == 3 && all.iter().all(|broker| broker["fenced"] == false)).then_some(())
    });
    let create = |name: &'static str| {
        ["topics", "create", name, "--partitions", "1", "--replication-factor", "3", "--ca", &ca]
    };
    assert_refused(&run(&create("a"), ""), 1, &["UNAUTHORIZED", "bearer token"]);
    assert_refused(&run(&create("a"), &token.replace('0', "1")), 1, &["UNAUTHORIZED"]);
    assert!(run(&create("a"), token).status.success());
    let (cert, key) = (text(&client.cert), text(&client.key));
    let shown = [&create("b")[..], &["--cert", &cert, "--key", &key]].concat();
    assert!(run(&shown, "").status.success());
    let topics = json_of(&run(&["topics", "ls", "--ca", &ca], ""));
    assert_eq!(topics.as_array().unwrap().len(), 2);
    // Whoever is not who he should be is sent nothing.
    let other = text(&client.ca);
    let wrong = ["topics", "create", "c", "--partitions", "1", "--replication-factor", "3"];
    let deceived = [&wrong[..], &["--ca", &other, "--timeout", "2"]].concat();
    assert_refused(&run(&deceived, token), 1, &["gave up", "UnknownIssuer"]);
    let far = ["topics", "ls", "--addr", "192.0.2.1:1"];
    let output = program().args(far).env("QUORATE_TOKEN", token).output().unwrap();
    assert_refused(&output, 2, &["the token would travel", "--ca"]);
}

#[test]
fn what_others_reach_is_encrypted_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("n1");
    assert!(format(&data_dir, "1", VOTERS).status.success());
    let everywhere = ["--admin", "0.0.0.0:0"];
    let output = program()
        .args(["node", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(&data_dir)
        .args(everywhere)
        .output()
        .unwrap();
    assert_refused(&output, 1, &["0.0.0.0", "not a loopback", "certificate"]);
    let files = Authority::new().issue(dir.path(), "node-2.elsewhere.quorate");
    let [cert, key, ca] =
        [files.cert, files.key, files.ca].map(|path| path.to_str().unwrap().to_owned());
    let own = ["--tls-cert", &cert, "--tls-key", &key, "--tls-ca", &ca];
    assert_refused(&node(&data_dir, &own), 1, &["cert.pem", &format!("node-1.{CLUSTER}.quorate")]);
    assert_refused(&node(&data_dir, &own[..4]), 2, &["--tls-ca go together"]);
}
