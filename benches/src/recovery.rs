//! `recovery`: how long it takes from the start of a process until its node serves again, after `kill -9`.
//!
//! | row | what the node finds |
//! | --- | --- |
//! | `history` | what so many AlterPartitions have left, with snapshots by the default settings |
//! | `entries` | so many AlterPartitions behind the last snapshot, all of which it applies anew |
//! | `snapshot` | a snapshot of so many partitions, and what came behind it |
//!
//! The only voter of its quorum: nobody else has to be waited for. It serves when it has led a linearizable read.

mod node;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use quorate::{ClusterId, Founding, NodeId, Voter};

pub(crate) use self::node::{NodeArgs, run as run_node};
use crate::process::{Failure, Process};
use crate::report::Row;
use crate::spread::Spread;
use crate::trio::free_port;

/// Longest wait for a node that has much to write, or to read.
const PATIENCE: Duration = Duration::from_secs(600);

/// Partitions where entries are counted.
const FEW_PARTITIONS: u32 = 1_000;

/// How much is measured.
#[derive(Debug, Args)]
pub(crate) struct RecoveryArgs {
    /// AlterPartitions; each number is measured by itself, with snapshots and without.
    #[arg(long, value_delimiter = ',', default_values_t = [10_000, 100_000, 1_000_000])]
    entries: Vec<u32>,
    /// Partitions in the snapshot; each number is measured by itself.
    #[arg(long, value_delimiter = ',', default_values_t = [10_000, 100_000, 1_000_000])]
    partitions: Vec<u32>,
    /// Starts of each, of which the median is told.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Where the data directories are made; a temporary directory by default.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Measures, and returns a row for each number.
pub(crate) fn run(args: &RecoveryArgs) -> Result<Vec<Row>, Failure> {
    let history = args.entries.iter().copied().map(Found::History);
    let entries = args.entries.iter().copied().map(Found::Entries);
    let partitions = args.partitions.iter().copied().map(Found::Snapshot);
    history.chain(entries).chain(partitions).map(|found| measure(found, args)).collect()
}

/// What a node finds when it starts.
#[derive(Debug, Clone, Copy)]
enum Found {
    History(u32),
    Entries(u32),
    Snapshot(u32),
}

impl Found {
    /// What the node is told, so that it finds that.
    fn order(self) -> String {
        match self {
            Found::History(entries) | Found::Entries(entries) => {
                format!("entries {FEW_PARTITIONS} {entries}")
            }
            Found::Snapshot(partitions) => format!("snapshot {partitions}"),
        }
    }

    /// How many entries a snapshot waits for while that is made; `None` for as many as by default.
    fn while_made(self) -> Option<u64> {
        match self {
            Found::History(_) => None,
            Found::Entries(_) => Some(u64::MAX),
            Found::Snapshot(_) => Some(1),
        }
    }

    /// The same when it is found: the next start is to find it too.
    fn when_found(self) -> Option<u64> {
        match self {
            Found::History(_) | Found::Snapshot(_) => None,
            Found::Entries(_) => Some(u64::MAX),
        }
    }

    fn row(self) -> Row {
        let mut row = Row::new("quorate", "processes", 1);
        let (what, partitions) = match self {
            Found::History(_) => ("history", FEW_PARTITIONS),
            Found::Entries(_) => ("entries", FEW_PARTITIONS),
            Found::Snapshot(partitions) => ("snapshot", partitions),
        };
        row.what = Some(what.to_owned());
        row.partitions = Some(partitions.into());
        row.goal = match self {
            Found::History(1_000_000) | Found::Entries(1_000_000) => Some("< 1000 ms".to_owned()),
            Found::Snapshot(1_000_000) => Some("< 3000 ms".to_owned()),
            _ => None,
        };
        row
    }
}

fn measure(found: Found, args: &RecoveryArgs) -> Result<Row, Failure> {
    let dir = match &args.dir {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    let (data_dir, listen) = (dir.path().join("node"), free_port().local_addr()?);
    let node = NodeId::new(1).ok_or("nodes are numbered from 1")?;
    let voters = vec![Voter { node_id: node, addr: listen.to_string() }];
    quorate::format(&data_dir, ClusterId::random(), node, Founding::Voters(voters))?;
    eprintln!("recovery: {}", found.order());
    let (_, mut first) = start(&data_dir, listen, found.while_made())?;
    let behind = first.ask(&found.order())?.parse()?;
    // As `kill -9` leaves it.
    drop(first);
    let mut took = Vec::new();
    for _ in 0..args.rounds {
        let (millis, node) = start(&data_dir, listen, found.when_found())?;
        eprintln!("recovery: serves after {millis:.0} ms");
        took.push(millis);
        drop(node);
    }
    let mut row = found.row();
    row.entries = Some(behind);
    row.millis = Spread::of(took).map(|spread| spread.median);
    Ok(row)
}

/// Starts the node, waits until it serves, and says after how many milliseconds that was.
fn start(
    data_dir: &Path,
    listen: SocketAddr,
    snapshot_entries: Option<u64>,
) -> Result<(f64, Process), Failure> {
    let mut args = vec!["recovery-node".to_owned(), "--listen".to_owned(), listen.to_string()];
    args.extend(["--data-dir".to_owned(), data_dir.to_string_lossy().into_owned()]);
    if let Some(entries) = snapshot_entries {
        args.extend(["--snapshot-entries".to_owned(), entries.to_string()]);
    }
    let begin = Instant::now();
    let mut node = Process::start(1, args)?.answering_within(PATIENCE);
    node.answer()?;
    Ok((begin.elapsed().as_secs_f64() * 1e3, node))
}
