//! The rows of `transfer`, from a state too small to tell anything about speed.

#![allow(clippy::unwrap_used)]

use std::process::Command;

use serde_json::Value;

#[test]
fn a_snapshot_that_is_cut_twice_goes_on_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let sizes = ["--state-mib", "24", "--rate", "300", "--seconds", "0.5", "--cuts", "2"];
    let output = Command::new(env!("CARGO_BIN_EXE_quorate-benches"))
        .args(["transfer", "--output", "json", "--dir"])
        .arg(dir.path())
        .args(sizes)
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "it leaves something behind");
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let named: Vec<_> = rows.iter().map(|row| row["what"].as_str().unwrap()).collect();
    assert_eq!(named, ["before", "during", "after", "learner"], "{words}");
    for row in &rows[..3] {
        for field in ["ops_per_s", "p50_us", "p99_us", "p999_us", "fsyncs_per_op"] {
            assert!(row[field].as_f64().unwrap() > 0.0, "{field} in {row}");
        }
        assert_eq!(row["refused"], 0, "{words}");
        assert!(row["rss_bytes"].as_u64().unwrap() > 24 << 20, "{row}");
    }
    assert!(rows[1]["ratio"].as_f64().unwrap() > 0.0);
    let learner = &rows[3];
    assert_eq!((&learner["cuts"], &learner["state_bytes"]), (&2.into(), &(24 << 20).into()));
    assert_eq!((&learner["resumed"], &learner["agreed"]), (&true.into(), &true.into()), "{words}");
    assert!(learner["wire_bytes"].as_u64().unwrap() > 24 << 20, "{learner}");
    assert!(learner["seconds"].as_f64().unwrap() > 0.0);
    assert!(learner["p99_us"].is_null() && learner["ops_per_s"].is_null());
}
