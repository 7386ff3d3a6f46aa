//! openraft, as its own examples and its benchmark use it: three nodes in this process, which call each
//! other where a network would be. The log is in memory as the examples' is, or also in a file.

mod log;
mod state;

use std::collections::BTreeMap;
use std::future::Future;
use std::io::Cursor;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use openraft::error::{InstallSnapshotError, RPCError, RaftError, RemoteError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::{BasicNode, Config, RaftNetwork, RaftNetworkFactory, SnapshotPolicy};
use tokio::runtime::Runtime;

use crate::compare::contender::Contender;
use crate::compare::drive::{Client, Order, drive};
use crate::compare::side::{Name, Side};
use crate::compare::{IN_PROCESS, OPENRAFT_FILE, OPENRAFT_MEMORY};
use crate::lap::Lap;
use crate::process::Failure;
use crate::trio::{NODES, PATIENCE};

use log::Log;
use state::State;

openraft::declare_raft_types!(
    /// Commands are bytes, and answered with how many there were.
    pub(super) Types:
        D = Command,
        R = u64,
        NodeId = u64,
        Node = BasicNode,
        SnapshotData = Cursor<Vec<u8>>,
);

/// Bytes that are counted and hashed.
#[derive(Debug, Clone)]
pub(super) struct Command(Bytes);

type Raft = openraft::Raft<Types>;

/// Entries of one append, as in openraft's own benchmark.
const APPEND_ENTRIES_MAX: u64 = 1_024;

/// Applied entries that are kept, and those after which the log is compacted: as `bare` has it.
const TAIL: u64 = 10_000;
const COMPACT: u64 = 100_000;

/// Three nodes.
struct Openraft {
    runtime: Rc<Runtime>,
    nodes: Vec<Raft>,
    fsyncs: Arc<AtomicU64>,
}

/// Starts both: with a log in files, and in memory.
pub(in crate::compare) fn start(runtime: &Rc<Runtime>, dir: &Path) -> Result<Vec<Side>, Failure> {
    let name = |what| Name { system: "openraft", mode: IN_PROCESS, what };
    let durable = Openraft::start(runtime, Some(dir))?;
    let in_memory = Openraft::start(runtime, None)?;
    Ok(vec![
        Side::new(name(OPENRAFT_FILE), durable),
        Side::new(name(OPENRAFT_MEMORY), in_memory).not_durable(),
    ])
}

impl Openraft {
    fn start(runtime: &Rc<Runtime>, dir: Option<&Path>) -> Result<Openraft, Failure> {
        let config = Config {
            cluster_name: "compare".to_owned(),
            heartbeat_interval: 200,
            election_timeout_min: 1_000,
            election_timeout_max: 2_000,
            max_payload_entries: APPEND_ENTRIES_MAX,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(COMPACT),
            max_in_snapshot_log_to_keep: TAIL,
            ..Config::default()
        };
        let config = Arc::new(config.validate()?);
        let (everyone, fsyncs) = (Network::default(), Arc::<AtomicU64>::default());
        let nodes = runtime.block_on(async {
            let mut nodes = Vec::new();
            for id in NODES {
                let log = match dir {
                    None => Log::in_memory(),
                    Some(dir) => Log::in_file(&dir.join(id.to_string()), fsyncs.clone())?,
                };
                let state = State::default();
                let node =
                    Raft::new(id, config.clone(), everyone.clone(), log, state.clone()).await?;
                nodes.push(node);
            }
            // Nobody has been asked for before.
            let _ = everyone.0.set(nodes.clone());
            let members: BTreeMap<_, _> = NODES.map(|id| (id, BasicNode::default())).into();
            nodes[0].initialize(members).await?;
            for node in &nodes {
                let elected = node.wait(Some(PATIENCE));
                elected.metrics(|metrics| metrics.current_leader.is_some(), "a leader").await?;
            }
            Ok::<_, Failure>(nodes)
        })?;
        Ok(Openraft { runtime: runtime.clone(), nodes, fsyncs })
    }
}

impl Contender for Openraft {
    fn turn(&mut self, order: &Order) -> Result<Lap, Failure> {
        let command = Bytes::from(vec![0xa5; order.payload_bytes]);
        self.runtime.block_on(async {
            let leader = self.nodes[0].current_leader().await.ok_or("no node leads")?;
            let at = NODES.iter().position(|id| *id == leader).ok_or("a stranger leads")?;
            let client = |_| Writer { leader: self.nodes[at].clone(), command: command.clone() };
            let lap = drive((0..order.clients).map(client).collect(), order).await?;
            let last = self.nodes[at].metrics().borrow().last_applied;
            for node in &self.nodes {
                let applied = node.wait(Some(PATIENCE));
                let index = last.map(|id| id.index);
                applied.applied_index_at_least(index, "what the leader has applied").await?;
            }
            Ok(lap)
        })
    }

    fn fsyncs(&mut self) -> Result<Option<u64>, Failure> {
        Ok(Some(self.fsyncs.load(Ordering::Relaxed)))
    }
}

impl Drop for Openraft {
    fn drop(&mut self) {
        for node in &self.nodes {
            // Nothing is left to be told of.
            let _ = self.runtime.block_on(node.shutdown());
        }
    }
}

/// One client of the leader.
struct Writer {
    leader: Raft,
    command: Bytes,
}

impl Client for Writer {
    async fn operate(&mut self) -> Result<(), String> {
        let written = self.leader.client_write(Command(self.command.clone())).await;
        written.map(drop).map_err(|error| error.to_string())
    }
}

/// The nodes, by their ids from 1 on, as soon as they are there.
#[derive(Clone, Default)]
struct Network(Arc<OnceLock<Vec<Raft>>>);

/// The way to one of them.
struct Way {
    network: Network,
    to: u64,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Way;

    async fn new_client(&mut self, to: u64, _: &BasicNode) -> Way {
        Way { network: self.clone(), to }
    }
}

/// How a call fails.
type Failed<E> = RPCError<u64, BasicNode, E>;

impl Way {
    async fn call<T, E, F>(&self, call: impl FnOnce(Raft) -> F) -> Result<T, Failed<E>>
    where
        E: std::error::Error,
        F: Future<Output = Result<T, E>>,
    {
        let nodes = self.network.0.get();
        let node = nodes.and_then(|nodes| nodes.get(usize::try_from(self.to - 1).ok()?));
        let Some(node) = node else {
            let early = std::io::Error::other("the node has not begun");
            return Err(Unreachable::new(&early).into());
        };
        call(node.clone()).await.map_err(|error| RemoteError::new(self.to, error).into())
    }
}

impl RaftNetwork<Types> for Way {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Failed<RaftError<u64>>> {
        self.call(|node| async move { node.append_entries(request).await }).await
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<Types>,
        _: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, Failed<RaftError<u64, InstallSnapshotError>>> {
        self.call(|node| async move { node.install_snapshot(request).await }).await
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        _: RPCOption,
    ) -> Result<VoteResponse<u64>, Failed<RaftError<u64>>> {
        self.call(|node| async move { node.vote(request).await }).await
    }
}
