//! What operators ask of topics, partitions, configs, brokers and features.

use serde_json::Value;

use super::*;

/// Prints what became of each partition, and failed with one sentence that contains `words`.
#[track_caller]
fn assert_partly_refused(output: &Output, words: &[&str]) -> Vec<Value> {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    for word in words {
        assert!(said.starts_with("quorate: ") && said.contains(word), "{word:?} in {said}");
    }
    results(&json_of(output))
}

fn results(changed: &Value) -> Vec<Value> {
    assert!(changed["index"].is_u64(), "{changed}");
    changed["results"].as_array().unwrap().clone()
}

fn create(cluster: &Cluster, name: &str, assignment: &str) {
    cluster.ask(&["topics", "create", name, "--replica-assignment", assignment]);
}

#[test]
fn topics_grow_and_configs_change() {
    let cluster = Cluster::running();
    create(&cluster, "orders", "1:2:3,2:3:1");
    let altered = cluster.ask(&[
        "topics",
        "alter",
        "orders",
        "--partitions",
        "3",
        "--config",
        "min.insync.replicas=2",
    ]);
    let done = json!({"name": "orders", "configs_altered": true, "partitions": 3});
    assert_eq!(altered["index"].as_u64().map(|index| index > 0), Some(true), "{altered}");
    for (key, value) in done.as_object().unwrap() {
        assert_eq!(&altered[key], value, "{altered}");
    }
    // Said again, it is so already.
    let again = cluster.ask(&["topics", "alter", "orders", "--partitions", "3"]);
    assert_eq!((&again["partitions"], &again["configs_altered"]), (&json!(3), &json!(false)));

    let described = cluster.ask(&["topics", "describe", "orders"]);
    assert_eq!(
        (&described["partitions"], &described["replication_factor"]),
        (&json!(3), &json!(3))
    );
    assert_eq!(described["configs"], json!({"min.insync.replicas": "2"}));
    let own = json!({"key": "min.insync.replicas", "value": "2", "source": "topic"});
    let configs = described["effective_configs"].as_array().unwrap();
    assert!(configs.contains(&own) && configs.len() == 9, "{configs:?}");
    let partitions = described["partition_list"].as_array().unwrap();
    assert_eq!((partitions.len(), &partitions[1]["replicas"]), (3, &json!([2, 3, 1])));
    let table = quorate(&["topics", "describe", "orders", "--addr", &cluster.addrs()]);
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("KEY") && table.contains("REPLICAS"), "{table}");

    let describe = |target: &[&str]| {
        let rows = cluster.ask(&[&["configs", "describe"], target].concat());
        let rows = rows.as_array().unwrap().clone();
        rows.into_iter().find(|row| row["key"] == "retention.ms").unwrap()
    };
    let alter = |args: &[&str]| cluster.run(&[&["configs", "alter"], args].concat());
    for (target, source) in [
        (&["--default"][..], "default"),
        (&["--broker", "2"], "broker"),
        (&["--topic", "orders"], "topic"),
    ] {
        let built_in = describe(target)["source"] == "built-in";
        assert!(built_in || source != "default");
        let output = alter(&[target, &["--set", "retention.ms=-1"]].concat());
        assert_eq!(json_of(&output)["partitions_changed"], 0, "{output:?}");
        let row = json!({"key": "retention.ms", "value": "-1", "source": source});
        assert_eq!(describe(target), row);
        let output = alter(&[target, &["--append", "cleanup.policy=delete"]].concat());
        assert!(output.status.success(), "{output:?}");
    }

    let partitions =
        |topic: &str, total: &str| cluster.run(&["topics", "alter", topic, "--partitions", total]);
    let assigned = ["topics", "create", "new", "--replica-assignment"];
    let assigned = |assignment: &str| cluster.run(&[&assigned[..], &[assignment]].concat());
    for (output, status, words) in [
        (partitions("orders", "2"), 1, &["INVALID_PARTITIONS", "ask for more than 3"][..]),
        (partitions("orders", "20000"), 1, &["INVALID_PARTITIONS"]),
        (partitions("nobody", "2"), 1, &["UNKNOWN_TOPIC_OR_PARTITION"]),
        (partitions("", "2"), 2, &["empty"]),
        (assigned("1:9"), 1, &["INVALID_REPLICA_ASSIGNMENT"]),
        (assigned("1:2,1"), 2, &["--replica-assignment", "the same number"]),
        (assigned("1;2"), 2, &["1:2:3"]),
        (cluster.run(&["topics", "describe", "nobody"]), 1, &["UNKNOWN_TOPIC_OR_PARTITION"]),
        (alter(&["--topic", "orders"]), 2, &["--set"]),
        (alter(&["--set", "a=1"]), 2, &["--topic"]),
        (alter(&["--topic", "orders", "--set", "a=1"]), 1, &["INVALID_CONFIG"]),
        (alter(&["--topic", "nobody", "--delete", "a"]), 1, &["UNKNOWN_TOPIC_OR_PARTITION"]),
        (alter(&["--broker", "9", "--delete", "a"]), 1, &["BROKER_ID_NOT_REGISTERED"]),
    ] {
        assert_one_sentence(&output, status, words);
    }
    // What was done before something is refused is said.
    let half = ["--config", "retention.ms=5", "--partitions", "1"];
    let output = cluster.run(&[&["topics", "alter", "orders"], &half[..]].concat());
    assert_one_sentence(&output, 1, &["the configs were changed", "INVALID_PARTITIONS"]);
    cluster.converge();
}

