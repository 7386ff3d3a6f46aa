//! `quorate demo`: three real processes, killed with SIGKILL, and an account of every change.
//!
//! | file | owns |
//! | --- | --- |
//! | `story` | what happens, in order |
//! | `cluster` | the three child processes and their directory |
//! | `workload` | the clients that keep proposing |
//! | `ledger` | what was acknowledged and seen |
//! | `verdict` | the comparison of the ledger with what a node has; pure |
//! | `summary` | the outcome as JSON and as a table |
//! | `narrator` | what people see meanwhile |
//! | `interrupt` | SIGINT and SIGTERM |
//! | `sweep` | the removal of the directory when the demo itself is killed |

mod cluster;
mod interrupt;
mod ledger;
mod narrator;
mod ports;
mod story;
mod summary;
pub(crate) mod sweep;
mod verdict;
mod workload;

use crate::args::Output;
use crate::failure::Failure;
use crate::output;

/// Runs the demo and prints its summary; fails when anything that was promised is missing.
pub(crate) fn run(output: Output) -> Result<(), Failure> {
    let interrupt = interrupt::Interrupt::listen()
        .map_err(|e| Failure::Failed(format!("cannot listen for signals: {e}")))?;
    let narrator = narrator::Narrator::new(output);
    let summary = story::tell(&interrupt, &narrator);
    narrator.end();
    match output {
        Output::Json => output::print_json(&summary)?,
        Output::Table => output::print_text(&output::fields_table(&summary.fields()))?,
    }
    summary.verdict()
}
