//! Elections: who leads a partition, given who may.

use mutation::Bug;

use crate::broker::ActiveBrokers;
use crate::brokers::Brokers;
use crate::ids::BrokerId;
use crate::partition::Members;

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
    /// Runs the election.
    #[must_use]
    pub fn elect(&self, election: Election, active: &ActiveBrokers<'_>) -> Elected {
        // Active, and in the ISR, or in the ELR when the ISR is empty.
        let candidates = Members::of(if self.isr.is_empty() { self.elr } else { self.isr });
        let valid = |id: &BrokerId| {
            candidates.contains(*id) && (active.contains(*id) || mutation::is(Bug::FencedElected))
        };
        let preferred = match election {
            Election::Preferred => self.replicas.first().copied().filter(valid),
            Election::Online | Election::Unclean => None,
        };
        let by_chance = mutation::is(Bug::ElectionByChance) && mutation::chance();
        let leader = preferred.or_else(|| self.leader.filter(valid)).or_else(|| match by_chance {
            true => self.replicas.iter().copied().rfind(valid),
            false => self.replicas.iter().copied().find(valid),
        });
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Cluster, ids};

    /// Active brokers, then replicas, ISR, ELR, leader and last known leader.
    type Case<'a> = (&'a [u32], &'a [u32], &'a [u32], &'a [u32], Option<u32>, Option<u32>);

    fn elect(case: Case<'_>, election: Election) -> Elected {
        let (active, replicas, isr, elr, leader, last_known) = case;
        let cluster = Cluster::of(active);
        let (replicas, isr, elr) = (ids(replicas), ids(isr), ids(elr));
        let ballot = Ballot {
            replicas: &replicas,
            isr: &isr,
            elr: &elr,
            leader: leader.map(BrokerId),
            last_known_leader: last_known.map(BrokerId),
        };
        ballot.elect(election, &ActiveBrokers::all(&cluster.image().brokers))
    }

    #[test]
    fn who_is_elected() {
        use Elected::{Eligible, InSync, LastKnown, None as Nobody, Unclean};
        use Election::{Online, Preferred};
        let cases: &[(Case<'_>, Election, Elected)] = &[
            // The current leader stays, though it is not preferred.
            ((&[1, 2], &[1, 2], &[1, 2], &[], Some(2), None), Online, InSync(BrokerId(2))),
            ((&[1, 2], &[1, 2], &[1, 2], &[], Some(2), None), Preferred, InSync(BrokerId(1))),
            // The preferred one is out of sync, or inactive: the current one, then the first valid.
            ((&[1, 2, 3], &[1, 2, 3], &[2, 3], &[], Some(3), None), Preferred, InSync(BrokerId(3))),
            ((&[2, 3], &[1, 2, 3], &[1, 2, 3], &[], Some(1), None), Preferred, InSync(BrokerId(2))),
            ((&[2, 3], &[1, 3, 2], &[1, 2, 3], &[], Some(1), None), Online, InSync(BrokerId(3))),
            // The ELR counts only while the ISR is empty.
            ((&[2, 3], &[1, 2, 3], &[], &[2, 3], None, None), Online, Eligible(BrokerId(2))),
            ((&[3], &[1, 2, 3], &[1], &[3], Some(1), None), Online, Nobody),
            ((&[1, 2], &[1, 2, 3], &[], &[3], None, Some(1)), Online, Nobody),
            // The sole last known leader, if it is active.
            ((&[1, 2], &[1, 2], &[], &[], None, Some(2)), Online, LastKnown(BrokerId(2))),
            ((&[1], &[1, 2], &[], &[], None, Some(2)), Online, Nobody),
            ((&[1, 9], &[1, 2], &[], &[], None, Some(9)), Online, Nobody),
            // Anybody, only if that was asked for, and after those with a better claim.
            ((&[2], &[1, 2], &[], &[], None, None), Online, Nobody),
            ((&[2], &[1, 2], &[], &[], None, None), Preferred, Nobody),
            ((&[2], &[1, 2], &[], &[1], None, None), Election::Unclean, Unclean(BrokerId(2))),
            ((&[1, 2], &[1, 2], &[], &[2], None, None), Election::Unclean, Eligible(BrokerId(2))),
            (
                (&[1, 2], &[1, 2], &[], &[], None, Some(2)),
                Election::Unclean,
                LastKnown(BrokerId(2)),
            ),
            ((&[], &[1, 2], &[], &[], None, Some(2)), Election::Unclean, Nobody),
        ];
        for (case, election, elected) in cases {
            assert_eq!(elect(*case, *election), *elected, "{election:?} of {case:?}");
        }
    }
}
