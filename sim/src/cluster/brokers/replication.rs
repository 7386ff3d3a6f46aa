//! How brokers replicate: who leads and who follows, fetches, the high watermark, the ISR.

use std::collections::{BTreeMap, BTreeSet};

use quorate_statemachine::{
    AlterPartition, BrokerEpoch, BrokerId, BrokerSession, Command, MetadataImage, Outcome,
    Partition, PartitionEpoch, PartitionKey, Recovery,
};

use super::partition_log::Record;
use super::{Broker, BrokerEvent, LAG, PATIENCE, Request, Told};
use crate::cluster::coverage::Path;
use crate::cluster::queue::Micros;
use crate::cluster::world::World;

/// How long an AlterPartition may be under way: longer than a broker needs to die and return.
const SLOW: Micros = 8_000_000;
/// Records of a fetch's answer.
const RECORDS_MAX: usize = 16;

/// What a broker is to a partition, as its view says.
pub(in crate::cluster) enum Part {
    Leads(Lead),
    Follows(Follow),
}

/// A leader.
pub(in crate::cluster) struct Lead {
    epoch: u32,
    /// Where its log ended when it began.
    start: usize,
    followers: BTreeMap<BrokerId, Follower>,
    /// The partition epoch that it knows of.
    at: PartitionEpoch,
    /// Who may be in the ISR by now, for all that it knows: proposed at this epoch.
    maybe: BTreeSet<BrokerId>,
    /// Whether a proposal at this epoch may still come to be applied, with nobody who would say so.
    is_unsure: bool,
    flight: Option<Flight>,
}

/// What a leader knows of a follower.
struct Follower {
    /// As who it registered.
    epoch: BrokerEpoch,
    end: usize,
    /// When it last had all that there was.
    caught_up: Micros,
    /// A fetch that waits for records.
    parked: Option<Fetch>,
}

/// An AlterPartition under way.
struct Flight {
    number: u64,
    since: Micros,
    /// It was answered: the view must have come to this index before anything follows from it.
    settled: Option<u64>,
}

/// A follower.
pub(in crate::cluster) struct Follow {
    leader: BrokerId,
    epoch: u32,
    /// When it last fetched.
    asked: Option<Micros>,
}

/// A follower asks for records.
#[derive(Debug, Clone)]
pub(in crate::cluster) struct Fetch {
    from: BrokerId,
    run: u32,
    broker_epoch: BrokerEpoch,
    to: BrokerId,
    key: PartitionKey,
    epoch: u32,
    offset: usize,
    last_epoch: Option<u32>,
}

/// What a leader answers.
#[derive(Debug, Clone)]
pub(in crate::cluster) struct Fetched {
    fetch: Fetch,
    /// Where the leader's log ends for the follower's last epoch, if it is not as the follower's.
    diverges: Option<(Option<u32>, usize)>,
    records: Vec<Record>,
    high: usize,
}

impl Lead {
    fn new(partition: &Partition, end: usize) -> Lead {
        Lead {
            epoch: partition.leader_epoch.get(),
            start: end,
            followers: BTreeMap::new(),
            at: partition.partition_epoch,
            maybe: BTreeSet::new(),
            is_unsure: false,
            flight: None,
        }
    }

    /// The view has come to this state of the partition, at this index.
    fn sees(&mut self, partition: &Partition, index: u64) {
        if partition.partition_epoch > self.at {
            self.at = partition.partition_epoch;
            self.maybe.clear();
            self.is_unsure = false;
            self.flight = None;
        }
        let settled = self.flight.as_ref().and_then(|flight| flight.settled);
        if settled.is_some_and(|settled| settled <= index) {
            self.flight = None;
        }
    }

    /// The last proposal surely has no effect: nobody is in the ISR by it, unless one before it still may
    /// have one.
    fn forget(&mut self) {
        if !self.is_unsure {
            self.maybe.clear();
        }
    }

    /// How far the log is held by everybody who may be in the ISR.
    fn held(&self, partition: &Partition, own: BrokerId, end: usize) -> usize {
        let all = partition.isr.iter().chain(&self.maybe).filter(|id| **id != own);
        let ends = all.map(|id| self.followers.get(id).map_or(0, |follower| follower.end));
        ends.min().unwrap_or(end).min(end)
    }

