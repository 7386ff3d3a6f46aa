//! `quorate partitions`.

use quorate_admin::views::{
    CancelReassignments, Explanation, Partition, PartitionChange, PartitionName, PartitionResult,
    PartitionResults, WhatIf,
};
use serde::Serialize;

use crate::args::{Global, OnePartition, Output, Partitions};
use crate::client::path_segment;
use crate::failure::Failure;
use crate::output::{self, fields_table, rows_table};
use crate::query::{client, list, read};

/// The error of a partition that is led as was wanted: nothing has failed.
const NOT_NEEDED: &str = "ELECTION_NOT_NEEDED";

/// `quorate partitions`, all of it.
pub(crate) fn run(global: &Global, command: &Partitions) -> Result<(), Failure> {
    match command {
        Partitions::Ls { topic } => {
            let topic = topic.as_ref().map(|name| format!("topic={}", path_segment(name)));
            list::<Partition>(global, "/v1/partitions", topic)
        }
        Partitions::Elect(args) => change(global, "elect", &args.request()),
        Partitions::Reassign(args) => change(global, "reassign", &args.request()?),
        Partitions::Cancel(OnePartition { topic, partition }) => {
            let name = PartitionName { topic: topic.clone(), partition: *partition };
            change(global, "cancel", &CancelReassignments { partitions: vec![name] })
        }
        Partitions::Explain(one) => explain(global, one),
        Partitions::History(one) => {
            list::<PartitionChange>(global, "/v1/partitions/history", Some(filter(one)))
        }
        Partitions::WhatIf { kill } => what_if(global, kill),
    }
}

fn filter(OnePartition { topic, partition }: &OnePartition) -> String {
    format!("topic={}&partition={partition}", path_segment(topic))
}

fn explain(global: &Global, one: &OnePartition) -> Result<(), Failure> {
    let explained: Explanation = read(global, "/v1/partitions/explain", Some(filter(one)))?;
    if global.output() == Output::Json {
        return output::print_json(&explained);
    }
    let leader = explained.leader.map_or_else(|| "none".to_owned(), |id| id.to_string());
    let fields = fields_table(&[("leader", leader), ("why", explained.why)]);
    if explained.missing.is_empty() {
        return output::print_text(&fields);
    }
    output::print_text(&[fields, rows_table(&explained.missing)].join("\n\n"))
}

fn what_if(global: &Global, kill: &[u64]) -> Result<(), Failure> {
    let ids: Vec<String> = kill.iter().map(u64::to_string).collect();
    let filter = format!("kill={}", ids.join(","));
    let found: WhatIf = read(global, "/v1/partitions/what-if", Some(filter))?;
    let shown = |names: &[String]| match names {
        [] => "-".to_owned(),
        names => names.join(" "),
    };
    let fields = [
        ("killed", output::ids(&found.killed)),
        ("leaderless", shown(&found.leaderless)),
        ("under_min_isr", shown(&found.under_min_isr)),
        ("data_at_risk", shown(&found.data_at_risk)),
    ];
    output::print_fields(global.output(), &found, &fields)
}

/// Asks for a change, and prints what became of each partition.
fn change(global: &Global, what: &str, request: &impl Serialize) -> Result<(), Failure> {
    let path = format!("/v1/partitions/{what}");
    let changed: PartitionResults = client(global)?.post(&path, request)?;
    match global.output() {
        Output::Json => output::print_json(&changed)?,
        Output::Table => output::print_rows(Output::Table, &changed.results)?,
    }
    refusals(&changed.results)
}

/// A failure where a partition was refused: how many, and the first of them.
fn refusals(results: &[PartitionResult]) -> Result<(), Failure> {
    let refused =
        |result: &&PartitionResult| result.error.as_ref().is_some_and(|error| error != NOT_NEEDED);
    let mut all = results.iter().filter(refused);
    let Some(PartitionResult { topic, partition, error, message, .. }) = all.next() else {
        return Ok(());
    };
    let (count, of) = (1 + all.count(), results.len());
    let (error, message) = (output::dash(error.as_ref()), output::dash(message.as_ref()));
    Err(Failure::Failed(match of {
        1 => format!("{message} ({error})"),
        _ => format!(
            "{count} of {of} partitions were refused, the first is {topic}-{partition}: {message} \
             ({error})"
        ),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(partition: u32, error: Option<&str>) -> PartitionResult {
        PartitionResult {
            topic: "t".to_owned(),
            partition,
            error: error.map(str::to_owned),
            message: error.map(|_| "why: do this".to_owned()),
            leader: None,
            isr: None,
            leader_epoch: None,
            partition_epoch: None,
        }
    }

    #[test]
    fn a_partition_that_was_refused_is_a_failure_and_one_that_needs_nothing_is_none() {
        let fine = [result(0, None), result(1, Some(NOT_NEEDED))];
        assert_eq!(refusals(&fine), Ok(()));
        assert_eq!(refusals(&[]), Ok(()));
        let said = |results: &[PartitionResult]| refusals(results).unwrap_err().to_string();
        assert_eq!(said(&[result(0, Some("A"))]), "why: do this (A)");
        let mixed = [result(0, None), result(1, Some("A")), result(2, Some("B"))];
        let words = "2 of 3 partitions were refused, the first is t-1: why: do this (A)";
        assert_eq!(said(&mixed), words);
    }
}
