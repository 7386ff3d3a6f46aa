//! Quorate in this process: three nodes over loopback TCP, and their clients at the one that leads.

use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use quorate::{BrokerSession, ClusterId, Founding, NodeId, Quorum, QuorumConfig, Role, Voter};
use quorate_loop::{FIRST_GROUP, Session};
use tokio::runtime::Runtime;

use crate::compare::contender::Contender;
use crate::compare::drive::{Order, drive};
use crate::compare::{altering, opaque};
use crate::engine::counted::CountedDisk;
use crate::groups::cluster::Cluster;
use crate::lap::Lap;
use crate::process::Failure;
use crate::replica::ballast::Ballast;
use crate::trio::{PATIENCE, free_addrs};

/// Three nodes whose state machine counts and hashes.
pub(super) struct LocalOpaque {
    runtime: Rc<Runtime>,
    cluster: Cluster<Ballast>,
}

/// Clients of it, in sessions or not.
pub(super) struct OpaqueClients {
    nodes: Rc<LocalOpaque>,
    /// `None` for clients without.
    sessions: Option<Vec<Session<Ballast>>>,
}

/// Three quorum nodes, and clients that alter partitions.
pub(super) struct LocalAltering {
    runtime: Rc<Runtime>,
    quorums: Vec<Quorum>,
    disks: Vec<Arc<CountedDisk>>,
    /// They end with this.
    _brokers: Vec<BrokerSession>,
}

impl LocalOpaque {
    /// Starts them in `dir`.
    pub(super) fn start(runtime: &Rc<Runtime>, dir: &Path) -> Result<LocalOpaque, Failure> {
        let cluster = runtime.block_on(Cluster::start(dir, 0));
        let cluster = cluster.map_err(|error| error as Failure)?;
        Ok(LocalOpaque { runtime: runtime.clone(), cluster })
    }

    /// Clients of it.
    pub(super) fn clients(self: &Rc<Self>, in_sessions: bool) -> OpaqueClients {
        OpaqueClients { nodes: self.clone(), sessions: in_sessions.then(Vec::new) }
    }
}

impl Contender for OpaqueClients {
    fn turn(&mut self, order: &Order) -> Result<Lap, Failure> {
        let LocalOpaque { runtime, cluster } = &*self.nodes;
        let group = cluster.leader(FIRST_GROUP).map_err(|error| error as Failure)?;
        runtime.block_on(async {
            let lap = match &mut self.sessions {
                None => drive(opaque::clients(&group, order), order).await?,
                Some(sessions) => {
                    let clients = opaque::clients_in_sessions(&group, sessions, order).await?;
                    drive(clients, order).await?
                }
            };
            // What a majority has is acknowledged; the third node's fsyncs belong to it too.
            cluster.catch_up().await.map_err(|error| error as Failure)?;
            Ok(lap)
        })
    }

    fn fsyncs(&mut self) -> Result<Option<u64>, Failure> {
        Ok(Some(self.nodes.cluster.log_fsyncs()))
    }
}

impl LocalAltering {
    /// Starts them in `dir`, with so many partitions.
    pub(super) fn start(
        runtime: &Rc<Runtime>,
        dir: &Path,
        partitions: u32,
    ) -> Result<LocalAltering, Failure> {
        let addrs = free_addrs()?;
        let cluster = ClusterId::random();
        let nodes = addrs.iter().filter_map(|(id, addr)| Some((NodeId::new(*id)?, *addr)));
        let nodes: Vec<(NodeId, SocketAddr)> = nodes.collect();
        let voter =
            |(id, addr): &(NodeId, SocketAddr)| Voter { node_id: *id, addr: format!("{addr}") };
        let voters: Vec<Voter> = nodes.iter().map(voter).collect();
        let (quorums, disks, brokers) = runtime.block_on(async {
            let (mut quorums, mut disks, mut brokers) = (Vec::new(), Vec::new(), Vec::new());
            for (node, addr) in &nodes {
                let dir = dir.join(format!("quorum-{node}"));
                quorate::format(&dir, cluster, *node, Founding::Voters(voters.clone()))?;
                let disk = Arc::<CountedDisk>::default();
                let config = QuorumConfig::new(&dir, *addr);
                quorums.push(Quorum::open_with(config, disk.clone()).await?);
                disks.push(disk);
            }
            for quorum in &quorums {
                quorum.wait(PATIENCE).leader().await?;
                brokers.push(altering::register(quorum).await?);
            }
            altering::create(&quorums[0], partitions).await?;
            Ok::<_, Failure>((quorums, disks, brokers))
        })?;
        Ok(LocalAltering { runtime: runtime.clone(), quorums, disks, _brokers: brokers })
    }
}

impl Contender for LocalAltering {
    fn turn(&mut self, order: &Order) -> Result<Lap, Failure> {
        let leads = |quorum: &&Quorum| quorum.status().role == Role::Leader;
        let leader = self.quorums.iter().find(leads).ok_or("no node leads")?;
        self.runtime.block_on(async {
            let lap = drive(altering::clients(leader, order).await?, order).await?;
            for quorum in &self.quorums {
                quorum.read_index().await?;
            }
            Ok(lap)
        })
    }

    fn fsyncs(&mut self) -> Result<Option<u64>, Failure> {
        Ok(Some(self.disks.iter().map(|disk| disk.log_fsyncs()).sum()))
    }
}
