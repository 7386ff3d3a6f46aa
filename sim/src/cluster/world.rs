//! [`World`]: the hosts, the network between them, the clients, and the clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mutation::Bug;
use quorate_loop::{Effects, Input, Members, PeerMessage, Role};
use raft::eraftpb::Message;
use tempfile::TempDir;

use super::brokers::{BrokerEvent, Brokers};
use super::clients::Client;
use super::coverage::{Coverage, Path};
use super::host::{Host, Start, bindings};
use super::network::Network;
use super::plan::Plan;
use super::process::{Process, Seen};
use super::queue::{Micros, Queue};
use super::safety::Safety;
use super::simulated::Answers;
use super::trace::Trace;
use super::work::last_of;
use super::workload::Workload;
use super::{GROUP, SimError, node_id};
use crate::random::Random;
use crate::scratch::scratch;

/// Something that will happen. Where it names a run, it happens to that process or not at all.
pub(super) enum Happening {
    /// A tick of a node's clock.
    Tick(u64, u32),
    /// A node takes the effects of what has gathered.
    Turn(u64, u32),
    /// A message arrives.
    Deliver { from: u64, to: u64, message: PeerMessage },
    /// The disk is done with a batch.
    Synced(u64, u32),
    /// The state machine takes the next work.
    Applied(u64, u32),
    /// A snapshot file is written.
    SnapshotWritten(u64, u32),
    /// A snapshot file has been sent.
    Transferred { from: u64, to: u64, message: Message },
    /// The turn of a node to campaign comes.
    Campaign(u64, u32),
    /// A node finds that the process of another is gone.
    Gone { of: u64, at: u64 },
    /// A host starts.
    Start(u64),
    /// A host asks to be let in.
    AskIn(u64),
    /// A client's turn.
    Client(usize),
    /// Something of the brokers.
    Broker(BrokerEvent),
    /// Another fault.
    Strike,
    /// A fault ends.
    Relent(Relief),
    /// Somebody looks: time goes on to here.
    Glance,
}

/// The end of a fault.
#[derive(Debug, Clone)]
pub(super) enum Relief {
    /// Of links.
    Links(Vec<(u64, u64)>),
    /// Of a disk that was slow, or full.
    Disk(u64),
    /// Of a slow state machine.
    Apply(u64),
    /// Of a log that somebody lacks.
    Compaction(u64),
}

/// Everything.
pub(super) struct World {
    dir: TempDir,
    pub(super) plan: Plan,
    pub(super) queue: Queue<Happening>,
    pub(super) network: Network,
    pub(super) hosts: BTreeMap<u64, Host>,
    pub(super) clients: Vec<Client>,
    /// By caller: the client, and which of its tasks.
    pub(super) callers: BTreeMap<u64, (usize, u64)>,
    pub(super) next_caller: u64,
    /// Callers that are no clients, and what they were told.
    pub(super) strangers: BTreeSet<u64>,
    pub(super) answers: Answers,
    pub(super) workload: Workload,
    /// The data plane, if there is one.
    pub(super) brokers: Option<Brokers>,
    pub(super) safety: Safety,
    pub(super) coverage: Coverage,
    pub(super) trace: Trace,
    /// Decides everything but election timeouts, links and commands.
    pub(super) random: Random,
    draws: Random,
    /// Faults come no more.
    pub(super) is_calm: bool,
    pub(super) told_before_calm: Vec<u64>,
    /// What a sync of each node takes more than it should, by a factor.
    pub(super) slow_disks: BTreeMap<u64, u64>,
    pub(super) slow_machines: BTreeSet<u64>,
    /// The latest members that anybody has acted on.
    pub(super) newest: Arc<Members>,
    /// By caller: the host that asks to be let in.
    pub(super) asking: BTreeMap<u64, u64>,
    /// Directories given out so far.
    pub(super) lives: u64,
    /// Whose disks were lost, until other members have their places.
    pub(super) replacing: BTreeSet<u64>,
    pub(super) events: u64,
}

