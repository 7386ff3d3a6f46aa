//! Whole clusters under a virtual clock: the production core, engine, state machine and sessions, while
//! the simulator decides when everything happens, and what goes wrong.
//!
//! | part | owns |
//! | --- | --- |
//! | `plan` | what a seed decides before anything happens |
//! | `queue` | virtual time: the next event |
//! | `world`, `work`, `traffic` | the driver: carries out what the cores want, in virtual time; what disks and state machines do, and what nodes say to each other |
//! | `host`, `process` | a disk that outlives its processes; a core on an open engine |
//! | `network` | links, each direction for itself |
//! | `faults`, `membership` | what goes wrong; who comes and goes |
//! | `clients`, `workload` | who asks, and for what |
//! | `brokers` | a data plane, in half of the runs: what `acks=all` acknowledged must stay |
//! | `safety`, `linear` | what must be true after every event, and why |
//! | `coverage`, `trace` | what happened: counted, hashed, told |
//! | `simulated` | the cluster for tests of what is built on top of it |
//!
//! A run has two phases. In the first, faults come, and [`safety`] is looked at. Then all is healed, and
//! within [`CALM`] everybody must be a member that runs, hold the same, and serve every client.
//!
//! # Determinism
//!
//! A seed gives one history. The clock, the network and the disks are virtual; raft-rs's random election
//! timeouts are drawn from the seed; nothing here iterates over a hash map; the reader's thread of an engine
//! is waited for whenever it is asked. A run's hash covers every event in order, so that two runs of one
//! seed can be compared.

mod brokers;
mod calm;
mod clients;
mod coverage;
mod faults;
mod host;
mod linear;
mod membership;
mod network;
mod plan;
mod process;
mod queue;
mod safety;
mod simulated;
mod trace;
mod traffic;
mod work;
mod workload;
mod world;

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use quorate_engine::{GroupId, NodeId};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use thiserror::Error;

pub use coverage::{Coverage, Event, Path};
pub use plan::Mix;
pub use simulated::{Answer, SimulatedCluster, Ticket};
pub use trace::Lines;

use plan::Plan;
use queue::Micros;
use trace::Trace;
use world::World;

/// The group of every cluster here.
const GROUP: GroupId = match GroupId::new(1) {
    Some(group) => group,
    None => panic!("1 is not 0"),
};

/// How long a cluster may take to come to rest once nothing goes wrong any more.
const CALM: Micros = 180_000_000;
/// How often it is looked at meanwhile.
const GLANCE: Micros = 500_000;
/// Events after which a run is not one any more.
const EVENTS_MAX: u64 = 1_000_000;
/// Runs in which the shortest time of faults is looked for.
const SHORTENINGS: u32 = 10;
/// Failures that are reported one by one.
const FAILURES_MAX: usize = 20;
/// Each so many seeds one is run twice, to see whether it comes out the same.
const TWICE_EVERY: u64 = 100;

fn node_id(id: u64) -> NodeId {
    match NodeId::new(id) {
        Some(node) => node,
        None => panic!("nodes are numbered from 1"),
    }
}

/// Why the simulator, or a node that it starts, cannot go on.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct SimError(String);

impl SimError {
    fn new(error: impl ToString) -> Self {
        SimError(error.to_string())
    }
}

/// Seeds to be run.
#[derive(Debug, Clone)]
pub struct Simulation {
    /// The first.
    pub from: u64,
    /// How many.
    pub seeds: u64,
    /// Runs at the same time.
    pub jobs: NonZeroUsize,
    /// What goes on in each.
    pub mix: Mix,
}

/// A seed with which something was not as it must be.
#[derive(Debug, Clone, Serialize)]
pub struct SimulationFailure {
    /// The seed.
    pub seed: u64,
    /// What was wrong first.
    pub what: String,
    /// After how many events that was.
    pub events: u64,
    /// For how many milliseconds faults must come for it: the least that was found.
    pub faults_ms: u64,
    /// How to see it again.
    pub replay: String,
}

/// What came of many seeds.
#[derive(Debug, Clone, Default, Serialize)]
pub struct SimulationReport {
    /// How many were run.
    pub seeds: u64,
    /// With how many something was wrong.
    pub violations: u64,
    /// The first of them.
    pub failing: Vec<SimulationFailure>,
    /// Virtual time, all together.
    pub simulated_hours: f64,
    /// Time of the processor that it took.
    pub cpu_seconds: f64,
    /// The one by the other.
    pub hours_per_cpu_minute: f64,
    /// Events that happened.
    pub events: u64,
    /// Seeds that were run twice, with equal hashes.
    pub repeated: u64,
    /// How often the rarest two faults happened together.
    pub pairs_min: u64,
    /// How often each fault happened.
    pub faults: std::collections::BTreeMap<Event, u64>,
    /// How often each way back was taken.
    pub paths: std::collections::BTreeMap<Path, u64>,
}

impl SimulationReport {
    /// Whether nothing was wrong.
    pub fn is_clean(&self) -> bool {
        self.violations == 0
    }
}

/// What came of one seed.
#[derive(Debug, Clone)]
pub struct SeedRun {
    /// The hash over everything that happened.
    pub hash: u64,
    /// What was wrong, if anything was.
    pub what: Option<String>,
    /// How many events there were.
    pub events: u64,
    /// What happened.
    pub coverage: Coverage,
    /// Virtual time, in microseconds.
    pub simulated_us: u64,
}

