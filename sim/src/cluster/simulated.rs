//! [`SimulatedCluster`]: a cluster under a virtual clock, for tests of what is built on top of it.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_engine::NodeId;
use quorate_loop::{Input, ProposeError, SessionError};
use quorate_statemachine::{Command, Image as _, MetadataImage, Outcome, StateHash};

use super::host::End;
use super::plan::Plan;
use super::trace::Trace;
use super::world::{Happening, World};
use super::{GLANCE, Micros, SimError};
use crate::disk::Survival;

/// A question, of which the answer comes in virtual time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// What a proposal or a read came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The command was applied at this index, with this outcome.
    Applied {
        /// Where it stands in the log.
        index: u64,
        /// What came of it; `None` for an entry that is no command.
        outcome: Option<Outcome>,
    },
    /// The read may be answered from an image of this index or a later one.
    Read {
        /// The index.
        index: u64,
    },
    /// It was refused, or nobody knows: the error says which.
    Failed(ProposeError),
    /// The process that was asked has ended: nobody knows.
    Lost,
}

/// A cluster of the production core, engine and state machine, with virtual clock, network and disks: a
/// broker is tested on top of its metadata with it, crash after crash, in milliseconds.
///
/// Nothing happens but in [`SimulatedCluster::run_for`] and the calls that wait; equal calls on clusters of
/// equal seeds give equal answers. Everything that the simulator checks after each event is checked here,
/// too: [`SimulatedCluster::violation`].
///
/// ```
/// use std::time::Duration;
///
/// use quorate_engine::NodeId;
/// use quorate_sim::{Answer, SimulatedCluster};
/// use quorate_statemachine::{BrokerId, Command, DirectoryId, FeatureRange, Incarnation, RegisterBroker};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut cluster = SimulatedCluster::new(7, 3)?;
/// let leader = cluster.wait_for_leader(Duration::from_secs(10))?.ok_or("nobody leads")?;
/// let command = Command::RegisterBroker(RegisterBroker {
///     broker: BrokerId(1),
///     incarnation: Incarnation(uuid::Uuid::from_u128(1)),
///     listeners: vec![],
///     rack: None,
///     features: FeatureRange::SUPPORTED,
///     directories: vec![DirectoryId(uuid::Uuid::from_u128(2))],
///     vouched: vec![],
///     follows: None,
/// });
/// let ticket = cluster.propose(leader, &command);
/// let answer = cluster.wait_for(ticket, Duration::from_secs(10))?;
/// assert!(matches!(answer, Some(Answer::Applied { .. })), "{answer:?}");
///
/// // The power fails where it leads: another one has it, and so has the old one when it is back.
/// cluster.lose_power(leader)?;
/// let next = cluster.wait_for_leader(Duration::from_secs(30))?.ok_or("nobody leads")?;
/// assert_ne!(next, leader);
/// cluster.start(leader);
/// cluster.run_for(Duration::from_secs(5))?;
/// let image = cluster.image(leader).ok_or("it does not run")?;
/// assert!(image.broker(BrokerId(1)).is_some());
/// assert_eq!(cluster.violation(), None);
/// # Ok(())
/// # }
/// ```
pub struct SimulatedCluster {
    world: World,
}

impl SimulatedCluster {
    /// Founds a cluster of `nodes` voters, numbered from 1, and starts them.
    ///
    /// # Errors
    ///
    /// When there is no room for its files: its disks are in memory, their names in a temporary directory.
    ///
    /// # Panics
    ///
    /// When it is not one to seven.
    pub fn new(seed: u64, nodes: u64) -> Result<Self, SimError> {
        assert!((1..=7).contains(&nodes), "{nodes} nodes: have one to seven");
        let plan = Plan { length: Micros::MAX, ..Plan::quiet(nodes) };
        let world = World::new(seed, plan, Trace::new(None))?;
        Ok(SimulatedCluster { world })
    }

    /// Virtual time since the beginning.
    pub fn now(&self) -> Duration {
        Duration::from_micros(self.world.queue.now())
    }

    /// Lets everything happen that happens within `time`.
    ///
    /// # Errors
    ///
    /// When the simulator cannot go on.
    pub fn run_for(&mut self, time: Duration) -> Result<(), SimError> {
        let end = self.world.queue.now() + time.as_micros() as Micros;
        self.world.queue.at(end, Happening::Glance);
        while self.world.queue.now() < end && self.world.happen()? {}
        Ok(())
    }