#[test]
fn topics_of_a_file_come_together_or_not_at_all() {
    let cluster = Cluster::running();
    let file = cluster.scratch().join("topics.json");
    let write = |topics: &[Value]| {
        std::fs::write(&file, json!({"topics": topics}).to_string()).unwrap();
    };
    let create = ["topics", "create", "--file", file.to_str().unwrap()];
    let names = || {
        let topics = cluster.ask(&["topics", "ls"]);
        let names = topics.as_array().unwrap().iter().map(|topic| topic["name"].clone());
        names.collect::<Vec<_>>()
    };
    let planned = |name: &str| json!({"name": name, "partitions": 2, "replication_factor": 3});
    let mut assigned = planned("audit");
    assigned["assignment"] = json!([[1, 2, 3], [2, 3, 1]]);
    assigned["configs"] = json!({"min.insync.replicas": "2"});
    write(&[planned("orders"), assigned]);
    let created = cluster.ask(&create);
    let topics = created["topics"].as_array().unwrap();
    let shown: Vec<_> = topics.iter().map(|topic| &topic["name"]).collect();
    assert_eq!(shown, ["orders", "audit"]);
    assert!(topics[0]["index"].is_u64() && topics[0]["index"] == topics[1]["index"], "{created}");
    let audit = cluster.ask(&["topics", "describe", "audit"]);
    assert_eq!(audit["topic_id"], topics[1]["topic_id"]);
    assert_eq!(audit["partition_list"][1]["replicas"], json!([2, 3, 1]));
    assert_eq!(audit["configs"], json!({"min.insync.replicas": "2"}));
    assert_eq!(names(), ["audit", "orders"]);

    write(&[planned("new"), planned("orders")]);
    assert_one_sentence(&cluster.run(&create), 1, &["TOPIC_ALREADY_EXISTS", "orders"]);
    write(&[]);
    assert_one_sentence(&cluster.run(&create), 2, &["topics.json", "creates nothing"]);
    std::fs::write(&file, planned("new").to_string()).unwrap();
    assert_one_sentence(&cluster.run(&create), 2, &["topics.json", "{\"topics\":["]);
    assert_eq!(names(), ["audit", "orders"]);

    write(&[planned("new")]);
    let table = program().args(create).args(["--addr", &cluster.addrs()]).output().unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("CREATED") && table.contains("new"), "{table}");
    cluster.converge();
}

