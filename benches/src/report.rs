//! [`Row`]: one measurement, and how it is shown.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// One line of a report. `null` in JSON, and `-` in a table, is what was not measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) system: String,
    pub(crate) mode: String,
    pub(crate) nodes: u32,
    pub(crate) clients: u32,
    pub(crate) payload_bytes: Option<usize>,
    pub(crate) durable: bool,
    pub(crate) ops_per_s: Option<f64>,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) p999_us: u64,
    pub(crate) fsyncs_per_op: Option<f64>,
    pub(crate) cpu_us_per_op: Option<f64>,
    /// Our p50 over the bare fdatasync's.
    pub(crate) ratio: Option<f64>,
}

impl Row {
    pub(crate) fn new(system: &str, mode: &str, nodes: u32, micros: &Histogram<u64>) -> Row {
        Row {
            system: system.to_owned(),
            mode: mode.to_owned(),
            nodes,
            clients: 0,
            payload_bytes: None,
            durable: true,
            ops_per_s: None,
            p50_us: micros.value_at_quantile(0.5),
            p99_us: micros.value_at_quantile(0.99),
            p999_us: micros.value_at_quantile(0.999),
            fsyncs_per_op: None,
            cpu_us_per_op: None,
            ratio: None,
        }
    }
}

/// Prints the rows: one JSON array on one line, or a table.
pub(crate) fn print(rows: &[Row], json: bool) {
    if json {
        match serde_json::to_string(rows) {
            Ok(line) => println!("{line}"),
            Err(error) => eprintln!("quorate-benches: {error}"),
        }
        return;
    }
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.2}"));
    println!(
        "{:<10} {:<10} {:>5} {:>7} {:>10} {:>8} {:>8} {:>8} {:>6}",
        "system", "mode", "nodes", "clients", "ops/s", "p50 us", "p99 us", "p999 us", "ratio"
    );
    for row in rows {
        println!(
            "{:<10} {:<10} {:>5} {:>7} {:>10} {:>8} {:>8} {:>8} {:>6}",
            row.system,
            row.mode,
            row.nodes,
            row.clients,
            number(row.ops_per_s),
            row.p50_us,
            row.p99_us,
            row.p999_us,
            number(row.ratio),
        );
    }
}
