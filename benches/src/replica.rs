//! One node with much state, in a process of its own, for `transfer` and `straggler`.
//!
//! It obeys lines on its standard input, answers each with one line, and ends with its input:
//!
//! | line | what it does |
//! | --- | --- |
//! | `status` | tells a [`Report`] |
//! | `fill SEED BYTES` | proposes a command that makes state, and waits until it is applied |
//! | `open PER_SECOND BYTES` | begins to propose at that rate, whatever becomes of it |
//! | `closed CLIENTS BYTES` | begins to propose with so many clients |
//! | `turn ORDER` | has clients propose as ordered ([`Order`], in JSON), and tells the [`Lap`](crate::lap::Lap) |
//! | `lap` | tells what became of the proposals since the last lap: a [`Lap`](crate::lap::Lap) |
//! | `halt` | ends the proposals, and tells the last lap |
//! | `slow-disk MILLIS` | makes every fsync take longer |
//! | `slow-apply MICROS` | makes every command take longer to apply |
//! | `hash INDEX` | waits until `INDEX` is applied; tells a hash of the state |

pub(crate) mod ballast;
pub(crate) mod load;

use std::io::BufRead as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use quorate_engine::{EngineConfig, Formatted, NodeId};
use quorate_loop::{AppendMode, FIRST_GROUP, LoopConfig, Node, Service};
use quorate_statemachine::Image as _;
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

use crate::compare::drive::{Order, drive};
use crate::compare::opaque;
use crate::engine::counted::CountedDisk;
use crate::process::{Failure, Process};
use crate::replica::ballast::Ballast;
use crate::replica::load::{Load, Pace};

/// Longest wait for anything that is asked of a node.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Where it has its data, and where it is reached.
#[derive(Debug, Args)]
pub(crate) struct ReplicaArgs {
    #[arg(long)]
    data_dir: PathBuf,
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    advertise: Option<String>,
    #[arg(long)]
    apply_lag_max: Option<u64>,
    /// A leader sends entries while it writes them.
    #[arg(long)]
    parallel: bool,
}

/// How a node is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Whom it takes for the leader.
    pub(crate) leader: Option<u64>,
    pub(crate) first_index: u64,
    pub(crate) last_index: u64,
    pub(crate) commit_index: u64,
    pub(crate) applied_index: u64,
    /// Commands that its state has seen.
    pub(crate) commands: u64,
    pub(crate) state_bytes: u64,
    /// Fsyncs of files since it runs.
    pub(crate) fsyncs: u64,
    /// Those of the log among them.
    pub(crate) log_fsyncs: u64,
}

/// Nobody calls.
struct Silent;

impl Service for Silent {
    fn call(&self, _: NodeId, _: Bytes) -> Pin<Box<dyn Future<Output = Bytes> + Send>> {
        Box::pin(async { Bytes::new() })
    }

    fn overloaded(&self) -> Bytes {
        Bytes::new()
    }
}

/// Runs the node until its standard input ends.
pub(crate) fn run(args: ReplicaArgs) -> Result<(), Failure> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let disk = Arc::<CountedDisk>::default();
    let config = LoopConfig::default();
    let apply_lag_max = args.apply_lag_max.unwrap_or(config.apply_lag_max);
    let append_mode = if args.parallel { AppendMode::Parallel } else { config.append_mode };
    let config = LoopConfig { advertise: args.advertise, apply_lag_max, append_mode, ..config };
    let formatted = Formatted::open(&args.data_dir)?;
    let engine = EngineConfig::default();
    let (silent, on) = (Arc::new(Silent), disk.clone());
    let opening = Node::open_with(formatted, args.listen, config, engine, silent, on);
    let node = runtime.block_on(opening)?;
    let mut replica = Replica { runtime, node, disk, load: None };
    Process::say(Ok("ready".to_owned()));
    for line in std::io::stdin().lock().lines() {
        Process::say(replica.obey(&line?));
    }
    if let Some(load) = replica.load.take() {
        load.halt()?;
    }
    replica.runtime.block_on(replica.node.shutdown());
    Ok(())
}

struct Replica {
    runtime: Runtime,
    node: Node<Ballast>,
    disk: Arc<CountedDisk>,
    load: Option<Load>,
}

impl Replica {
    fn obey(&mut self, line: &str) -> Result<String, Failure> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["status"] => Ok(serde_json::to_string(&self.report())?),
            ["fill", seed, bytes] => {
                let command = Ballast::fill(seed.parse()?, bytes.parse()?);
                let applied = self.runtime.block_on(self.node.propose(command))?;
                Ok(applied.index.to_string())
            }
            ["open", per_second, bytes] => {
                self.start(Pace::Open { per_second: per_second.parse()? }, bytes.parse()?)
            }
            ["closed", clients, bytes] => {
                self.start(Pace::Closed { clients: clients.parse()? }, bytes.parse()?)
            }
            ["turn", order] => {
                let order: Order = serde_json::from_str(order)?;
                let group = self.node.group(FIRST_GROUP).ok_or("the node is without its group")?;
                let turn = drive(opaque::clients(&group, &order), &order);
                Ok(serde_json::to_string(&self.runtime.block_on(turn)?)?)
            }
            ["lap"] => {
                let load = self.load.as_ref().ok_or("nothing is proposed")?;
                Ok(serde_json::to_string(&load.lap()?)?)
            }
            ["halt"] => {
                let load = self.load.take().ok_or("nothing is proposed")?;
                Ok(serde_json::to_string(&load.halt()?)?)
            }
            ["slow-disk", millis] => {
                self.disk.slow_down(Duration::from_millis(millis.parse()?));
                Ok("slow".to_owned())
            }
            ["slow-apply", micros] => {
                Ballast::slow_down(Duration::from_micros(micros.parse()?));
                Ok("slow".to_owned())
            }
            ["hash", index] => {
                let reached = self.node.wait_applied(index.parse()?);
                self.runtime
                    .block_on(async { tokio::time::timeout(PATIENCE, reached).await })??;
                Ok(self.node.image().image.state_hash().to_string())
            }
            _ => Err(format!("`{line}` is no command").into()),
        }
    }

    fn start(&mut self, pace: Pace, payload_bytes: usize) -> Result<String, Failure> {
        let (node, runtime) = (self.node.clone(), self.runtime.handle().clone());
        self.load = Some(Load::start(node, runtime, pace, payload_bytes)?);
        Ok("begun".to_owned())
    }

    fn report(&self) -> Report {
        let (status, newest) = (self.node.status(), self.node.image());
        Report {
            leader: status.leader.map(NodeId::get),
            first_index: status.first_index,
            last_index: status.last_index,
            commit_index: status.commit_index,
            applied_index: newest.applied,
            commands: newest.image.commands(),
            state_bytes: newest.image.state_bytes(),
            fsyncs: self.disk.fsyncs(),
            log_fsyncs: self.disk.log_fsyncs(),
        }
    }
}
