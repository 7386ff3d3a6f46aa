//! The rows of `compare`, from a run too short to tell anything about speed.

#![allow(clippy::unwrap_used)]

use std::process::Command;

use serde_json::Value;

/// Rows of ours and of the yardstick, whatever else is installed.
fn compare(dir: &std::path::Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate-benches"));
    command.args(["compare", "--systems", "quorate,bare", "--seconds", "0.2", "--rounds", "1"]);
    command.arg("--dir").arg(dir).args(more);
    command
}

fn rows(dir: &std::path::Path, more: &[&str]) -> Vec<Value> {
    let output = compare(dir, &[&["--output", "json"], more].concat()).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 0, "it leaves something behind");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn every_side_has_its_rows_and_one_fsync_a_node() {
    let dir = tempfile::tempdir().unwrap();
    let rows = rows(dir.path(), &["--clients", "1,8", "--payload", "128,1024"]);
    let named: Vec<_> = rows
        .iter()
        .map(|row| {
            let [mode, what] = ["mode", "what"].map(|field| row[field].as_str().unwrap());
            (mode, what, row["clients"].as_u64().unwrap(), row["payload_bytes"].as_u64())
        })
        .collect();
    let sides = [
        ("processes", "opaque", true),
        ("processes", "opaque-parallel", true),
        ("processes", "opaque-elsewhere", true),
        ("processes", "alter-partition", false),
        ("processes", "alter-partition-elsewhere", false),
        ("in-process", "opaque", true),
        ("in-process", "session", true),
        ("in-process", "alter-partition", false),
        ("in-process", "bare", true),
    ];
    let mut expected = Vec::new();
    for payload in [128, 1024] {
        for clients in [1, 8] {
            // What has a size of its own is measured once.
            let sides = sides.iter().filter(|side| payload == 128 || side.2);
            let named = sides.map(|(mode, what, has_payload)| {
                (*mode, *what, clients, has_payload.then_some(payload))
            });
            expected.extend(named);
        }
    }
    assert_eq!(named, expected);
    for row in &rows {
        for field in ["ops_per_s", "p50_us", "p99_us", "p999_us", "cpu_us_per_op"] {
            assert!(row[field].as_f64().unwrap() > 0.0, "{field} in {row}");
        }
        assert_eq!((&row["nodes"], &row["durable"]), (&Value::from(3), &Value::from(true)));
        assert_eq!(row["refused"], 0, "{row}");
        let ours = row["what"] == "opaque";
        assert_eq!(row["ratio"].is_null(), ours, "{row}");
        assert_eq!(row["p50_ratio"].is_null(), ours, "{row}");
        // One node may be a proposal behind, and write the two at once, or still be writing when the turn
        // begins; none ever syncs twice for one.
        if row["clients"] == 1 {
            let syncs = row["fsyncs_per_op"].as_f64().unwrap();
            let acknowledged = row["acknowledged"].as_f64().unwrap();
            assert!((2.0..=3.0 + 1.0 / acknowledged).contains(&syncs), "{row}");
        }
    }
}

#[test]
fn a_row_that_there_is_not_is_told_with_those_that_there_are() {
    let dir = tempfile::tempdir().unwrap();
    let output = compare(dir.path(), &["--what", "bare,sessions"]).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && words.contains("no row does `sessions`"), "{words}");
    assert!(words.contains("bare, opaque, opaque-elsewhere, opaque-parallel, session"), "{words}");
}

#[test]
fn what_falls_due_is_done_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    let open = ["--clients", "4", "--payload", "64", "--rate", "100"];
    for row in rows(dir.path(), &open) {
        assert_eq!(row["rate"], 100);
        // As many as are due in a fifth of a second; of the last of them a slow machine may begin none.
        let asked = row["acknowledged"].as_u64().unwrap() + row["refused"].as_u64().unwrap();
        assert!((1..=21).contains(&asked), "{row}");
    }
    let html = compare(dir.path(), &[&["--output", "html"], &open[..]].concat()).output().unwrap();
    let html = String::from_utf8(html.stdout).unwrap();
    assert!(html.starts_with("<!DOCTYPE html>") && html.contains("<svg"), "{html}");
    assert!(!html.contains("http") && !html.contains("<script"), "it is not by itself");
    assert!(html.contains("alter-partition-elsewhere"), "{html}");
}