    /// The ISR as it should be, if that is not what it is.
    fn wants(
        &self,
        image: &MetadataImage,
        partition: &Partition,
        own: BrokerSession,
        high: usize,
        now: Micros,
    ) -> Option<Vec<BrokerSession>> {
        let mut wanted = vec![own];
        for id in partition.replicas.iter().filter(|id| **id != own.broker) {
            let registered = image.broker(*id).filter(|broker| broker.is_active());
            let follower = self.followers.get(id);
            let stays = match (partition.isr.contains(id), follower) {
                // Whoever has not fetched yet has a while to do it.
                (true, None) => self.followers.is_empty(),
                (true, Some(follower)) => now < follower.caught_up + LAG,
                (false, None) => false,
                (false, Some(follower)) => {
                    registered.is_some_and(|broker| broker.epoch == follower.epoch)
                        && follower.end >= high
                        && follower.end >= self.start
                }
            };
            let known = image.broker(*id).map(|broker| broker.epoch);
            let epoch = follower.map(|follower| follower.epoch).or(known);
            if let (true, Some(epoch)) = (stays, epoch) {
                wanted.push(BrokerSession { broker: *id, epoch });
            }
        }
        let is_same = wanted.len() == partition.isr.len()
            && wanted.iter().all(|member| partition.isr.contains(&member.broker));
        (!is_same || partition.recovery == Recovery::Recovering).then_some(wanted)
    }
}

impl Broker {
    fn lead(&mut self, key: PartitionKey, epoch: u32) -> Option<&mut Lead> {
        match self.process.as_mut()?.parts.get_mut(&key)? {
            Part::Leads(lead) if lead.epoch == epoch => Some(lead),
            _ => None,
        }
    }

    /// In which epoch it leads a partition.
    pub(super) fn leads(&self, key: PartitionKey) -> Option<u32> {
        match self.process.as_ref()?.parts.get(&key)? {
            Part::Leads(lead) => Some(lead.epoch),
            Part::Follows(_) => None,
        }
    }

    fn partition(&self, key: PartitionKey) -> Option<&Partition> {
        self.process.as_ref()?.image.partition(key)
    }

    /// How many in-sync replicas a partition needs, as its view says.
    fn min_insync(&self, key: PartitionKey) -> Option<usize> {
        let image = &self.process.as_ref()?.image;
        let min = image.min_insync_replicas(image.topic(key.topic)?);
        Some(image.partition(key)?.min_insync_effective(min))
    }

    /// A record comes from a producer. Whether it is taken.
    pub(super) fn take(&mut self, key: PartitionKey, id: u64) -> bool {
        let (Some(epoch), Some(min)) = (self.leads(key), self.min_insync(key)) else {
            return false;
        };
        let is_enough = self.partition(key).is_some_and(|partition| partition.isr.len() >= min);
        if is_enough {
            self.logs.entry(key).or_default().append(Record { epoch, id });
        }
        is_enough
    }
}

impl World {
    /// A broker acts on what its view has come to.
    pub(super) fn takes_parts(&mut self, id: u32) {
        let own = BrokerId(id);
        let Some(broker) = self.broker(id) else { return };
        let Some(process) = broker.process.as_mut() else { return };
        let image = process.image.clone();
        let index = process.index;
        let registered = image.broker(own).filter(|it| it.incarnation == process.incarnation);
        // Before its own registration the view speaks of an earlier process.
        let Some(registered) = registered else { return process.parts.clear() };
        process.epoch = Some(registered.epoch);
        let keys: Vec<PartitionKey> = image.partitions_of(own).collect();
        process.parts.retain(|key, _| keys.contains(key));
        broker.logs.retain(|key, _| keys.contains(key));
        for key in keys {
            let Some(partition) = image.partition(key) else { continue };
            let epoch = partition.leader_epoch.get();
            let Some(broker) = self.broker(id) else { return };
            let end = broker.logs.entry(key).or_default().end();
            let Some(process) = broker.process.as_mut() else { return };
            let part = process.parts.get_mut(&key);
            match (partition.leader, part) {
                (Some(leader), Some(Part::Leads(lead))) if leader == own && lead.epoch == epoch => {
                    lead.sees(partition, index);
                }
                (Some(leader), _) if leader == own => {
                    process.parts.insert(key, Part::Leads(Lead::new(partition, end)));
                    self.begins_to_lead(id, key, partition);
                }
                (Some(leader), Some(Part::Follows(follow)))
                    if (follow.leader, follow.epoch) == (leader, epoch) => {}
                (Some(leader), _) => {
                    let follow = Follow { leader, epoch, asked: None };
                    process.parts.insert(key, Part::Follows(follow));
                    self.fetches(id, key);
                }
                (None, _) => drop(process.parts.remove(&key)),
            }
            self.high_watermark(id, key);
            self.looks_at_isr(id, key);
        }
    }

