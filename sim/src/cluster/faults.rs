//! What goes wrong.

use quorate_loop::Input;

use super::coverage::{Event, Path};
use super::host::End;
use super::queue::Micros;
use super::world::{Happening, Relief, World};
use super::{SimError, node_id};
use crate::disk::{Fault, FaultError, OperationKind, Survival};

/// How long what comes in a moment counts as being in force: about an election.
const AFTERMATH: Micros = 2_000_000;

impl World {
    /// The next fault comes.
    pub(super) fn next_strike(&mut self) {
        let pause = 1 + self.random.below(2 * self.plan.between);
        self.queue.after(pause, Happening::Strike);
    }

    /// Notes that something happened, in force for `length` and its aftermath.
    pub(super) fn happened(&mut self, event: Event, length: Micros, line: impl FnOnce() -> String) {
        let now = self.queue.now();
        self.coverage.happened(event, now, now + length + AFTERMATH);
        self.trace.saw(now, &[4, event as u64, length], || format!("{event:?}: {}", line()));
    }

    /// One of all hosts.
    fn any(&mut self) -> u64 {
        let ids: Vec<u64> = self.hosts.keys().copied().collect();
        ids[self.random.below(ids.len() as u64) as usize]
    }

    /// Whoever leads, half of the time, or any node that runs.
    fn any_running(&mut self) -> Option<u64> {
        let running = self.running();
        if running.is_empty() {
            return None;
        }
        let any = running[self.random.below(running.len() as u64) as usize];
        match self.random.chance(50) {
            true => self.leader().or(Some(any)),
            false => Some(any),
        }
    }

    fn span(&mut self) -> Micros {
        let most = [500_000, 3_000_000, 10_000_000][self.random.below(3) as usize];
        1 + self.random.below(most)
    }

    /// A fault strikes.
    pub(super) fn strike(&mut self) -> Result<(), SimError> {
        if self.is_calm {
            return Ok(());
        }
        self.next_strike();
        self.look_for_replacements();
        let event = match self.random.below(4) {
            0 => self.plan.pair.0,
            1 => self.plan.pair.1,
            _ => self.plan.events[self.random.below(self.plan.events.len() as u64) as usize],
        };
        match event {
            Event::Kill
            | Event::KillInWrite
            | Event::PowerLoss
            | Event::CrashInOpen
            | Event::Wipe
            | Event::BitRot => self.strike_host(event),
            Event::Partition
            | Event::OneWay
            | Event::Partial
            | Event::Delay
            | Event::Loss
            | Event::Duplicate
            | Event::Reorder => {
                self.strike_links(event);
                Ok(())
            }
            Event::BrokerDeath | Event::BrokerShutdown => {
                self.strike_broker(event);
                Ok(())
            }
            Event::SlowDisk | Event::FullDisk | Event::SyncError | Event::ReadError => {
                self.strike_disk(event);
                Ok(())
            }
            Event::TransferCut => self.leave_behind(),
            // It comes with what it befalls.
            Event::Retry => Ok(()),
            Event::Pause
            | Event::ClockJump
            | Event::SlowApply
            | Event::Snapshot
            | Event::HandOver
            | Event::Members
            | Event::FalseAlarm
            | Event::Burst => self.strike_process(event),
        }
    }

    fn strike_host(&mut self, event: Event) -> Result<(), SimError> {
        // Several at once, sometimes all.
        let count = match self.random.below(4) {
            0 => self.hosts.len() as u64,
            _ => 1,
        };
        match event {
            Event::CrashInOpen => return self.crash_in_open(),
            Event::Wipe | Event::BitRot => return self.lose_disk(event),
            _ => {}
        }
        for _ in 0..count {
            let Some(id) = self.any_running() else { return Ok(()) };
            let survival = match self.random.below(3) {
                0 => Survival::LoseAll,
                1 => Survival::KeepAll,
                _ => Survival::Random(self.random.next()),
            };
            let within = self.random.below(6);
            let (end, within) = match event {
                Event::Kill => (End::Kill, None),
                Event::KillInWrite => (End::Kill, Some(within)),
                _ => (End::PowerLoss(survival), Some(within)),
            };
            self.happened(event, 0, || format!("node {id}, {end:?} at operation {within:?}"));
            self.end(id, end, within)?;
            let away = self.span();
            self.queue.after(away, Happening::Start(id));
        }
        Ok(())
    }

