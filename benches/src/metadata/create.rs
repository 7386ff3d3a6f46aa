//! CreateTopics: the largest command that is allowed.

use std::time::Instant;

use quorate_statemachine::placement::PARTITIONS_PER_COMMAND_MAX;
use quorate_statemachine::{Command, Reply};

use super::rounds::{best, millis};
use super::state::{State, accepted};
use super::{Failure, row};
use crate::report::Row;

/// Measures; the topics are gone afterwards.
pub(super) fn measure(state: &mut State, rounds: u32) -> Result<Row, Failure> {
    let partitions = u32::try_from(PARTITIONS_PER_COMMAND_MAX)?;
    let mut created = 0;
    let took = best(rounds, |_| {
        let topic = state.plan_topic(partitions)?;
        let id = topic.id;
        let command = Command::CreateTopics { topics: vec![topic] }.encode();
        let begin = Instant::now();
        let applied = state.apply(&command)?;
        state.publish();
        let took = begin.elapsed();
        created = applied.changes.partitions.len();
        let Reply::TopicsCreated { .. } = accepted(applied.outcome)? else {
            return Err("a created topic is answered with its id".into());
        };
        accepted(state.apply(&Command::DeleteTopic { topic: id }.encode())?.outcome)?;
        state.publish();
        Ok(took)
    })?;
    let mut row = row("create-topics", state.partitions);
    row.changed = Some(u64::try_from(created)?);
    row.millis = millis(took);
    Ok(row)
}
