//! Memory of the state, in a process of its own that has nothing else.

use std::process::{Command, Stdio};

use clap::Args;

use super::state::State;
use super::{Failure, row};
use crate::engine::rss_bytes;
use crate::report::Row;

/// How much state the process makes.
#[derive(Debug, Args)]
pub(crate) struct ChildArgs {
    #[arg(long)]
    partitions: u32,
}

/// Makes the state, and prints by how many bytes that made the process larger: with the rounding
/// and the gaps of the allocator.
pub(crate) fn run(args: &ChildArgs) -> Result<(), Failure> {
    // A small state first: what the program needs by itself is there then.
    drop(State::build(1)?);
    let before = rss_bytes()?;
    let state = State::build(args.partitions)?;
    println!("{}", rss_bytes()?.saturating_sub(before));
    drop(state);
    Ok(())
}

/// Measures.
pub(super) fn measure(partitions: u32) -> Result<Row, Failure> {
    let output = Command::new(std::env::current_exe()?)
        .args(["metadata-state", "--partitions", &partitions.to_string()])
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err("the process that makes the state failed: see its words above".into());
    }
    let bytes: u64 = String::from_utf8(output.stdout)?.trim().parse()?;
    let mut row = row("memory", partitions);
    row.rss_bytes = Some(bytes);
    row.bytes_per_partition = Some(bytes as f64 / f64::from(partitions));
    Ok(row)
}