    fn crash_in_open(&mut self) -> Result<(), SimError> {
        let id = self.any();
        let within = self.random.below(12);
        let survival = Survival::Random(self.random.next());
        let end = if self.random.chance(50) { End::Kill } else { End::PowerLoss(survival) };
        self.happened(Event::CrashInOpen, 0, || format!("node {id} at operation {within}"));
        self.end(id, End::Kill, None)?;
        let config = self.plan.engine_config.clone();
        let Some(host) = self.hosts.get_mut(&id) else { return Ok(()) };
        let opened = host.open_and_end(&config, end, within);
        if let (Err(error), false) = (opened, host.is_rotten) {
            self.safety.violated(format!("node {id} does not open: {error}"));
        }
        let away = self.span();
        self.queue.after(away, Happening::Start(id));
        Ok(())
    }

    /// A node is away until the log that it lacks is gone, so that it is sent a snapshot, which may break
    /// off.
    fn leave_behind(&mut self) -> Result<(), SimError> {
        let (Some(id), Some(leader)) = (self.any_running(), self.leader()) else { return Ok(()) };
        if id == leader {
            return Ok(());
        }
        let election = self.plan.loop_config.tick_ms * 1_000 * 12;
        self.end(id, End::Kill, None)?;
        self.queue.after(election, Happening::Relent(Relief::Compaction(leader)));
        self.queue.after(election + AFTERMATH / 2, Happening::Start(id));
        Ok(())
    }

    fn lose_disk(&mut self, event: Event) -> Result<(), SimError> {
        let Some(id) = self.any_running() else { return Ok(()) };
        if !self.can_lose_the_disk_of(id) {
            return Ok(());
        }
        self.replacing.insert(id);
        if event == Event::Wipe {
            self.happened(event, AFTERMATH, || format!("node {id}"));
            return self.wipe(id);
        }
        self.end(id, End::Kill, None)?;
        let mut random = crate::random::Random::new(self.random.next());
        let Some(host) = self.hosts.get_mut(&id) else { return Ok(()) };
        let what = host.rot(&mut random)?;
        self.happened(event, AFTERMATH, || format!("node {id}: {what:?}"));
        self.queue.after(AFTERMATH, Happening::Start(id));
        Ok(())
    }

    fn strike_links(&mut self, event: Event) {
        let mut ids: Vec<u64> = self.hosts.keys().copied().collect();
        ids.extend(self.brokers.iter().flat_map(|brokers| brokers.machines()));
        let all = || ids.iter().flat_map(|a| ids.iter().map(move |b| (*a, *b)));
        let mut any = || ids[self.random.below(ids.len() as u64) as usize];
        let (one, other) = (any(), any());
        let sides: Vec<bool> = ids.iter().map(|_| self.random.chance(50)).collect();
        let side = |id: u64| ids.iter().position(|other| *other == id).map(|at| sides[at]);
        let links: Vec<(u64, u64)> = match event {
            Event::Partition => all().filter(|(a, b)| side(*a) != side(*b)).collect(),
            Event::OneWay => vec![(one, other)],
            Event::Partial => vec![(one, other), (other, one)],
            _ if self.random.chance(50) => all().collect(),
            _ => all().filter(|(a, b)| *a == one || *b == one).collect(),
        };
        let amount = 1 + self.random.below(40);
        let delay = [2_000, 50_000, 1_500_000][self.random.below(3) as usize];
        let span = self.span();
        self.happened(event, span, || format!("{links:?} for {} ms", span / 1_000));
        for (from, to) in &links {
            let link = self.network.link(*from, *to);
            match event {
                Event::Delay => link.delay.1 = delay,
                Event::Loss => link.loss = amount,
                Event::Duplicate => link.duplicated = amount,
                Event::Reorder => {
                    (link.reordered, link.delay.1) = (amount, link.delay.1.max(2_000))
                }
                _ => link.is_cut = true,
            }
        }
        self.queue.after(span, Happening::Relent(Relief::Links(links)));
    }

    fn strike_disk(&mut self, event: Event) {
        let Some(id) = self.any_running() else { return };
        let span = self.span();
        let factor = [20, 200, 2_000][self.random.below(3) as usize];
        let nth = 1 + self.random.below(5);
        let room = self.random.below(2_000);
        self.happened(event, span, || format!("node {id} for {} ms", span / 1_000));
        let Some(host) = self.hosts.get(&id) else { return };
        match event {
            Event::SlowDisk => drop(self.slow_disks.insert(id, factor)),
            Event::FullDisk => host.disk.set_capacity(Some(host.disk.used_bytes() + room)),
            Event::SyncError => {
                host.disk.fail(Fault::new(OperationKind::Sync, FaultError::Io).nth(nth));
            }
            _ => host.disk.fail(Fault::new(OperationKind::Read, FaultError::Io).nth(nth)),
        }
        self.queue.after(span, Happening::Relent(Relief::Disk(id)));
    }