impl World {
    pub(super) fn new(seed: u64, plan: Plan, trace: Trace) -> Result<World, SimError> {
        let dir = scratch().map_err(SimError::new)?;
        let founders = (1..=plan.voters).map(|id| {
            let binding = bindings(id, 0);
            (node_id(id), binding.directory_id, format!("127.0.0.1:{id}"))
        });
        let members = Arc::new(Members::founding(founders));
        let mut streams = Random::new(seed);
        let mut world = World {
            queue: Queue::new(),
            network: Network::new(streams.next()),
            hosts: BTreeMap::new(),
            clients: (0..plan.clients).map(|_| Client::default()).collect(),
            callers: BTreeMap::new(),
            next_caller: 0,
            strangers: BTreeSet::new(),
            answers: Answers::new(),
            workload: Workload::new(streams.next(), plan.brokers.is_some()),
            brokers: plan.brokers.clone().map(|plan| Brokers::new(plan, seed)),
            safety: Safety::default(),
            coverage: Coverage::default(),
            trace,
            random: Random::new(streams.next()),
            draws: Random::new(streams.next()),
            is_calm: false,
            told_before_calm: Vec::new(),
            slow_disks: BTreeMap::new(),
            slow_machines: BTreeSet::new(),
            newest: members.clone(),
            asking: BTreeMap::new(),
            lives: 0,
            replacing: BTreeSet::new(),
            events: 0,
            dir,
            plan,
        };
        for id in 1..=world.plan.voters {
            let base = world.dir.path();
            let host = Host::founded(id, base, &members, &world.plan.engine_config)?;
            world.hosts.insert(id, host);
            world.queue.after(0, Happening::Start(id));
        }
        for id in world.plan.voters + 1..=world.plan.voters + world.plan.others {
            world.lives += 1;
            let (base, life) = (world.dir.path(), world.lives);
            let host = Host::joining(id, base, &world.plan.engine_config, life)?;
            world.hosts.insert(id, host);
            world.queue.after(1_000_000, Happening::AskIn(id));
        }
        for number in 0..world.clients.len() {
            world.client_later(number, 500_000);
        }
        world.begin_brokers();
        if !world.plan.events.is_empty() {
            world.next_strike();
        }
        Ok(world)
    }

    /// The next event happens. False when there is none.
    ///
    /// # Errors
    ///
    /// When the simulator cannot go on; what is wrong with a node is a violation.
    pub(super) fn happen(&mut self) -> Result<bool, SimError> {
        let Some(happening) = self.queue.pop() else { return Ok(false) };
        self.events += 1;
        if let Some(until) = self.stands_until(&happening) {
            self.queue.at(until, happening);
            return Ok(true);
        }
        match happening {
            Happening::Tick(id, run) => self.tick(id, run),
            Happening::Turn(id, run) if self.runs(id, run) => self.turn(id),
            Happening::Turn(..) => {}
            Happening::Deliver { from, to, message } => self.deliver(from, to, message),
            Happening::Synced(id, run) => self.synced(id, run)?,
            Happening::Applied(id, run) => self.apply(id, run)?,
            Happening::SnapshotWritten(id, run) => self.snapshot_written(id, run)?,
            Happening::Transferred { from, to, message } => self.transferred(from, to, message)?,
            Happening::Campaign(id, run) if self.runs(id, run) => self.step(id, Input::Campaign),
            Happening::Campaign(..) => {}
            Happening::Gone { of, at } => {
                self.step(at, Input::Unreachable(node_id(of)));
                self.step(at, Input::Gone(node_id(of)));
            }
            Happening::Start(id) => self.start(id)?,
            Happening::AskIn(id) => self.ask_in(id),
            Happening::Client(number) => self.client_acts(number),
            Happening::Broker(event) => self.broker_happens(event),
            Happening::Strike => self.strike()?,
            Happening::Relent(relief) => self.relent(relief)?,
            Happening::Glance => {}
        }
        Ok(true)
    }

