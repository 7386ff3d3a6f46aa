//! The rows of `groups`, from a run too short to tell anything about speed.

#![allow(clippy::unwrap_used)]

use std::process::Command;

use serde_json::Value;

#[test]
fn every_part_has_its_rows() {
    let dir = tempfile::tempdir().unwrap();
    let sizes = ["--groups", "4", "--rounds", "1", "--seconds", "0.2"];
    let idle = ["--idle-groups", "20", "--idle-seconds", "0.5"];
    let output = Command::new(env!("CARGO_BIN_EXE_quorate-benches"))
        .args(["groups", "--output", "json", "--dir"])
        .arg(dir.path())
        .args([&sizes[..], &idle[..]].concat())
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "it leaves something behind");
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let named: Vec<_> = rows.iter().map(|row| row["what"].as_str().unwrap()).collect();
    assert_eq!(named, ["one-group", "many-groups", "idle"]);
    for row in &rows[..2] {
        for field in ["ops_per_s", "p50_us", "fsyncs_per_op", "cpu_us_per_op"] {
            assert!(row[field].as_f64().unwrap() > 0.0, "{field} in {row}");
        }
        assert!(row["idle_cpu_percent"].is_null());
    }
    assert!(rows[1]["ratio"].as_f64().unwrap() > 0.0);
    assert_eq!((&rows[1]["groups"], &rows[2]["groups"]), (&Value::from(4), &Value::from(20)));
    assert!(rows[2]["idle_cpu_percent"].as_f64().unwrap() > 0.0);
    assert!(rows[2]["bytes_per_group"].as_f64().unwrap() >= 0.0);
}
