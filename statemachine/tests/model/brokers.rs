//! The rules of brokers: registration, fencing, shutdown.

use std::collections::BTreeSet;

use quorate_statemachine::{
    BROKER_TEXT_BYTES_MAX, Broker, BrokerEpoch, BrokerId, BrokerSession, DIRECTORIES_MAX,
    ErrorCode, LISTENERS_MAX, ProducerId, RegisterBroker, Reply,
};

use crate::change::Target;
use crate::state::{Partition, State};

impl State {
    /// The broker that a request speaks for.
    pub(crate) fn session(&self, session: BrokerSession) -> Result<BrokerId, ErrorCode> {
        match self.brokers.get(&session.broker) {
            Some(broker) if broker.epoch == session.epoch => Ok(broker.id),
            _ => Err(ErrorCode::StaleBrokerEpoch),
        }
    }

    /// Changes every partition that is `concerned`; says how many differ.
    fn change_where(
        &mut self,
        concerned: impl Fn(&Partition) -> bool,
        target: impl Fn(&Partition) -> Target,
    ) -> u64 {
        let mut count = 0;
        for key in self.keys() {
            let partition = self.partition(key).unwrap();
            if concerned(partition) {
                let target = target(partition);
                count += u64::from(self.change(key, target));
            }
        }
        count
    }

    /// A broker leaves every ISR.
    fn leave(&mut self, broker: BrokerId) -> u64 {
        self.change_where(|p| p.isr.contains(&broker), |p| Target::without(p, broker))
    }

    /// A broker that was not vouched for leaves whatever it could be elected from.
    fn leave_unclean(&mut self, broker: BrokerId) -> u64 {
        let gone = Some(broker);
        self.change_where(
            |p| {
                p.isr.contains(&broker)
                    || p.elr.contains(&broker)
                    || p.last_known_leader == Some(broker)
            },
            |p| Target { unclean: gone, forgotten: gone, ..Target::without(p, broker) },
        )
    }

    pub(crate) fn register(
        &mut self,
        index: u64,
        register: &RegisterBroker,
    ) -> Result<Reply, ErrorCode> {
        let id = register.broker;
        let features = register.features;
        if !(features.min..=features.max).contains(&self.feature_level) {
            return Err(ErrorCode::UnsupportedVersion);
        }
        if !self.is_possible(register) {
            return Err(ErrorCode::InvalidRegistration);
        }
        let old = self.brokers.get(&id).cloned();
        let mut broker = Broker {
            id,
            epoch: BrokerEpoch(index),
            incarnation: register.incarnation,
            listeners: register
                .listeners
                .iter()
                .cloned()
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect(),
            rack: register.rack.clone(),
            features,
            directories: register
                .directories
                .iter()
                .copied()
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect(),
            fenced: true,
            in_shutdown: false,
        };
        let known = old.as_ref().map_or(0, |old| old.epoch.get());
        match old {
            Some(old) if old.incarnation == broker.incarnation => {
                broker.epoch = old.epoch;
                broker.fenced = old.fenced;
                broker.in_shutdown = old.in_shutdown;
            }
            _ if register.follows.is_some_and(|follows| follows.get() != known) => {
                return Err(ErrorCode::DuplicateBrokerRegistration);
            }
            Some(old) if register.vouched.contains(&old.incarnation) => {
                self.leave(id);
            }
            _ => {
                self.leave_unclean(id);
            }
        }
        let epoch = broker.epoch;
        self.brokers.insert(id, broker);
        Ok(Reply::BrokerRegistered { epoch })
    }

    fn is_possible(&self, register: &RegisterBroker) -> bool {
        let RegisterBroker { listeners, directories, .. } = register;
        let fits = |text: &str| (1..=BROKER_TEXT_BYTES_MAX).contains(&text.len());
        let names: BTreeSet<_> = listeners.iter().map(|listener| &listener.name).collect();
        let own: BTreeSet<_> = directories.iter().collect();
        let mut others = self.brokers.values().filter(|broker| broker.id != register.broker);
        register.broker <= BrokerId::MAX
            && !register.incarnation.0.is_nil()
            && listeners.len() <= LISTENERS_MAX
            && names.len() == listeners.len()
            && listeners.iter().all(|one| one.port != 0 && fits(&one.name) && fits(&one.host))
            && register.rack.as_deref().is_none_or(fits)
            && (1..=DIRECTORIES_MAX).contains(&directories.len())
            && own.len() == directories.len()
            && others.all(|other| other.directories.iter().all(|one| !own.contains(one)))
    }

    pub(crate) fn fence(&mut self, session: BrokerSession) -> Result<Reply, ErrorCode> {
        let id = self.session(session)?;
        let partitions_changed = self.leave(id);
        self.brokers.get_mut(&id).unwrap().fenced = true;
        Ok(Reply::BrokerFenced { partitions_changed })
    }

    pub(crate) fn unfence(&mut self, session: BrokerSession) -> Result<Reply, ErrorCode> {
        let id = self.session(session)?;
        self.brokers.get_mut(&id).unwrap().fenced = false;
        let partitions_changed = self.change_where(|p| p.leader.is_none(), Target::keep);
        Ok(Reply::BrokerUnfenced { partitions_changed })
    }

    pub(crate) fn shut_down(&mut self, session: BrokerSession) -> Result<Reply, ErrorCode> {
        let id = self.session(session)?;
        let partitions_changed = self.leave(id);
        self.brokers.get_mut(&id).unwrap().in_shutdown = true;
        Ok(Reply::BrokerShuttingDown { partitions_changed })
    }

    pub(crate) fn unregister(
        &mut self,
        id: BrokerId,
        epoch: Option<BrokerEpoch>,
    ) -> Result<Reply, ErrorCode> {
        let registered = self.brokers.get(&id).ok_or(ErrorCode::BrokerIdNotRegistered)?.epoch;
        if epoch.is_some_and(|meant| meant != registered) {
            return Err(ErrorCode::StaleBrokerEpoch);
        }
        // It stays the last known leader, for people to see: it can only come back unvouched.
        let partitions_changed = self.change_where(
            |p| p.isr.contains(&id) || p.elr.contains(&id),
            |p| Target { unclean: Some(id), ..Target::without(p, id) },
        );
        self.brokers.remove(&id);
        self.broker_configs.remove(&id);
        Ok(Reply::BrokerUnregistered { partitions_changed })
    }

    pub(crate) fn allocate(&mut self, session: BrokerSession) -> Result<Reply, ErrorCode> {
        self.session(session)?;
        let first = self.next_producer_id;
        self.next_producer_id = ProducerId(first.get() + 1_000);
        Ok(Reply::ProducerIds { first, len: 1_000 })
    }
}
