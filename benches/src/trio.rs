//! [`Trio`]: three nodes of the quorum, each in a process of its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate::{ClusterId, Founding, NodeId, Voter};

use crate::patience;
use crate::process::{Failure, Process};

/// Longest wait for anything that a quorum does: the founding, and a few elections.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The ids of the nodes.
pub(crate) const NODES: [u64; 3] = [1, 2, 3];

/// How a disk fails.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Switch {
    /// There is no room.
    Full,
    /// Every fsync fails.
    Sync,
}

/// Where each of the nodes is.
pub(crate) type Addrs = BTreeMap<u64, SocketAddr>;

/// Nodes 1 to 3 of a quorum with default settings, those that run.
pub(crate) struct Trio {
    dir: PathBuf,
    addrs: Addrs,
    pub(crate) members: BTreeMap<u64, Process>,
}

impl Trio {
    /// Formats and starts all of them in `dir`.
    pub(crate) fn start(dir: &Path) -> Result<Trio, Failure> {
        let addrs = free_addrs()?;
        let mut trio = Trio::formatted(dir, addrs.clone(), &addrs)?;
        // The founding takes all of them; that they are ready does not.
        NODES.into_iter().try_for_each(|node| trio.restart(node))?;
        Ok(trio)
    }

    /// Formats all of them in `dir`. They will listen on `addrs`, and reach each other at `reached`.
    pub(crate) fn formatted(dir: &Path, addrs: Addrs, reached: &Addrs) -> Result<Trio, Failure> {
        let voters: Vec<Voter> = reached
            .iter()
            .filter_map(|(node, addr)| Some((NodeId::new(*node)?, addr.to_string())))
            .map(|(node_id, addr)| Voter { node_id, addr })
            .collect();
        let cluster = ClusterId::random();
        let trio = Trio { dir: dir.to_owned(), addrs, members: BTreeMap::new() };
        for voter in &voters {
            let data_dir = trio.data_dir(voter.node_id.get());
            quorate::format(&data_dir, cluster, voter.node_id, Founding::Voters(voters.clone()))?;
        }
        Ok(trio)
    }

    /// Starts a node on its own directory, and waits until it is ready.
    pub(crate) fn restart(&mut self, node: u64) -> Result<(), Failure> {
        let (listen, data_dir) = self.place(node);
        let args = ["member", "--listen", &listen, "--data-dir", &data_dir];
        let mut member = Process::start(node, args)?;
        member.answer()?;
        self.members.insert(node, member);
        Ok(())
    }

    /// Starts a node on its own directory, and does not wait for it. It logs, and its disk fails while
    /// there is a file that is a [`Trio::switch`]. What it answers has to come within the time that
    /// anything may take.
    pub(crate) fn begin(&mut self, node: u64) -> Result<&mut Process, Failure> {
        let (listen, data_dir) = self.place(node);
        let log = self.dir.join(format!("node-{node}.log"));
        let log = File::options().create(true).append(true).open(log)?;
        let mut command = Process::command()?;
        command.args(["member", "--victim", "--listen", &listen, "--data-dir", &data_dir]);
        command.env("QUORATE_FAULT_SYNC", self.switch(node, Switch::Sync));
        command.env("QUORATE_FAULT_FULL", self.switch(node, Switch::Full));
        command.stderr(log);
        let member = Process::spawn(node, command)?.answering_within(PATIENCE);
        Ok(self.members.entry(node).insert_entry(member).into_mut())
    }

    /// The file that has the disk of a node fail while it exists.
    pub(crate) fn switch(&self, node: u64, switch: Switch) -> PathBuf {
        self.dir.join(format!("{switch:?}-{node}"))
    }

    fn place(&self, node: u64) -> (String, String) {
        (self.addrs[&node].to_string(), self.data_dir(node).to_string_lossy().into_owned())
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

    /// The process of a node that runs.
    pub(crate) fn member(&self, node: u64) -> Result<&Process, Failure> {
        self.members.get(&node).ok_or_else(|| format!("node {node} does not run").into())
    }

    /// Waits until each node that runs has had so many acknowledgements from now on.
    pub(crate) fn steady(&mut self, count: u64) -> Result<(), Failure> {
        let before = self.acknowledged()?;
        self.until("acknowledgements from all nodes that run", |trio| {
            let now = trio.acknowledged()?;
            Ok(before.iter().all(|(node, before)| now[node] >= before + count).then_some(()))
        })
    }

    /// The acknowledgements of each that does not have to answer anything else first.
    pub(crate) fn acknowledged_by_now(&mut self) -> Result<BTreeMap<u64, u64>, Failure> {
        let mut counts = BTreeMap::new();
        for (node, member) in &mut self.members {
            if member.has_answered()? {
                counts.insert(*node, member.ask("acknowledged")?.parse()?);
            }
        }
        Ok(counts)
    }

    fn acknowledged(&mut self) -> Result<BTreeMap<u64, u64>, Failure> {
        let answers = self.ask_all("acknowledged")?.into_iter();
        answers.map(|(node, count)| Ok((node, count.parse()?))).collect()
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

/// Addresses on which nothing listens, one for each node.
pub(crate) fn free_addrs() -> Result<Addrs, Failure> {
    // Held until all are chosen, so that no port is chosen twice.
    let held = NODES.map(|node| (node, free_port()));
    held.iter().map(|(node, listener)| Ok((*node, listener.local_addr()?))).collect()
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
