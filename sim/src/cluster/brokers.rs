//! Brokers with a data plane: they register, heartbeat, lead, follow, die and return, and every record that
//! `acks=all` acknowledged must stay.
//!
//! | part | owns |
//! | --- | --- |
//! | this | the processes: their disks, views and registrations |
//! | `ends` | how processes end, and what a run's end asks of them |
//! | `replication` | fetches, the high watermark, the ISR |
//! | `controller` | what the quorum's leaders do for them, and what operators and producers want |
//! | `partition_log` | what a disk holds of a partition |
//! | `acknowledged` | what must not be lost, and who must hold it |
//!
//! A broker is a machine of its own on the network. It sees the metadata as some node's replica has it,
//! late, and never goes back. Whether its disk holds what it says is the plan's choice: brokers that flush
//! before they count a record vouch for it whenever they return; others, as Kafka's, only after they have
//! shut down in order.

mod acknowledged;
mod controller;
mod ends;
mod partition_log;
mod replication;
// The production code: it belongs to a crate that this one does not know, and depends on nothing of it.
#[expect(dead_code, reason = "what brokers here do not ask for")]
#[path = "../../../src/sessions.rs"]
mod sessions;

use std::collections::BTreeMap;

use quorate_statemachine::{
    BrokerEpoch, BrokerId, Command, DirectoryId, FeatureRange, Incarnation, Metadata,
    MetadataImage, Outcome, PartitionKey, RegisterBroker, StateMachine as _,
};
use uuid::Uuid;

use super::plan::BrokersPlan;
use super::queue::Micros;
use super::world::{Happening, World};
use crate::random::Random;

use acknowledged::Acknowledged;
use controller::Controller;
use partition_log::PartitionLog;
use replication::{Fetch, Fetched, Part};

/// Between two heartbeats of a broker.
const HEARTBEAT: Micros = 1_000_000;
/// How long a follower may lag before it leaves the ISR.
const LAG: Micros = 2_000_000;
/// How long a broker waits for the answer to a request.
const PATIENCE: Micros = 3_000_000;

/// Something that will happen to brokers. Where it names a run, it happens to that process or not at all.
pub(super) enum BrokerEvent {
    /// A broker heartbeats, and looks after what it has begun.
    Wake(u32, u32),
    /// The metadata that a broker watches has changed.
    View(u32, u32),
    /// A broker's disk has what was written.
    Flushed(u32, u32),
    /// A broker starts.
    Return(u32),
    /// A follower's fetch arrives.
    Fetch(Fetch),
    /// And its answer.
    Fetched(Fetched),
    /// A request of a broker arrives at whoever leads.
    Ask { broker: u32, command: Box<Command>, request: Request },
    /// The answer to a request of a broker arrives.
    Answer(Request, Told),
    /// The controllers look at their sessions.
    Duty,
    /// An operator does something.
    Operate,
    /// A producer sends a record.
    Produce,
}

/// What became of a request.
#[derive(Debug, Clone)]
pub(super) enum Told {
    /// It was applied at an index.
    Applied(u64, Outcome),
    /// It surely was not, and will not be.
    Never,
    /// Nobody knows.
    Unknown,
}

/// What was proposed for brokers.
#[derive(Debug, Clone)]
pub(super) enum Request {
    /// A broker registers; on which node's sessions, if on any.
    Register { broker: u32, run: u32, node: Option<u64> },
    /// A leader alters its partition.
    Alter { broker: u32, run: u32, key: PartitionKey, epoch: u32, number: u64 },
    /// A controller changes a broker's flags.
    Transition { node: u64, transition: controller::Transition },
    /// Of an operator, who does not wait.
    Other,
}

/// A broker: what stays when its process ends, and its process.
pub(super) struct Broker {
    /// Its log directory.
    logs: BTreeMap<PartitionKey, PartitionLog>,
    /// In it: the incarnations since the last that is known to have registered, it included, all of whose
    /// acknowledged records are there.
    vouches: Vec<Incarnation>,
    /// Whether the last process shut down in order.
    is_clean: bool,
    /// The incarnation that the disk is as good as: none since something was lost.
    stands_for: Option<Incarnation>,
    run: u32,
    process: Option<BrokerProcess>,
}

