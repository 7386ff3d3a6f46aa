//! `engine`: our engine beside bare raft-engine, in one run on one disk, the two taking turns.
//!
//! | `what` | ours | raft-engine |
//! | --- | --- | --- |
//! | `append` | `LogWriter::write` of one group's batch | a `LogBatch` filled with the same entries, and `write` |
//! | `append-round-trip` | the same, with all that a loop does to its `GroupLog` for it | as `append` |
//! | `append-prepared` | as `append` | `write` alone, of a batch filled before |
//! | `open` | open and verify, with a snapshot near the end of the log | open, and read every entry once |
//! | `open-replay` | the same, with a snapshot at the start: every entry stays in memory | as `open` |
//! | `memory` | many groups held open, no cache | the same files held open |
//!
//! A ratio is ours over raft-engine's of the same round, and the median over the rounds: what else
//! the machine does falls on both alike.

mod append;
mod child;
pub(crate) mod counted;
mod memory;
mod open;
mod ours;
mod payload;
pub(crate) mod theirs;

use std::error::Error;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use tempfile::TempDir;

use crate::report::Row;

pub(crate) use child::{ChildArgs, rss_bytes, run as run_child};

/// What can go wrong in a measurement: it ends it, and is told.
type Failure = Box<dyn Error>;

/// Data bytes of every entry.
const PAYLOAD_BYTES: usize = 128;

/// Where the memory of many small files is cheap to make, if the machine has it.
const MEMORY_DIR: &str = "/dev/shm";

/// What is measured, and how much of it.
#[derive(Debug, Args)]
pub(crate) struct EngineArgs {
    /// Which parts are measured; all by default.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Where the stores are made. By default the current directory, and for `memory` /dev/shm,
    /// since the speed of the disk does not matter to it.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Append: entries of one write; each is measured by itself.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 64, 512])]
    batches: Vec<usize>,
    /// Append: rounds, in each of which both take a turn.
    #[arg(long, default_value_t = 100)]
    rounds: u32,
    /// Append: writes of one turn.
    #[arg(long, default_value_t = 20)]
    writes: u32,
    /// Open: entries of the store, all live.
    #[arg(long, default_value_t = 1_000_000)]
    entries: u64,
    /// Memory: groups of the store.
    #[arg(long, default_value_t = 10_000)]
    groups: u64,
    /// Open and memory: rounds, in each of which both open in a fresh process.
    #[arg(long, default_value_t = 5)]
    opens: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Group append with fsync.
    Append,
    /// Opening a long log.
    Open,
    /// Memory of many groups.
    Memory,
}

/// One of the two that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum System {
    QuorateEngine,
    RaftEngine,
}

impl System {
    fn name(self) -> &'static str {
        match self {
            System::QuorateEngine => "quorate-engine",
            System::RaftEngine => "raft-engine",
        }
    }

    /// Both, beginning with another one each round.
    fn turns(round: u32) -> [System; 2] {
        if round.is_multiple_of(2) {
            [System::QuorateEngine, System::RaftEngine]
        } else {
            [System::RaftEngine, System::QuorateEngine]
        }
    }

    /// A row of it, and nothing measured yet.
    fn row(self, what: &str) -> Row {
        let mut row = Row::new(self.name(), "in-process", 1);
        row.what = Some(what.to_owned());
        row.clients = 1;
        row.payload_bytes = Some(PAYLOAD_BYTES);
        row
    }
}

/// Measures, and returns the rows of all parts.
pub(crate) fn run(args: &EngineArgs) -> Result<Vec<Row>, Failure> {
    for (name, value) in [("--rounds", args.rounds), ("--writes", args.writes)] {
        if value == 0 {
            return Err(format!("{name} is 0: there is nothing to measure").into());
        }
    }
    if args.opens == 0 || args.groups == 0 || args.batches.contains(&0) {
        return Err("--opens, --groups and --batches begin at 1".into());
    }
    let wanted = |part| args.only.is_empty() || args.only.contains(&part);
    let mut rows = Vec::new();
    if wanted(Part::Append) {
        rows.extend(append::run(args, temporary(args, Path::new("."))?.path())?);
    }
    if wanted(Part::Open) {
        rows.extend(open::run(args, temporary(args, Path::new("."))?.path())?);
    }
    if wanted(Part::Memory) {
        let shared = Path::new(MEMORY_DIR);
        let default = if shared.is_dir() { shared } else { Path::new(".") };
        rows.extend(memory::run(args, temporary(args, default)?.path())?);
    }
    Ok(rows)
}

/// A directory for the stores of one part, gone with it.
fn temporary(args: &EngineArgs, default: &Path) -> Result<TempDir, Failure> {
    let parent = args.dir.as_deref().unwrap_or(default);
    tempfile::Builder::new()
        .prefix("quorate-benches-")
        .tempdir_in(parent)
        .map_err(|error| format!("cannot make a directory in {}: {error}", parent.display()).into())
}
