//! `nemesis`: three nodes as processes, clients that create topics all the time, and faults.
//!
//! Nodes are killed with SIGKILL, one, two or all at once, at any moment, also while others are still
//! catching up; they are stopped for longer than an election takes; what they send to each other is
//! held up or slowed down, one way or both; their disks are full, or their fsyncs fail. When everything has healed, every topic that was acknowledged
//! must be there, once, on every node, under the id that was acknowledged, and none that nobody asked
//! for; and all nodes must have the same state at the same index. That is looked at after every round
//! of kills, and at the end.
//!
//! | `what` | the row |
//! | --- | --- |
//! | `nemesis` | how much was done, and what became of the changes |
//! | `leader`, `follower` | the time to serve again after a kill of one, while the others were well |
//! | `majority` | the same after a kill that left no majority, from when there was one again |
//! | `amid` | the same after a kill while another fault was in force, or a node had only begun |
//! | `kill` | all of these |
//! | `start` | from the start of a process to the first change that its own clients were acknowledged |
//!
//! The time to serve again ends with the first acknowledgement, at any node, of a change that was asked
//! for after the kill. The pause of the clients is in it.

mod links;
mod ordeal;
mod plan;
mod serving;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;

use self::ordeal::{Check, Ordeal, Tally, Target};
use self::plan::{Fault, Plan};
use self::serving::Serving;
use crate::latency::Latencies;
use crate::process::Failure;
use crate::report::Row;

/// The first step of the histogram that is shown.
const STEP: Duration = Duration::from_millis(8);

/// How much is done, and from what it is drawn.
#[derive(Debug, Args)]
pub(crate) struct NemesisArgs {
    /// SIGKILLs; without `kill` among the faults, how many others there are.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    kills: u32,
    /// What the faults and their times are drawn from; another one each time by default. What the nodes
    /// make of it depends on the machine, too.
    #[arg(long)]
    seed: Option<u32>,
    /// Which kinds of faults there are.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["kill", "stop", "cut", "full", "sync"])]
    faults: Vec<Fault>,
    /// Kills between two checks.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    round: u32,
    /// Clients of each node, with one change under way each.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    clients: u32,
    /// Milliseconds from an answer to the next wish of a client.
    #[arg(long, default_value_t = 20)]
    pause_ms: u64,
    /// Where the data directories are made; a temporary directory by default. They are kept where
    /// something is wrong.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Keep them also where nothing is wrong.
    #[arg(long)]
    keep: bool,
}

/// Does it all, and shows what came of it. Fails where anything is not as it must be; then the
/// directory is kept.
pub(crate) fn run(args: &NemesisArgs, show: impl FnOnce(&[Row])) -> Result<(), Failure> {
    let mut dir = tempfile::Builder::new();
    let dir = dir.prefix("nemesis-");
    let mut dir = match &args.dir {
        Some(parent) => dir.tempdir_in(parent)?,
        None => dir.tempdir()?,
    };
    let seed = args.seed.unwrap_or_else(|| uuid::Uuid::new_v4().as_u128() as u32);
    eprintln!("seed {seed}, in {}", dir.path().display());
    let outcome = torment(args, seed, dir.path(), show);
    if args.keep {
        dir.disable_cleanup(true);
    }
    let Err(why) = outcome else { return Ok(()) };
    let NemesisArgs { kills, round, clients, pause_ms, .. } = args;
    let faults: Vec<String> =
        args.faults.iter().map(|fault| format!("{fault:?}").to_lowercase()).collect();
    Err(format!(
        "{why}. The data and the logs are in {}. The same faults again: quorate-benches nemesis \
         --seed {seed} --kills {kills} --round {round} --clients {clients} --pause-ms {pause_ms} \
         --faults {}",
        dir.keep().display(),
        faults.join(",")
    )
    .into())
}

fn torment(
    args: &NemesisArgs,
    seed: u32,
    dir: &Path,
    show: impl FnOnce(&[Row]),
) -> Result<(), Failure> {
    let begun = Instant::now();
    let mut plan = Plan::new(seed, &args.faults);
    let mut ordeal = Ordeal::start(dir, args.clients, Duration::from_millis(args.pause_ms))?;
    let mut left = args.kills;
    let check = loop {
        let round = left.min(args.round);
        ordeal.endure(plan.round(round))?;
        left -= round;
        let check = ordeal.check()?;
        eprintln!(
            "{} acknowledged, {} unknown, {} lost, {} duplicated, {}",
            check.ledger.acknowledged.len(),
            check.ledger.unknown(),
            check.findings.lost.len(),
            check.findings.duplicated.len() + check.findings.strangers.len(),
            if check.hashes_equal() { "equal states" } else { "states differ" },
        );
        if left == 0 || check.fault().is_some() {
            break check;
        }
        ordeal.go_on()?;
    };
    let mut total = Row::new("quorate", "processes", 3);
    total.seed = Some(seed);
    total.seconds = Some(begun.elapsed().as_secs_f64());
    let mut rows = rows(total, &ordeal.tally, &check)?;
    rows.iter_mut().for_each(|row| row.clients = 3 * args.clients);
    show(&rows);
    check.fault().map_or(Ok(()), |fault| Err(fault.into()))
}

fn rows(mut total: Row, tally: &Tally, check: &Check) -> Result<Vec<Row>, Failure> {
    let Check { ledger, findings, .. } = check;
    let acknowledged = ledger.acknowledged.len() as u64;
    total.what = Some("nemesis".to_owned());
    (total.kills, total.stops, total.cuts) =
        (Some(tally.kills), Some(tally.stops), Some(tally.cuts));
    (total.full_disks, total.failed_fsyncs) = (Some(tally.full_disks), Some(tally.failed_fsyncs));
    total.ops_per_s = total.seconds.map(|seconds| acknowledged as f64 / seconds);
    total.acknowledged = Some(acknowledged);
    total.unknown = Some(ledger.unknown() as u64);
    total.lost = Some(findings.lost.len() as u64);
    total.duplicated = Some((findings.duplicated.len() + findings.strangers.len()) as u64);
    total.hashes_equal = Some(check.hashes_equal());

    let serving = Serving::of(ledger);
    let again = |target: Option<Target>| {
        let blows = tally.blows.iter().filter(move |blow| target.is_none_or(|t| t == blow.target));
        blows.filter_map(|blow| serving.again_after(blow.from?))
    };
    let mut rows = vec![total];
    for (target, what) in Target::ALL {
        rows.push(times(what, again(Some(target)))?.0);
    }
    let (all, histogram) = times("kill", again(None))?;
    eprintln!("time to serve again after a kill:");
    for (up_to, count) in histogram.doubling(STEP) {
        eprintln!("  up to {:>6} ms  {count:>6}", up_to.as_millis());
    }
    rows.push(all);
    rows.push(times("start", ledger.starts.iter().copied())?.0);
    Ok(rows)
}

/// A row of such times, and all of them.
fn times(what: &str, times: impl Iterator<Item = Duration>) -> Result<(Row, Latencies), Failure> {
    let mut latencies = Latencies::new()?;
    times.for_each(|time| latencies.note(time));
    let mut row = Row::new("quorate", "processes", 3).with_latencies(&latencies);
    // They did not follow one another.
    row.ops_per_s = None;
    row.what = Some(what.to_owned());
    row.kills = Some(latencies.count());
    row.p90_us = latencies.quantile_us(0.9);
    row.max_us = latencies.max_us();
    Ok((row, latencies))
}
