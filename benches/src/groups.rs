//! `groups`: many groups on three nodes in one process.
//!
//! | `what` | measured |
//! | --- | --- |
//! | `one-group` | proposals of all clients to one group |
//! | `many-groups` | the same clients, spread over all groups; `ratio` is over `one-group` |
//! | `idle` | CPU of a node whose groups have nothing to do, and the memory of a group |
//!
//! The two that are compared take turns on the same nodes, so that what else the machine does, and
//! the groups that have nothing to do, fall on both alike. The nodes and the clients share the
//! machine: three real ones have three times the processors.

pub(crate) mod cluster;
pub(crate) mod count;
mod idle;
pub(crate) use idle::cpu_time;
mod throughput;

use std::error::Error;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use crate::report::Row;

type Failure = Box<dyn Error + Send + Sync>;

/// Where many small files are cheap to make, if the machine has it.
const IDLE_DIR: &str = "/dev/shm";

/// What is measured, and how much of it.
#[derive(Debug, Args)]
pub(crate) struct GroupsArgs {
    /// Which parts are measured; both by default.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Where the nodes have their data. By default the current directory, and for `idle` /dev/shm:
    /// idle groups write nothing.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Throughput: groups.
    #[arg(long, default_value_t = 1_000)]
    groups: u64,
    /// Throughput: clients, each with one proposal under way.
    #[arg(long, default_value_t = 1_000)]
    clients: u64,
    /// Throughput: rounds, in each of which both take a turn.
    #[arg(long, default_value_t = 7)]
    rounds: u32,
    /// Throughput: seconds of one turn.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Idle: groups.
    #[arg(long, default_value_t = 10_000)]
    idle_groups: u64,
    /// Idle: seconds over which CPU time is counted.
    #[arg(long, default_value_t = 20.0)]
    idle_seconds: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Proposals per second.
    Throughput,
    /// Idle groups.
    Idle,
}

/// Measures, and returns the rows of all parts.
pub(crate) fn run(args: &GroupsArgs) -> Result<Vec<Row>, Box<dyn Error>> {
    if [args.groups, args.clients, args.rounds.into()].contains(&0) || args.idle_groups < 10 {
        return Err("--groups, --clients and --rounds begin at 1, --idle-groups at 10".into());
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let wanted = |part| args.only.is_empty() || args.only.contains(&part);
    let mut rows = Vec::new();
    if wanted(Part::Throughput) {
        let dir = temporary(args, Path::new("."))?;
        let measured = runtime.block_on(throughput::run(args, dir.path()));
        rows.extend(measured.map_err(|failure| failure as Box<dyn Error>)?);
    }
    if wanted(Part::Idle) {
        let shared = Path::new(IDLE_DIR);
        let dir = temporary(args, if shared.is_dir() { shared } else { Path::new(".") })?;
        let measured = runtime.block_on(idle::run(args, dir.path()));
        rows.extend(measured.map_err(|failure| failure as Box<dyn Error>)?);
    }
    Ok(rows)
}

/// A directory for the nodes of one part, gone with it.
fn temporary(args: &GroupsArgs, default: &Path) -> Result<tempfile::TempDir, Box<dyn Error>> {
    let parent = args.dir.as_deref().unwrap_or(default);
    tempfile::Builder::new()
        .prefix("quorate-benches-")
        .tempdir_in(parent)
        .map_err(|error| format!("cannot make a directory in {}: {error}", parent.display()).into())
}
