//! `compare`: Quorate beside what one would use instead, and beside the least that the work can cost.
//!
//! | `system` | `mode` | `what` | an operation |
//! | --- | --- | --- | --- |
//! | `quorate` | `processes` | `opaque` | a command that is counted and hashed; the clients are in the leader's process |
//! | | | `opaque-parallel` | the same with `append_mode = "parallel"` |
//! | | | `opaque-elsewhere` | the clients are in another node's process, and go to the leader over TCP |
//! | | | `alter-partition` | a partition's ISR is changed: clients in the leader's process, through `Quorum` |
//! | | | `alter-partition-elsewhere` | the same, from another node's process |
//! | `quorate` | `in-process` | `opaque`, `session`, `alter-partition` | the same with all nodes in one process; `session` is `opaque` in client sessions |
//! | `etcd` | `processes` | `put` | one key for each client |
//! | `nats` | `processes` | `publish` | to a stream with three replicas in files, which are not synced |
//! | `openraft` | `in-process` | `client-write-file`, `client-write-memory` | as `opaque`; its log is in a file that is synced, or in memory |
//! | `bare` | `in-process` | `bare` | an entry: see [`bare`] |
//!
//! All run at the same time and take turns, in rounds. A client has one operation under way. `ratio` is
//! operations a second of `opaque` in the same mode over those of the row, and `p50 ratio` the same of the
//! p50: each the median over the rounds. `fsyncs_per_op` is those of all
//! nodes' logs, `cpu_us_per_op` the CPU time of all nodes and clients.

pub(crate) mod altering;
mod bare;
mod contender;
pub(crate) mod drive;
mod goal;
mod local;
mod nats;
pub(crate) mod opaque;
#[cfg(feature = "peers")]
mod peers;
mod remote;
mod server;
mod side;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use clap::{Args, ValueEnum};
use tokio::runtime::Runtime;

use crate::fleet::Fleet;
use crate::process::Failure;
use crate::report::Row;
use drive::Order;
use side::{Name, Side};

/// Where the nodes of a system are.
const PROCESSES: &str = "processes";
const IN_PROCESS: &str = "in-process";

/// What is done.
const OPAQUE: &str = "opaque";
const PARALLEL: &str = "opaque-parallel";
const OPAQUE_ELSEWHERE: &str = "opaque-elsewhere";
const SESSION: &str = "session";
const ALTERING: &str = "alter-partition";
const ALTERING_ELSEWHERE: &str = "alter-partition-elsewhere";
const ETCD: &str = "put";
const NATS: &str = "publish";
#[cfg(feature = "peers")]
const OPENRAFT_FILE: &str = "client-write-file";
#[cfg(feature = "peers")]
const OPENRAFT_MEMORY: &str = "client-write-memory";
const BARE: &str = "bare";

/// Seconds of the turn of each side that does not count.
const WARM_UP_SECONDS: f64 = 0.3;

/// What is compared, and for how long.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// Which systems; all by default. One that is not there is told and left out.
    #[arg(long, value_enum, value_delimiter = ',')]
    systems: Vec<System>,
    /// Which rows of these systems, by what they do (`session`); all by default. For a profile of one:
    /// ratios are to `opaque`, and there are none without it.
    #[arg(long, value_delimiter = ',')]
    what: Vec<String>,
    /// Clients, each with one operation under way; each number is measured by itself. At most as many as
    /// a leader of Quorate takes requests at a time.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 64, 1_024, 4_096, 8_192],
          value_parser = clap::value_parser!(u32).range(1..=8_192))]
    clients: Vec<u32>,
    /// Bytes of an operation; each number is measured by itself.
    #[arg(long, value_delimiter = ',', default_values_t = [128, 1_024])]
    payload: Vec<usize>,
    /// Seconds of each row, all rounds together.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Rounds, in each of which every system takes a turn.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Operations that fall due in a second, whatever becomes of those before: latencies count from then
    /// (an open loop). Without it, clients go on when they are answered.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Where all systems have their data. By default the current directory.
    #[arg(long)]
    dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum System {
    /// This.
    Quorate,
    /// etcd, if its program is installed, in a build with the feature `peers`.
    Etcd,
    /// NATS with JetStream, if its program is installed.
    Nats,
    /// openraft, in a build with the feature `peers`.
    Openraft,
    /// A plain loop over raft-rs and raft-engine.
    Bare,
}

/// Measures, and returns the rows of all systems.
pub(crate) fn run(args: &CompareArgs) -> Result<Vec<Row>, Failure> {
    if args.seconds.is_nan() || args.seconds <= 0.0 || args.payload.contains(&0) {
        return Err("--seconds and --payload begin above 0".into());
    }
    let dir = args.dir.as_deref().unwrap_or(Path::new("."));
    let dir = tempfile::Builder::new().prefix("quorate-benches-").tempdir_in(dir)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut sides = start(args, &Rc::new(runtime), dir.path())?;
    choose(&mut sides, &args.what)?;
    let warm_up = Order {
        clients: 1,
        payload_bytes: args.payload.first().copied().unwrap_or(1),
        seconds: WARM_UP_SECONDS,
        rate: None,
    };
    sides.iter_mut().try_for_each(|side| side.warm_up(&warm_up))?;
    let mut rows = Vec::new();
    for payload_bytes in args.payload.iter().copied() {
        let is_first = args.payload.first() == Some(&payload_bytes);
        for clients in args.clients.iter().copied() {
            let seconds = args.seconds / f64::from(args.rounds);
            let order = Order { clients, payload_bytes, seconds, rate: args.rate };
            rows.extend(measure(&mut sides, &order, args.rounds, is_first)?);
        }
    }
    Ok(rows)
}

