//! `straggler`: what a follower that is stopped, or whose disk is slow, costs the others.
//!
//! | `what` | measured |
//! | --- | --- |
//! | `healthy` | proposals to three nodes |
//! | `stopped` | the same while one follower's process is suspended |
//! | `returning` | the same until it has caught up again; `seconds` is how long that takes |
//! | `slow-disk` | the same while every fsync of one follower takes longer |
//! | `slow-apply` | the same while every command takes one follower longer to apply; `lag_entries` is what it has still to apply at the end |
//!
//! In turns, in one run: each phase is compared with the healthy ones before and behind it. With
//! `mode` `closed`, clients wait each for its last proposal, and `ratio` is of proposals per second;
//! with `open`, proposals come at a fixed rate, and `ratio` is of the p99. All nodes share the
//! machine, and its disk: a follower that stands still leaves the others more of both. Resident memory is
//! that of the leader, and its growth within the phase; with `slow-apply` the follower's.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

use crate::fleet::{Fleet, VOTERS};
use crate::phase::Phase;
use crate::process::Failure;
use crate::report::Row;
use crate::spread::Spread;

/// Until what the start has left behind is done.
const WARM_UP: Duration = Duration::from_secs(2);

/// What is measured, and how much of it.
#[derive(Debug, Args)]
pub(crate) struct StragglerArgs {
    /// How proposals are made; both by default, each with nodes of its own.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Mode>,
    /// Closed: clients, with one proposal each under way.
    #[arg(long, default_value_t = 64)]
    clients: u32,
    /// Open: proposals in a second.
    #[arg(long, default_value_t = 3_000)]
    rate: u32,
    /// Bytes of a command.
    #[arg(long, default_value_t = 128)]
    payload_bytes: usize,
    /// Milliseconds that every fsync of a slow disk takes longer.
    #[arg(long, default_value_t = 50)]
    delay_ms: u64,
    /// Microseconds that every command takes a slow state machine to apply.
    #[arg(long, default_value_t = 1_000)]
    apply_us: u64,
    /// Entries that a node may have still to apply; the default of the loop by default.
    #[arg(long)]
    apply_lag_max: Option<u64>,
    /// Seconds of a phase.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Rounds of healthy, stopped, returning, healthy, slow-disk, healthy, slow-apply.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Where the nodes have their data; the current directory by default.
    #[arg(long)]
    dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Clients wait for their last proposal.
    Closed,
    /// Proposals come at a fixed rate.
    Open,
}

const HEALTHY: &str = "healthy";
const STOPPED: &str = "stopped";
const RETURNING: &str = "returning";
const SLOW_DISK: &str = "slow-disk";
const SLOW_APPLY: &str = "slow-apply";

/// The nodes, and what became of the proposals to them.
struct Run {
    fleet: Fleet,
    leader: usize,
    follower: usize,
    pause: Duration,
    phases: Vec<Phase>,
    /// How long the follower took to catch up, and whether it needed a snapshot.
    returns: Vec<(f64, bool)>,
    /// Of a follower whose state machine is slow.
    sluggish: Vec<Sluggish>,
}

struct Sluggish {
    lag_entries: u64,
    peak_bytes: u64,
    growth_bytes: u64,
}

/// Measures.
pub(crate) fn run(args: &StragglerArgs) -> Result<Vec<Row>, Failure> {
    if args.rounds == 0 || args.clients == 0 || args.rate == 0 {
        return Err("--rounds, --clients and --rate begin at 1".into());
    }
    let mut rows = Vec::new();
    for mode in [Mode::Closed, Mode::Open] {
        if args.only.is_empty() || args.only.contains(&mode) {
            rows.extend(measure(args, mode)?);
        }
    }
    Ok(rows)
}

fn measure(args: &StragglerArgs, mode: Mode) -> Result<Vec<Row>, Failure> {
    let parent = args.dir.clone().unwrap_or_else(|| ".".into());
    let dir = tempfile::Builder::new().prefix("quorate-benches-").tempdir_in(parent)?;
    let more = args.apply_lag_max.map(|max| ["--apply-lag-max".to_owned(), max.to_string()]);
    let mut fleet = Fleet::start(dir.path(), more.as_ref().map_or(&[], |more| &more[..]))?;
    let leader = fleet.leader()?;
    let begin = match mode {
        Mode::Closed => format!("closed {} {}", args.clients, args.payload_bytes),
        Mode::Open => format!("open {} {}", args.rate, args.payload_bytes),
    };
    fleet.replicas[leader].ask(&begin)?;
    std::thread::park_timeout(WARM_UP);
    let follower = (leader + 1) % VOTERS as usize;
    let pause = Duration::from_secs_f64(args.seconds);
    let (phases, returns, sluggish) = (Vec::new(), Vec::new(), Vec::new());
    let mut run = Run { fleet, leader, follower, pause, phases, returns, sluggish };
    for _ in 0..args.rounds {
        run.healthy()?;
        run.stopped()?;
        run.healthy()?;
        run.slow_disk(args.delay_ms)?;
        run.healthy()?;
        run.slow_apply(args.apply_us)?;
    }
    run.healthy()?;
    let agreed = run.fleet.agree(leader)?;
    let all = [HEALTHY, STOPPED, RETURNING, SLOW_DISK, SLOW_APPLY];
    Ok(all.map(|what| row(args, mode, what, &run, agreed)).into())
}

