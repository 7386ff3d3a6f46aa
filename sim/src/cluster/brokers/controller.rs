//! What the quorum's leaders do for brokers, and what operators and producers want.
//!
//! A leader's memory of heartbeats is production code, `src/sessions.rs`, under virtual time: it knows
//! neither a clock nor a network.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_statemachine::{
    BrokerEpoch, BrokerId, BrokerSession, Brokers as BrokerList, Command, ConfigChange,
    ConfigOperation, ConfigResource, ElectLeaders, ElectionType, MetadataImage, NewTopic, Outcome,
    PartitionKey, Reassignment, RegisterBroker, Reply, StateMachine as _, TopicId,
};
use uuid::Uuid;

use super::sessions::{Flags, Heartbeat, Registered, Sessions};
use super::{BrokerEvent, Request, Told, machine};
use crate::cluster::queue::Micros;
use crate::cluster::world::World;

pub(in crate::cluster) use super::sessions::Transition;

/// A broker that was not heard for so long is fenced, as by default.
const SESSION: Duration = Duration::from_secs(3);
/// Between two looks at the sessions.
const DUTY: Micros = 500_000;

/// What a leader remembers, for one term of it.
pub(in crate::cluster) struct Controller {
    run: u32,
    term: u64,
    sessions: Sessions,
}

fn registered(image: &MetadataImage) -> BTreeMap<BrokerId, Registered> {
    let all = image.brokers().map(|broker| {
        let (epoch, incarnation) = (broker.epoch, broker.incarnation);
        let (fenced, in_shutdown) = (broker.fenced, broker.in_shutdown);
        (broker.id, Registered { epoch, incarnation, fenced, in_shutdown })
    });
    all.collect()
}

fn topic_id(number: usize) -> TopicId {
    TopicId(Uuid::from_u128(1 + number as u128))
}

impl World {
    /// The sessions of a node, if it leads and has all that was committed before its term, up to date.
    fn sessions(&mut self, node: u64) -> Option<(Duration, &mut Sessions)> {
        let now = self.queue.now();
        let process = self.hosts.get(&node)?.process.as_ref()?;
        let (seen, applied) = (process.seen, process.replica.applied());
        let stands = process.stands_until.is_some_and(|until| until > now);
        if !seen.leads || applied.term != seen.term || stands {
            return None;
        }
        let now = Duration::from_micros(now);
        let brokers = self.brokers.as_mut()?;
        let is_new =
            |controller: &Controller| (controller.run, controller.term) != (process.run, seen.term);
        if brokers.controllers.get(&node).is_none_or(is_new) {
            let image = process.replica.state().image();
            let sessions = Sessions::new(SESSION, now, applied.index, registered(&image));
            let controller = Controller { run: process.run, term: seen.term, sessions };
            brokers.controllers.insert(node, controller);
        }
        let sessions = &mut brokers.controllers.get_mut(&node)?.sessions;
        if sessions.index() < applied.index {
            let image = process.replica.state().image();
            sessions.sync(now, applied.index, registered(&image));
        }
        Some((now, sessions))
    }

    /// Who takes itself for the leader, and is reached by a broker.
    pub(super) fn leader_for(&mut self, id: u32) -> Option<u64> {
        let own = machine(id);
        let leads = self.hosts.iter().filter(|(node, host)| {
            host.process.as_ref().is_some_and(|process| process.seen.leads)
                && !self.network.is_cut(own, **node)
                && !self.network.is_cut(**node, own)
        });
        let leaders: Vec<u64> = leads.map(|(node, _)| *node).collect();
        let draw = self.broker_draw(leaders.len() as u64);
        leaders.get(draw as usize).copied()
    }

    /// Proposes for brokers on a node.
    pub(super) fn broker_asks(&mut self, node: u64, command: &Command, request: Request) {
        self.next_caller += 1;
        let caller = self.next_caller;
        self.safety.asked(node, caller, None);
        let Some(brokers) = self.brokers.as_mut() else { return };
        brokers.asking.insert(caller, request);
        let proposal = command.encode().into();
        self.step(node, quorate_loop::Input::Propose { proposal, caller });
    }

    /// A caller has its answer, or none; whether it was one of the brokers'.
    pub(in crate::cluster) fn answered_for_brokers(&mut self, caller: u64, answer: Told) -> bool {
        let Some(brokers) = self.brokers.as_mut() else { return false };
        let Some(request) = brokers.asking.remove(&caller) else { return false };
        // On the way back to the broker, if it is one that asked.
        let back = 100 + self.broker_draw(1_000);
        let back = match request {
            Request::Register { .. } | Request::Alter { .. } => back,
            Request::Transition { .. } | Request::Other => 0,
        };
        self.broker_later(back, BrokerEvent::Answer(request, answer));
        true
    }

