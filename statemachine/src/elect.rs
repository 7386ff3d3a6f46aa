//! Elections: who leads a partition, given who may.

use crate::broker::ActiveBrokers;
use crate::ids::{BrokerId, Brokers};

/// What kind of election a change runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Election {
    /// The current leader if it is valid, then the first valid replica.
    #[default]
    Online,
    /// The first replica if it is valid, then as `Online`.
    Preferred,
    /// As `Online`; where nobody is valid, the first active replica, which may lack acknowledged
    /// records. Only where somebody allowed it.
    Unclean,
}

/// How the elected leader came to it: what its log is known to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Elected {
    /// A member of the ISR.
    InSync(BrokerId),
    /// A member of the ELR, while the ISR is empty (KIP-966).
    Eligible(BrokerId),
    /// The sole last known leader, while ISR and ELR are empty: it may lack records.
    LastKnown(BrokerId),
    /// Any active replica: it may lack records.
    Unclean(BrokerId),
    /// Nobody.
    None,
}

/// What an election looks at.
#[derive(Debug, Clone, Copy)]
pub struct Ballot<'a> {
    /// The replicas in order of preference.
    pub replicas: &'a Brokers,
    /// The ISR that the change aims at.
    pub isr: &'a Brokers,
    /// The ELR after the change.
    pub elr: &'a Brokers,
    /// The current leader.
    pub leader: Option<BrokerId>,
    /// The leader before there was none.
    pub last_known_leader: Option<BrokerId>,
}

impl Ballot<'_> {
    /// Active, and in the ISR, or in the ELR when the ISR is empty.
    fn is_valid(&self, id: BrokerId, active: &ActiveBrokers<'_>) -> bool {
        let candidates = if self.isr.is_empty() { self.elr } else { self.isr };
        candidates.contains(&id) && active.contains(id)
    }

    /// Runs the election.
    #[must_use]
    pub fn elect(&self, election: Election, active: &ActiveBrokers<'_>) -> Elected {
        let valid = |id: &BrokerId| self.is_valid(*id, active);
        let preferred = match election {
            Election::Preferred => self.replicas.first().copied().filter(valid),
            Election::Online | Election::Unclean => None,
        };
        let leader = preferred
            .or_else(|| self.leader.filter(valid))
            .or_else(|| self.replicas.iter().copied().find(valid));
        match leader {
            Some(id) if self.isr.is_empty() => Elected::Eligible(id),
            Some(id) => Elected::InSync(id),
            None => self.elect_without_guarantee(election, active),
        }
    }

    fn elect_without_guarantee(&self, election: Election, active: &ActiveBrokers<'_>) -> Elected {
        let last_known = self
            .last_known_leader
            .filter(|_| self.isr.is_empty() && self.elr.is_empty())
            .filter(|id| self.replicas.contains(id) && active.contains(*id));
        if let Some(id) = last_known {
            return Elected::LastKnown(id);
        }
        match election {
            Election::Unclean => self
                .replicas
                .iter()
                .copied()
                .find(|id| active.contains(*id))
                .map_or(Elected::None, Elected::Unclean),
            Election::Online | Election::Preferred => Elected::None,
        }
    }
}