    /// A follower asks its leader for what comes next, once its disk has what came before.
    pub(super) fn fetches(&mut self, id: u32, key: PartitionKey) {
        let now = self.queue.now();
        let Some(brokers) = self.brokers.as_mut() else { return };
        let flushes = brokers.plan.flushes;
        let Some(broker) = brokers.all.get_mut(&id) else { return };
        let (run, log) = (broker.run, broker.logs.entry(key).or_default());
        if flushes && log.flushed() < log.end() {
            return;
        }
        let (offset, last_epoch) = (log.end(), log.last_epoch());
        let Some(process) = broker.process.as_mut() else { return };
        let (Some(Part::Follows(follow)), Some(broker_epoch)) =
            (process.parts.get_mut(&key), process.epoch)
        else {
            return;
        };
        follow.asked = Some(now);
        let (from, to, epoch) = (BrokerId(id), follow.leader, follow.epoch);
        let fetch = Fetch { from, run, broker_epoch, to, key, epoch, offset, last_epoch };
        self.send_among_brokers(id, to.get(), BrokerEvent::Fetch(fetch));
    }

    /// Fetches that were not answered are sent again, and ISRs are looked at.
    pub(super) fn looks_after_parts(&mut self, id: u32) {
        let now = self.queue.now();
        let Some(process) = self.broker(id).and_then(|broker| broker.process.as_mut()) else {
            return;
        };
        let (mut fetching, mut leading) = (Vec::new(), Vec::new());
        for (key, part) in &mut process.parts {
            match part {
                Part::Follows(follow) if follow.asked.is_none_or(|at| at + LAG / 2 <= now) => {
                    fetching.push(*key);
                }
                Part::Follows(_) => {}
                Part::Leads(lead) => {
                    let is_late = |flight: &Flight| {
                        flight.settled.is_none() && flight.since + PATIENCE <= now
                    };
                    if lead.flight.as_ref().is_some_and(is_late) {
                        (lead.flight, lead.is_unsure) = (None, true);
                    }
                    leading.push(*key);
                }
            }
        }
        fetching.into_iter().for_each(|key| self.fetches(id, key));
        leading.into_iter().for_each(|key| self.looks_at_isr(id, key));
    }

    /// A fetch arrives at a leader.
    pub(super) fn fetch_arrives(&mut self, fetch: Fetch) {
        let now = self.queue.now();
        let (id, key) = (fetch.to.get(), fetch.key);
        let Some(broker) = self.broker(id) else { return };
        let end = broker.logs.get(&key).map_or(0, |log| log.end());
        let (tail_epoch, tail) =
            broker.logs.get(&key).map_or((None, 0), |log| log.end_of(fetch.last_epoch));
        // The follower finds out by its view, or asks again when this one has come to its own.
        let Some(lead) = broker.lead(key, fetch.epoch) else { return };
        let diverges = tail_epoch != fetch.last_epoch || tail < fetch.offset;
        if !diverges {
            let new = Follower { epoch: fetch.broker_epoch, end: 0, caught_up: now, parked: None };
            let follower = lead.followers.entry(fetch.from).or_insert(new);
            if fetch.broker_epoch < follower.epoch {
                return;
            }
            (follower.epoch, follower.end) = (fetch.broker_epoch, fetch.offset);
            if fetch.offset == end {
                follower.caught_up = now;
            }
            self.high_watermark(id, key);
            self.looks_at_isr(id, key);
        }
        if !diverges && fetch.offset >= end {
            let Some(broker) = self.broker(id) else { return };
            let Some(lead) = broker.lead(key, fetch.epoch) else { return };
            if let Some(follower) = lead.followers.get_mut(&fetch.from) {
                follower.parked = Some(fetch);
            }
            return;
        }
        self.answers(id, fetch, diverges.then_some((tail_epoch, tail)));
    }

    fn answers(&mut self, id: u32, fetch: Fetch, diverges: Option<(Option<u32>, usize)>) {
        let Some(log) = self.broker(id).and_then(|broker| broker.logs.get(&fetch.key)) else {
            return;
        };
        let records = match diverges {
            Some(_) => Vec::new(),
            None => log.read(fetch.offset, RECORDS_MAX),
        };
        let (high, to) = (log.high(), fetch.from.get());
        let fetched = Fetched { fetch, diverges, records, high };
        self.send_among_brokers(id, to, BrokerEvent::Fetched(fetched));
    }

    /// There are new records: whoever waits for them has them.
    pub(super) fn serves_parked(&mut self, id: u32, key: PartitionKey) {
        let Some(broker) = self.broker(id) else { return };
        let Some(epoch) = broker.leads(key) else { return };
        let Some(lead) = broker.lead(key, epoch) else { return };
        let parked = lead.followers.values_mut().filter_map(|follower| follower.parked.take());
        let parked: Vec<Fetch> = parked.collect();
        parked.into_iter().for_each(|fetch| self.answers(id, fetch, None));
    }

