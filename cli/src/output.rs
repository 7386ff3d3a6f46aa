//! What goes to stdout: one line of JSON for programs, or a table for people.

use std::fmt::Display;
use std::io::{self, Write};

use comfy_table::{CellAlignment, Table, presets};
use quorate_admin::views::{
    Broker, BrokerFeatures, ConfigEntry, CreatedTopic, Member, MissingReplica, Partition,
    PartitionChange, PartitionResult, Status, Topic, Voter,
};
use serde::Serialize;

use crate::args::Output;
use crate::failure::Failure;

/// Something that can be shown to people as rows under a header.
pub(crate) trait Rows {
    /// The names of the columns.
    fn header() -> &'static [&'static str];
    /// One cell for each column.
    fn cells(&self) -> Vec<String>;
}

/// Prints a list of rows.
pub(crate) fn print_rows<T: Rows + Serialize>(output: Output, rows: &[T]) -> Result<(), Failure> {
    match output {
        Output::Json => print_json(rows),
        Output::Table => print_text(&rows_table(rows)),
    }
}

/// Prints one thing: its fields under each other for people.
pub(crate) fn print_fields(
    output: Output,
    json: &impl Serialize,
    fields: &[(&str, String)],
) -> Result<(), Failure> {
    match output {
        Output::Json => print_json(json),
        Output::Table => print_text(&fields_table(fields)),
    }
}

/// Prints one line of JSON.
pub(crate) fn print_json(value: &(impl Serialize + ?Sized)) -> Result<(), Failure> {
    let line = serde_json::to_string(value)
        .map_err(|e| Failure::Failed(format!("the answer cannot be shown as JSON: {e}")))?;
    print_text(&line)
}

/// Prints a text and ends its line. A reader that went away (`quorate ... | head`) is no panic.
pub(crate) fn print_text(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")
        .and_then(|()| stdout.flush())
        .map_err(|e| Failure::Failed(format!("cannot write to standard output: {e}")))
}

/// Rows as text, one line each, under their header.
pub(crate) fn rows_table<T: Rows>(rows: &[T]) -> String {
    let mut table = plain_table();
    table.set_header(T::header().iter().map(|name| name.to_uppercase()));
    for row in rows {
        table.add_row(row.cells());
    }
    trimmed(&table)
}

/// Names and values as text, one line each.
pub(crate) fn fields_table(fields: &[(&str, String)]) -> String {
    let mut table = plain_table();
    for (name, value) in fields {
        table.add_row([*name, value.as_str()]);
    }
    if let Some(names) = table.column_mut(0) {
        names.set_cell_alignment(CellAlignment::Left);
    }
    trimmed(&table)
}

/// Columns without lines: as easy to read as to cut with `awk`.
fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table
}

/// The table's text without the blanks that pad its edges.
fn trimmed(table: &Table) -> String {
    let text = table.to_string();
    let lines: Vec<&str> =
        text.lines().map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end()).collect();
    lines.join("\n")
}

/// The fields of `status`, for people.
pub(crate) fn status_fields(status: &Status) -> Vec<(&'static str, String)> {
    let members = |members: &[Voter]| {
        let shown: Vec<String> =
            members.iter().map(|m| format!("{}={}", m.node_id, m.addr)).collect();
        if shown.is_empty() { "-".to_owned() } else { shown.join(" ") }
    };
    vec![
        ("cluster_id", status.cluster_id.to_string()),
        ("node_id", status.node_id.to_string()),
        ("directory_id", status.directory_id.to_string()),
        ("role", status.role.as_str().to_owned()),
        ("leader_id", optional(status.leader_id)),
        ("term", status.term.to_string()),
        ("commit_index", status.commit_index.to_string()),
        ("applied_index", status.applied_index.to_string()),
        ("first_index", status.first_index.to_string()),
        ("last_index", status.last_index.to_string()),
        ("voters", members(&status.voters)),
        ("learners", members(&status.learners)),
        ("feature_level", status.feature_level.to_string()),
        ("state_hash", status.state_hash.clone()),
        ("fatal", status.fatal.clone().unwrap_or_else(|| "no".to_owned())),
        ("damaged", status.damaged.clone().unwrap_or_else(|| "no".to_owned())),
        ("storage_full", if status.storage_full { "yes" } else { "no" }.to_owned()),
        ("log_disk_bytes", status.log_disk_bytes.to_string()),
        ("dropped", pairs(&status.dropped)),
        ("closed", pairs(&status.closed)),
    ]
}

/// A list of ids as `[1,2,3]`.
pub(crate) fn ids(ids: &[u64]) -> String {
    let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
    format!("[{}]", ids.join(","))
}

fn optional(value: Option<u64>) -> String {
    value.map_or_else(|| "none".to_owned(), |v| v.to_string())
}

/// A value, or a dash where there is none to know.
pub(crate) fn dash(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn pairs<'a, V: Display + 'a>(pairs: impl IntoIterator<Item = (&'a String, &'a V)>) -> String {
    let shown: Vec<String> = pairs.into_iter().map(|(k, v)| format!("{k}={v}")).collect();
    if shown.is_empty() { "-".to_owned() } else { shown.join(" ") }
}

impl Rows for ConfigEntry {
    fn header() -> &'static [&'static str] {
        &["key", "value", "source"]
    }

    fn cells(&self) -> Vec<String> {
        vec![self.key.clone(), self.value.clone(), self.source.as_str().to_owned()]
    }
}

