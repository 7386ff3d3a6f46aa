//! The rows of `straggler`, from a run too short to tell anything about speed.

#![allow(clippy::unwrap_used)]

use std::process::Command;

use serde_json::Value;

#[test]
fn the_others_go_on_and_the_straggler_catches_up() {
    let dir = tempfile::tempdir().unwrap();
    let sizes = ["--rounds", "1", "--seconds", "0.5", "--clients", "4", "--rate", "400"];
    let output = Command::new(env!("CARGO_BIN_EXE_quorate-benches"))
        .args(["straggler", "--output", "json", "--dir"])
        .arg(dir.path())
        .args(sizes)
        .args(["--apply-lag-max", "20", "--apply-us", "100000", "--payload-bytes", "32768"])
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "it leaves something behind");
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let named: Vec<_> = rows
        .iter()
        .map(|row| (row["mode"].as_str().unwrap(), row["what"].as_str().unwrap()))
        .collect();
    let whats = ["healthy", "stopped", "returning", "slow-disk", "slow-apply"];
    let expected = ["closed", "open"].map(|mode| whats.map(|what| (mode, what)));
    assert_eq!(named, expected.concat(), "{words}");
    for row in &rows {
        // Some may be refused: a pause of the machine is enough for so small a bound of the lag.
        assert_eq!(row["agreed"], true, "{words}");
        if row["what"] == "returning" {
            assert!(row["seconds"].as_f64().unwrap() > 0.0, "{row}");
            continue;
        }
        for field in ["ops_per_s", "p50_us", "p99_us", "fsyncs_per_op", "cpu_us_per_op"] {
            assert!(row[field].as_f64().unwrap() > 0.0, "{field} in {row}");
        }
        assert_eq!(row["ratio"].is_null(), row["what"] == "healthy", "{row}");
        if row["what"] == "slow-apply" {
            // Beyond the bound are one append, of 1 MiB at most, and what was on its way.
            let lag = row["lag_entries"].as_u64().unwrap();
            assert!((15..=20 + 32 + 20).contains(&lag), "{row}");
        }
    }
}
