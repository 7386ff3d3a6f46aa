//! [`World`]: the hosts, the network between them, the clients, and the clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mutation::Bug;
use quorate_engine::LogId;
use quorate_loop::{
    Apply, Committed, Done, Effects, Envelope, Input, Members, PeerMessage, Replica, Role,
    SessionStep,
};
use quorate_statemachine::{Metadata, Outcome, StateMachine as _};
use raft::eraftpb::Message;
use tempfile::TempDir;

use super::brokers::{BrokerEvent, Brokers};
use super::clients::Client;
use super::coverage::{Coverage, Event, Path};
use super::host::{Host, Start, bindings};
use super::network::Network;
use super::plan::Plan;
use super::process::{Process, Received, Seen};
use super::queue::{Micros, Queue};
use super::safety::Safety;
use super::simulated::Answers;
use super::trace::Trace;
use super::workload::Workload;
use super::{GROUP, SimError, node_id};
use crate::random::Random;
use crate::record::hash_of;
use crate::scratch::scratch;

/// Something that will happen. Where it names a run, it happens to that process or not at all.
pub(super) enum Happening {
    /// A tick of a node's clock.
    Tick(u64, u32),
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

    fn deliver(&mut self, from: u64, to: u64, message: PeerMessage) {
        if self.network.is_cut(from, to) {
            return;
        }
        let kind = match &message {
            PeerMessage::Raft(message) => message.get_msg_type() as u64,
            _ => 100,
        };
        self.trace.saw(self.queue.now(), &[1, from, to, kind], || {
            format!("{from} -> {to}: {}", told(&message))
        });
        self.step(to, Input::Peer { from: node_id(from), message });
    }