/// A broker's process.
struct BrokerProcess {
    incarnation: Incarnation,
    /// Its registration, once it knows it.
    epoch: Option<BrokerEpoch>,
    /// Whose replica it watches.
    home: u64,
    /// What it has seen of it, and up to which index.
    image: MetadataImage,
    index: u64,
    /// Whether it will look again.
    has_view_turn: bool,
    /// Whether its disk is at work.
    is_flushing: bool,
    wants_shutdown: bool,
    parts: BTreeMap<PartitionKey, Part>,
}

/// All brokers, and what is needed around them.
pub(super) struct Brokers {
    plan: BrokersPlan,
    all: BTreeMap<u32, Broker>,
    /// By caller: what waits for an answer.
    asking: BTreeMap<u64, Request>,
    /// By node: the sessions of a leader.
    controllers: BTreeMap<u64, Controller>,
    acknowledged: Acknowledged,
    /// Records acknowledged of each partition when it became calm.
    before_calm: BTreeMap<PartitionKey, usize>,
    /// Numbers given out so far: of records and requests.
    numbers: u64,
    random: Random,
}

/// A broker's machine on the network.
pub(super) fn machine(id: u32) -> u64 {
    100 + u64::from(id)
}

impl Broker {
    fn new() -> Broker {
        Broker {
            logs: BTreeMap::new(),
            vouches: Vec::new(),
            is_clean: true,
            stands_for: None,
            run: 0,
            process: None,
        }
    }
}

impl Brokers {
    pub(super) fn new(plan: BrokersPlan, seed: u64) -> Brokers {
        Brokers {
            all: (1..=plan.count).map(|id| (id, Broker::new())).collect(),
            asking: BTreeMap::new(),
            controllers: BTreeMap::new(),
            acknowledged: Acknowledged::default(),
            before_calm: BTreeMap::new(),
            numbers: 0,
            random: Random::new(seed),
            plan,
        }
    }

    /// The machines of the brokers.
    pub(super) fn machines(&self) -> impl Iterator<Item = u64> {
        self.all.keys().map(|id| machine(*id))
    }
}

impl World {
    fn broker(&mut self, id: u32) -> Option<&mut Broker> {
        self.brokers.as_mut()?.all.get_mut(&id)
    }

    fn broker_runs(&self, id: u32, run: u32) -> bool {
        let broker = self.brokers.as_ref().and_then(|brokers| brokers.all.get(&id));
        broker.is_some_and(|broker| broker.process.is_some() && broker.run == run)
    }

    /// A number below `bound` of the brokers' own stream: runs without them draw what they always drew.
    fn broker_draw(&mut self, bound: u64) -> u64 {
        self.brokers.as_mut().map_or(0, |brokers| brokers.random.below(bound))
    }

    fn broker_later(&mut self, after: Micros, event: BrokerEvent) {
        self.queue.after(after, Happening::Broker(event));
    }

    /// The brokers start, some time or other, and producers and an operator begin.
    pub(super) fn begin_brokers(&mut self) {
        let Some(brokers) = self.brokers.as_ref() else { return };
        let ids: Vec<u32> = brokers.all.keys().copied().collect();
        for id in ids {
            let after = self.broker_draw(1_000_000);
            self.broker_later(after, BrokerEvent::Return(id));
        }
        for event in [BrokerEvent::Duty, BrokerEvent::Operate, BrokerEvent::Produce] {
            self.broker_later(500_000, event);
        }
    }

