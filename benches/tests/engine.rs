//! The rows of `engine`, from a run too short to tell anything about speed.

#![allow(clippy::unwrap_used)]

use std::process::Command;

use serde_json::Value;

fn engine(more: &[&str]) -> Vec<Value> {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_quorate-benches"))
        .args(["engine", "--output", "json", "--dir"])
        .arg(dir.path())
        .args(more)
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "it leaves something behind");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn of<'a>(rows: &'a [Value], system: &str, what: &str) -> Vec<&'a Value> {
    let rows: Vec<_> =
        rows.iter().filter(|row| row["system"] == system && row["what"] == what).collect();
    assert!(!rows.is_empty(), "no row of {system}, {what}");
    rows
}

fn positive(row: &Value, field: &str) -> f64 {
    let value = row[field].as_f64().unwrap_or_else(|| panic!("{field} is no number in {row}"));
    assert!(value.is_finite() && value > 0.0, "{field} in {row}");
    value
}

#[test]
fn every_part_has_its_rows() {
    let sizes = ["--rounds", "3", "--writes", "2", "--entries", "3000", "--groups", "20"];
    let rows = engine(&[&sizes[..], &["--batches", "1,7", "--opens", "2"]].concat());
    for row in &rows {
        assert_eq!(row["mode"], "in-process");
        assert_eq!((&row["nodes"], &row["clients"]), (&1.into(), &1.into()));
        assert_eq!((&row["payload_bytes"], &row["durable"]), (&128.into(), &true.into()));
    }
    for what in ["append", "append-round-trip", "append-prepared"] {
        for system in ["quorate-engine", "raft-engine"] {
            let rows = of(&rows, system, what);
            assert_eq!(rows.iter().map(|row| &row["batch"]).collect::<Vec<_>>(), [1, 7]);
            for row in rows {
                for field in ["ops_per_s", "p50_us", "p99_us", "p999_us", "cpu_us_per_op"] {
                    positive(row, field);
                }
                assert!(positive(row, "fsyncs_per_op") >= 1.0, "{row}");
            }
        }
        for row in of(&rows, "quorate-engine", what) {
            let (q1, q3) = (positive(row, "ratio_q1"), positive(row, "ratio_q3"));
            assert!((q1..=q3).contains(&positive(row, "ratio")), "{row}");
        }
    }
    for what in ["open", "open-replay"] {
        for system in ["quorate-engine", "raft-engine"] {
            let row = of(&rows, system, what)[0];
            assert_eq!(row["entries"], 3000);
            positive(row, "seconds");
            assert!(row["p50_us"].is_null());
        }
        positive(of(&rows, "quorate-engine", what)[0], "ratio");
    }
    for system in ["quorate-engine", "raft-engine"] {
        let row = of(&rows, system, "memory")[0];
        assert_eq!((&row["groups"], &row["entries"]), (&20.into(), &160.into()));
        positive(row, "rss_bytes");
    }
    let ours = of(&rows, "quorate-engine", "memory")[0];
    assert!(ours["bytes_per_group"].as_f64().unwrap().is_finite());
}

#[test]
fn only_what_is_asked_for_is_measured() {
    let rows = engine(&["--only", "append", "--batches", "1", "--rounds", "1", "--writes", "1"]);
    assert_eq!(rows.len(), 6);
}
