//! [`Ordeal`]: three nodes with their clients, and what is done to them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::links::Links;
use super::plan::{Act, Way};
use crate::ledger::{Findings, Ledger};
use crate::load::now;
use crate::process::Failure;
use crate::trio::{NODES, Switch, Trio, free_addrs};

/// Acknowledgements of each node after which it serves again.
const SERVES: u64 = 5;

/// Kills between two lines on how far it is.
const PROGRESS: u64 = 25;

/// Three nodes, their clients, and the links between them.
pub(crate) struct Ordeal {
    dir: PathBuf,
    trio: Trio,
    links: Links,
    /// What has the clients of a node begin.
    begin: String,
    stopped: BTreeSet<u64>,
    /// Those that end by themselves, since their fsyncs fail.
    broken: BTreeSet<u64>,
    /// Everything that is done, with its time by the clock of the ledgers.
    acts: File,
    pub(crate) tally: Tally,
}

/// What has been done.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) kills: u64,
    pub(crate) stops: u64,
    pub(crate) cuts: u64,
    pub(crate) full_disks: u64,
    pub(crate) failed_fsyncs: u64,
    pub(crate) blows: Vec<Blow>,
}

/// A kill, of one node or of several at once.
#[derive(Debug)]
pub(crate) struct Blow {
    pub(crate) target: Target,
    /// From when on somebody can serve: the kill, or when there was a majority again.
    pub(crate) from: Option<Duration>,
}

/// What a kill hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// The leader, while the others were well.
    Leader,
    /// A follower, while the others were well.
    Follower,
    /// So many that no majority was left.
    Majority,
    /// Any, while another fault was in force, a node had only begun, or nobody led.
    Amid,
}

impl Target {
    /// All, and what they are called.
    pub(crate) const ALL: [(Target, &str); 4] = [
        (Target::Leader, "leader"),
        (Target::Follower, "follower"),
        (Target::Majority, "majority"),
        (Target::Amid, "amid"),
    ];
}

/// What was found when everything had healed.
#[derive(Debug)]
pub(crate) struct Check {
    pub(crate) ledger: Ledger,
    pub(crate) findings: Findings,
    /// The state of each node at one index.
    pub(crate) hashes: BTreeMap<u64, String>,
}

impl Check {
    /// Whether all states are the same.
    pub(crate) fn hashes_equal(&self) -> bool {
        self.hashes.values().collect::<BTreeSet<_>>().len() == 1
    }

    /// A sentence on what must not be.
    pub(crate) fn fault(&self) -> Option<String> {
        let found = self.findings.all().next().cloned();
        found
            .or_else(|| (!self.hashes_equal()).then(|| format!("states differ: {:?}", self.hashes)))
    }
}

impl Ordeal {
    /// Formats and starts three nodes in `dir`, each with clients that pause after each answer, and
    /// returns when all serve.
    pub(crate) fn start(dir: &Path, clients: u32, pause: Duration) -> Result<Ordeal, Failure> {
        let addrs = free_addrs()?;
        let links = Links::to(addrs.clone())?;
        let trio = Trio::formatted(dir, addrs, links.addrs())?;
        let mut ordeal = Ordeal {
            dir: dir.to_owned(),
            trio,
            links,
            begin: format!("begin {clients} {}", pause.as_millis()),
            stopped: BTreeSet::new(),
            broken: BTreeSet::new(),
            acts: File::create(dir.join("acts.log"))?,
            tally: Tally::default(),
        };
        NODES.into_iter().try_for_each(|node| ordeal.start_node(node))?;
        ordeal.trio.steady(SERVES)?;
        Ok(ordeal)
    }

    /// Does all of this, each after its pause. Fails where a node has ended by itself, or does not
    /// answer.
    pub(crate) fn endure(&mut self, acts: Vec<(Duration, Act)>) -> Result<(), Failure> {
        for (pause, act) in acts {
            let due = Instant::now() + pause;
            while let Some(left) = due.checked_duration_since(Instant::now()) {
                std::thread::park_timeout(left);
            }
            self.carry_out(act)?;
        }
        Ok(())
    }

    /// With all nodes running and all links whole: waits until every node serves, ends the clients, and
    /// holds what the nodes have against what the clients were told.
    pub(crate) fn check(&mut self) -> Result<Check, Failure> {
        // A client that was told what it never should be has ended: that is why nobody is served.
        let served = self.trio.steady(SERVES);
        served.or_else(|vain| Ledger::read(&self.dir).and(Err(vain)))?;
        self.trio.ask_all("halt")?;
        let ledger = Ledger::read(&self.dir)?;
        let mut findings = Findings::default();
        for (node, topics) in self.trio.ask_all("topics")? {
            findings.add(ledger.compare(node, &serde_json::from_str::<Vec<_>>(&topics)?));
        }
        let hashes = self.trio.until("all nodes at the same index", |trio| {
            let (mut indexes, mut hashes) = (BTreeSet::new(), BTreeMap::new());
            for (node, state) in trio.ask_all("state")? {
                let (index, hash) =
                    state.split_once(' ').ok_or("a state is an index and a hash")?;
                indexes.insert(index.to_owned());
                hashes.insert(node, hash.to_owned());
            }
            Ok((indexes.len() == 1).then_some(hashes))
        })?;
        Ok(Check { ledger, findings, hashes })
    }

