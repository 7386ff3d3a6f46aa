//! Data directories of real nodes, looked at offline: whole, in use, and damaged in every place.

// clippy knows tests by their attribute; what helps them is a test too.
#![allow(clippy::unwrap_used)]

mod cluster;

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use cluster::{Cluster, contents, json_of, program, quorate};
use serde_json::{Value, json};

fn verify(dir: &Path, output: &str) -> Output {
    program().args(["verify", "--output", output, "--data-dir"]).arg(dir).output().unwrap()
}

fn dump(dir: &Path, extra: &[&str]) -> Output {
    program().args(["log", "dump", "--data-dir"]).arg(dir).args(extra).output().unwrap()
}

/// Every line of a dump.
#[track_caller]
fn entries_of(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The entries of a directory that is whole.
#[track_caller]
fn entries(dir: &Path, extra: &[&str]) -> Vec<Value> {
    let output = dump(dir, extra);
    assert_eq!((output.status.code(), &output.stderr[..]), (Some(0), &b""[..]), "{output:?}");
    entries_of(&output)
}

fn indexes(entries: &[Value]) -> Vec<u64> {
    entries.iter().map(|entry| entry["index"].as_u64().unwrap()).collect()
}

/// The topics that were created, each with the index of its command.
fn topics(entries: &[Value]) -> Vec<(String, u64)> {
    let is_create = |entry: &&Value| entry["command"]["name"] == "CreateTopics";
    let topic = |entry: &Value| {
        let name = entry["command"]["fields"]["topics"][0]["name"].as_str().unwrap().to_owned();
        (name, entry["index"].as_u64().unwrap())
    };
    entries.iter().filter(is_create).map(topic).collect()
}

/// Nothing is damaged, and the report of the only group is as it must be.
#[track_caller]
fn assert_whole(dir: &Path) -> Value {
    let output = verify(dir, "json");
    assert_eq!((output.status.code(), &output.stderr[..]), (Some(0), &b""[..]), "{output:?}");
    let report = json_of(&output);
    assert_eq!((&report["ok"], &report["damage"]), (&json!(true), &json!([])), "{report}");
    let [group] = report["groups"].as_array().unwrap().as_slice() else { panic!("{report}") };
    assert_eq!((&group["group"], &group["damaged"]), (&json!(1), &Value::Null), "{report}");
    let number = |name: &str| group[name].as_u64().unwrap_or_else(|| panic!("{name}: {report}"));
    assert!(number("first_index") > number("snapshot_index"), "{report}");
    assert!(number("last_index") >= number("commit_index") && number("term") > 0, "{report}");
    group.clone()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        if path.is_dir() {
            copy(&path, &to.join(name));
        } else {
            std::fs::copy(&path, to.join(name)).unwrap();
        }
    }
}

