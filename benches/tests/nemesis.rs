//! A short `nemesis`: each kind of fault at least once, and every acknowledgement accounted for.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Eight kills, of one node and of all, with a stop, a link that is cut, one that is slow, a full disk and
/// one that fails among them.
const SEED: &str = "75191";

fn program(dir: &Path, args: &[&str]) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_quorate-benches"));
    program.args(["nemesis", "--output", "json", "--dir"]).arg(dir).args(args);
    program
}

/// To replay what fails here, use the command that its words end with; or any other `--seed`.
///
/// To see it fail: have `Load` ask again for what is unknown; some of it was created.
#[test]
fn after_every_kind_of_fault_what_was_acknowledged_is_there_once() {
    let dir = tempfile::tempdir().unwrap();
    let output = program(dir.path(), &["--kills", "8", "--seed", SEED]).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        panic!("kept in {}: {words}", dir.keep().display());
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "it leaves something behind");
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let named: Vec<_> = rows.iter().map(|row| row["what"].as_str().unwrap()).collect();
    assert_eq!(named, ["nemesis", "leader", "follower", "majority", "amid", "kill", "start"]);
    let total = &rows[0];
    for (what, count) in [
        ("kills", 8),
        ("stops", 1),
        ("cuts", 2),
        ("full_disks", 1),
        ("failed_fsyncs", 1),
        ("lost", 0),
        ("duplicated", 0),
    ] {
        assert_eq!(total[what], count, "{what}: {words}");
    }
    assert_eq!(total["hashes_equal"], true, "{words}");
    // All nodes were to serve before the faults, and after them.
    assert!(total["acknowledged"].as_u64().unwrap() >= 30, "{total}");
    let counted = |row: &Value| row["kills"].as_u64().unwrap();
    assert_eq!(rows[1..5].iter().map(counted).sum::<u64>(), counted(&rows[5]), "{words}");
    assert!(rows[5]["p50_us"].as_f64().unwrap() <= rows[5]["max_us"].as_f64().unwrap());
    // The three of the beginning, and of those of later as many as were served before the next kill.
    assert!(counted(&rows[6]) >= 3, "{words}");
}

/// Whoever looks for what went wrong has the data, the logs, and the way to see it again.
#[test]
fn what_is_lost_is_told_and_its_traces_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let nemesis = program(dir.path(), &["--kills", "1", "--seed", "9", "--faults", "kill"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Somebody was told of a topic that no node has ever heard of.
    let kept = until("it has begun", || {
        let run = std::fs::read_dir(dir.path()).unwrap().next()?.unwrap().path();
        run.join("acts.log").exists().then_some(run)
    });
    let lie = r#"{"Asked":{"name":"lie","at":{"secs":1,"nanos":0}}}
{"Acknowledged":{"name":"lie","id":"7","at":{"secs":2,"nanos":0}}}
"#;
    std::fs::write(kept.join("lie"), lie).unwrap();
    std::fs::rename(kept.join("lie"), kept.join("lie.ledger")).unwrap();

    let output = nemesis.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{words}");
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&rows[0]["lost"], &rows[0]["duplicated"]), (&3.into(), &0.into()), "{words}");
    let last = words.lines().last().unwrap();
    let again = "nemesis --seed 9 --kills 1 --round 100 --clients 2 --pause-ms 20 --faults kill";
    for expected in ["topic lie, acknowledged as 7, is not on node 1", again] {
        assert!(last.contains(expected), "{last}");
    }
    assert!(last.contains(kept.to_str().unwrap()), "{last}");
    for file in ["acts.log", "node-1.log", "node-2.log", "node-3.log"] {
        assert!(std::fs::metadata(kept.join(file)).unwrap().len() > 0, "{file} is empty");
    }
}

/// Waits for something in another process, which cannot wake us.
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}
