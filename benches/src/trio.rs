//! [`Trio`]: three nodes of the quorum, each in a process of its own.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate::{ClusterId, Founding, NodeId, Voter};

use crate::patience;
use crate::process::{Failure, Process};

/// Longest wait for anything that a quorum does: the founding, and a few elections.
const PATIENCE: Duration = Duration::from_secs(30);

/// Nodes 1 to 3 of a quorum with default settings, those that run.
pub(crate) struct Trio {
    dir: PathBuf,
    addrs: BTreeMap<u64, SocketAddr>,
    pub(crate) members: BTreeMap<u64, Process>,
}

impl Trio {
    /// Formats and starts all of them in `dir`.
    pub(crate) fn start(dir: &Path) -> Result<Trio, Failure> {
        // Held until all are chosen, so that no port is chosen twice.
        let held: Vec<TcpListener> = (1..=3).map(|_| free_port()).collect();
        let addrs: Vec<SocketAddr> =
            held.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
        drop(held);
        let addrs: BTreeMap<u64, SocketAddr> = (1..).zip(addrs).collect();
        let voters: Vec<Voter> = addrs
            .iter()
            .filter_map(|(node, addr)| Some((NodeId::new(*node)?, addr.to_string())))
            .map(|(node_id, addr)| Voter { node_id, addr })
            .collect();
        let cluster = ClusterId::random();
        let mut trio = Trio { dir: dir.to_owned(), addrs, members: BTreeMap::new() };
        for voter in &voters {
            let data_dir = trio.data_dir(voter.node_id.get());
            quorate::format(&data_dir, cluster, voter.node_id, Founding::Voters(voters.clone()))?;
        }
        // The founding takes all of them; that they are ready does not.
        for voter in &voters {
            trio.restart(voter.node_id.get())?;
        }
        Ok(trio)
    }

    /// Starts a node on its own directory, and waits until it is ready.
    pub(crate) fn restart(&mut self, node: u64) -> Result<(), Failure> {
        let (listen, data_dir) = (self.addrs[&node].to_string(), self.data_dir(node));
        let data_dir = data_dir.to_string_lossy();
        let args = ["member", "--listen", &listen, "--data-dir", &data_dir];
        let mut member = Process::start(node, args)?;
        member.answer()?;
        self.members.insert(node, member);
        Ok(())
    }

    fn data_dir(&self, node: u64) -> PathBuf {
        self.dir.join(node.to_string())
    }

    /// The node that all who run take for the leader, once it is one of them.
    pub(crate) fn leader(&mut self) -> Result<u64, Failure> {
        self.until("a leader that all follow", |trio| {
            let answers: Vec<String> = trio.ask_all("status")?.into_values().collect();
            let leader = answers[0].strip_prefix("leader ").and_then(|node| node.parse().ok());
            let agreed = answers.iter().all(|answer| *answer == answers[0]);
            Ok(leader.filter(|node| agreed && trio.members.contains_key(node)))
        })
    }

    /// What one node answers.
    pub(crate) fn ask(&mut self, node: u64, question: &str) -> Result<String, Failure> {
        self.members.get_mut(&node).ok_or("the node does not run")?.ask(question)
    }

    /// What each that runs answers.
    pub(crate) fn ask_all(&mut self, question: &str) -> Result<BTreeMap<u64, String>, Failure> {
        let members = self.members.iter_mut();
        members.map(|(node, member)| Ok((*node, member.ask(question)?))).collect()
    }

    /// Waits until `look` finds something.
    pub(crate) fn until<T>(
        &mut self,
        what: &str,
        look: impl FnMut(&mut Trio) -> Result<Option<T>, Failure>,
    ) -> Result<T, Failure> {
        patience::until(self, PATIENCE, what, look)
    }
}

/// A port below those from which the system takes outgoing connections': none of them takes it while
/// its node is away.
pub(crate) fn free_port() -> TcpListener {
    loop {
        let port = 15_000 + (uuid::Uuid::new_v4().as_u128() % 15_000) as u16;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return listener;
        }
    }
}