    /// Until when the node stands still that this happens to.
    fn stands_until(&self, happening: &Happening) -> Option<Micros> {
        let id = match happening {
            Happening::Tick(id, _)
            | Happening::Turn(id, _)
            | Happening::Synced(id, _)
            | Happening::Applied(id, _)
            | Happening::SnapshotWritten(id, _)
            | Happening::Campaign(id, _)
            | Happening::Deliver { to: id, .. }
            | Happening::Gone { at: id, .. } => *id,
            _ => return None,
        };
        let until = self.hosts.get(&id)?.process.as_ref()?.stands_until?;
        (until > self.queue.now()).then_some(until)
    }

    pub(super) fn process(&mut self, id: u64) -> Option<&mut Process> {
        self.hosts.get_mut(&id)?.process.as_mut()
    }

    pub(super) fn runs(&self, id: u64, run: u32) -> bool {
        let process = self.hosts.get(&id).and_then(|host| host.process.as_ref());
        process.is_some_and(|process| process.run == run)
    }

    /// The nodes that run.
    pub(super) fn running(&self) -> Vec<u64> {
        let runs = |(id, host): (&u64, &Host)| host.process.is_some().then_some(*id);
        self.hosts.iter().filter_map(runs).collect()
    }

    /// Who leads in the highest term.
    pub(super) fn leader(&self) -> Option<u64> {
        let leads = |(id, host): (&u64, &Host)| {
            let seen = host.process.as_ref()?.seen;
            seen.leads.then_some((seen.term, *id))
        };
        self.hosts.iter().filter_map(leads).max().map(|(_, id)| id)
    }

    fn tick(&mut self, id: u64, run: u32) {
        if !self.runs(id, run) {
            return;
        }
        self.step(id, Input::Tick);
        // No clock is exact.
        let tick = self.plan.loop_config.tick_ms * 1_000;
        let next = tick - tick / 50 + self.random.below(tick / 25);
        self.queue.after(next, Happening::Tick(id, run));
    }

    /// One input for a node; its effects come at once, or with those of others soon.
    pub(super) fn step(&mut self, id: u64, input: Input<u64, u64>) {
        self.step_quietly(id, input);
        let gathering = self.plan.gathering;
        if gathering == 0 {
            return self.turn(id);
        }
        if let Some(process) = self.process(id).filter(|process| !process.is_gathering) {
            process.is_gathering = true;
            let run = process.run;
            let after = self.random.below(gathering);
            self.queue.after(after, Happening::Turn(id, run));
        }
    }

    /// One input for a node; its effects come with its next turn.
    pub(super) fn step_quietly(&mut self, id: u64, input: Input<u64, u64>) {
        let draw = self.draws.next();
        if let Some(process) = self.process(id) {
            process.core.step(input);
            // raft-rs has drawn another timeout if its role has changed, which the next tick counts on.
            process.core.draw_election_timeout(draw);
        }
    }

    /// Takes the effects of a node and puts them where they belong. Nothing becomes durable.
    pub(super) fn turn(&mut self, id: u64) {
        loop {
            let draw = self.draws.next();
            let Some(process) = self.process(id) else { return };
            process.core.draw_election_timeout(draw);
            process.is_gathering = false;
            let effects = process.core.effects();
            if let Some(fatal) = &effects.fatal {
                return self.stopped(id, fatal, effects.log_is_lost);
            }
            self.carry_out(id, effects);
            let Some(process) = self.process(id) else { return };
            if !process.core.has_more() {
                break;
            }
        }
        self.begin_work(id);
        self.look(id);
    }

