//! The rows of `failover`, from two kills.

#![allow(clippy::unwrap_used)]

use std::process::Command;

use serde_json::Value;

#[test]
fn every_kill_has_its_row_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_quorate-benches"))
        .args(["failover", "--kills", "2", "--clients", "1", "--output", "json", "--dir"])
        .arg(dir.path())
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");
    assert!(words.contains("kill 2 of 2") && words.contains("each there once"), "{words}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "it leaves something behind");
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let named: Vec<_> = rows.iter().map(|row| row["what"].as_str().unwrap()).collect();
    assert_eq!(named, ["kill-1", "kill-2", "median", "max"]);
    let gaps: Vec<f64> = rows.iter().map(|row| row["gap_ms"].as_f64().unwrap()).collect();
    assert!(gaps.iter().all(|gap| *gap > 0.0), "{gaps:?}");
    assert_eq!(gaps[3], gaps[0].max(gaps[1]));
    // To a nanosecond: in which order floats are added shows in their last digit.
    assert!((gaps[2] - (gaps[0] + gaps[1]) / 2.0).abs() < 1e-6, "{gaps:?}");
}