impl Rows for BrokerFeatures {
    fn header() -> &'static [&'static str] {
        &["broker", "min", "max"]
    }

    fn cells(&self) -> Vec<String> {
        let numbers = [self.id, self.supported.min.into(), self.supported.max.into()];
        numbers.map(|number: u64| number.to_string()).to_vec()
    }
}

impl Rows for PartitionResult {
    fn header() -> &'static [&'static str] {
        &["topic", "partition", "leader", "isr", "leader_epoch", "partition_epoch", "error"]
    }

    fn cells(&self) -> Vec<String> {
        let error = self.error.as_ref().zip(self.message.as_ref());
        vec![
            self.topic.clone(),
            self.partition.to_string(),
            dash(self.leader),
            dash(self.isr.as_deref().map(ids)),
            dash(self.leader_epoch),
            dash(self.partition_epoch),
            dash(error.map(|(error, message)| format!("{error}: {message}"))),
        ]
    }
}

impl Rows for PartitionChange {
    fn header() -> &'static [&'static str] {
        &["index", "leader", "isr", "leader_epoch", "partition_epoch", "command", "reason"]
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.index.to_string(),
            optional(self.leader),
            ids(&self.isr),
            self.leader_epoch.to_string(),
            self.partition_epoch.to_string(),
            self.command.clone(),
            self.reason.clone(),
        ]
    }
}

impl Rows for MissingReplica {
    fn header() -> &'static [&'static str] {
        &["missing", "index", "why"]
    }

    fn cells(&self) -> Vec<String> {
        vec![self.replica.to_string(), dash(self.index), self.why.clone()]
    }
}

impl Rows for Broker {
    fn header() -> &'static [&'static str] {
        &["id", "epoch", "fenced", "in_shutdown", "listeners", "rack"]
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.epoch.to_string(),
            self.fenced.to_string(),
            self.in_shutdown.to_string(),
            pairs(&self.listeners),
            dash(self.rack.as_ref()),
        ]
    }
}

impl Rows for Member {
    fn header() -> &'static [&'static str] {
        &[
            "node_id",
            "member_id",
            "role",
            "addr",
            "trails_leader_by",
            "last_contact_ms",
            "directory_id",
        ]
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.node_id.to_string(),
            self.member_id.to_string(),
            self.role.as_str().to_owned(),
            self.addr.clone(),
            dash(self.trails_leader_by),
            dash(self.last_contact_ms),
            self.directory_id.to_string(),
        ]
    }
}

impl Rows for CreatedTopic {
    fn header() -> &'static [&'static str] {
        &["created", "topic_id", "index"]
    }

    fn cells(&self) -> Vec<String> {
        vec![self.name.clone(), self.topic_id.to_string(), self.index.to_string()]
    }
}

impl Rows for Topic {
    fn header() -> &'static [&'static str] {
        &["name", "partitions", "replication_factor", "configs", "topic_id"]
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.partitions.to_string(),
            self.replication_factor.to_string(),
            pairs(&self.configs),
            self.topic_id.to_string(),
        ]
    }
}

impl Rows for Partition {
    fn header() -> &'static [&'static str] {
        &[
            "topic",
            "partition",
            "leader",
            "isr",
            "replicas",
            "elr",
            "leader_epoch",
            "partition_epoch",
            "adding",
            "removing",
            "recovery",
            "last_known_leader",
        ]
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.topic.clone(),
            self.partition.to_string(),
            optional(self.leader),
            ids(&self.isr),
            ids(&self.replicas),
            ids(&self.elr),
            self.leader_epoch.to_string(),
            self.partition_epoch.to_string(),
            ids(&self.adding),
            ids(&self.removing),
            self.recovery.as_str().to_owned(),
            dash(self.last_known_leader),
        ]
    }
}

#[cfg(test)]
mod tests {
    use quorate_admin::views::Recovery;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_table_has_one_line_a_row_and_no_padding_at_its_edges() {
        let partition = Partition {
            topic: "orders".to_owned(),
            topic_id: Uuid::nil(),
            partition: 0,
            replicas: vec![1, 2, 3],
            isr: vec![2, 3],
            elr: vec![],
            leader: None,
            leader_epoch: 4,
            partition_epoch: 5,
            adding: vec![3],
            removing: vec![],
            recovery: Recovery::Recovered,
            last_known_leader: Some(1),
        };
        let text = rows_table(&[partition]);
        let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(lines.len(), 2);
        let before = ["orders", "0", "none", "[2,3]", "[1,2,3]", "[]", "4", "5"];
        assert_eq!(lines[1][..8], before);
        assert_eq!(lines[1][8..], ["[3]", "[]", "recovered", "1"]);
        assert!(text.lines().all(|line| line == line.trim()), "{text:?}");
    }

    #[test]
    fn an_empty_list_is_a_header_for_people() {
        assert_eq!(rows_table::<Broker>(&[]).lines().count(), 1);
    }
}
