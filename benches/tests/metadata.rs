//! The rows of `metadata`, from states too small to tell anything about speed.

#![allow(clippy::unwrap_used)]

use std::process::Command;

use serde_json::Value;

fn positive(row: &Value, fields: &[&str]) {
    for field in fields {
        let value = row[field].as_f64().unwrap_or_else(|| panic!("{field} is no number in {row}"));
        assert!(value.is_finite() && value > 0.0, "{field} in {row}");
    }
}

#[test]
fn every_size_has_its_rows() {
    let sizes = ["--partitions", "250,10000", "--rounds", "2", "--commands", "300"];
    let output = Command::new(env!("CARGO_BIN_EXE_quorate-benches"))
        .args(["metadata", "--output", "json"])
        .args(sizes)
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let (small, large) = rows.split_at(rows.len() / 2);
    for (rows, partitions) in [(small, 250), (large, 10_000)] {
        let named: Vec<_> = rows.iter().map(|row| row["what"].as_str().unwrap()).collect();
        assert_eq!(
            named,
            [
                "memory",
                "alter-partition",
                "alter-partition-decoded",
                "alter-partition",
                "alter-partition-decoded",
                "image-clone",
                "create-topics",
                "snapshot-write",
                "snapshot-restore",
                "state-hash",
                "fence",
            ]
        );
        for row in rows {
            assert_eq!((&row["partitions"], &row["durable"]), (&partitions.into(), &false.into()));
            assert_eq!(row["mode"], "in-process");
            assert_eq!(row["goal"].is_null(), row["what"] == "state-hash", "{row}");
        }
        let batches: Vec<_> = rows[1..5].iter().map(|row| &row["batch"]).collect();
        assert_eq!(batches, [1, 1, 64, 64]);
        for row in &rows[1..5] {
            positive(row, &["ops_per_s"]);
        }
        positive(&rows[5], &["nanos"]);
        assert_eq!(rows[6]["changed"], 10_000);
        positive(&rows[6], &["millis"]);
        positive(&rows[7], &["millis", "pause_ms", "state_bytes"]);
        positive(&rows[8], &["millis", "state_bytes"]);
        positive(&rows[9], &["nanos"]);
        positive(&rows[10], &["millis", "pause_ms"]);
    }
    // Two topics of 100 partitions and one of 50: how many one broker keeps depends on its place.
    assert!((2..=9).contains(&small[10]["changed"].as_u64().unwrap()), "{}", small[10]);
    assert_eq!(large[10]["changed"], 300, "a hundredth led, twice as much followed");
    positive(&large[0], &["bytes_per_partition", "rss_bytes"]);
}