    pub(super) fn broker_happens(&mut self, event: BrokerEvent) {
        match event {
            BrokerEvent::Wake(id, run) if self.broker_runs(id, run) => self.broker_wakes(id, run),
            BrokerEvent::View(id, run) if self.broker_runs(id, run) => self.broker_looks(id),
            BrokerEvent::Flushed(id, run) if self.broker_runs(id, run) => self.broker_flushed(id),
            BrokerEvent::Wake(..) | BrokerEvent::View(..) | BrokerEvent::Flushed(..) => {}
            BrokerEvent::Return(id) => self.broker_starts(id),
            BrokerEvent::Fetch(fetch) => self.fetch_arrives(fetch),
            BrokerEvent::Fetched(fetched) => self.fetched_arrives(fetched),
            BrokerEvent::Ask { broker, command, request } => {
                let node = self.leader_for(broker).or_else(|| self.node_for(broker));
                // Where there is none, it is lost, and the broker runs out of patience.
                if let Some(node) = node {
                    self.broker_asks(node, &command, request);
                }
            }
            BrokerEvent::Answer(request, answer) => self.broker_answered(request, answer),
            BrokerEvent::Duty => self.controllers_look(),
            BrokerEvent::Operate => self.operate(),
            BrokerEvent::Produce => self.produce(),
        }
    }

    /// A message between brokers, on the network that all use.
    fn send_among_brokers(&mut self, from: u32, to: u32, event: BrokerEvent) {
        let now = self.queue.now();
        let fate = self.network.send(machine(from), machine(to), now);
        // Duplicates are as good as the first: whoever gets them looks at offsets.
        if let Some(arrival) = fate.arrivals.first() {
            self.queue.at(*arrival, Happening::Broker(event));
        }
    }

    /// A node that a broker reaches, if there is one.
    fn node_for(&mut self, id: u32) -> Option<u64> {
        let running = self.running();
        let own = machine(id);
        let is_reached =
            |node: &u64| !self.network.is_cut(own, *node) && !self.network.is_cut(*node, own);
        let reached: Vec<u64> = running.into_iter().filter(is_reached).collect();
        let draw = self.broker_draw(reached.len() as u64);
        reached.get(draw as usize).copied()
    }

    fn broker_starts(&mut self, id: u32) {
        let flushes = self.brokers.as_ref().is_some_and(|brokers| brokers.plan.flushes);
        let home = self.node_for(id).unwrap_or(1);
        let Some(broker) = self.broker(id).filter(|broker| broker.process.is_none()) else {
            return;
        };
        broker.run += 1;
        let run = broker.run;
        let number = u128::from(id) << 32 | u128::from(run);
        let incarnation = Incarnation(Uuid::from_u128(number));
        if !std::mem::take(&mut broker.is_clean) {
            broker.vouches.clear();
        }
        broker.stands_for = Some(incarnation);
        if flushes {
            // What a kill has left in memory is made durable before anything counts on it.
            broker.logs.values_mut().for_each(PartitionLog::flush);
        }
        broker.process = Some(BrokerProcess {
            incarnation,
            epoch: None,
            home,
            image: Metadata::new().image(),
            index: 0,
            has_view_turn: true,
            is_flushing: false,
            wants_shutdown: false,
            parts: BTreeMap::new(),
        });
        let numbers = [9, u64::from(id), u64::from(run)];
        self.trace.saw(self.queue.now(), &numbers, || format!("broker {id} starts, run {run}"));
        self.broker_later(0, BrokerEvent::View(id, run));
        self.broker_later(0, BrokerEvent::Wake(id, run));
    }

