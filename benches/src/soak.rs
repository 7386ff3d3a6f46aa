//! `soak`: minutes at a fixed rate, on three nodes, each in a process of its own: do memory, disk and latency stay
//! where they are?
//!
//! A row for each slice of time, and one, `trend`, that compares the last quarter of them with the second: in the first
//! caches fill. Its `ratio` is of the p99, its growth of the largest resident memory, and `disk_bytes` by how much
//! the largest amount on the disks has grown.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;

use crate::fleet::{Fleet, VOTERS};
use crate::phase::Phase;
use crate::process::{Failure, Process};
use crate::report::Row;
use crate::spread::Spread;

/// How long, and how much.
#[derive(Debug, Args)]
pub(crate) struct SoakArgs {
    /// Minutes of it.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Proposals in a second.
    #[arg(long, default_value_t = 3_000, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Bytes of a command.
    #[arg(long, default_value_t = 128)]
    payload_bytes: usize,
    /// Slices of the time.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(8..=1_000))]
    slices: u32,
    /// Where the nodes have their data; the current directory by default.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// What one slice showed.
struct Slice {
    row: Row,
    p99_us: f64,
    rss_bytes: u64,
    disk_bytes: u64,
}

/// Measures, and returns a row for each slice and the trend.
pub(crate) fn run(args: &SoakArgs) -> Result<Vec<Row>, Failure> {
    let dir = match &args.dir {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir_in(".")?,
    };
    let long = Duration::try_from_secs_f64(args.minutes * 60.0)? / args.slices;
    let mut fleet = Fleet::start(dir.path(), &[])?;
    let leader = fleet.leader()?;
    fleet.replicas[leader].ask(&format!("open {} {}", args.rate, args.payload_bytes))?;
    let begin = Instant::now();
    let mut slices = Vec::new();
    for _ in 0..args.slices {
        let (phase, ()) = Phase::measure("slice", &mut fleet, leader, |_| {
            std::thread::park_timeout(long);
            Ok(())
        })?;
        slices.push(slice(&phase, &fleet, dir.path(), begin.elapsed())?);
    }
    let agreed = fleet.agree(leader)?;
    let trend = trend(&slices, agreed)?;
    Ok(slices.into_iter().map(|slice| slice.row).chain([trend]).collect())
}

fn slice(phase: &Phase, fleet: &Fleet, dir: &Path, until: Duration) -> Result<Slice, Failure> {
    let memories = fleet.replicas.iter().map(Process::memory).collect::<Result<Vec<_>, _>>()?;
    let rss_bytes = memories.iter().map(|memory| memory.now_bytes).max().unwrap_or_default();
    let disk_bytes = disk_bytes(dir)?;
    let mut row = Phase::row("open", VOTERS, &[phase]);
    row.seconds = Some(until.as_secs_f64());
    row.rss_bytes = Some(rss_bytes);
    row.rss_growth_bytes = None;
    row.disk_bytes = Some(disk_bytes);
    Ok(Slice { row, p99_us: phase.lap.p99_us, rss_bytes, disk_bytes })
}

/// What the last quarter has more than the second.
fn trend(slices: &[Slice], agreed: bool) -> Result<Row, Failure> {
    let quarter = slices.len() / 4;
    let (second, last) = (&slices[quarter..2 * quarter], &slices[slices.len() - quarter..]);
    let p99 = |slices: &[Slice]| {
        let median = Spread::of(slices.iter().map(|slice| slice.p99_us));
        median.map(|spread| spread.median).ok_or("there are too few slices")
    };
    let most = |slices: &[Slice], figure: fn(&Slice) -> u64| slices.iter().map(figure).max();
    let grown =
        |figure: fn(&Slice) -> u64| Some(most(last, figure)?.saturating_sub(most(second, figure)?));
    let mut row = Row::new("quorate", "open", u32::try_from(VOTERS)?);
    row.what = Some("trend".to_owned());
    row.ratio = Some(p99(last)? / p99(second)?);
    row.rss_growth_bytes = grown(|slice| slice.rss_bytes);
    row.disk_bytes = grown(|slice| slice.disk_bytes);
    row.agreed = Some(agreed);
    Ok(row)
}

/// Bytes of all files in a directory, and in those below it.
fn disk_bytes(dir: &Path) -> Result<u64, Failure> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        // Files come and go while a node runs.
        let Ok(metadata) = entry.metadata() else { continue };
        bytes += match metadata.is_dir() {
            true => disk_bytes(&entry.path())?,
            false => metadata.len(),
        };
    }
    Ok(bytes)
}
