//! [`Fleet`]: replicas in processes of their own, and what they are asked for.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate_engine::{ClusterId, Founding, NodeId, Voter, format};
use serde::de::DeserializeOwned;

use crate::lap::Lap;
use crate::patience;
use crate::process::{Failure, Process};
use crate::replica::{PATIENCE, Report};
use crate::trio::free_port;

/// Voters of the fleet.
pub(crate) const VOTERS: u64 = 3;

/// Replicas of one group, the voters among them first.
pub(crate) struct Fleet {
    dir: PathBuf,
    cluster: ClusterId,
    addrs: Vec<SocketAddr>,
    pub(crate) replicas: Vec<Process>,
    /// Commands that were acknowledged.
    pub(crate) acknowledged: u64,
    /// Commands of which it is unknown whether they had an effect.
    pub(crate) unknown: u64,
}

impl Fleet {
    /// Formats and starts the voters in `dir`, and waits until one of them leads.
    /// Where `more` is given, each is started with these arguments too.
    pub(crate) fn start(dir: &Path, more: &[String]) -> Result<Fleet, Failure> {
        let addrs = free_addrs(VOTERS)?;
        let nodes = (1..=VOTERS).filter_map(NodeId::new);
        let voters: Vec<Voter> = nodes
            .zip(&addrs)
            .map(|(node_id, addr)| Voter { node_id, addr: addr.to_string() })
            .collect();
        let (dir, cluster, replicas) = (dir.to_owned(), ClusterId::random(), Vec::new());
        let mut fleet =
            Fleet { dir, cluster, addrs: addrs.clone(), replicas, acknowledged: 0, unknown: 0 };
        for (node, addr) in (1..).zip(addrs) {
            let founding = Founding::Voters(voters.clone());
            let replica = fleet.start_one(node, founding, addr, more)?;
            fleet.replicas.push(replica);
        }
        fleet.replicas.iter_mut().try_for_each(|replica| replica.answer().map(drop))?;
        fleet.leader()?;
        Ok(fleet)
    }

    fn start_one(
        &self,
        node: u64,
        founding: Founding,
        listen: SocketAddr,
        more: &[String],
    ) -> Result<Process, Failure> {
        let data_dir = self.dir.join(node.to_string());
        let node_id = NodeId::new(node).ok_or("nodes are numbered from 1")?;
        format(&data_dir, self.cluster, node_id, founding)?;
        let (listen, data_dir) = (listen.to_string(), data_dir.to_string_lossy().into_owned());
        let args = ["replica", "--listen", &listen, "--data-dir", &data_dir];
        Process::start(node, args.into_iter().chain(more.iter().map(String::as_str)))
    }

    /// Formats and starts one more, which asks to be let in, and is reached at `advertise`. Returns
    /// its place.
    pub(crate) fn join(
        &mut self,
        listen: SocketAddr,
        advertise: SocketAddr,
    ) -> Result<usize, Failure> {
        let node = self.replicas.len() as u64 + 1;
        let others = self.addrs.iter().map(SocketAddr::to_string).collect();
        let more = ["--advertise".to_owned(), advertise.to_string()];
        let mut replica = self.start_one(node, Founding::Join(others), listen, &more)?;
        replica.answer()?;
        self.replicas.push(replica);
        Ok(self.replicas.len() - 1)
    }

    /// The place of the one that all voters take for the leader.
    pub(crate) fn leader(&mut self) -> Result<usize, Failure> {
        self.until("a leader that all voters follow", |fleet| {
            let leaders: Vec<_> = (0..VOTERS as usize)
                .map(|at| fleet.report(at).map(|report| report.leader))
                .collect::<Result<_, _>>()?;
            let agreed = leaders.iter().all(|leader| *leader == leaders[0]);
            Ok(leaders[0].filter(|_| agreed).map(|node| node as usize - 1))
        })
    }

    /// How a replica is.
    pub(crate) fn report(&mut self, at: usize) -> Result<Report, Failure> {
        self.ask(at, "status")
    }

    /// What became of the proposals to a replica since the lap before.
    pub(crate) fn lap(&mut self, at: usize) -> Result<Lap, Failure> {
        self.ask(at, "lap")
    }

    /// What a replica answers, in JSON.
    pub(crate) fn ask<T: DeserializeOwned>(
        &mut self,
        at: usize,
        question: &str,
    ) -> Result<T, Failure> {
        Ok(serde_json::from_str(&self.replicas[at].ask(question)?)?)
    }

    /// Waits until a replica has applied all that is committed by now, as `leader` knows it.
    pub(crate) fn catch_up(&mut self, at: usize, leader: usize) -> Result<(), Failure> {
        let committed = self.report(leader)?.commit_index;
        self.until("a node that catches up", |fleet| {
            let applied = fleet.report(at)?.applied_index;
            Ok((applied >= committed).then_some(()))
        })
    }

    /// Waits until `look` finds something.
    pub(crate) fn until<T>(
        &mut self,
        what: &str,
        look: impl FnMut(&mut Fleet) -> Result<Option<T>, Failure>,
    ) -> Result<T, Failure> {
        patience::until(self, PATIENCE, what, look)
    }

    /// Has a replica make state, by one command.
    pub(crate) fn fill(&mut self, at: usize, seed: u64, bytes: u64) -> Result<(), Failure> {
        self.replicas[at].ask(&format!("fill {seed} {bytes}"))?;
        self.acknowledged += 1;
        Ok(())
    }

    /// Ends the proposals to `leader`, and tells whether all replicas have the same state then, with
    /// no less in it than was acknowledged, and no more than was proposed.
    pub(crate) fn agree(&mut self, leader: usize) -> Result<bool, Failure> {
        let last: Lap = self.ask(leader, "halt")?;
        self.acknowledged += last.acknowledged;
        self.unknown += last.refused;
        let Report { applied_index, commands, .. } = self.report(leader)?;
        let question = format!("hash {applied_index}");
        let hashes: Vec<String> = self
            .replicas
            .iter_mut()
            .map(|replica| replica.ask(&question))
            .collect::<Result<_, _>>()?;
        let proposed = self.acknowledged..=self.acknowledged + self.unknown;
        Ok(proposed.contains(&commands) && hashes.iter().all(|hash| *hash == hashes[0]))
    }

    /// CPU time of all replicas.
    pub(crate) fn cpu_time(&self) -> Result<Duration, Failure> {
        self.replicas.iter().map(Process::cpu_time).sum()
    }
}

/// Addresses on which nothing listens.
pub(crate) fn free_addrs(count: u64) -> Result<Vec<SocketAddr>, Failure> {
    // Held until all are chosen, so that none is chosen twice.
    let held: Vec<TcpListener> = (0..count).map(|_| free_port()).collect();
    Ok(held.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?)
}