    fn broker_wakes(&mut self, id: u32, run: u32) {
        let jitter = self.broker_draw(HEARTBEAT / 10);
        let node = self.node_for(id);
        let Some(broker) = self.broker(id) else { return };
        let Some(process) = broker.process.as_mut() else { return };
        let (incarnation, home) = (process.incarnation, process.home);
        let (vouched, epoch) = (broker.vouches.clone(), process.epoch);
        let is_reached = self.process(home).is_some()
            && !self.network.is_cut(home, machine(id))
            && !self.network.is_cut(machine(id), home);
        let newer = self.process(home).map_or(0, |process| process.replica.applied().index);
        if let (Some(node), Some(broker)) = (node, self.broker(id))
            && let Some(process) = broker.process.as_mut()
        {
            if !is_reached {
                process.home = node;
            }
            // What changed while it could not look, nobody tells it again.
            let is_late = !is_reached || newer > process.index;
            if is_late && !std::mem::replace(&mut process.has_view_turn, true) {
                self.broker_later(0, BrokerEvent::View(id, run));
            }
        }
        let again = match epoch {
            None => {
                let register = RegisterBroker {
                    broker: BrokerId(id),
                    incarnation,
                    listeners: Vec::new(),
                    rack: None,
                    features: FeatureRange::SUPPORTED,
                    directories: vec![DirectoryId(Uuid::from_u128(u128::from(id)))],
                    vouched,
                    follows: None,
                };
                self.registers(id, run, register);
                HEARTBEAT / 2
            }
            Some(epoch) => {
                if self.heartbeats(id, epoch) {
                    return self.broker_stops(id);
                }
                HEARTBEAT
            }
        };
        self.looks_after_parts(id);
        self.broker_later(again + jitter, BrokerEvent::Wake(id, run));
    }

    /// A broker that was registered knows it: from now on this is the incarnation that counts.
    fn registered(&mut self, id: u32, run: u32, epoch: BrokerEpoch) {
        if !self.broker_runs(id, run) {
            return;
        }
        let Some(broker) = self.broker(id) else { return };
        if let Some(process) = broker.process.as_mut() {
            process.epoch.get_or_insert(epoch);
            broker.vouches = vec![process.incarnation];
        }
    }

    /// A node has applied something: whoever watches it will look.
    pub(super) fn brokers_notice(&mut self, node: u64) {
        let Some(brokers) = self.brokers.as_mut() else { return };
        for (id, broker) in &mut brokers.all {
            let Some(process) = broker.process.as_mut().filter(|process| process.home == node)
            else {
                continue;
            };
            if std::mem::replace(&mut process.has_view_turn, true) {
                continue;
            }
            // Watchers are late, and sometimes very.
            let most = if brokers.random.chance(10) { 1_500_000 } else { 30_000 };
            let event = BrokerEvent::View(*id, broker.run);
            self.queue.after(1 + brokers.random.below(most), Happening::Broker(event));
        }
    }

    /// A broker takes in what its node's replica has.
    fn broker_looks(&mut self, id: u32) {
        let own = machine(id);
        let Some(process) = self.broker(id).and_then(|broker| broker.process.as_mut()) else {
            return;
        };
        process.has_view_turn = false;
        let home = process.home;
        if self.network.is_cut(home, own) {
            return;
        }
        let Some(replica) = self.process(home).map(|process| &process.replica) else { return };
        let (index, image) = (replica.applied().index, replica.state().image());
        let Some(process) = self.broker(id).and_then(|broker| broker.process.as_mut()) else {
            return;
        };
        if index > process.index {
            (process.index, process.image) = (index, image);
            self.takes_parts(id);
        }
    }

    /// Something was written to a broker's disk, which flushes it, if the plan is such.
    fn written(&mut self, id: u32) {
        let Some(brokers) = self.brokers.as_mut() else { return };
        let Some(broker) = brokers.all.get_mut(&id).filter(|_| brokers.plan.flushes) else {
            return;
        };
        let Some(process) = broker.process.as_mut() else { return };
        if !std::mem::replace(&mut process.is_flushing, true) {
            let after = 500 + brokers.random.below(10_000);
            let event = BrokerEvent::Flushed(id, broker.run);
            self.queue.after(after, Happening::Broker(event));
        }
    }

    fn broker_flushed(&mut self, id: u32) {
        let Some(broker) = self.broker(id) else { return };
        let Some(process) = broker.process.as_mut() else { return };
        process.is_flushing = false;
        let flushed = broker.logs.iter_mut().filter(|(_, log)| log.flushed() < log.end());
        let keys: Vec<PartitionKey> = flushed.map(|(key, log)| (log.flush(), *key).1).collect();
        for key in keys {
            self.high_watermark(id, key);
            self.fetches(id, key);
        }
    }
}

#[cfg(test)]
mod tests;
