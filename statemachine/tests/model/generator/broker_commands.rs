//! Registrations: a few starts of a few brokers, and all that can be wrong with one.

use quorate_statemachine::{
    BROKER_TEXT_BYTES_MAX, BrokerEpoch, BrokerId, DIRECTORIES_MAX, DirectoryId, FeatureLevel,
    FeatureRange, Incarnation, LISTENERS_MAX, Listener, RegisterBroker,
};
use uuid::Uuid;

use super::{BROKERS, Generator};

/// How many times a broker starts.
const STARTS: u32 = 6;

impl Generator<'_> {
    pub(super) fn registration(&mut self) -> RegisterBroker {
        // Mostly one that cannot do anything before it registers.
        let gone = (1..=BROKERS)
            .map(BrokerId)
            .filter(|id| self.state.brokers.get(id).is_none_or(|broker| broker.in_shutdown));
        let gone: Vec<BrokerId> = gone.collect();
        let any = gone.is_empty() || self.random.chance(300);
        let broker = if any { self.any_broker() } else { *self.random.of(&gone) };
        let registered = self.state.brokers.get(&broker).map(|broker| broker.incarnation);
        let start = self.random.within(1, STARTS as usize) as u32;
        let new = incarnation(broker, start);
        let incarnation_now = registered.filter(|_| self.random.chance(350)).unwrap_or(new);
        let mut vouched: Vec<Incarnation> = (1..=STARTS)
            .filter(|_| self.random.chance(300))
            .map(|start| incarnation(broker, start))
            .collect();
        if self.random.chance(400) {
            vouched.extend(registered);
        }
        let epoch = self.state.brokers.get(&broker).map_or(0, |broker| broker.epoch.get());
        let follows = match self.random.below(10) {
            0 => Some(BrokerEpoch(epoch.saturating_sub(1))),
            1..5 => Some(BrokerEpoch(epoch)),
            _ => None,
        };
        let mut register = RegisterBroker {
            broker,
            incarnation: incarnation_now,
            listeners: self.listeners(),
            rack: self.rack(),
            features: self.features(),
            directories: self.directories(broker),
            vouched,
            follows,
        };
        if self.random.chance(120) {
            self.spoil(&mut register);
        }
        register
    }

    fn listeners(&mut self) -> Vec<Listener> {
        let count = self.random.below(4);
        let names = self.random.some_of(&["PLAINTEXT", "SSL", "REPLICATION"], count);
        let port = 9_092 + self.random.below(3) as u16;
        names.into_iter().map(|name| listener(name, port)).collect()
    }

    fn rack(&mut self) -> Option<String> {
        let rack = *self.random.of(&[None, Some("a"), Some("b"), Some("c")]);
        rack.map(str::to_owned)
    }

    fn features(&mut self) -> FeatureRange {
        let (min, max) = *self.random.of(&[(1, 1), (1, 1), (1, 2), (1, 3), (0, 2), (0, 1)]);
        FeatureRange { min: FeatureLevel(min), max: FeatureLevel(max) }
    }

    fn directories(&mut self, broker: BrokerId) -> Vec<DirectoryId> {
        let count = self.random.within(1, 3);
        self.random.some_of(&[1, 2, 3].map(|number| directory(broker, number)), count)
    }

    /// One mistake, or what is just not one yet.
    fn spoil(&mut self, register: &mut RegisterBroker) {
        let over = self.random.below(2);
        let long = "x".repeat(BROKER_TEXT_BYTES_MAX + over);
        let text = if self.random.chance(300) { String::new() } else { long };
        let RegisterBroker { listeners, directories, .. } = register;
        match self.random.below(16) {
            0 => register.broker = BrokerId(BrokerId::MAX.get() + 1),
            1 => directories.clear(),
            2 => directories.extend(directories.first().copied()),
            3 | 4 => {
                let other = self.any_broker();
                directories.push(directory(other, self.random.within(1, 3) as u32));
            }
            5 => {
                let max = (DIRECTORIES_MAX + over) as u32;
                *directories = (1..=max).map(|number| directory(BrokerId(99), number)).collect();
            }
            6 => listeners.extend(listeners.first().cloned()),
            7 => listeners.push(listener("ZERO", 0)),
            8 => listeners.push(listener(&text, 1)),
            9 => listeners.push(Listener { host: text, ..listener("LONG", 1) }),
            10 => {
                let name = |number: usize| listener(&format!("L{number}"), 1);
                *listeners = (0..LISTENERS_MAX + over).map(name).collect();
            }
            11 => register.rack = Some(text),
            12 => register.incarnation = Incarnation(Uuid::nil()),
            _ => {
                let (min, max) = *self.random.of(&[(2, 3), (0, 0), (2, 1), (2, 0)]);
                register.features = FeatureRange { min: FeatureLevel(min), max: FeatureLevel(max) };
            }
        }
    }
}

/// The number of a start makes an incarnation.
fn incarnation(broker: BrokerId, start: u32) -> Incarnation {
    Incarnation(Uuid::from_u128(u128::from(broker.get() * 100 + start)))
}

fn directory(broker: BrokerId, number: u32) -> DirectoryId {
    DirectoryId(Uuid::from_u128(u128::from(broker.get() * 10_000 + number)))
}

fn listener(name: &str, port: u16) -> Listener {
    Listener { name: name.to_owned(), host: "host".to_owned(), port }
}