    /// One input for a node, and its effects.
    pub(super) fn step(&mut self, id: u64, input: Input<u64, u64>) {
        self.step_quietly(id, input);
        self.turn(id);
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

    /// Gives the disk and the state machine what waits for them.
    fn begin_work(&mut self, id: u64) {
        let factor = self.slow_disks.get(&id).copied().unwrap_or(1);
        let (least, more) = self.plan.sync;
        let sync = (least + self.random.below(more)) * factor;
        let apply = match self.slow_machines.contains(&id) {
            true => 200_000,
            false => 10,
        };
        let every = self.plan.snapshot_every;
        let Some(process) = self.process(id) else { return };
        let run = process.run;
        let mut begun = Vec::new();
        if process.writing.is_empty() && !process.waiting.is_empty() && !process.is_full {
            process.writing = std::mem::take(&mut process.waiting);
            begun.push((sync, Happening::Synced(id, run)));
        }
        if !process.is_applying && !process.applying.is_empty() {
            process.is_applying = true;
            begun.push((apply, Happening::Applied(id, run)));
        }
        let applied = process.replica.applied().index;
        let is_due = process.wants_snapshot || applied >= process.drafted + every;
        if is_due && process.draft.is_none() && applied > process.core.status().snapshot_index {
            process.wants_snapshot = false;
            process.drafted = applied;
            process.draft = Some(process.replica.draft());
            begun.push((2 * sync, Happening::SnapshotWritten(id, run)));
        }
        for (after, happening) in begun {
            self.queue.after(after, happening);
        }
    }

    fn send(&mut self, from: u64, envelope: Envelope) {
        let to = envelope.to.get();
        if let (PeerMessage::Raft(message), Some(host)) = (&envelope.message, self.hosts.get(&from))
        {
            self.safety.left(from, &host.durable, message);
        }
        let now = self.queue.now();
        let fate = self.network.send(from, to, now);
        if fate.arrivals.is_empty() && self.network.is_cut(from, to) && self.random.chance(20) {
            // A transport that finds its connection broken says so.
            self.step_quietly(from, Input::Undelivered(envelope));
            return;
        }
        for arrival in fate.arrivals {
            let message = envelope.message.clone();
            self.queue.at(arrival, Happening::Deliver { from, to, message });
        }
    }

    fn send_snapshot(&mut self, from: u64, envelope: Envelope) {
        let (to, PeerMessage::Raft(message)) = (envelope.to.get(), envelope.message) else {
            return;
        };
        let delay = 1_000 + self.random.below(50_000);
        self.queue.after(delay, Happening::Transferred { from, to, message });
    }

    fn synced(&mut self, id: u64, run: u32) -> Result<(), SimError> {
        if !self.runs(id, run) {
            return Ok(());
        }
        let Some(host) = self.hosts.get_mut(&id) else { return Ok(()) };
        let Some(process) = &mut host.process else { return Ok(()) };
        let batch = std::mem::take(&mut process.writing);
        process.kept.extend(batch.iter().cloned());
        match process.write(batch) {
            Ok(()) => {
                let was_full = std::mem::take(&mut process.is_full);
                for write in std::mem::take(&mut process.kept) {
                    host.durable.write(&write);
                    let directory = *host.binding.directory_id.as_bytes();
                    self.safety.wrote(id, directory, &write);
                }
                if was_full {
                    self.coverage.went(Path::RoomAgain);
                }
            }
            Err(error) if !error.is_fatal() => {
                if !process.is_full {
                    process.is_full = true;
                    process.core.step(Input::StorageFull);
                }
                self.queue.after(1_000_000, Happening::Synced(id, run));
            }
            Err(error) => {
                let text = error.to_string();
                self.disk_failed(id, &text)?;
                return Ok(());
            }
        }
        self.turn(id);
        Ok(())
    }

    fn apply(&mut self, id: u64, run: u32) -> Result<(), SimError> {
        if !self.runs(id, run) {
            return Ok(());
        }
        let Some(process) = self.process(id) else { return Ok(()) };
        process.is_applying = false;
        let Some(work) = process.applying.pop_front() else { return Ok(()) };
        let applied = last_of(&work);
        match work {
            Apply::Entries(entries) => {
                for entry in entries {
                    self.apply_one(id, &entry);
                }
            }
            Apply::Restore(at) => {
                match Replica::<Metadata>::restore(&process.snapshots, GROUP, at) {
                    Ok((replica, _)) => process.replica = replica,
                    Err(error) => {
                        let text = format!("snapshot {at}: {error}");
                        return self.disk_failed(id, &text);
                    }
                }
                self.coverage.went(Path::Install);
                self.compare(id, at.index);
            }
        }
        self.brokers_notice(id);
        if !mutation::is(Bug::AppliedToldEarly) {
            self.step(id, Input::Applied(applied));
        }
        Ok(())
    }

    fn apply_one(&mut self, id: u64, entry: &Committed<u64>) {
        let at = entry.at;
        let session = match entry.session {
            Some(SessionStep::Command(command)) => Some((command.session, command.sequence)),
            _ => None,
        };
        let mixed = session.map_or(0, |(session, sequence)| session << 20 ^ sequence);
        let Some(process) = self.process(id) else { return };
        let term = process.core.status().term;
        self.safety.applied(id, term, at, hash_of(&entry.command) ^ mixed);
        let Some(process) = self.process(id) else { return };
        let before = process.replica.state().image();
        let mut changes = None;
        let result = match process.replica.apply(entry, &mut changes) {
            Ok(result) => result,
            Err(reason) => {
                return self.safety.violated(format!("node {id} cannot apply {at}: {reason}"));
            }
        };
        if let (Some(command), Ok(done)) = (session, &result) {
            self.safety.ran(id, command, done.index);
            self.found_applied(at.index, done);
        }
        if let Ok(Done { index, outcome: Some(Outcome::Accepted(_)) }) = &result
            && *index == at.index
        {
            self.safety.accepted(id, at.index, &entry.command, &before);
        }
        self.compare(id, at.index);
        self.metadata_changed(id, at.index);
        if let Some(caller) = entry.caller {
            self.applied_for(caller, entry, result);
        }
    }

    /// Compares a node's state with that of others.
    fn compare(&mut self, id: u64, index: u64) {
        let process = self.hosts.get(&id).and_then(|host| host.process.as_ref());
        if let Some(process) = process {
            self.safety.state_is(id, index, process.replica.state());
        }
    }

    fn snapshot_written(&mut self, id: u64, run: u32) -> Result<(), SimError> {
        if !self.runs(id, run) {
            return Ok(());
        }
        let Some(process) = self.process(id) else { return Ok(()) };
        let Some(draft) = process.draft.take() else { return Ok(()) };
        // Where it cannot be written, the next one may.
        let Ok((meta, _)) = draft.write(&process.snapshots) else { return Ok(()) };
        self.step(id, Input::SnapshotTaken(meta));
        self.purge(id)
    }

    /// Gives back what the log does not need.
    pub(super) fn purge(&mut self, id: u64) -> Result<(), SimError> {
        let Some(process) = self.process(id) else { return Ok(()) };
        match process.purge() {
            Ok(true) => {
                self.coverage.went(Path::Compaction);
                self.step(id, Input::CompactionWanted);
                Ok(())
            }
            Ok(false) => Ok(()),
            Err(error) => self.disk_failed(id, &error.to_string()),
        }
    }

    fn transferred(&mut self, from: u64, to: u64, message: Message) -> Result<(), SimError> {
        let meta = message.get_snapshot().get_metadata();
        let id = LogId { index: meta.index, term: meta.term };
        let breaks = !self.is_calm && self.plan.events.contains(&Event::TransferCut);
        let breaks = breaks && self.random.chance(40);
        let is_cut = self.network.is_cut(from, to) || self.network.is_cut(to, from);
        let mut received = false;
        let file = match self.process(from).map(|process| process.snapshot(id)) {
            None => return Ok(()),
            Some(Ok(file)) => file,
            Some(Err(error)) => return self.disk_failed(from, &error.to_string()),
        };
        let target = self.process(to);
        if let (Some((bytes, digest)), Some(target), false) = (file, target, is_cut) {
            let until = breaks.then_some(bytes.len() / 2);
            let result = target.receive(id, &bytes, digest, until);
            match result {
                Ok(Received::InPart) => {
                    self.happened(Event::TransferCut, 0, || {
                        format!("snapshot {id} breaks off between {from} and {to}")
                    });
                }
                Ok(how) => {
                    if how == Received::Resumed {
                        self.coverage.went(Path::TransferResumed);
                    }
                    received = true;
                }
                // A full disk, or one that fails: then the log fails, too.
                Err(_) => {}
            }
        }
        if received && let Some(target) = self.process(to) {
            let (members, catalogue) = match target.head(id) {
                Ok(head) => head,
                Err(error) => {
                    self.disk_failed(to, &error.to_string())?;
                    self.step(from, Input::SnapshotSent { to: node_id(to), received: false });
                    return Ok(());
                }
            };
            let from = node_id(from);
            self.step(to, Input::SnapshotReceived { from, message, members, catalogue });
        }
        self.step(from, Input::SnapshotSent { to: node_id(to), received });
        Ok(())
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

/// The last index of some work.
fn last_of(work: &Apply<u64>) -> u64 {
    match work {
        Apply::Entries(entries) => entries.last().map_or(0, |entry| entry.at.index),
        Apply::Restore(id) => id.index,
    }
}

/// A message in a few words.
fn told(message: &PeerMessage) -> String {
    match message {
        PeerMessage::Raft(message) => {
            let entries = message.entries.len();
            format!(
                "{:?} term {} index {} commit {}{}{}",
                message.get_msg_type(),
                message.term,
                message.index,
                message.commit,
                if entries > 0 { format!(" +{entries}") } else { String::new() },
                if message.reject { " rejected" } else { "" },
            )
        }
        other => format!("{other:?}").chars().take(80).collect(),
    }
}