impl Run {
    fn healthy(&mut self) -> Result<(), Failure> {
        let pause = self.pause;
        self.phase(HEALTHY, |_| {
            std::thread::park_timeout(pause);
            Ok(())
        })
    }

    fn stopped(&mut self) -> Result<(), Failure> {
        let (leader, follower, pause) = (self.leader, self.follower, self.pause);
        self.phase(STOPPED, |fleet| {
            fleet.replicas[follower].suspend()?;
            std::thread::park_timeout(pause);
            Ok(())
        })?;
        let returned = self.phase(RETURNING, |fleet| {
            let first_index = fleet.report(leader)?.first_index;
            let begin = Instant::now();
            fleet.replicas[follower].resume()?;
            let applied_index = fleet.report(follower)?.applied_index;
            fleet.catch_up(follower, leader)?;
            Ok((begin.elapsed().as_secs_f64(), applied_index + 1 < first_index))
        })?;
        self.returns.push(returned);
        Ok(())
    }

    fn slow_disk(&mut self, delay_ms: u64) -> Result<(), Failure> {
        let (follower, pause) = (self.follower, self.pause);
        self.phase(SLOW_DISK, |fleet| {
            fleet.replicas[follower].ask(&format!("slow-disk {delay_ms}"))?;
            std::thread::park_timeout(pause);
            Ok(())
        })?;
        self.fleet.replicas[follower].ask("slow-disk 0")?;
        self.fleet.catch_up(follower, self.leader)
    }

    fn slow_apply(&mut self, apply_us: u64) -> Result<(), Failure> {
        let (follower, pause) = (self.follower, self.pause);
        let sluggish = self.phase(SLOW_APPLY, |fleet| {
            let before_bytes = fleet.replicas[follower].memory()?.now_bytes;
            fleet.replicas[follower].forget_peak()?;
            fleet.replicas[follower].ask(&format!("slow-apply {apply_us}"))?;
            std::thread::park_timeout(pause);
            let report = fleet.report(follower)?;
            let peak_bytes = fleet.replicas[follower].memory()?.peak_bytes;
            let growth_bytes = peak_bytes.saturating_sub(before_bytes);
            let lag_entries = report.last_index.saturating_sub(report.applied_index);
            Ok(Sluggish { lag_entries, peak_bytes, growth_bytes })
        })?;
        self.sluggish.push(sluggish);
        self.fleet.replicas[follower].ask("slow-apply 0")?;
        self.fleet.catch_up(follower, self.leader)
    }

    fn phase<T>(
        &mut self,
        what: &'static str,
        meanwhile: impl FnOnce(&mut Fleet) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let (phase, found) = Phase::measure(what, &mut self.fleet, self.leader, meanwhile)?;
        self.phases.push(phase);
        Ok(found)
    }

    /// The figures of each such phase over those of the healthy ones around it.
    fn ratios(&self, what: &str, figure: impl Fn(&Phase) -> f64) -> Option<Spread> {
        let is_healthy = |phase: &&Phase| phase.what == HEALTHY;
        let ratios = self.phases.iter().enumerate().filter_map(|(at, phase)| {
            let before = self.phases[..at].iter().rev().find(is_healthy)?;
            let behind = self.phases[at + 1..].iter().find(is_healthy)?;
            let usual = (figure(before) + figure(behind)) / 2.0;
            (phase.what == what && what != HEALTHY).then(|| figure(phase) / usual)
        });
        Spread::of(ratios)
    }
}

fn row(args: &StragglerArgs, mode: Mode, what: &str, run: &Run, agreed: bool) -> Row {
    let phases: Vec<&Phase> = run.phases.iter().filter(|phase| phase.what == what).collect();
    let mut row = match mode {
        Mode::Closed => {
            let ratios = run.ratios(what, Phase::per_second);
            let mut row = Phase::row("closed", VOTERS, &phases).with_ratio(ratios);
            row.clients = args.clients;
            row
        }
        Mode::Open => {
            let ratios = run.ratios(what, |phase| phase.lap.p99_us);
            Phase::row("open", VOTERS, &phases).with_ratio(ratios)
        }
    };
    row.payload_bytes = Some(args.payload_bytes);
    if what == RETURNING {
        let seconds = run.returns.iter().map(|(seconds, _)| *seconds);
        row.seconds = Spread::of(seconds).map(|seconds| seconds.median);
        row.by_snapshot = Some(run.returns.iter().all(|(_, by_snapshot)| *by_snapshot));
    }
    if what == SLOW_APPLY {
        row.lag_entries = run.sluggish.iter().map(|sluggish| sluggish.lag_entries).max();
        row.rss_bytes = run.sluggish.iter().map(|sluggish| sluggish.peak_bytes).max();
        row.rss_growth_bytes = run.sluggish.iter().map(|sluggish| sluggish.growth_bytes).max();
    }
    row.agreed = Some(agreed);
    row
}
