//! A registered broker, and the set of brokers that may lead.

use std::sync::Arc;

use imbl::OrdMap;
use serde::Serialize;

use crate::ids::{BrokerEpoch, BrokerId, DirectoryId, FeatureLevel, Incarnation};

/// Where clients or other brokers reach a broker.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Listener {
    /// The listener's name, such as `PLAINTEXT`; unique within a broker.
    pub name: String,
    /// Host name or address.
    pub host: String,
    /// TCP port, never 0.
    pub port: u16,
}

/// The feature levels that a broker supports, both ends included (KIP-584).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FeatureRange {
    /// Lowest level.
    pub min: FeatureLevel,
    /// Highest level.
    pub max: FeatureLevel,
}

impl FeatureRange {
    /// The levels that this version of the crate supports: what a broker built with it registers.
    pub const SUPPORTED: Self = Self { min: FeatureLevel(1), max: FeatureLevel(1) };

    /// Whether `level` is one of them.
    #[must_use]
    pub fn contains(self, level: FeatureLevel) -> bool {
        self.min <= level && level <= self.max
    }
}

/// A registered broker (KIP-631).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Its id.
    pub id: BrokerId,
    /// The log index of its registration; grows with every new incarnation.
    pub epoch: BrokerEpoch,
    /// The start of the process that registered.
    pub incarnation: Incarnation,
    /// Where it is reached, in order of name.
    pub listeners: Box<[Listener]>,
    /// Its rack, if it named one.
    pub rack: Option<String>,
    /// The feature levels it supports.
    pub features: FeatureRange,
    /// Its log directories, ascending; of no other broker.
    pub directories: Box<[DirectoryId]>,
    /// Its session ended, or it has not caught up yet: it may neither lead nor be in an ISR.
    pub fenced: bool,
    /// It asked to shut down: it may neither lead nor be in an ISR until it registers anew.
    pub in_shutdown: bool,
}

impl Broker {
    /// Neither fenced nor shutting down: it may lead and be in an ISR.
    #[must_use]
    pub fn is_active(&self) -> bool {
        !self.fenced && !self.in_shutdown
    }
}

/// The registered brokers by id.
pub(crate) type BrokerMap = OrdMap<BrokerId, Arc<Broker>>;

/// What an election sees of the brokers: who may lead now.
///
/// A broker that is about to be fenced is excluded before its flag is set: this is what makes it
/// impossible that a dead leader is elected to succeed itself.
#[derive(Debug, Clone, Copy)]
pub struct ActiveBrokers<'a> {
    brokers: &'a BrokerMap,
    except: Option<BrokerId>,
}

impl<'a> ActiveBrokers<'a> {
    /// Every active broker of the map.
    pub(crate) fn all(brokers: &'a BrokerMap) -> Self {
        Self { brokers, except: None }
    }

    /// Every active broker of the map but one.
    pub(crate) fn except(brokers: &'a BrokerMap, leaving: BrokerId) -> Self {
        Self { brokers, except: Some(leaving) }
    }

    /// Whether the broker may lead.
    #[must_use]
    pub fn contains(&self, id: BrokerId) -> bool {
        self.except != Some(id) && self.brokers.get(&id).is_some_and(|broker| broker.is_active())
    }
}