    /// An answer arrives where it belongs. One to a broker is lost now and then.
    pub(super) fn broker_answered(&mut self, request: Request, answer: Told) {
        let is_lost = !self.is_calm && self.broker_draw(100) < 5;
        match request {
            Request::Register { broker, run, node } => {
                let incarnation = self
                    .broker(broker)
                    .filter(|broker| broker.run == run)
                    .and_then(|broker| broker.process.as_ref())
                    .map(|process| process.incarnation);
                if let Some(incarnation) = incarnation
                    && let Some((_, sessions)) = node.and_then(|node| self.sessions(node))
                {
                    sessions.registered(BrokerId(broker), incarnation);
                }
                if let (
                    Told::Applied(_, Outcome::Accepted(Reply::BrokerRegistered { epoch })),
                    false,
                ) = (answer, is_lost)
                {
                    self.registered(broker, run, epoch);
                }
            }
            Request::Alter { broker, run, key, epoch, number } => {
                let answer = if is_lost { Told::Unknown } else { answer };
                self.altered((broker, run), (key, epoch), number, answer);
            }
            Request::Transition { node, transition } => {
                let applied = matches!(answer, Told::Applied(_, Outcome::Accepted(_)));
                if let Some((now, sessions)) = self.sessions(node) {
                    sessions.settled(now, transition, applied);
                }
            }
            Request::Other => {}
        }
    }

    fn propose_transition(&mut self, node: u64, transition: Transition) {
        let session = BrokerSession { broker: transition.broker, epoch: transition.epoch };
        let command = match transition.to {
            Flags::Unfenced => Command::UnfenceBroker(session),
            Flags::Fenced => Command::FenceBroker(session),
            Flags::InShutdown => Command::ShutdownBroker(session),
        };
        self.broker_asks(node, &command, Request::Transition { node, transition });
    }

    /// A broker registers: mostly where its sessions are known, and sometimes past them, as through a
    /// leader that has just lost its term.
    pub(super) fn registers(&mut self, id: u32, run: u32, register: RegisterBroker) {
        if self.broker_draw(100) < 20 {
            if let Some(node) = self.leader_for(id).or_else(|| self.node_for(id)) {
                let registered = self.process(node).and_then(|process| {
                    Some(process.replica.state().image().broker(BrokerId(id))?.epoch)
                });
                let follows = Some(registered.unwrap_or(BrokerEpoch(0)));
                let command = Command::RegisterBroker(RegisterBroker { follows, ..register });
                let request = Request::Register { broker: id, run, node: None };
                self.broker_asks(node, &command, request);
            }
            return;
        }
        let Some(node) = self.leader_for(id) else { return };
        let Some((now, sessions)) = self.sessions(node) else { return };
        if let Ok(follows) = sessions.register(now, BrokerId(id), register.incarnation) {
            let follows = Some(follows);
            let command = Command::RegisterBroker(RegisterBroker { follows, ..register });
            let request = Request::Register { broker: id, run, node: Some(node) };
            self.broker_asks(node, &command, request);
        }
    }

    /// A broker heartbeats. Whether it may stop.
    pub(super) fn heartbeats(&mut self, id: u32, epoch: BrokerEpoch) -> bool {
        let Some(process) = self.broker(id).and_then(|broker| broker.process.as_ref()) else {
            return false;
        };
        let beat = Heartbeat {
            broker: BrokerId(id),
            epoch,
            applied: process.index,
            want_fence: false,
            want_shutdown: process.wants_shutdown,
        };
        let Some(node) = self.leader_for(id) else { return false };
        let now = self.queue.now();
        if self.network.send(machine(id), node, now).arrivals.is_empty() {
            return false;
        }
        let Some((now, sessions)) = self.sessions(node) else { return false };
        let Ok(beat) = sessions.heartbeat(now, beat) else { return false };
        if let Some(transition) = beat.transition {
            self.propose_transition(node, transition);
        }
        beat.may_stop
    }

    /// A leader finds that a broker's process is gone.
    pub(super) fn departs(&mut self, id: u32, epoch: Option<BrokerEpoch>) {
        let (Some(epoch), Some(node)) = (epoch, self.leader_for(id)) else { return };
        let Some((now, sessions)) = self.sessions(node) else { return };
        if let Some(transition) =
            sessions.depart(now, BrokerSession { broker: BrokerId(id), epoch })
        {
            self.propose_transition(node, transition);
        }
    }

    /// Whoever leads looks who was not heard.
    pub(super) fn controllers_look(&mut self) {
        for node in self.running() {
            let Some((now, sessions)) = self.sessions(node) else { continue };
            for transition in sessions.tick(now) {
                self.propose_transition(node, transition);
            }
        }
        self.broker_later(DUTY, BrokerEvent::Duty);
    }

