//! How brokers' processes end, and what the end of a run asks of them.

use quorate_statemachine::{BrokerId, MetadataImage, StateMachine as _};

use super::BrokerEvent;
use super::partition_log::PartitionLog;
use crate::cluster::coverage::{Event, Path};
use crate::cluster::world::World;

impl World {
    /// A broker's process is killed, or its machine loses its power.
    fn broker_dies(&mut self, id: u32, has_power: bool) {
        let Some(brokers) = self.brokers.as_mut() else { return };
        let flushes = brokers.plan.flushes;
        let Some(broker) = brokers.all.get_mut(&id) else { return };
        let Some(process) = broker.process.take() else { return };
        if flushes {
            // It vouches for what it counted, whatever happened to the rest.
            broker.is_clean = true;
            broker.vouches.push(process.incarnation);
            broker.vouches.dedup();
        }
        if !has_power {
            for log in broker.logs.values_mut() {
                let unflushed = (log.end() - log.flushed()) as u64;
                log.truncate(log.flushed() + brokers.random.below(unflushed + 1) as usize);
                if !flushes && unflushed > 0 {
                    broker.stands_for = None;
                }
            }
        }
        let run = broker.run;
        // A connection that breaks tells the leader, sometimes.
        if brokers.random.chance(50) {
            self.departs(id, process.epoch);
        }
        let numbers = [10, u64::from(id), u64::from(run), u64::from(has_power)];
        self.trace.saw(self.queue.now(), &numbers, || {
            format!("broker {id} dies, {} power", if has_power { "with" } else { "without" })
        });
    }

    /// A broker's process ends in order: all is flushed.
    pub(super) fn broker_stops(&mut self, id: u32) {
        let after = self.broker_draw(5_000_000);
        let Some(broker) = self.broker(id) else { return };
        let Some(process) = broker.process.take() else { return };
        broker.logs.values_mut().for_each(PartitionLog::flush);
        broker.is_clean = true;
        broker.vouches.push(process.incarnation);
        broker.vouches.dedup();
        self.coverage.went(Path::BrokerStopped);
        self.trace.saw(self.queue.now(), &[11, u64::from(id)], || format!("broker {id} stops"));
        self.broker_later(after, BrokerEvent::Return(id));
    }

    /// A fault of brokers.
    pub(in crate::cluster) fn strike_broker(&mut self, event: Event) {
        let Some(brokers) = self.brokers.as_ref() else { return };
        let ids: Vec<u32> = brokers.all.keys().copied().collect();
        let one = self.broker_draw(ids.len() as u64) as usize;
        if event == Event::BrokerShutdown {
            self.happened(event, 0, || format!("broker {}", ids[one]));
            if let Some(process) = self.broker(ids[one]).and_then(|broker| broker.process.as_mut())
            {
                process.wants_shutdown = true;
            }
            return;
        }
        let many = self.broker_draw(4) == 0;
        let has_power = self.broker_draw(2) == 0;
        for id in ids.iter().filter(|id| many || **id == ids[one]) {
            let away = 1 + self.broker_draw([500_000, 4_000_000, 8_000_000][one % 3]);
            self.happened(event, away, || format!("broker {id}, for {} ms", away / 1_000));
            self.broker_dies(*id, has_power);
            self.broker_later(away, BrokerEvent::Return(*id));
        }
    }

    /// Nothing goes wrong any more: whoever is down starts.
    pub(in crate::cluster) fn calm_brokers(&mut self) {
        let Some(brokers) = self.brokers.as_mut() else { return };
        let image = self.hosts.values().filter_map(|host| host.process.as_ref());
        let image = image.max_by_key(|process| process.replica.applied());
        let keys = image.map(|process| process.replica.state().image());
        for (key, _) in keys.iter().flat_map(|image| image.partitions()) {
            brokers.before_calm.insert(key, brokers.acknowledged.count(key));
        }
        let ids: Vec<u32> = brokers.all.keys().copied().collect();
        for id in ids {
            self.broker_later(0, BrokerEvent::Return(id));
        }
    }

    /// What the brokers lack to be at rest, as the leader's image says.
    pub(in crate::cluster) fn why_brokers_have_no_rest(
        &self,
        image: &MetadataImage,
    ) -> Option<String> {
        let brokers = self.brokers.as_ref()?;
        for (id, broker) in &brokers.all {
            let process = broker.process.as_ref();
            let incarnation = process.map(|process| process.incarnation);
            let registered = image.broker(BrokerId(*id));
            let is_registered = registered.map(|broker| broker.incarnation) == incarnation;
            if !is_registered || !registered.is_some_and(|broker| broker.is_active()) {
                return Some(format!("broker {id} is not active: {registered:?}"));
            }
        }
        if image.topic_count() < brokers.plan.topics.len() {
            return Some("topics are missing".to_owned());
        }
        for (key, partition) in image.partitions() {
            let is_whole = partition.isr.len() == partition.replicas.len();
            if !is_whole || partition.is_reassigning() || partition.leader.is_none() {
                return Some(format!("partition {key} is not in sync: {partition:?}"));
            }
            if brokers.acknowledged.count(key) <= *brokers.before_calm.get(&key).unwrap_or(&0) {
                return Some(format!("nothing is acknowledged for {key}: {partition:?}"));
            }
        }
        None
    }
}
