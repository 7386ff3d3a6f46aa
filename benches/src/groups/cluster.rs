//! [`Cluster`]: three nodes in this process, and their groups.

use std::net::TcpListener;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_engine::{
    ClusterId, EngineConfig, Formatted, Founding, GroupId, NodeId, Voter, format,
};
use quorate_loop::{FIRST_GROUP, Group, LoopConfig, Node, Role, Service};
use quorate_statemachine::StateMachine;

use crate::engine::counted::CountedDisk;
use crate::groups::Failure;

/// Nodes of the cluster, each a voter of every group.
pub(crate) const NODES: u64 = 3;

/// Groups that one entry of group 1 creates.
const GROUPS_PER_ENTRY: usize = 10_000;

/// Longest wait for the founding, or for a leader.
const ELECTION_MAX: Duration = Duration::from_secs(120);

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

/// Three nodes; they stop with this.
pub(crate) struct Cluster<S: StateMachine> {
    nodes: Vec<Node<S>>,
    disks: Vec<Arc<CountedDisk>>,
    voters: Vec<NodeId>,
    /// The group that is created next.
    next: u64,
}

impl<S: StateMachine> Cluster<S> {
    /// Formats and opens them in `dir`, with place for `outstanding` proposals at one of them.
    pub(crate) async fn start(dir: &Path, outstanding: u64) -> Result<Cluster<S>, Failure> {
        let mut config = LoopConfig::default();
        config.inbox_max = config.inbox_max.max(usize::try_from(outstanding)?);
        // Held until all are chosen, so that no port is chosen twice.
        let held: Vec<TcpListener> =
            (0..NODES).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
        let addrs: Vec<_> = held.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
        drop(held);
        let voters: Vec<NodeId> = (1..=NODES).filter_map(NodeId::new).collect();
        let founders: Vec<Voter> = voters
            .iter()
            .zip(&addrs)
            .map(|(&node_id, addr)| Voter { node_id, addr: addr.to_string() })
            .collect();
        let cluster = ClusterId::random();
        let (mut nodes, mut disks) = (Vec::new(), Vec::new());
        for (node, addr) in voters.iter().zip(addrs) {
            let dir = dir.join(node.to_string());
            format(&dir, cluster, *node, Founding::Voters(founders.clone()))?;
            let (formatted, disk) = (Formatted::open(&dir)?, Arc::<CountedDisk>::default());
            let (config, engine) = (config.clone(), EngineConfig::default());
            let service = Arc::new(Silent);
            let opened =
                Node::open_with(formatted, addr, config, engine, service, disk.clone()).await?;
            nodes.push(opened);
            disks.push(disk);
        }
        for node in &nodes {
            node.wait(ELECTION_MAX).leader().await?;
        }
        Ok(Cluster { nodes, disks, voters, next: 2 })
    }

    /// Creates `count` groups more, and waits until each has a leader that every node knows.
    pub(crate) async fn create(&mut self, count: u64) -> Result<Vec<GroupId>, Failure> {
        let ids: Vec<GroupId> = (self.next..self.next + count).filter_map(GroupId::new).collect();
        self.next += count;
        let begun = Instant::now();
        for ids in ids.chunks(GROUPS_PER_ENTRY) {
            self.first_leader()?.create_groups(ids, &self.voters).await?;
        }
        for id in &ids {
            for node in &self.nodes {
                tokio::time::timeout(ELECTION_MAX, node.wait_group(*id)).await??;
            }
        }
        eprintln!("groups: {count} have begun on every node after {:?}", begun.elapsed());
        for id in &ids {
            for node in &self.nodes {
                handle(node, *id)?.wait(ELECTION_MAX).leader().await?;
            }
        }
        Ok(ids)
    }

    /// The node that leads group 1.
    fn first_leader(&self) -> Result<&Node<S>, Failure> {
        let leads = |node: &&Node<S>| node.status().role == Role::Leader;
        self.nodes.iter().find(leads).ok_or_else(|| "group 1 has no leader".into())
    }

    /// A handle to the group on the node that leads it.
    pub(crate) fn leader(&self, id: GroupId) -> Result<Group<S>, Failure> {
        for node in &self.nodes {
            let group = handle(node, id)?;
            if group.watch_status().borrow().role == Role::Leader {
                return Ok(group);
            }
        }
        Err(format!("group {id} has no leader").into())
    }

    /// How many of the groups each node leads.
    pub(crate) fn led(&self, ids: &[GroupId]) -> Result<Vec<usize>, Failure> {
        let leads = |node: &Node<S>| {
            let roles = ids.iter().map(|id| {
                handle(node, *id).map(|group| group.watch_status().borrow().role == Role::Leader)
            });
            roles.filter(|leads| !matches!(leads, Ok(false))).collect::<Result<Vec<_>, _>>()
        };
        self.nodes.iter().map(|node| leads(node).map(|led| led.len())).collect()
    }

    /// Waits until every node has applied what the leader of group 1 knows to be committed.
    pub(crate) async fn catch_up(&self) -> Result<(), Failure> {
        let committed = self.leader(FIRST_GROUP)?.status().commit_index;
        for node in &self.nodes {
            tokio::time::timeout(ELECTION_MAX, node.wait_applied(committed)).await??;
        }
        Ok(())
    }

    /// Fsyncs of all nodes until now.
    pub(crate) fn fsyncs(&self) -> u64 {
        self.disks.iter().map(|disk| disk.fsyncs()).sum()
    }

    /// Those of their logs among them.
    pub(crate) fn log_fsyncs(&self) -> u64 {
        self.disks.iter().map(|disk| disk.log_fsyncs()).sum()
    }

    /// Stops the nodes.
    pub(crate) async fn stop(self) {
        for node in self.nodes {
            node.shutdown().await;
        }
    }
}

fn handle<S: StateMachine>(node: &Node<S>, id: GroupId) -> Result<Group<S>, Failure> {
    node.group(id).ok_or_else(|| format!("group {id} is not on its node").into())
}