/// The only file in `folder` with this ending.
fn only(folder: &Path, ending: &str) -> PathBuf {
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let found: Vec<PathBuf> =
        paths.filter(|path| path.display().to_string().ends_with(ending)).collect();
    let [path] = found.as_slice() else { panic!("{found:?}") };
    path.clone()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

/// Both commands find the damage, exit with 1, and change nothing. Gives the first finding and the
/// entries that can be read.
#[track_caller]
fn assert_damaged(dir: &Path, file: &Path) -> (Value, Vec<Value>) {
    let before = contents(dir);
    let output = verify(dir, "json");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report = json_of(&output);
    assert_eq!(report["ok"], false, "{report}");
    let finding = report["damage"][0].clone();
    assert_eq!(finding["file"], file.display().to_string(), "{report}");
    for text in ["what", "remedy"] {
        assert!(finding[text].as_str().is_some_and(|text| !text.is_empty()), "{report}");
    }
    for group in report["groups"].as_array().unwrap() {
        let what = finding["what"].as_str().unwrap();
        assert!(group["damaged"].as_str().is_some_and(|text| text.contains(what)), "{report}");
    }
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("quorate: ") && said.contains("remedy"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");

    let table = verify(dir, "table");
    assert_eq!(table.status.code(), Some(1), "{table:?}");
    let table = String::from_utf8(table.stdout).unwrap();
    for name in ["what", "remedy", "file"] {
        assert!(table.contains(finding[name].as_str().unwrap()), "{name}: {table}");
    }
    assert!(table.trim_end().ends_with("damaged"), "{table}");

    let dumped = dump(dir, &[]);
    let said = String::from_utf8_lossy(&dumped.stderr);
    assert_eq!(dumped.status.code(), Some(1), "{said}");
    assert!(said.contains(finding["what"].as_str().unwrap()), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(contents(dir), before, "something was changed");
    (finding, entries_of(&dumped))
}

#[test]
fn a_node_that_runs_is_looked_at_beside_its_work() {
    let cluster = Cluster::running();
    let mut created = Vec::new();
    for number in 0..6 {
        let name = format!("topic-{number}");
        let index = cluster.create(&name, 2, 3)["index"].as_u64().unwrap();
        created.push((name, index));
        assert_whole(&cluster.data_dir(1 + number % 3));
    }
    cluster.converge();
    let leader = cluster.data_dir(cluster.leader());
    let group = assert_whole(&leader);
    let all = entries(&leader, &[]);
    assert_eq!(topics(&all), created);
    let (first, last) = (group["first_index"].as_u64(), group["last_index"].as_u64());
    let every: Vec<u64> = (first.unwrap()..).take(all.len()).collect();
    assert_eq!(indexes(&all), every, "every index, in order");
    assert!(every.last().copied() >= last, "{last:?}");
    assert!(all.iter().all(|e| e["group"] == 1 && e["term"].as_u64() > Some(0)), "{all:?}");
    let topic = &all.iter().find(|e| e["index"] == created[0].1).unwrap()["command"]["fields"];
    assert_eq!(topic["topics"][0]["partitions"].as_array().unwrap().len(), 2);

    // What is asked for, and only that.
    let (from, to) = (created[1].1, created[3].1);
    let (low, high) = (from.to_string(), to.to_string());
    let within = entries(&leader, &["--from", &low, "--to", &high]);
    assert_eq!(indexes(&within), (from..=to).collect::<Vec<u64>>());
    assert_eq!(topics(&within), created[1..=3]);
    assert_eq!(topics(&entries(&leader, &["--from", &low])), created[1..]);
    assert_eq!(entries(&leader, &["--to", "0"]), Vec::<Value>::new());
    let empty = entries(&leader, &["--kind", "empty", "--group", "1"]);
    assert!(!empty.is_empty() && empty.iter().all(|e| e["bytes"] == 0), "{empty:?}");
    assert_eq!(entries(&leader, &["--kind", "conf-change"]), Vec::<Value>::new());
    assert_eq!(entries(&leader, &["--kind", "command", "--limit", "2"]).len(), 2);

    // For people: a header, and a line an entry.
    let table = dump(&leader, &["--output", "table", "--from", &low, "--to", &low]);
    let table = String::from_utf8(table.stdout).unwrap();
    assert_eq!(table.lines().count(), 2, "{table}");
    assert!(table.starts_with("GROUP") && table.contains("create topics \"topic-1\""), "{table}");
    let table = String::from_utf8(verify(&leader, "table").stdout).unwrap();
    assert!(table.starts_with("GROUP") && table.trim_end().ends_with("ok"), "{table}");

    // Nobody reads it: no failure, and no word.
    let mut unread = program();
    unread.args(["log", "dump", "--data-dir"]).arg(&leader);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = unread.stdout(writer).stderr(Stdio::piped()).output().unwrap();
    assert_eq!((output.status.code(), &output.stderr[..]), (Some(0), &b""[..]), "{output:?}");
}

#[test]
fn damage_is_found_and_named_and_nothing_is_changed() {
    let mut cluster = Cluster::running();
    let created: Vec<(String, u64)> = ["before", "struck", "behind"]
        .into_iter()
        .map(|name| (name.to_owned(), cluster.create(name, 1, 3)["index"].as_u64().unwrap()))
        .collect();
    cluster.converge();
    let id = 1 + cluster.leader() % 3;
    cluster.stop(id);
    let whole = cluster.data_dir(id);
    let before = contents(&whole);
    assert_whole(&whole);
    let all = entries(&whole, &[]);
    assert_eq!(topics(&all), created);
    assert_eq!(contents(&whole), before, "something was changed");

    let fresh = |name: &str| {
        let dir = cluster.scratch().join(name);
        copy(&whole, &dir);
        dir
    };
    let log_of = |dir: &Path| only(&dir.join("log"), ".raftlog");

    // A bit of an entry: the group is damaged there, and the other entries can be read.
    let dir = fresh("entry");
    let log = log_of(&dir);
    let bytes = std::fs::read(&log).unwrap();
    let at = bytes.windows(6).position(|window| window == b"struck").unwrap();
    flip(&log, at);
    let (finding, left) = assert_damaged(&dir, &log);
    let struck = created[1].1;
    assert_eq!(finding["group"], 1, "{finding}");
    assert!(finding["index"].as_u64().is_some_and(|index| index <= struck), "{finding}");
    assert!(finding["offset"].as_u64().is_some_and(|offset| offset < at as u64), "{finding}");
    assert_eq!(topics(&left), [created[0].clone(), created[2].clone()]);
    assert!(left.iter().all(|entry| all.contains(entry)), "{left:?}");
    let group = &json_of(&verify(&dir, "json"))["groups"][0];
    assert_eq!((&group["group"], &group["first_index"]), (&json!(1), &Value::Null), "{group}");
    // Who has seen enough is still told of it.
    assert_eq!(dump(&dir, &["--limit", "1"]).status.code(), Some(1));

    // A bit anywhere: in the middle.
    let dir = fresh("middle");
    let log = log_of(&dir);
    let at = bytes.len() / 2;
    flip(&log, at);
    let (finding, left) = assert_damaged(&dir, &log);
    assert!(finding["offset"].as_u64().is_some_and(|offset| offset <= at as u64), "{finding}");
    assert!(left.iter().all(|entry| all.contains(entry)), "{left:?}");

    // Whole files.
    let dir = fresh("witness");
    std::fs::remove_file(dir.join("witness")).unwrap();
    let (finding, left) = assert_damaged(&dir, &dir.join("witness"));
    assert_eq!((&finding["group"], &finding["offset"]), (&Value::Null, &Value::Null));
    assert_eq!(left, all);

    let dir = fresh("snapshot");
    let snapshot = only(&dir.join("snapshots/1"), ".snap");
    std::fs::remove_file(&snapshot).unwrap();
    let (finding, left) = assert_damaged(&dir, &snapshot);
    assert_eq!(finding["group"], 1, "{finding}");
    assert_eq!(left, all);

    let dir = fresh("log");
    std::fs::remove_file(log_of(&dir)).unwrap();
    let (finding, left) = assert_damaged(&dir, &dir.join("log"));
    assert!(finding["what"].as_str().unwrap().contains("lost"), "{finding}");
    assert_eq!(left, Vec::<Value>::new());

    let dir = fresh("identity");
    flip(&dir.join("identity"), 30);
    assert_damaged(&dir, &dir.join("identity"));
    std::fs::remove_file(dir.join("identity")).unwrap();
    let (finding, left) = assert_damaged(&dir, &dir.join("identity"));
    assert!(finding["what"].as_str().unwrap().contains("missing"), "{finding}");
    assert_eq!(left, Vec::<Value>::new());
}

#[test]
fn what_is_no_data_directory_is_told_in_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let refused = |args: &[&str], status: i32, words: &str| {
        let output = quorate(args);
        let said = String::from_utf8(output.stderr.clone()).unwrap();
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(status), &b""[..]), "{said}");
        assert!(said.starts_with("quorate: ") && said.contains(words), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    };
    for output in ["table", "json"] {
        refused(&["verify", "--data-dir", path, "--output", output], 1, "never formatted");
        refused(&["log", "dump", "--data-dir", path, "--output", output], 1, "never formatted");
    }
    refused(&["verify", "--data-dir", "/nowhere"], 1, "/nowhere was never formatted");
    refused(&["verify"], 2, "--data-dir");
    refused(&["log", "dump"], 2, "--data-dir");
    refused(&["log", "dump", "--data-dir", path, "--from", "5", "--to", "4"], 2, "--from 5");
    refused(&["log", "dump", "--data-dir", path, "--kind", "other"], 2, "conf-change");
    assert_eq!(contents(dir.path()).len(), 0, "something was made");

    // Formatted, and never started: there is nothing in it, and nothing wrong with it.
    let fresh = dir.path().join("fresh");
    let cluster_id = uuid::Uuid::new_v4().to_string();
    let format = program()
        .args(["format", "--node-id", "1", "--voters", "1=127.0.0.1:7001", "--cluster-id"])
        .args([&cluster_id, "--data-dir"])
        .arg(&fresh)
        .output()
        .unwrap();
    assert!(format.status.success(), "{format:?}");
    let report = json_of(&verify(&fresh, "json"));
    assert_eq!((&report["ok"], &report["groups"]), (&json!(true), &json!([])), "{report}");
    assert_eq!(entries(&fresh, &[]), Vec::<Value>::new());
    let path = fresh.to_str().unwrap();
    refused(&["log", "dump", "--data-dir", path, "--group", "2"], 1, "no group 2");
}
