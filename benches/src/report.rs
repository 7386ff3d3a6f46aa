//! [`Row`]: one measurement, and how it is shown.

mod html;
mod plot;

use clap::ValueEnum;
use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};

use crate::latency::Latencies;
use crate::spread::Spread;

/// One line of a report. `null` in JSON, and `-` in a table, is what was not measured.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) system: String,
    pub(crate) mode: String,
    /// Which of a command's measurements it is.
    pub(crate) what: Option<String>,
    pub(crate) nodes: u32,
    pub(crate) clients: u32,
    /// Operations that fell due in a second, whatever became of those before.
    pub(crate) rate: Option<u32>,
    pub(crate) payload_bytes: Option<usize>,
    pub(crate) durable: bool,
    pub(crate) ops_per_s: Option<f64>,
    pub(crate) p50_us: Option<f64>,
    pub(crate) p90_us: Option<f64>,
    pub(crate) p99_us: Option<f64>,
    pub(crate) p999_us: Option<f64>,
    pub(crate) max_us: Option<f64>,
    pub(crate) fsyncs_per_op: Option<f64>,
    pub(crate) cpu_us_per_op: Option<f64>,
    /// Entries of one write.
    pub(crate) batch: Option<usize>,
    /// Entries of the store, live.
    pub(crate) entries: Option<u64>,
    /// Groups of the store.
    pub(crate) groups: Option<u64>,
    /// How long it took, once.
    pub(crate) seconds: Option<f64>,
    /// Resident memory of the process that holds the store open.
    pub(crate) rss_bytes: Option<u64>,
    /// The longest time without an acknowledgement, in milliseconds.
    pub(crate) gap_ms: Option<f64>,
    /// What resident memory grew by at most, beyond the state itself.
    pub(crate) rss_growth_bytes: Option<u64>,
    /// Bytes of all files of all nodes.
    pub(crate) disk_bytes: Option<u64>,
    /// Bytes of the state machine.
    pub(crate) state_bytes: Option<u64>,
    /// Bytes that went over the wire for it.
    pub(crate) wire_bytes: Option<u64>,
    /// Connections, or links, that were cut meanwhile.
    pub(crate) cuts: Option<u64>,
    /// What the faults were drawn from.
    pub(crate) seed: Option<u32>,
    /// Processes that got a SIGKILL; where it is about times, how many there are.
    pub(crate) kills: Option<u64>,
    /// Processes that got a SIGSTOP.
    pub(crate) stops: Option<u64>,
    /// Disks that had no room for a time.
    pub(crate) full_disks: Option<u64>,
    /// Nodes whose fsyncs failed, so that they ended.
    pub(crate) failed_fsyncs: Option<u64>,
    /// Changes that were acknowledged.
    pub(crate) acknowledged: Option<u64>,
    /// Changes of which nobody was told whether they were made.
    pub(crate) unknown: Option<u64>,
    /// Changes that were acknowledged and are missing on a node, or are there under another id.
    pub(crate) lost: Option<u64>,
    /// Changes that were made twice, or that nobody asked for.
    pub(crate) duplicated: Option<u64>,
    /// Whether all nodes had the same state at the same index, each time that it was looked at.
    pub(crate) hashes_equal: Option<bool>,
    /// Whether it went on where it was cut, and did not begin anew.
    pub(crate) resumed: Option<bool>,
    /// Whether a snapshot was needed.
    pub(crate) by_snapshot: Option<bool>,
    /// Entries that a node had still to apply.
    pub(crate) lag_entries: Option<u64>,
    /// Proposals that had no effect, or of which it is unknown.
    pub(crate) refused: Option<u64>,
    /// Whether all nodes have the same state in the end, and in it all that was acknowledged.
    pub(crate) agreed: Option<bool>,
    /// CPU time of one node with nothing to do, in percent of one core.
    pub(crate) idle_cpu_percent: Option<f64>,
    /// Memory of a group above what it is compared with.
    pub(crate) bytes_per_group: Option<f64>,
    /// Partitions of the state.
    pub(crate) partitions: Option<u64>,
    /// Partitions that one command changed.
    pub(crate) changed: Option<u64>,
    /// Memory of the state for each of its partitions.
    pub(crate) bytes_per_partition: Option<f64>,
    /// How long it took, once, in milliseconds.
    pub(crate) millis: Option<f64>,
    /// How long it took, once, in nanoseconds.
    pub(crate) nanos: Option<f64>,
    /// The longest that a thread which went on meanwhile had to wait, in milliseconds.
    pub(crate) pause_ms: Option<f64>,
    /// What it is to stay within.
    pub(crate) goal: Option<String>,
    /// Ours over that of the system it is compared with; where rounds were taken, their median.
    pub(crate) ratio: Option<f64>,
    /// The p50 of ours over that of the system it is compared with, the same way.
    pub(crate) p50_ratio: Option<f64>,
    /// A quarter of the rounds had a smaller ratio.
    pub(crate) ratio_q1: Option<f64>,
    /// A quarter of the rounds had a greater ratio.
    pub(crate) ratio_q3: Option<f64>,
}