    /// A leader's answer arrives at its follower.
    pub(super) fn fetched_arrives(&mut self, fetched: Fetched) {
        let Fetched { fetch, diverges, records, high } = fetched;
        let (id, key) = (fetch.from.get(), fetch.key);
        let Some(broker) = self.broker(id).filter(|broker| broker.run == fetch.run) else { return };
        let part = broker.process.as_ref().and_then(|process| process.parts.get(&key));
        let is_current = matches!(part, Some(Part::Follows(follow)) if follow.epoch == fetch.epoch);
        let log = broker.logs.entry(key).or_default();
        if !is_current || log.end() != fetch.offset {
            return;
        }
        if let Some((epoch, end)) = diverges {
            let end = end.min(log.end_of(epoch).1);
            log.truncate(end);
            self.coverage.went(Path::Truncated);
            self.holders_hold(key);
        } else {
            records.into_iter().for_each(|record| log.append(record));
            log.raise(high);
        }
        self.written(id);
        self.fetches(id, key);
    }

    /// Moves a leader's high watermark to where it may be.
    pub(super) fn high_watermark(&mut self, id: u32, key: PartitionKey) {
        let Some(brokers) = self.brokers.as_mut() else { return };
        let flushes = brokers.plan.flushes;
        let Some(broker) = brokers.all.get_mut(&id) else { return };
        let (Some(epoch), Some(min)) = (broker.leads(key), broker.min_insync(key)) else { return };
        let Some(partition) = broker.partition(key).cloned() else { return };
        if partition.isr.len() < min {
            return;
        }
        let end = broker.logs.get(&key).map_or(0, |log| match flushes {
            true => log.flushed(),
            false => log.end(),
        });
        let Some(lead) = broker.lead(key, epoch) else { return };
        let held = lead.held(&partition, BrokerId(id), end);
        let Some(log) = broker.logs.get_mut(&key) else { return };
        let before = log.high();
        log.raise(held);
        if log.high() > before {
            self.acknowledged(id, key, epoch, before);
        }
    }

    /// A leader proposes another ISR, if it wants one.
    fn looks_at_isr(&mut self, id: u32, key: PartitionKey) {
        let now = self.queue.now();
        let Some(broker) = self.broker(id) else { return };
        let Some(partition) = broker.partition(key).cloned() else { return };
        let high = broker.logs.get(&key).map_or(0, |log| log.high());
        let Some(epoch) = broker.leads(key) else { return };
        let run = broker.run;
        let Some(process) = broker.process.as_ref() else { return };
        let (image, Some(own)) = (process.image.clone(), process.epoch) else { return };
        let sender = BrokerSession { broker: BrokerId(id), epoch: own };
        let Some(lead) = broker.lead(key, epoch) else { return };
        if lead.flight.is_some() {
            return;
        }
        let Some(isr) = lead.wants(&image, &partition, sender, high, now) else { return };
        let Some(brokers) = self.brokers.as_mut() else { return };
        brokers.numbers += 1;
        let (number, slow) = (brokers.numbers, brokers.plan.slow);
        let Some(lead) = self.broker(id).and_then(|broker| broker.lead(key, epoch)) else { return };
        lead.flight = Some(Flight { number, since: now, settled: None });
        lead.maybe.extend(isr.iter().map(|member| member.broker));
        let alter = AlterPartition {
            sender,
            partition: key,
            leader_epoch: partition.leader_epoch,
            partition_epoch: partition.partition_epoch,
            isr,
            recovery: Recovery::Recovered,
        };
        let request = Request::Alter { broker: id, run, key, epoch, number };
        // Whoever reads it may be slow to do so, while everything else goes on.
        let is_slow = self.broker_draw(100) < slow;
        let after = self.broker_draw(if is_slow { SLOW } else { 1_000 });
        let command = Box::new(Command::AlterPartition(alter));
        self.broker_later(after, BrokerEvent::Ask { broker: id, command, request });
    }

    /// An AlterPartition was answered.
    pub(super) fn altered(
        &mut self,
        (id, run): (u32, u32),
        (key, epoch): (PartitionKey, u32),
        number: u64,
        answer: Told,
    ) {
        let Some(broker) = self.broker(id).filter(|broker| broker.run == run) else { return };
        let index = broker.process.as_ref().map_or(0, |process| process.index);
        let Some(lead) = broker.lead(key, epoch) else { return };
        let Some(flight) = lead.flight.as_mut().filter(|flight| flight.number == number) else {
            return;
        };
        match answer {
            Told::Unknown => (lead.flight, lead.is_unsure) = (None, true),
            Told::Never => {
                lead.flight = None;
                lead.forget();
            }
            // What follows from it follows from the view that has it.
            Told::Applied(at, Outcome::Accepted(_)) if at > index => flight.settled = Some(at),
            Told::Applied(_, Outcome::Accepted(_)) => lead.flight = None,
            Told::Applied(at, Outcome::Rejected(_)) => {
                match at > index {
                    true => flight.settled = Some(at),
                    false => lead.flight = None,
                }
                lead.forget();
            }
        }
        self.high_watermark(id, key);
    }
}