    /// Waits until a node that runs takes itself for the leader, for `patience` of virtual time: the one of the
    /// highest term, where there are several.
    ///
    /// # Errors
    ///
    /// When the simulator cannot go on.
    pub fn wait_for_leader(&mut self, patience: Duration) -> Result<Option<NodeId>, SimError> {
        self.wait(patience, |world| world.leader().and_then(NodeId::new))
    }

    /// Waits for the answer to a question.
    ///
    /// # Errors
    ///
    /// When the simulator cannot go on.
    pub fn wait_for(
        &mut self,
        ticket: Ticket,
        patience: Duration,
    ) -> Result<Option<Answer>, SimError> {
        self.wait(patience, |world| world.answers.remove(&ticket.0))
    }

    fn wait<T>(
        &mut self,
        patience: Duration,
        mut is_there: impl FnMut(&mut World) -> Option<T>,
    ) -> Result<Option<T>, SimError> {
        let end = self.now() + patience;
        loop {
            if let Some(found) = is_there(&mut self.world) {
                return Ok(Some(found));
            }
            if self.now() >= end {
                return Ok(None);
            }
            self.run_for(Duration::from_micros(GLANCE / 50))?;
        }
    }

    /// Proposes a command on a node: on any, it goes to the leader. Where the node does not run, nobody
    /// answers.
    pub fn propose(&mut self, node: NodeId, command: &Command) -> Ticket {
        let proposal = command.encode().into();
        self.ask(node, |caller| Input::Propose { proposal, caller })
    }

    /// Asks a node for an index from which on its images are linearizable.
    pub fn read(&mut self, node: NodeId) -> Ticket {
        self.ask(node, |caller| Input::Read { caller })
    }

    fn ask(&mut self, node: NodeId, input: impl FnOnce(u64) -> Input<u64, u64>) -> Ticket {
        self.world.next_caller += 1;
        let caller = self.world.next_caller;
        self.world.safety.asked(node.get(), caller, None);
        self.world.strangers.insert(caller);
        self.world.step(node.get(), input(caller));
        Ticket(caller)
    }

    /// The metadata as a node has applied it; `None` where it does not run.
    pub fn image(&self, node: NodeId) -> Option<MetadataImage> {
        let process = self.world.hosts.get(&node.get())?.process.as_ref()?;
        Some(quorate_statemachine::StateMachine::image(process.replica.state()))
    }

    /// What a node has applied: the index, and the hash of its state.
    pub fn state(&self, node: NodeId) -> Option<(u64, StateHash)> {
        let process = self.world.hosts.get(&node.get())?.process.as_ref()?;
        Some((process.replica.applied().index, self.image(node)?.state_hash()))
    }

    /// Kills a node's process: what it wrote is there.
    ///
    /// # Errors
    ///
    /// When the simulator cannot go on.
    pub fn kill(&mut self, node: NodeId) -> Result<(), SimError> {
        self.world.end(node.get(), End::Kill, None)
    }

    /// Cuts a node's power in the middle of what its disk does: what was not synced is lost in part.
    ///
    /// # Errors
    ///
    /// When the simulator cannot go on.
    pub fn lose_power(&mut self, node: NodeId) -> Result<(), SimError> {
        let survival = Survival::Random(self.world.random.next());
        let within = self.world.random.below(6);
        self.world.end(node.get(), End::PowerLoss(survival), Some(within))
    }

    /// Starts a node that does not run.
    pub fn start(&mut self, node: NodeId) {
        self.world.queue.after(0, Happening::Start(node.get()));
    }

    /// Cuts the link from one node to another, in this direction.
    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        self.world.network.link(from.get(), to.get()).is_cut = true;
    }

    /// Mends all links.
    pub fn heal(&mut self) {
        self.world.network.heal();
    }

    /// What was wrong first, if anything ever was.
    pub fn violation(&self) -> Option<&str> {
        self.world.safety.first.first().map(String::as_str)
    }
}

impl World {
    /// Somebody who is no client of the simulator's own has an answer.
    pub(super) fn answer(&mut self, caller: u64, answer: Answer) {
        if self.strangers.remove(&caller) {
            self.answers.insert(caller, answer);
        }
    }
}

/// What a stranger is told of an applied entry.
pub(super) fn answer_of(result: &Result<quorate_loop::Done<Outcome>, SessionError>) -> Answer {
    match result {
        Ok(done) => Answer::Applied { index: done.index, outcome: done.outcome.clone() },
        Err(error) => Answer::Failed(ProposeError::Session(*error)),
    }
}

/// Answers that nobody has asked for yet.
pub(super) type Answers = BTreeMap<u64, Answer>;