    /// Looks at a node that may have changed.
    fn look(&mut self, id: u64) {
        let now = self.queue.now();
        let Some(process) = self.hosts.get_mut(&id).and_then(|host| host.process.as_mut()) else {
            return;
        };
        let status = process.core.status();
        let seen = Seen {
            leads: status.role == Role::Leader,
            term: status.term,
            commit: status.commit_index,
            applied: process.replica.applied().index,
            last: status.last_index,
        };
        let before = process.seen;
        if seen == before {
            return;
        }
        self.safety.look(id, process, seen);
        let numbers = [2, id, u64::from(seen.leads), seen.term, seen.commit, seen.last];
        self.trace.saw(now, &numbers, || format!("{id}: {seen:?}"));
        if seen.leads && !before.leads {
            self.coverage.went(Path::Election);
        }
    }

    fn carry_out(&mut self, id: u64, effects: Effects<u64, u64>) {
        if let Some(host) = self.hosts.get_mut(&id)
            && let (Some(process), Some(write)) = (&mut host.process, effects.write)
        {
            process.log.write(&write);
            process.waiting.push(write);
        }
        if let Some(members) = effects.members
            && members.index() > self.newest.index()
        {
            self.has_voters_with_a_log(&members);
            self.newest = members;
        }
        for (caller, error) in effects.failed {
            self.failed_for(caller, &error);
        }
        for (caller, answer) in effects.reads {
            self.read_for(id, caller, answer);
        }
        for (caller, answer) in effects.memberships {
            self.membership_for(caller, answer);
        }
        for envelope in effects.messages {
            self.send(id, envelope);
        }
        for envelope in effects.snapshots {
            self.send_snapshot(id, envelope);
        }
        let Some(run) = self.process(id).map(|process| process.run) else { return };
        if let Some(after) = effects.campaign_after {
            let after = after.as_micros() as Micros;
            self.queue.after(after, Happening::Campaign(id, run));
        }
        let Some(process) = self.process(id) else { return };
        let handed = effects.apply.iter().map(last_of).max();
        process.applying.extend(effects.apply);
        if let Some(handed) = handed.filter(|_| mutation::is(Bug::AppliedToldEarly)) {
            process.core.step(Input::Applied(handed));
        }
        if effects.snapshot_wanted {
            process.wants_snapshot = true;
        }
        if let Some(keep) = effects.retain {
            // What is left takes room, and no more.
            let _ = process.snapshots.retain(GROUP, keep);
        }
        for fetch in effects.fetches {
            self.coverage.went(Path::Fetch);
            let Some(process) = self.process(id) else { return };
            if let Err(error) = process.fetch(fetch) {
                self.safety.violated(format!("node {id} cannot read: {error}"));
            }
        }
    }

    pub(super) fn start(&mut self, id: u64) -> Result<(), SimError> {
        let (engine, config) = (&self.plan.engine_config, &self.plan.loop_config);
        let Some(host) = self.hosts.get_mut(&id).filter(|host| host.process.is_none()) else {
            return Ok(());
        };
        let started = match host.start(engine, config) {
            Ok(started) => started,
            Err(error) => {
                self.safety.violated(format!("node {id} does not start: {error}"));
                return Ok(());
            }
        };
        self.trace.saw(self.queue.now(), &[3, id], || format!("node {id}: {started:?}"));
        match started {
            Start::Running { with_more } => {
                self.coverage.went(Path::Restart);
                if with_more {
                    self.coverage.went(Path::UnacknowledgedSurvived);
                }
                let run = self.process(id).map_or(0, |process| process.run);
                let tick = self.random.below(self.plan.loop_config.tick_ms * 1_000);
                self.queue.after(tick, Happening::Tick(id, run));
                self.turn(id);
            }
            Start::Damaged(what) => self.found_damaged(id, &what)?,
            Start::Waiting => self.queue.after(100_000, Happening::AskIn(id)),
            Start::Departed => self.departed(id)?,
        }
        Ok(())
    }
}
