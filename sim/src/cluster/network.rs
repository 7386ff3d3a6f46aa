//! [`Network`]: the links between the nodes, each direction for itself.

use std::collections::BTreeMap;

use super::queue::Micros;
use crate::random::Random;

/// One direction between two nodes.
#[derive(Debug, Clone)]
pub(super) struct Link {
    /// Nothing gets through.
    pub(super) is_cut: bool,
    /// Of a hundred messages, how many are lost.
    pub(super) loss: u64,
    /// And how many arrive twice.
    pub(super) duplicated: u64,
    /// And how many overtake those before them.
    pub(super) reordered: u64,
    /// What a message takes at least, and what may come on top.
    pub(super) delay: (Micros, Micros),
    /// When the last one arrives.
    last: Micros,
}

impl Default for Link {
    fn default() -> Self {
        Link { is_cut: false, loss: 0, duplicated: 0, reordered: 0, delay: (50, 200), last: 0 }
    }
}

/// What becomes of a message.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Fate {
    /// When it arrives: never, once or twice.
    pub(super) arrivals: Vec<Micros>,
    /// Whether it overtakes another.
    pub(super) overtakes: bool,
}

/// All links. Those that are as they should be are not there.
pub(super) struct Network {
    links: BTreeMap<(u64, u64), Link>,
    random: Random,
}

impl Network {
    pub(super) fn new(seed: u64) -> Self {
        Network { links: BTreeMap::new(), random: Random::new(seed) }
    }

    pub(super) fn link(&mut self, from: u64, to: u64) -> &mut Link {
        self.links.entry((from, to)).or_default()
    }

    pub(super) fn is_cut(&self, from: u64, to: u64) -> bool {
        self.links.get(&(from, to)).is_some_and(|link| link.is_cut)
    }

    /// All links are as they should be.
    pub(super) fn heal(&mut self) {
        self.links.values_mut().for_each(|link| {
            *link = Link { last: link.last, ..Link::default() };
        });
    }

    /// One link is as it should be.
    pub(super) fn mend(&mut self, from: u64, to: u64) {
        let link = self.link(from, to);
        *link = Link { last: link.last, ..Link::default() };
    }

    /// Sends a message at `now`.
    pub(super) fn send(&mut self, from: u64, to: u64, now: Micros) -> Fate {
        let random = &mut self.random;
        let link = self.links.entry((from, to)).or_default();
        let mut fate = Fate::default();
        if link.is_cut || random.chance(link.loss) {
            return fate;
        }
        let copies = 1 + u64::from(random.chance(link.duplicated));
        for _ in 0..copies {
            let (least, more) = link.delay;
            let arrival = now + least + random.below(more + 1);
            if random.chance(link.reordered) {
                fate.overtakes |= arrival < link.last;
                fate.arrivals.push(arrival);
            } else {
                link.last = link.last.max(arrival);
                fate.arrivals.push(link.last);
            }
        }
        fate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_keeps_its_order_unless_it_is_told_not_to() {
        let mut network = Network::new(7);
        let arrivals: Vec<_> = (0..100).map(|n| network.send(1, 2, n).arrivals[0]).collect();
        assert!(arrivals.is_sorted());
        network.link(1, 2).reordered = 50;
        assert!((100..200).any(|n| network.send(1, 2, n).overtakes));
        network.link(1, 2).duplicated = 100;
        assert_eq!(network.send(1, 2, 300).arrivals.len(), 2);
        network.link(1, 2).is_cut = true;
        assert_eq!(network.send(1, 2, 300), Fate::default());
        assert_eq!(network.send(2, 1, 300).arrivals.len(), 1, "one way only");
        network.heal();
        assert_eq!(network.send(1, 2, 300).arrivals.len(), 1);
    }
}
