//! `transfer`: a large snapshot goes to a new learner while proposals go on, and the connection that
//! carries it is cut on the way.
//!
//! | `what` | measured |
//! | --- | --- |
//! | `before` | proposals at a steady rate to three nodes |
//! | `during` | the same, from the start of a fourth until it has caught up; `ratio` is its p99 over that of `before` |
//! | `after` | the same, with the fourth following |
//! | `learner` | the fourth itself: `seconds` until it has caught up, and what went over the wire for it |
//!
//! Resident memory is that of the leader at most, and its growth what that is above the beginning of
//! the phase; with `learner` it is the fourth's, above its start and its state.
//!
//! Proposals are made by the leader's process at a fixed rate, whatever becomes of those before: the
//! latency of each counts from when it was due. All nodes share the machine, and its disk.

mod proxy;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;

use self::proxy::Proxy;
use crate::fleet::{Fleet, VOTERS, free_addrs};
use crate::phase::Phase;
use crate::process::Failure;
use crate::report::Row;
use crate::spread::Spread;

/// Until what the start has left behind is done: connections, first writes of files.
const WARM_UP: Duration = Duration::from_secs(2);

/// What is measured, and how much of it.
#[derive(Debug, Args)]
pub(crate) struct TransferArgs {
    /// MiB of state.
    #[arg(long, default_value_t = 256)]
    state_mib: u64,
    /// Proposals in a second.
    #[arg(long, default_value_t = 5_000)]
    rate: u32,
    /// Bytes of a command.
    #[arg(long, default_value_t = 128)]
    payload_bytes: usize,
    /// How often the connection is cut.
    #[arg(long, default_value_t = 2)]
    cuts: u64,
    /// Seconds before and after the transfer.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Rounds, each with nodes of its own.
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    /// Where the nodes have their data; the current directory by default.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// One round.
struct Round {
    before: Phase,
    during: Phase,
    after: Phase,
    learner: Learner,
    agreed: bool,
}

/// The fourth node.
struct Learner {
    peak_bytes: u64,
    growth_bytes: u64,
    caught_up: Duration,
    wire_bytes: u64,
}

/// Measures.
pub(crate) fn run(args: &TransferArgs) -> Result<Vec<Row>, Failure> {
    if args.state_mib == 0 || args.rate == 0 || args.rounds == 0 {
        return Err("--state-mib, --rate and --rounds begin at 1".into());
    }
    let rounds: Vec<Round> =
        (1..=args.rounds).map(|number| round(args, number)).collect::<Result<_, _>>()?;
    Ok(rows(args, &rounds))
}

fn round(args: &TransferArgs, number: u32) -> Result<Round, Failure> {
    let parent = args.dir.clone().unwrap_or_else(|| ".".into());
    let dir = tempfile::Builder::new().prefix("quorate-benches-").tempdir_in(parent)?;
    let mut fleet = Fleet::start(dir.path(), &[])?;
    let leader = fleet.leader()?;
    let state_bytes = args.state_mib << 20;
    fleet.fill(leader, u64::from(number), state_bytes)?;
    eprintln!("round {number}: {VOTERS} nodes with {} MiB of state", args.state_mib);
    fleet.replicas[leader].ask(&format!("open {} {}", args.rate, args.payload_bytes))?;
    std::thread::park_timeout(WARM_UP);
    let pause = |_: &mut Fleet| {
        std::thread::park_timeout(Duration::from_secs_f64(args.seconds));
        Ok(())
    };
    let (before, ()) = Phase::measure("before", &mut fleet, leader, pause)?;
    let (during, (learner, _proxy)) =
        Phase::measure("during", &mut fleet, leader, |fleet| bring_in(args, fleet, leader))?;
    let (after, ()) = Phase::measure("after", &mut fleet, leader, pause)?;
    let agreed = fleet.agree(leader)?;
    Ok(Round { before, during, after, learner, agreed })
}

/// Starts a learner, and waits until it has caught up. It is reached by the proxy from then on.
fn bring_in(
    args: &TransferArgs,
    fleet: &mut Fleet,
    leader: usize,
) -> Result<(Learner, Proxy), Failure> {
    let state_bytes = args.state_mib << 20;
    let listen = free_addrs(1)?[0];
    let proxy = Proxy::start(listen, state_bytes / (args.cuts + 1), args.cuts)?;
    let begin = Instant::now();
    let learner = fleet.join(listen, proxy.addr())?;
    let memory = fleet.replicas[learner].memory()?;
    // Once for the snapshot, and once for what was committed while it came.
    fleet.catch_up(learner, leader)?;
    eprintln!("installed after {:.1} s", begin.elapsed().as_secs_f64());
    fleet.catch_up(learner, leader)?;
    let caught_up = begin.elapsed();
    if proxy.cuts_left() > 0 {
        return Err(format!("{} cuts did not come about", proxy.cuts_left()).into());
    }
    let peak_bytes = fleet.replicas[learner].memory()?.peak_bytes;
    let growth_bytes = peak_bytes.saturating_sub(memory.now_bytes + state_bytes);
    let wire_bytes = proxy.ended_bytes();
    Ok((Learner { peak_bytes, growth_bytes, caught_up, wire_bytes }, proxy))
}

fn rows(args: &TransferArgs, rounds: &[Round]) -> Vec<Row> {
    let of = |nodes, phase: fn(&Round) -> &Phase| {
        let phases: Vec<&Phase> = rounds.iter().map(phase).collect();
        Phase::row("processes", nodes, &phases)
    };
    let p99 = |phase: &Phase| phase.lap.p99_us;
    let ratios = rounds.iter().map(|round| p99(&round.during) / p99(&round.before));
    let during = of(VOTERS + 1, |round| &round.during).with_ratio(Spread::of(ratios));
    let mut rows = vec![
        of(VOTERS, |round| &round.before),
        during,
        of(VOTERS + 1, |round| &round.after),
        of_learner(args, rounds),
    ];
    for row in &mut rows {
        row.payload_bytes = Some(args.payload_bytes);
        row.state_bytes = Some(args.state_mib << 20);
    }
    rows
}

fn of_learner(args: &TransferArgs, rounds: &[Round]) -> Row {
    let learners = || rounds.iter().map(|round| &round.learner);
    let mut row = Row::new("quorate", "processes", VOTERS as u32 + 1);
    row.what = Some("learner".to_owned());
    row.rss_bytes = learners().map(|learner| learner.peak_bytes).max();
    row.rss_growth_bytes = learners().map(|learner| learner.growth_bytes).max();
    let seconds = learners().map(|learner| learner.caught_up.as_secs_f64());
    row.seconds = Spread::of(seconds).map(|seconds| seconds.median);
    row.wire_bytes = learners().map(|learner| learner.wire_bytes).max();
    row.cuts = Some(args.cuts);
    // Begun anew after the last cut alone, this part of the file would have come twice.
    let whole = (args.state_mib << 20) * (args.cuts + 2) / (args.cuts + 1);
    row.resumed = row.wire_bytes.filter(|_| args.cuts > 0).map(|bytes| bytes < whole);
    row.agreed = Some(rounds.iter().all(|round| round.agreed));
    row
}