#[test]
fn partitions_are_led_and_moved_as_operators_want() {
    let mut cluster = Cluster::running();
    create(&cluster, "orders", "1:2,2:3");
    let named = |output: &Value, name: &str| by_name(output)[name].clone();
    let now = cluster.ask(&["partitions", "ls"]);
    let first = named(&now, "orders-0");
    let more = json!({"adding": [], "removing": [], "recovery": "recovered",
        "last_known_leader": null});
    for (field, value) in more.as_object().unwrap() {
        assert_eq!(&first[field], value, "{first}");
    }

    // Led as it should be: nothing to do, and that is no failure.
    let elect = |args: &[&str]| {
        cluster.run(&[&["partitions", "elect", "--type", "preferred"], args].concat())
    };
    let output = elect(&["--topic", "orders", "--partition", "1"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(results(&json_of(&output))[0]["error"], "ELECTION_NOT_NEEDED");
    assert_eq!(results(&json_of(&elect(&["--all"]))), [] as [Value; 0]);
    // Broker 1 hangs for a moment.
    let fenced = cluster.ask(&["brokers", "fence", "1"]);
    assert_eq!((&fenced["id"], &fenced["partitions_changed"]), (&json!(1), &json!(1)));
    until("broker 1 leads again, or may", || {
        let first = named(&cluster.ask(&["partitions", "ls"]), "orders-0");
        (first["isr"] == json!([1, 2])).then_some(())
    });
    let output = elect(&["--topic", "orders"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(named(&cluster.ask(&["partitions", "ls"]), "orders-0")["leader"], 1);

    // One moves, one cannot, one is not there.
    let plan = cluster.scratch().join("plan.json");
    let partition = |topic: &str, number: u32, replicas: &[u32]| json!({"topic": topic, "partition": number, "replicas": replicas});
    let write = |partitions: &[Value]| {
        let text = json!({"version": 1, "partitions": partitions}).to_string();
        std::fs::write(&plan, text).unwrap();
    };
    write(&[
        partition("orders", 0, &[3, 1]),
        partition("orders", 1, &[2, 9]),
        partition("nobody", 0, &[1]),
    ]);
    let file = plan.to_str().unwrap();
    let reassign = ["partitions", "reassign", "--file", file];
    let refusals = assert_partly_refused(&cluster.run(&reassign), &["2 of 3", "orders-1"]);
    let errors: Vec<_> = refusals.iter().map(|result| result["error"].as_str()).collect();
    let refused = ["INVALID_REPLICA_ASSIGNMENT", "UNKNOWN_TOPIC_OR_PARTITION"].map(Some);
    assert_eq!(errors, [&[None], &refused[..]].concat());
    assert!(refusals[0]["leader_epoch"].is_u64() && refusals[1]["leader_epoch"].is_null());
    let table = program().args(reassign).args(["--addr", &cluster.addrs()]).output().unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("INVALID_REPLICA_ASSIGNMENT: "), "{table}");
    until("it has moved", || {
        let first = named(&cluster.ask(&["partitions", "ls"]), "orders-0");
        (first["replicas"] == json!([3, 1]) && first["removing"] == json!([])).then_some(())
    });

    let cancel = ["partitions", "cancel", "orders", "0"];
    assert_partly_refused(&cluster.run(&cancel), &["NO_REASSIGNMENT_IN_PROGRESS"]);
    std::fs::write(&plan, "{}").unwrap();
    assert_one_sentence(&cluster.run(&reassign), 2, &["plan.json", "\"version\":1"]);
    let bad = r#"{"version":2,"partitions":[]}"#;
    std::fs::write(&plan, bad).unwrap();
    assert_one_sentence(&cluster.run(&reassign), 2, &["plan.json", "version 2", "use 1"]);
    write(&[]);
    assert_one_sentence(&cluster.run(&reassign), 2, &["plan.json", "moves nothing"]);
    write(&vec![partition(&"x".repeat(200), 0, &[1, 2, 3]); 10_001]);
    assert_one_sentence(&cluster.run(&reassign), 1, &["INVALID_REQUEST", "10001"]);
    assert_one_sentence(&elect(&["--topic", "nobody"]), 1, &["UNKNOWN_TOPIC_OR_PARTITION"]);

    // What would be, and then is.
    let what_if = cluster.ask(&["partitions", "what-if", "--kill", "2,3"]);
    assert_eq!(
        (&what_if["killed"], &what_if["leaderless"]),
        (&json!([2, 3]), &json!(["orders-1"]))
    );
    for field in ["under_min_isr", "data_at_risk"] {
        assert_eq!(what_if[field], json!(["orders-1"]), "{what_if}");
    }
    let output = cluster.run(&["partitions", "what-if", "--kill", "9"]);
    assert_one_sentence(&output, 1, &["BROKER_ID_NOT_REGISTERED", "broker 9"]);

    // Without broker 2 a move to it waits, and is taken back.
    cluster.kill(2);
    until("broker 2 is fenced", || {
        let brokers = cluster.ask(&["brokers", "ls"]);
        (brokers[1]["fenced"] == true).then_some(())
    });
    let moves = ["partitions", "reassign", "orders", "0", "--replicas", "3,2"];
    assert_eq!(results(&cluster.ask(&moves))[0]["error"], Value::Null);
    let first = named(&cluster.ask(&["partitions", "ls"]), "orders-0");
    assert_eq!((&first["adding"], &first["removing"]), (&json!([2]), &json!([1])));
    cluster.ask(&cancel);
    let first = named(&cluster.ask(&["partitions", "ls"]), "orders-0");
    assert_eq!((&first["replicas"], &first["adding"]), (&json!([3, 1]), &json!([])));

    // How it came to be so.
    let history = cluster.ask(&["partitions", "history", "orders", "0"]);
    let history = history.as_array().unwrap();
    let commands: Vec<_> = history.iter().map(|change| change["command"].as_str()).collect();
    assert_eq!(commands.first(), Some(&Some("CreateTopics")), "{commands:?}");
    assert_eq!(commands.last(), Some(&Some("AlterReassignments")), "{commands:?}");
    for field in ["index", "leader", "leader_epoch", "partition_epoch", "isr", "reason"] {
        assert!(!history[0][field].is_null(), "{field} in {history:?}");
    }
    let explained = cluster.ask(&["partitions", "explain", "orders", "1"]);
    assert_eq!(explained["leader"], 3);
    assert!(explained["why"].as_str().unwrap().starts_with("broker 3 leads"), "{explained}");
    let missing = &explained["missing"][0];
    assert_eq!(missing["replica"], 2);
    assert!(missing["index"].is_u64() && missing["why"].is_string(), "{explained}");
    for (topic, number) in [("orders", "9"), ("nobody", "0")] {
        for what in ["explain", "history"] {
            let output = cluster.run(&["partitions", what, topic, number]);
            assert_one_sentence(&output, 1, &["UNKNOWN_TOPIC_OR_PARTITION", topic]);
        }
    }

    // Whoever lives is not forgotten: its node would stop.
    let output = cluster.run(&["brokers", "unregister", "1"]);
    assert_one_sentence(&output, 1, &["INVALID_REQUEST", "stop it first"]);
    // It will not come back.
    assert_eq!(cluster.ask(&["brokers", "unregister", "2"])["id"], 2);
    assert_eq!(cluster.ask(&["brokers", "ls"]).as_array().unwrap().len(), 2);
    for what in ["fence", "unregister"] {
        let output = cluster.run(&["brokers", what, "2"]);
        assert_one_sentence(&output, 1, &["BROKER_ID_NOT_REGISTERED", "broker 2"]);
    }
    assert_one_sentence(&cluster.run(&["brokers", "fence", "-1"]), 2, &["-1"]);

    let features = cluster.ask(&["features", "describe"]);
    assert_eq!((&features["level"], &features["supported"]["max"]), (&json!(1), &json!(1)));
    assert_eq!(features["brokers"][0], json!({"id": 1, "min": 1, "max": 1}));
    assert_eq!(cluster.ask(&["features", "set", "1"])["level"], 1);
    let output = cluster.run(&["features", "set", "2"]);
    assert_one_sentence(&output, 1, &["INVALID_UPDATE_VERSION", "run a version"]);
    cluster.converge();
}

/// To see it fail: have the client probe `/health/live` before what takes long.
#[test]
fn a_node_without_a_leader_does_not_keep_a_long_read_from_the_others() {
    let mut cluster = Cluster::running();
    cluster.create("orders", 2, 3);
    // Its other voters are of another cluster: it lives, and never hears of a leader.
    cluster.format_to_join(4, &Uuid::new_v4().to_string());
    let data_dir = cluster.data_dir(4);
    std::fs::remove_dir_all(&data_dir).unwrap();
    cluster.format(4, &data_dir, Uuid::new_v4());
    cluster.start(4, &["--no-broker"]);
    let addrs = format!("{},{}", cluster.admin(4), cluster.admin(1));
    let read = quorate(&["partitions", "ls", "--output", "json", "--addr", &addrs]);
    assert_eq!(read.status.code(), Some(0), "{read:?}");
    assert_eq!(json_of(&read).as_array().unwrap().len(), 2);
    // What it has itself it tells.
    let own = quorate(&["partitions", "ls", "--local", "--output", "json", "--addr", &addrs]);
    assert_eq!(json_of(&own), json!([]));
}