    /// Has clients begin again, after a check.
    pub(crate) fn go_on(&mut self) -> Result<(), Failure> {
        let begin = self.begin.clone();
        self.trio.ask_all(&begin).map(drop)
    }

    fn carry_out(&mut self, act: Act) -> Result<(), Failure> {
        // A node that has ended by itself is told now, and not when it is killed the next time.
        for (node, member) in &mut self.trio.members {
            if !self.broken.contains(node) {
                member.has_answered()?;
            }
        }
        writeln!(self.acts, "{:.6} {act:?}", now().as_secs_f64())?;
        match act {
            Act::Kill(nodes) => self.kill(&nodes)?,
            Act::Start(node) => self.start_node(node)?,
            Act::Stop(node) => {
                self.trio.member(node)?.suspend()?;
                self.stopped.insert(node);
                self.tally.stops += 1;
            }
            Act::Resume(node) => {
                if self.stopped.remove(&node) {
                    self.trio.member(node)?.resume()?;
                    self.note_majority();
                }
            }
            Act::Serve => self.until_served()?,
            Act::Fill(node) => {
                File::create(self.trio.switch(node, Switch::Full))?;
                self.tally.full_disks += 1;
            }
            Act::Empty(node) => std::fs::remove_file(self.trio.switch(node, Switch::Full))?,
            Act::Break(node) => {
                File::create(self.trio.switch(node, Switch::Sync))?;
                self.broken.insert(node);
                self.tally.failed_fsyncs += 1;
            }
            Act::Mend(node) => {
                std::fs::remove_file(self.trio.switch(node, Switch::Sync))?;
                self.links.refuse(node);
                // Dropped, it is killed, where it has had nothing to sync until now.
                self.trio.members.remove(&node);
                self.broken.remove(&node);
                self.start_node(node)?;
            }
            Act::Links(links, way) => {
                links.iter().for_each(|(from, to)| self.links.set(*from, *to, way));
                self.tally.cuts += u64::from(way != Way::Open);
            }
        }
        Ok(())
    }

    fn start_node(&mut self, node: u64) -> Result<(), Failure> {
        self.links.accept(node)?;
        self.trio.begin(node)?.tell(&self.begin)?;
        self.note_majority();
        Ok(())
    }

    fn kill(&mut self, nodes: &[u64]) -> Result<(), Failure> {
        let target = self.target(nodes)?;
        nodes.iter().for_each(|node| self.links.refuse(*node));
        for node in nodes {
            self.trio.member(*node)?.kill()?;
        }
        let at = now();
        for node in nodes {
            // Dropped, it is waited for.
            self.trio.members.remove(node);
            self.stopped.remove(node);
        }
        self.tally.blows.push(Blow { target, from: self.is_majority().then_some(at) });
        let before = self.tally.kills;
        self.tally.kills += nodes.len() as u64;
        if self.tally.kills / PROGRESS > before / PROGRESS {
            let Tally { kills, stops, cuts, full_disks, failed_fsyncs, .. } = self.tally;
            eprintln!(
                "{kills} kills, {stops} stops, {cuts} cuts, {full_disks} full disks, \
                 {failed_fsyncs} failed fsyncs"
            );
        }
        Ok(())
    }

    /// What a kill of these is about to hit.
    fn target(&mut self, nodes: &[u64]) -> Result<Target, Failure> {
        let others: Vec<u64> = self.at_work().filter(|node| !nodes.contains(node)).collect();
        if others.len() < 2 {
            return Ok(Target::Majority);
        }
        if self.is_ill() {
            return Ok(Target::Amid);
        }
        for member in self.trio.members.values_mut() {
            if !member.has_answered()? {
                return Ok(Target::Amid);
            }
        }
        let said = self.trio.ask(others[0], "status")?;
        Ok(match said.strip_prefix("leader ").and_then(|leader| leader.parse().ok()) {
            Some(leader) if nodes.contains(&leader) => Target::Leader,
            Some(_) => Target::Follower,
            None => Target::Amid,
        })
    }

    /// Whether a fault is in force, other than that nodes do not run.
    fn is_ill(&self) -> bool {
        let is_full = NODES.iter().any(|node| self.trio.switch(*node, Switch::Full).exists());
        let is_ill = is_full || !self.stopped.is_empty() || !self.broken.is_empty();
        is_ill || !self.links.are_whole()
    }

    /// Waits until somebody is served, where nothing is in the way of that.
    fn until_served(&mut self) -> Result<(), Failure> {
        if self.is_ill() || !self.is_majority() {
            return Ok(());
        }
        let before = self.trio.acknowledged_by_now()?;
        self.trio.until("anybody to be served", |trio| {
            let now = trio.acknowledged_by_now()?;
            let served = now.iter().any(|(node, count)| before.get(node).unwrap_or(&0) < count);
            Ok(served.then_some(()))
        })
    }

    /// The nodes that run, and could serve.
    fn at_work(&self) -> impl Iterator<Item = u64> {
        let ill = |node: &u64| self.stopped.contains(node) || self.broken.contains(node);
        self.trio.members.keys().copied().filter(move |node| !ill(node))
    }

    fn is_majority(&self) -> bool {
        self.at_work().count() >= 2
    }

    /// Whatever waited for a majority can be served from now on.
    fn note_majority(&mut self) {
        if self.is_majority() {
            let waiting = self.tally.blows.iter_mut().rev().take_while(|blow| blow.from.is_none());
            waiting.for_each(|blow| blow.from = Some(now()));
        }
    }
}