impl Row {
    /// One of a system that keeps its promises over a power loss, and nothing measured yet.
    pub(crate) fn new(system: &str, mode: &str, nodes: u32) -> Row {
        let (system, mode) = (system.to_owned(), mode.to_owned());
        Row { system, mode, nodes, durable: true, ..Row::default() }
    }

    /// With these latencies, and what follows from them.
    pub(crate) fn with_latencies(mut self, latencies: &Latencies) -> Row {
        self.ops_per_s = latencies.per_second();
        self.p50_us = latencies.quantile_us(0.5);
        self.p99_us = latencies.quantile_us(0.99);
        self.p999_us = latencies.quantile_us(0.999);
        self
    }

    /// With the ratios of its rounds.
    pub(crate) fn with_ratio(mut self, ratios: Option<Spread>) -> Row {
        self.ratio = ratios.map(|ratios| ratios.median);
        self.ratio_q1 = ratios.map(|ratios| ratios.q1);
        self.ratio_q3 = ratios.map(|ratios| ratios.q3);
        self
    }
}

/// The cell of a row in one column; `None` where it has none.
type Cell = fn(&Row) -> Option<String>;

/// The columns of a table, and their names.
const COLUMNS: [(&str, Cell); 54] = [
    ("SYSTEM", |row| Some(row.system.clone())),
    ("MODE", |row| Some(row.mode.clone())),
    ("WHAT", |row| row.what.clone()),
    ("NODES", |row| Some(row.nodes.to_string())),
    ("CLIENTS", |row| Some(row.clients.to_string())),
    ("DUE/S", |row| row.rate.map(|rate| rate.to_string())),
    ("DURABLE", |row| yes_or_no(Some(row.durable))),
    ("BYTES", |row| row.payload_bytes.map(|bytes| bytes.to_string())),
    ("BATCH", |row| row.batch.map(|entries| entries.to_string())),
    ("ENTRIES", |row| row.entries.map(|entries| entries.to_string())),
    ("GROUPS", |row| row.groups.map(|groups| groups.to_string())),
    ("PARTITIONS", |row| row.partitions.map(|partitions| partitions.to_string())),
    ("OPS/S", |row| number(row.ops_per_s, 0)),
    ("P50 US", |row| number(row.p50_us, 1)),
    ("P90 US", |row| number(row.p90_us, 1)),
    ("P99 US", |row| number(row.p99_us, 1)),
    ("P99.9 US", |row| number(row.p999_us, 1)),
    ("MAX US", |row| number(row.max_us, 1)),
    ("FSYNCS/OP", |row| number(row.fsyncs_per_op, 2)),
    ("CPU US/OP", |row| number(row.cpu_us_per_op, 1)),
    ("SECONDS", |row| number(row.seconds, 3)),
    ("RSS BYTES", |row| row.rss_bytes.map(|bytes| bytes.to_string())),
    ("GAP MS", |row| number(row.gap_ms, 0)),
    ("RSS GROWTH", |row| row.rss_growth_bytes.map(|bytes| bytes.to_string())),
    ("DISK BYTES", |row| row.disk_bytes.map(|bytes| bytes.to_string())),
    ("STATE BYTES", |row| row.state_bytes.map(|bytes| bytes.to_string())),
    ("WIRE BYTES", |row| row.wire_bytes.map(|bytes| bytes.to_string())),
    ("SEED", |row| row.seed.map(|seed| seed.to_string())),
    ("KILLS", |row| row.kills.map(|kills| kills.to_string())),
    ("STOPS", |row| row.stops.map(|stops| stops.to_string())),
    ("CUTS", |row| row.cuts.map(|cuts| cuts.to_string())),
    ("FULL DISKS", |row| row.full_disks.map(|disks| disks.to_string())),
    ("FAILED FSYNCS", |row| row.failed_fsyncs.map(|nodes| nodes.to_string())),
    ("ACKNOWLEDGED", |row| row.acknowledged.map(|changes| changes.to_string())),
    ("UNKNOWN", |row| row.unknown.map(|changes| changes.to_string())),
    ("LOST", |row| row.lost.map(|changes| changes.to_string())),
    ("DUPLICATED", |row| row.duplicated.map(|changes| changes.to_string())),
    ("HASHES EQUAL", |row| yes_or_no(row.hashes_equal)),
    ("RESUMED", |row| yes_or_no(row.resumed)),
    ("BY SNAPSHOT", |row| yes_or_no(row.by_snapshot)),
    ("LAG", |row| row.lag_entries.map(|entries| entries.to_string())),
    ("REFUSED", |row| row.refused.map(|refused| refused.to_string())),
    ("AGREED", |row| yes_or_no(row.agreed)),
    ("IDLE CPU %", |row| number(row.idle_cpu_percent, 1)),
    ("BYTES/GROUP", |row| number(row.bytes_per_group, 0)),
    ("CHANGED", |row| row.changed.map(|partitions| partitions.to_string())),
    ("BYTES/PARTITION", |row| number(row.bytes_per_partition, 0)),
    ("MS", |row| number(row.millis, 1)),
    ("NS", |row| number(row.nanos, 0)),
    ("PAUSE MS", |row| number(row.pause_ms, 3)),
    ("GOAL", |row| row.goal.clone()),
    ("RATIO", |row| number(row.ratio, 3)),
    ("QUARTILES", |row| {
        let (q1, q3) = row.ratio_q1.zip(row.ratio_q3)?;
        Some(format!("{q1:.3}-{q3:.3}"))
    }),
    ("P50 RATIO", |row| number(row.p50_ratio, 3)),
];