/// Leaves out all but the rows that are wanted.
fn choose(sides: &mut Vec<Side>, wanted: &[String]) -> Result<(), Failure> {
    let there: BTreeSet<&str> = sides.iter().map(|side| side.name.what).collect();
    if let Some(unknown) = wanted.iter().find(|what| !there.contains(what.as_str())) {
        let there = there.into_iter().collect::<Vec<_>>().join(", ");
        return Err(format!("no row does `{unknown}`; there are: {there}").into());
    }
    sides.retain(|side| wanted.is_empty() || wanted.iter().any(|what| what == side.name.what));
    Ok(())
}

/// Measures one number of clients. Sides whose operations have a size of their own are left out but
/// where `all` are wanted.
fn measure(sides: &mut [Side], order: &Order, rounds: u32, all: bool) -> Result<Vec<Row>, Failure> {
    sides.iter_mut().for_each(Side::begin);
    let count = sides.len();
    for round in 0..rounds as usize {
        // Each is the first of some round.
        for at in (0..count).map(|at| (at + round) % count) {
            if all || sides[at].has_payload {
                sides[at].turn(order)?;
            }
        }
    }
    let measured = sides.iter().filter(|side| all || side.has_payload);
    let row = |side: &Side| {
        let mut row = side.row(order);
        let ours = find(sides, side.name.mode, OPAQUE).filter(|ours| ours.name != side.name);
        row.p50_ratio = ours.and_then(|ours| Some(ours.p50_over(side)?.median));
        row = row.with_ratio(ours.and_then(|ours| ours.throughput_over(side)));
        row.goal = goal::of(sides, side, &row, order);
        row
    };
    Ok(measured.map(row).collect())
}

/// Our side that does this in this mode.
fn find<'a>(sides: &'a [Side], mode: &str, what: &str) -> Option<&'a Side> {
    let is_it = |side: &&Side| {
        side.name.system == "quorate" && side.name.mode == mode && side.name.what == what
    };
    sides.iter().find(is_it)
}

/// Starts every system that is wanted and there.
fn start(args: &CompareArgs, runtime: &Rc<Runtime>, dir: &Path) -> Result<Vec<Side>, Failure> {
    let wanted = |system| args.systems.is_empty() || args.systems.contains(&system);
    let clients = args.clients.iter().copied().max().unwrap_or(1);
    let mut sides = Vec::new();
    if wanted(System::Quorate) {
        sides.extend(quorate(runtime, dir, clients)?);
    }
    #[cfg(feature = "peers")]
    if wanted(System::Etcd) {
        sides.extend(peers::start_etcd(runtime, &subdirectory(dir, "etcd")?)?);
    }
    #[cfg(feature = "peers")]
    if wanted(System::Openraft) {
        sides.extend(peers::start_openraft(runtime, &subdirectory(dir, "openraft")?)?);
    }
    #[cfg(not(feature = "peers"))]
    if wanted(System::Etcd) || wanted(System::Openraft) {
        eprintln!(
            "compare: etcd and openraft are left out: build with `--features peers`, or choose others \
             with --systems"
        );
    }
    if wanted(System::Nats) {
        sides.extend(nats::start(runtime, &subdirectory(dir, "nats")?)?);
    }
    if wanted(System::Bare) {
        let name = Name { system: "bare", mode: IN_PROCESS, what: BARE };
        sides.push(Side::new(name, bare::Bare::start(&subdirectory(dir, "bare")?)?));
    }
    Ok(sides)
}

/// All sides of ours.
fn quorate(runtime: &Rc<Runtime>, dir: &Path, clients: u32) -> Result<Vec<Side>, Failure> {
    use remote::Place::{Elsewhere, Embedded};
    use remote::{RemoteAltering, RemoteOpaque};

    let name = |mode, what| Name { system: "quorate", mode, what };
    let fleet = remote::start_fleet(&subdirectory(dir, "fleet")?, false)?;
    let parallel = remote::start_fleet(&subdirectory(dir, "parallel")?, true)?;
    let trio = remote::start_trio(&subdirectory(dir, "trio")?, clients)?;
    let local = Rc::new(local::LocalOpaque::start(runtime, &subdirectory(dir, "local")?)?);
    let quorums = local::LocalAltering::start(runtime, &subdirectory(dir, "quorums")?, clients)?;
    let opaque = |fleet: &Rc<RefCell<Fleet>>, place| RemoteOpaque { fleet: fleet.clone(), place };
    let altering = |place| RemoteAltering { trio: trio.clone(), place };
    Ok(vec![
        Side::new(name(PROCESSES, OPAQUE), opaque(&fleet, Embedded)),
        Side::new(name(PROCESSES, PARALLEL), opaque(&parallel, Embedded)),
        Side::new(name(PROCESSES, OPAQUE_ELSEWHERE), opaque(&fleet, Elsewhere)),
        Side::new(name(PROCESSES, ALTERING), altering(Embedded)).without_payload(),
        Side::new(name(PROCESSES, ALTERING_ELSEWHERE), altering(Elsewhere)).without_payload(),
        Side::new(name(IN_PROCESS, OPAQUE), local.clients(false)),
        Side::new(name(IN_PROCESS, SESSION), local.clients(true)),
        Side::new(name(IN_PROCESS, ALTERING), quorums).without_payload(),
    ])
}

fn subdirectory(dir: &Path, name: &str) -> Result<PathBuf, Failure> {
    let dir = dir.join(name);
    std::fs::create_dir(&dir)?;
    Ok(dir)
}
