//! `metadata`: what the partition metadata costs in memory and time, beside what it may cost.
//!
//! | `what` | measured |
//! | --- | --- |
//! | `memory` | resident memory of a fresh process that makes the state, for each partition |
//! | `alter-partition` | AlterPartition, decoded and applied a second, the image published after each `batch` |
//! | `alter-partition-decoded` | the same without decoding |
//! | `image-clone` | an image taken and dropped |
//! | `create-topics` | 10,000 partitions in one command |
//! | `snapshot-write` | a snapshot written beside AlterPartition; `pause_ms` is the longest of those |
//! | `snapshot-restore` | the state from that snapshot |
//! | `state-hash` | an image asked for its hash |
//! | `fence` | a broker is fenced, and others lead; `pause_ms` is the longest gap of a reader meanwhile |
//!
//! There is one state for each size: 100 brokers, topics of 100 partitions, three replicas each. The
//! commands come in an order that no cache foresees, one thread applies them, and a second one writes or
//! reads where the table says so. What is told is the best of a few rounds, since the others only say
//! how busy the machine was.

pub(crate) mod alter;
mod create;
mod fence;
mod goal;
mod memory;
mod rounds;
mod snapshot;
mod state;

use std::error::Error;

use clap::Args;

use crate::report::Row;
use state::State;

pub(crate) use memory::{ChildArgs, run as run_child};

/// What can go wrong in a measurement: it ends it, and is told.
type Failure = Box<dyn Error>;

/// How much is measured.
#[derive(Debug, Args)]
pub(crate) struct MetadataArgs {
    /// Partitions of the state; each number is measured by itself.
    #[arg(long, value_delimiter = ',', default_values_t = [10_000, 100_000, 1_000_000])]
    partitions: Vec<u32>,
    /// Rounds of every measurement, of which the best is told: at most 20, since each fences another
    /// broker.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
    /// AlterPartition commands of a round.
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1..))]
    commands: u32,
}

/// Measures, and returns the rows of all sizes.
pub(crate) fn run(args: &MetadataArgs) -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    for partitions in args.partitions.iter().copied() {
        if partitions == 0 {
            return Err("--partitions begins at 1".into());
        }
        eprintln!("metadata: {partitions} partitions");
        rows.push(memory::measure(partitions)?);
        let mut state = State::build(partitions)?;
        rows.extend(alter::measure(&mut state, args)?);
        rows.push(alter::measure_clone(&state, args.rounds)?);
        rows.push(create::measure(&mut state, args.rounds)?);
        rows.extend(snapshot::measure(&mut state, args.rounds)?);
        drop(state);
        rows.push(fence::measure(partitions, args.rounds)?);
    }
    Ok(rows)
}

/// A row of this command, with the goal of what it measures.
fn row(what: &str, partitions: u32) -> Row {
    let mut row = Row::new("quorate-statemachine", "in-process", 1);
    row.durable = false;
    row.what = Some(what.to_owned());
    row.partitions = Some(partitions.into());
    row.goal = goal::of(what, partitions);
    row
}