fn number(value: Option<f64>, digits: usize) -> Option<String> {
    value.map(|value| format!("{value:.digits$}"))
}

fn yes_or_no(value: Option<bool>) -> Option<String> {
    value.map(|value| if value { "yes" } else { "no" }.to_owned())
}

/// How rows are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Under each other, for people.
    Table,
    /// One array on one line, with every field.
    Json,
    /// A page with plots, which needs no other file.
    Html,
}

/// Prints the rows.
pub(crate) fn print(rows: &[Row], output: Output) {
    match output {
        Output::Table => println!("{}", table(rows)),
        Output::Html => print!("{}", html::page(rows)),
        Output::Json => match serde_json::to_string(rows) {
            Ok(line) => println!("{line}"),
            Err(error) => eprintln!("quorate-benches: {error}"),
        },
    }
}

/// The columns that some row fills; durability only where the rows differ in it.
fn filled(rows: &[Row]) -> Vec<&'static (&'static str, Cell)> {
    let differ = rows.iter().any(|row| row.durable != rows[0].durable);
    COLUMNS
        .iter()
        .filter(|(name, _)| *name != "DURABLE" || differ)
        .filter(|(_, cell)| rows.is_empty() || rows.iter().any(|row| cell(row).is_some()))
        .collect()
}

/// The rows under each other, without the columns that none of them fills.
fn table(rows: &[Row]) -> Table {
    let filled = filled(rows);
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(filled.iter().map(|(name, _)| *name));
    for row in rows {
        table.add_row(filled.iter().map(|(_, cell)| cell(row).unwrap_or_else(|| "-".to_owned())));
    }
    for (column, (name, _)) in table.column_iter_mut().zip(&filled) {
        if !["SYSTEM", "MODE", "WHAT", "GOAL"].contains(name) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_shows_what_was_measured() {
        let mut row = Row::new("quorate-engine", "in-process", 1);
        row.seconds = Some(1.5);
        let other = Row::new("raft-engine", "in-process", 1);
        let text = table(&[row, other]).to_string();
        assert!(text.contains("SECONDS") && text.contains("1.500"), "{text}");
        assert!(!text.contains("RATIO"), "{text}");
    }

    #[test]
    fn what_was_not_measured_is_null() {
        let json = serde_json::to_value(Row::new("fdatasync", "in-process", 1)).unwrap();
        assert!(json["p50_us"].is_null() && json["fsyncs_per_op"].is_null(), "{json}");
        assert_eq!(json["durable"], true);
    }
}