    fn strike_process(&mut self, event: Event) -> Result<(), SimError> {
        let Some(id) = self.any_running() else { return Ok(()) };
        let span = self.span();
        let now = self.queue.now();
        match event {
            Event::Pause => {
                self.happened(event, span, || format!("node {id} for {} ms", span / 1_000));
                if let Some(process) = self.process(id) {
                    process.stands_until = Some(now + span);
                }
            }
            Event::ClockJump => {
                let ticks = 1 + self.random.below(30);
                self.happened(event, 0, || format!("{ticks} ticks on node {id}"));
                for _ in 0..ticks {
                    self.step_quietly(id, Input::Tick);
                }
                self.turn(id);
            }
            Event::SlowApply => {
                self.happened(event, span, || format!("node {id} for {} ms", span / 1_000));
                self.slow_machines.insert(id);
                self.queue.after(span, Happening::Relent(Relief::Apply(id)));
            }
            Event::Snapshot => {
                self.happened(event, 0, || format!("node {id}"));
                self.compact(id)?;
            }
            Event::HandOver => {
                let to = self.any();
                let named = self.random.chance(70).then(|| node_id(to));
                self.happened(event, 0, || format!("node {id} to {named:?}"));
                self.step(id, Input::TransferLeader { to: named });
            }
            Event::Members => self.change_members(),
            Event::FalseAlarm => {
                let of = self.any();
                self.happened(event, 0, || format!("node {id} takes {of} for gone"));
                if of != id {
                    self.queue.after(0, Happening::Gone { of, at: id });
                }
            }
            _ => {
                let count = 20 + self.random.below(200);
                self.happened(event, 0, || format!("{count} proposals on node {id}"));
                self.burst(id, count);
            }
        }
        Ok(())
    }

    /// A node takes a snapshot now, and its log ends there.
    fn compact(&mut self, id: u64) -> Result<(), SimError> {
        if let Some(process) = self.process(id) {
            process.wants_snapshot = true;
        }
        self.step(id, Input::CompactionWanted);
        self.purge(id)
    }

    /// A fault ends.
    pub(super) fn relent(&mut self, relief: Relief) -> Result<(), SimError> {
        match relief {
            Relief::Links(links) => {
                for (from, to) in links {
                    self.network.mend(from, to);
                }
            }
            Relief::Disk(id) => {
                self.slow_disks.remove(&id);
                if let Some(host) = self.hosts.get(&id) {
                    host.disk.set_capacity(None);
                    host.disk.heal();
                }
            }
            Relief::Apply(id) => drop(self.slow_machines.remove(&id)),
            Relief::Compaction(id) => return self.compact(id),
        }
        Ok(())
    }

    /// A process ends, and whoever waited on it hears nothing; others may notice.
    pub(super) fn end(&mut self, id: u64, end: End, within: Option<u64>) -> Result<(), SimError> {
        let Some(host) = self.hosts.get_mut(&id) else { return Ok(()) };
        let ran = host.process.is_some();
        host.end(end, within)?;
        for caller in self.safety.ended(id) {
            self.asking.remove(&caller);
            self.lost(caller);
        }
        let others: Vec<u64> = self.running();
        for at in others.into_iter().filter(|_| ran) {
            if self.random.chance(60) && !self.network.is_cut(id, at) {
                let after = self.random.below(20_000);
                self.queue.after(after, Happening::Gone { of: id, at });
            }
        }
        Ok(())
    }

    /// A disk has failed, and with it the process.
    pub(super) fn disk_failed(&mut self, id: u64, why: &str) -> Result<(), SimError> {
        let now = self.queue.now();
        self.trace.saw(now, &[5, id], || format!("node {id}: {why}"));
        let sick = [Event::SyncError, Event::ReadError, Event::FullDisk];
        let is_rotten = self.hosts.get(&id).is_some_and(|host| host.is_rotten);
        if !is_rotten && !sick.iter().any(|event| self.plan.events.contains(event)) {
            self.safety.violated(format!("the disk of node {id} failed by itself: {why}"));
        }
        self.coverage.went(Path::FatalDisk);
        let survival = Survival::Random(self.random.next());
        self.end(id, End::PowerLoss(survival), None)?;
        let away = self.span();
        self.queue.after(away, Happening::Start(id));
        Ok(())
    }

    /// A core gives up.
    pub(super) fn stopped(&mut self, id: u64, why: &str, log_is_lost: bool) {
        let read_fails = self.plan.events.contains(&Event::ReadError);
        let is_rotten = self.hosts.get(&id).is_some_and(|host| host.is_rotten);
        if log_is_lost || !(read_fails || is_rotten) {
            self.safety.violated(format!("node {id} stopped: {why}"));
        }
        let now = self.queue.now();
        self.trace.saw(now, &[6, id], || format!("node {id} stops: {why}"));
        if let Err(error) = self.end(id, End::Kill, None) {
            self.safety.violated(format!("node {id} does not end: {error}"));
        }
        let away = self.span();
        self.queue.after(away, Happening::Start(id));
    }
}