    /// An operator does something: creates what is missing, and then one thing or another.
    pub(super) fn operate(&mut self) {
        let pause = 200_000 + self.broker_draw(1_500_000);
        self.broker_later(pause, BrokerEvent::Operate);
        let image = self.newest_image();
        let Some(node) = self.leader() else { return };
        if let Some(command) = self.operation(&image) {
            self.broker_asks(node, &command, Request::Other);
        }
    }

    fn operation(&mut self, image: &MetadataImage) -> Option<Command> {
        let brokers = self.brokers.as_mut()?;
        let missing =
            (0..brokers.plan.topics.len()).find(|number| image.topic(topic_id(*number)).is_none());
        if let Some(number) = missing {
            let shape = brokers.plan.topics[number];
            let placed = (0..shape.partitions).map(|_| brokers.place(shape.replicas)).collect();
            let id = topic_id(number);
            let configs = vec![("min.insync.replicas".to_owned(), shape.min_insync.to_string())];
            let topic =
                NewTopic { id, name: format!("kept-{number}"), partitions: placed, configs };
            return Some(Command::CreateTopics { topics: vec![topic] });
        }
        let keys: Vec<PartitionKey> = image.partitions().map(|(key, _)| key).collect();
        let key = *keys.get(brokers.random.below(keys.len() as u64) as usize)?;
        let partition = image.partition(key)?;
        let draw = brokers.random.below(100);
        let is_active = |id: &BrokerId| image.broker(*id).is_some_and(|broker| broker.is_active());
        // Where all are back and nobody may lead, or where the operator is of that kind.
        let is_lost = partition.leader.is_none() && partition.replicas.iter().all(is_active);
        let is_rash = brokers.plan.unclean && partition.leader.is_none();
        if (self.is_calm && is_lost) || is_rash {
            brokers.acknowledged.may_be_lost(key);
            let election = ElectionType::Unclean;
            return Some(Command::ElectLeaders(ElectLeaders { election, partitions: vec![key] }));
        }
        if self.is_calm {
            return None;
        }
        match draw {
            0..25 => {
                let election = ElectionType::Preferred;
                Some(Command::ElectLeaders(ElectLeaders { election, partitions: vec![key] }))
            }
            25..40 => {
                let value = (1 + brokers.random.below(3)).to_string();
                let key_name = "min.insync.replicas".to_owned();
                let operation = ConfigOperation::Set(value);
                let changes = vec![ConfigChange { key: key_name, operation }];
                Some(Command::AlterConfigs { resource: ConfigResource::Topic(key.topic), changes })
            }
            40..55 => {
                let count = 1 + brokers.random.below(3) as u32;
                let target = Some(brokers.place(count));
                let target = if brokers.random.chance(20) { None } else { target };
                let reassignments = vec![Reassignment { partition: key, target }];
                Some(Command::AlterReassignments { reassignments })
            }
            _ => None,
        }
    }

    /// A producer sends a record to whom it believes to lead.
    pub(super) fn produce(&mut self) {
        let image = self.newest_image();
        let Some(brokers) = self.brokers.as_mut() else { return };
        let pause = 1 + brokers.random.below(2 * brokers.plan.producing);
        let is_told = |key: &PartitionKey| {
            brokers.acknowledged.count(*key) > *brokers.before_calm.get(key).unwrap_or(&0)
        };
        let calm = self.is_calm;
        let keys = image.partitions().map(|(key, _)| key);
        let keys: Vec<PartitionKey> = keys.filter(|key| !calm || !is_told(key)).collect();
        let draw = brokers.random.below(keys.len() as u64) as usize;
        brokers.numbers += 1;
        let record = brokers.numbers;
        // Metadata that is old names another leader; whoever leads still takes it, and must not lose it.
        let leading = keys.get(draw).map(|key| {
            let leads = |(id, broker): (&u32, &super::Broker)| broker.leads(*key).map(|_| *id);
            (*key, brokers.all.iter().filter_map(leads).collect::<Vec<u32>>())
        });
        self.broker_later(pause, BrokerEvent::Produce);
        let Some((key, leaders)) = leading else { return };
        let draw = self.broker_draw(leaders.len() as u64) as usize;
        let Some(id) = leaders.get(draw).copied() else { return };
        if self.broker(id).is_some_and(|broker| broker.take(key, record)) {
            self.written(id);
            self.high_watermark(id, key);
            self.serves_parked(id, key);
        }
    }
}

impl super::Brokers {
    /// Some of the brokers, in some order.
    fn place(&mut self, count: u32) -> BrokerList {
        let mut ids: Vec<BrokerId> = self.all.keys().map(|id| BrokerId(*id)).collect();
        let mut placed = Vec::new();
        while placed.len() < count as usize && !ids.is_empty() {
            placed.push(ids.swap_remove(self.random.below(ids.len() as u64) as usize));
        }
        placed.into_iter().collect()
    }
}