/// Runs one seed: faults come for as long as it says, or for `faults` if that is given. With `lines`, what
/// happens is told as it happens.
///
/// # Errors
///
/// When the simulator cannot go on: for want of room for its files, say.
pub fn run_seed(
    seed: u64,
    mix: Mix,
    faults: Option<Duration>,
    lines: Option<Lines>,
) -> Result<SeedRun, SimError> {
    let mut plan = Plan::draw(seed, mix);
    if let Some(faults) = faults {
        plan.length = faults.as_micros() as Micros;
    }
    let end = plan.length;
    let mut trace = Trace::new(lines);
    trace.note(0, || format!("{plan:?}"));
    let mut world = World::new(seed, plan, trace)?;
    while world.queue.now() < end && world.safety.violations == 0 && world.happen()? {
        assert!(world.events < EVENTS_MAX, "seed {seed} has no end");
    }
    world.be_calm();
    let mut glance = end;
    while world.safety.violations == 0 && !world.is_at_rest() {
        if glance > end + CALM {
            let what = world.why_no_rest();
            world.safety.violated(format!("the cluster does not come to rest: {what}"));
        }
        glance += GLANCE;
        while world.queue.now() < glance && world.safety.violations == 0 && world.happen()? {
            assert!(world.events < EVENTS_MAX, "seed {seed} has no end");
        }
    }
    Ok(SeedRun {
        hash: world.trace.hash(),
        what: world.safety.first.first().cloned(),
        events: world.events,
        simulated_us: world.queue.now(),
        coverage: world.coverage,
    })
}

/// Runs one seed. A panic of what is tested is a violation like any other.
pub(crate) fn try_seed(seed: u64, mix: Mix, faults: Option<Duration>) -> SeedRun {
    let run = catch_unwind(AssertUnwindSafe(|| run_seed(seed, mix, faults, None)));
    let what = match run {
        Ok(Ok(run)) => return run,
        Ok(Err(error)) => error.to_string(),
        Err(panic) => format!("panic: {}", panic_text(&*panic)),
    };
    let coverage = Coverage::default();
    SeedRun { hash: 0, what: Some(what), events: 0, coverage, simulated_us: 0 }
}

impl Simulation {
    /// Runs the seeds; `progress` is called after each.
    pub fn run(&self, progress: &(dyn Fn() + Sync)) -> SimulationReport {
        let next = AtomicU64::new(0);
        let all = Mutex::new((SimulationReport::default(), Coverage::default()));
        let begun = cpu_seconds();
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.get() {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= self.seeds {
                            return;
                        }
                        let (run, is_repeated) = self.one(self.from + number);
                        let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
                        let (report, coverage) = &mut *all;
                        coverage.add(&run.coverage);
                        report.take(self.from + number, self.mix, &run);
                        report.repeated += u64::from(is_repeated);
                        progress();
                    }
                });
            }
        });
        let (mut report, coverage) = all.into_inner().unwrap_or_else(PoisonError::into_inner);
        report.failing.sort_by_key(|failure| failure.seed);
        report.failing.truncate(FAILURES_MAX);
        report.failing.iter_mut().for_each(|failure| self.shorten(failure));
        report.cpu_seconds = cpu_seconds() - begun;
        report.hours_per_cpu_minute = report.simulated_hours / (report.cpu_seconds / 60.0);
        report.pairs_min = coverage.least().1;
        (report.faults, report.paths) = (coverage.events, coverage.paths);
        report
    }

    /// Runs a seed, and some of them twice.
    fn one(&self, seed: u64) -> (SeedRun, bool) {
        let mut first = try_seed(seed, self.mix, None);
        let is_repeated = seed.is_multiple_of(TWICE_EVERY);
        if is_repeated {
            let second = try_seed(seed, self.mix, None);
            if first.hash != second.hash {
                let (a, b) = (first.hash, second.hash);
                first.what.get_or_insert(format!("two runs differ: hash {a:x} and {b:x}"));
            }
        }
        (first, is_repeated)
    }

    /// Looks for the shortest time of faults with which something is still wrong.
    fn shorten(&self, failure: &mut SimulationFailure) {
        let length = Plan::draw(failure.seed, self.mix).length / 1_000;
        let (mut least, mut most) = (0_u64, length);
        for _ in 0..SHORTENINGS {
            let middle = least.midpoint(most);
            let run = try_seed(failure.seed, self.mix, Some(Duration::from_millis(middle)));
            match run.what {
                Some(what) => {
                    (failure.what, failure.events, most) = (what, run.events, middle);
                }
                None => least = middle,
            }
        }
        failure.faults_ms = most;
        failure.replay += &format!(" --faults-ms {most}");
    }
}

impl SimulationReport {
    fn take(&mut self, seed: u64, mix: Mix, run: &SeedRun) {
        self.seeds += 1;
        self.events += run.events;
        self.simulated_hours += run.simulated_us as f64 / 3.6e9;
        let Some(what) = &run.what else { return };
        self.violations += 1;
        let mix = if mix == Mix::Idle { " --mix idle" } else { "" };
        self.failing.push(SimulationFailure {
            seed,
            what: what.clone(),
            events: run.events,
            faults_ms: 0,
            replay: format!("cargo run --release -p quorate-sim -- replay --seed {seed}{mix}"),
        });
    }
}

/// What the process has had of processors, all its threads together.
fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
