//! The one way in which a partition changes: from a target to its next state, with its election.
//!
//! Every command that touches a partition, once it is created, goes through [`change`]; another
//! `min.insync.replicas` goes through its second step alone ([`with_min_insync`]). So the rules of ISR, ELR,
//! elections and epochs are in one place, and a command only says what it aims at.
//!
//! Sources: KIP-455 (reassignment), KIP-497 (partition epoch), KIP-704 (recovery state), KIP-966
//! (eligible leader replicas).

use mutation::Bug;

use crate::broker::ActiveBrokers;
use crate::brokers::Brokers;
use crate::elect::{Ballot, Elected, Election};
use crate::ids::{BrokerId, LeaderEpoch, PartitionEpoch};
use crate::partition::{
    EPOCH_MAX, Members, Partition, Recovery, in_order_of, min_insync_effective, without,
};

/// What a change aims at. Starts as [`Target::of`] a partition, which aims at no change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The replicas in order of preference.
    pub replicas: Brokers,
    /// The ISR, in any order.
    pub isr: Brokers,
    /// The replicas being added.
    pub adding: Brokers,
    /// The replicas being removed.
    pub removing: Brokers,
    /// The recovery state, unless the election decides it.
    pub recovery: Recovery,
    /// A replica that may have lost what it acknowledged, or is gone for good: never in the ELR.
    pub unclean: Option<BrokerId>,
    /// A broker that is no longer to be known as the last leader.
    pub forgotten: Option<BrokerId>,
    /// Which election to run.
    pub election: Election,
}

impl Target {
    /// The partition as it is.
    #[must_use]
    pub fn of(partition: &Partition) -> Self {
        Self {
            replicas: partition.replicas.clone(),
            isr: partition.isr.clone(),
            adding: partition.adding.clone(),
            removing: partition.removing.clone(),
            recovery: partition.recovery,
            unclean: None,
            forgotten: None,
            election: Election::Online,
        }
    }

    /// The partition without one broker in its ISR.
    #[must_use]
    pub fn without_in_sync(partition: &Partition, leaving: BrokerId) -> Self {
        Self { isr: without(&partition.isr, &[leaving]), ..Self::of(partition) }
    }
}

/// The next state of `partition`, or `None` if nothing differs.
///
/// The brokers in `target.isr` are replicas that may be in an ISR: callers check this before.
///
/// The change that takes the last epoch, [`EPOCH_MAX`], closes the partition, whatever it aims at: nobody
/// leads it from then on, and nothing changes it any more. What a client asks for is refused long before
/// ([`EPOCHS_RESERVED`](crate::EPOCHS_RESERVED)).
#[must_use]
pub fn change(
    partition: &Partition,
    target: Target,
    min_insync_replicas: u32,
    active: &ActiveBrokers<'_>,
) -> Option<Partition> {
    let target = complete_reassignment(target);
    let Target { replicas, isr, adding, removing, recovery, unclean, forgotten, election } = target;
    let isr = in_order_of(&replicas, &isr);
    let min_insync = min_insync_effective(min_insync_replicas, replicas.len());
    let elr = eligible(partition, &replicas, &isr, unclean, min_insync);
    let mut last_known_leader = partition.last_known_leader;

    let ballot = Ballot {
        replicas: &replicas,
        isr: &isr,
        elr: &elr,
        leader: partition.leader,
        last_known_leader,
    };
    let elected = ballot.elect(election, active);
    let (leader, isr, elr, recovery) = match elected {
        Elected::InSync(id) => (Some(id), isr, elr, recovery),
        Elected::Eligible(id) => {
            // Alone in the ISR it may be enough already, with min.insync.replicas lowered meanwhile.
            let elr = if min_insync <= 1 { Brokers::default() } else { without(&elr, &[id]) };
            (Some(id), Brokers::from([id]), elr, recovery)
        }
        Elected::LastKnown(id) | Elected::Unclean(id) => {
            (Some(id), Brokers::from([id]), Brokers::default(), Recovery::Recovering)
        }
        Elected::None => (None, isr, elr, recovery),
    };
    if leader.is_some() {
        last_known_leader = None;
    } else if partition.leader.is_some() {
        last_known_leader = partition.leader;
    }
    let stays = Members::of(&replicas);
    // A broker that is no replica any more would be elected on its return, with no claim to it.
    last_known_leader =
        last_known_leader.filter(|id| forgotten != Some(*id) && stays.contains(*id));

    let replica_left = partition.replicas.iter().any(|id| !stays.contains(*id));
    let leader_written = leader != partition.leader || replica_left;
    let next = Partition {
        replicas,
        isr,
        elr,
        last_known_leader,
        leader,
        leader_epoch: partition.leader_epoch,
        partition_epoch: partition.partition_epoch,
        adding,
        removing,
        recovery,
    };
    stamp(partition, next, leader_written)
}

/// Step 2 alone, for a partition for which another `min.insync.replicas` holds now; `None` if nothing
/// differs, which is known without a look at its lists where nobody leads or the ELR is empty. As any
/// change it closes a partition for which that takes the last epoch, since the ELR may not stay as it is.
#[must_use]
pub(crate) fn with_min_insync(
    partition: &Partition,
    min_insync_replicas: u32,
) -> Option<Partition> {
    // Without a leader the ISR is empty, and the candidates stay.
    if partition.leader.is_none() || partition.elr.is_empty() {
        return None;
    }
    let Partition { replicas, isr, .. } = partition;
    let elr = eligible(
        partition,
        replicas,
        isr,
        None,
        partition.min_insync_effective(min_insync_replicas),
    );
    stamp(partition, Partition { elr, ..partition.clone() }, false)
}

/// Step 1: a reassignment is complete when every replica that stays is in sync.
fn complete_reassignment(target: Target) -> Target {
    if target.adding.is_empty() && target.removing.is_empty() {
        return target;
    }
    let isr = without(&target.isr, &target.removing);
    let replicas = without(&target.replicas, &target.removing);
    let all_in_sync = || {
        let in_sync = Members::of(&isr);
        replicas.iter().all(|id| in_sync.contains(*id))
    };
    if isr.is_empty() || replicas.is_empty() || !all_in_sync() {
        return target;
    }
    Target { isr, replicas, adding: Brokers::default(), removing: Brokers::default(), ..target }
}

/// Step 2: who left the ISR while it was too small to move the high watermark on without them.
fn eligible(
    partition: &Partition,
    replicas: &[BrokerId],
    isr: &[BrokerId],
    unclean: Option<BrokerId>,
    min_insync: usize,
) -> Brokers {
    if isr.len() >= min_insync {
        return Brokers::default();
    }
    let (held, in_sync) = (Members::of(&partition.elr), Members::of(&partition.isr));
    let stays = Members::of(isr);
    replicas
        .iter()
        .copied()
        .filter(|id| held.contains(*id) || in_sync.contains(*id))
        .filter(|id| !stays.contains(*id) && unclean != Some(*id))
        .collect()
}

/// The next state with its epochs, if it differs.
fn stamp(before: &Partition, mut next: Partition, leader_written: bool) -> Option<Partition> {
    if next == *before {
        return None;
    }
    if before.latest_epoch() >= EPOCH_MAX - 1 {
        return Some(closed(before)).filter(|closed| closed != before);
    }
    let (leader_epoch, partition_epoch) = (before.leader_epoch.get(), before.partition_epoch.get());
    if !mutation::is(Bug::PartitionEpochKept) {
        next.partition_epoch = PartitionEpoch(partition_epoch + 1);
    }
    if leader_written && !mutation::is(Bug::LeaderEpochKept) {
        next.leader_epoch = LeaderEpoch(leader_epoch + 1);
    }
    Some(next)
}

/// The end of a partition's epochs, to which only years of fences lead. Another leader would need an epoch
/// that the fenced one does not have, and whoever leads now could not be fenced any more; so nobody leads,
/// nobody has a claim to, and a reassignment, which could not be completed, is over. All replicas stay: the
/// records are on their disks. That is a state as any other: to stop instead would stop every replica.
fn closed(before: &Partition) -> Partition {
    let leader_epoch = before.leader_epoch.get();
    let is_written = before.leader.is_some() && leader_epoch < EPOCH_MAX;
    Partition {
        isr: Brokers::default(),
        elr: Brokers::default(),
        last_known_leader: None,
        leader: None,
        leader_epoch: LeaderEpoch(leader_epoch + u32::from(is_written)),
        partition_epoch: PartitionEpoch(EPOCH_MAX),
        adding: Brokers::default(),
        removing: Brokers::default(),
        ..before.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Cluster, ids, show};

    /// A partition of replicas 1, 2, 3, led by the first of the ISR.
    fn partition(isr: &[u32], elr: &[u32]) -> Partition {
        Partition { elr: ids(elr), ..Partition::created(ids(&[1, 2, 3]), ids(isr)) }
    }

    fn changed(from: &Partition, target: Target, min: u32, active: &[u32]) -> Option<Partition> {
        let cluster = Cluster::of(active);
        change(from, target, min, &ActiveBrokers::all(&cluster.image().brokers))
    }

    fn to_isr(from: &Partition, isr: &[u32], min: u32, active: &[u32]) -> String {
        let target = Target { isr: ids(isr), ..Target::of(from) };
        changed(from, target, min, active).map_or("no-op".into(), |next| show(&next))
    }

    #[test]
    fn nothing_differs_no_operation() {
        let all = partition(&[1, 2, 3], &[]);
        assert_eq!(to_isr(&all, &[1, 2, 3], 1, &[1, 2, 3]), "no-op");
        // The ISR is a set: another order is no change.
        assert_eq!(to_isr(&all, &[3, 1, 2], 1, &[1, 2, 3]), "no-op");
        let none = Partition { last_known_leader: Some(BrokerId(1)), ..partition(&[], &[1]) };
        assert_eq!(to_isr(&none, &[], 1, &[2, 3]), "no-op");
    }

    #[test]
    fn elr_takes_who_leaves_an_isr_that_is_too_small() {
        for (isr, elr, to, min, becomes) in [
            // Large enough: nobody is kept.
            (
                &[1, 2, 3][..],
                &[][..],
                &[1, 2][..],
                2,
                "leader=1 isr=[1,2] elr=[] last=- epochs=0/1",
            ),
            (&[1, 2, 3], &[], &[1], 2, "leader=1 isr=[1] elr=[2,3] last=- epochs=0/1"),
            (&[1, 2], &[], &[1], 2, "leader=1 isr=[1] elr=[2] last=- epochs=0/1"),
            (&[1], &[2], &[1, 3], 3, "leader=1 isr=[1,3] elr=[2] last=- epochs=0/1"),
            (&[1], &[2], &[1, 2], 3, "leader=1 isr=[1,2] elr=[] last=- epochs=0/1"),
            (&[1], &[2], &[1, 3], 2, "leader=1 isr=[1,3] elr=[] last=- epochs=0/1"),
            // min.insync.replicas above the replication factor counts as that.
            (&[1, 2], &[3], &[1, 2, 3], 9, "leader=1 isr=[1,2,3] elr=[] last=- epochs=0/1"),
            (&[1, 2], &[], &[1], 9, "leader=1 isr=[1] elr=[2] last=- epochs=0/1"),
        ] {
            let from = partition(isr, elr);
            assert_eq!(to_isr(&from, to, min, &[1, 2, 3]), becomes, "{isr:?} {elr:?} -> {to:?}");
        }
    }

    #[test]
    fn an_unclean_replica_is_in_no_elr() {
        let from = partition(&[1, 2], &[3]);
        let target =
            Target { unclean: Some(BrokerId(2)), ..Target::without_in_sync(&from, BrokerId(2)) };
        let next = changed(&from, target, 3, &[1, 3]).expect("changes");
        assert_eq!(show(&next), "leader=1 isr=[1] elr=[3] last=- epochs=0/1");
    }

    #[test]
    fn the_last_one_leaves_and_is_remembered() {
        let from = partition(&[1], &[]);
        assert_eq!(
            to_isr(&from, &[], 1, &[2, 3]),
            "leader=- isr=[] elr=[1] last=1 epochs=1/1",
            "in the ELR, since it holds all that was acknowledged"
        );
        let target = Target {
            unclean: Some(BrokerId(1)),
            forgotten: Some(BrokerId(1)),
            ..Target::without_in_sync(&from, BrokerId(1))
        };
        let next = changed(&from, target, 1, &[2, 3]).expect("changes");
        assert_eq!(show(&next), "leader=- isr=[] elr=[] last=- epochs=1/1");
    }

    #[test]
    fn elr_takes_over_from_an_empty_isr() {
        let from = partition(&[1], &[2, 3]);
        assert_eq!(to_isr(&from, &[], 3, &[2, 3]), "leader=2 isr=[2] elr=[1,3] last=- epochs=1/1");
        // min.insync.replicas was lowered while nobody led: one in sync is enough now.
        let none = Partition { last_known_leader: Some(BrokerId(1)), ..partition(&[], &[1, 2]) };
        assert_eq!(to_isr(&none, &[], 1, &[2]), "leader=2 isr=[2] elr=[] last=- epochs=1/1");
    }

    #[test]
    fn the_last_known_leader_and_unclean_ones_recover() {
        let none = Partition { last_known_leader: Some(BrokerId(3)), ..partition(&[], &[]) };
        assert_eq!(
            to_isr(&none, &[], 2, &[1, 2, 3]),
            "leader=3 isr=[3] elr=[] last=- epochs=1/1 RECOVERING"
        );
        let from = partition(&[], &[1]);
        let target = Target { election: Election::Unclean, ..Target::of(&from) };
        let next = changed(&from, target, 2, &[2, 3]).expect("changes");
        assert_eq!(show(&next), "leader=2 isr=[2] elr=[] last=- epochs=1/1 RECOVERING");
    }

    fn reassigning(isr: &[u32], adding: &[u32], removing: &[u32]) -> Partition {
        let replicas = ids(&[4, 3, 1, 2]);
        let mut from = Partition::created(replicas.clone(), in_order_of(&replicas, &ids(isr)));
        from.leader = Some(BrokerId(1));
        from.adding = ids(adding);
        from.removing = ids(removing);
        from
    }

    #[test]
    fn a_reassignment_completes_when_all_that_stay_are_in_sync() {
        let from = reassigning(&[1, 2, 3], &[3, 4], &[1, 2]);
        assert_eq!(
            to_isr(&from, &[1, 3], 1, &[1, 2, 3, 4]),
            "leader=1 isr=[3,1] elr=[] last=- epochs=0/1",
            "4 is not in sync yet"
        );
        let target = Target { isr: ids(&[1, 2, 3, 4]), ..Target::of(&from) };
        let next = changed(&from, target, 1, &[1, 2, 3, 4]).expect("changes");
        assert_eq!(show(&next), "leader=4 isr=[4,3] elr=[] last=- epochs=1/1");
        assert_eq!(next.replicas, ids(&[4, 3]));
        assert!(!next.is_reassigning());
    }

    #[test]
    fn the_same_leader_is_written_again_when_a_replica_leaves() {
        let from = reassigning(&[1, 2, 3], &[4], &[2]);
        let target = Target { isr: ids(&[1, 2, 3, 4]), ..Target::of(&from) };
        let next = changed(&from, target, 1, &[1, 2, 3, 4]).expect("changes");
        assert_eq!(show(&next), "leader=1 isr=[4,3,1] elr=[] last=- epochs=1/1");
        // Nobody leaves, the leader stays: no step of the leader epoch.
        let from = reassigning(&[1, 2, 3], &[4], &[]);
        let target = Target { isr: ids(&[1, 2, 3, 4]), ..Target::of(&from) };
        let next = changed(&from, target, 1, &[1, 2, 3, 4]).expect("changes");
        assert_eq!(show(&next), "leader=1 isr=[4,3,1,2] elr=[] last=- epochs=0/1");
        assert!(!next.is_reassigning());
    }

    #[test]
    fn a_reassignment_never_completes_to_an_empty_isr_or_no_replica() {
        // All are to leave: with nobody that stays, all that stay are in sync. Even where somebody is named
        // who is no replica, and so would be left in the ISR.
        let from = reassigning(&[1, 2], &[], &[4, 3, 1, 2]);
        assert_eq!(to_isr(&from, &[1, 2], 1, &[1, 2, 3, 4]), "no-op");
        let target = Target { isr: ids(&[1, 9]), ..Target::of(&from) };
        let next = changed(&from, target, 1, &[1, 2, 3, 4, 9]).expect("changes");
        assert_eq!(show(&next), "leader=1 isr=[1] elr=[] last=- epochs=0/1");
        assert_eq!((&next.replicas, &next.removing), (&from.replicas, &from.removing));
        // Of those that stay one is in sync, or none.
        let from = reassigning(&[1, 2, 3], &[3, 4], &[1, 2]);
        for (isr, becomes) in [
            (&[1, 3][..], "leader=1 isr=[3,1] elr=[2] last=- epochs=0/1"),
            (&[1], "leader=1 isr=[1] elr=[3,2] last=- epochs=0/1"),
        ] {
            let target = Target { isr: ids(isr), ..Target::of(&from) };
            let next = changed(&from, target, 3, &[1, 2, 3, 4]).expect("changes");
            assert_eq!(show(&next), becomes);
            assert_eq!(next.replicas, from.replicas);
            assert_eq!((&next.adding, &next.removing), (&from.adding, &from.removing));
        }
    }

    #[test]
    fn a_replica_that_leaves_leaves_the_elr_and_is_forgotten() {
        let mut from = reassigning(&[], &[], &[]);
        from.isr = ids(&[]);
        from.leader = None;
        from.elr = ids(&[3, 1]);
        from.last_known_leader = Some(BrokerId(1));
        let target = Target { replicas: ids(&[4, 3]), ..Target::of(&from) };
        let next = changed(&from, target, 2, &[4]).expect("changes");
        assert_eq!(show(&next), "leader=- isr=[] elr=[3] last=- epochs=1/1");
    }

    /// Scans of one list for each broker of another took minutes for these. To see it fail: scan one.
    #[test]
    fn the_longest_lists_are_changed_in_no_time() {
        let most = crate::REPLICATION_FACTOR_MAX as u32;
        let all: Brokers = (0..most).map(BrokerId).collect();
        let (first, last) = all.split_at(all.len() / 2);
        // Nobody of the first half is active, and everybody of the second is in the ELR, or in sync.
        let cluster = Cluster::of(&[most - 1]);
        let active = ActiveBrokers::all(&cluster.image().brokers);
        let in_sync = Partition::created(all.clone(), all.clone());
        let moves = Partition { removing: first.into(), ..in_sync.clone() };
        let none = Partition {
            isr: Brokers::default(),
            elr: all.clone(),
            leader: None,
            last_known_leader: Some(BrokerId(0)),
            ..in_sync.clone()
        };
        let begun = std::time::Instant::now();
        for _ in 0..10 {
            let target = Target { isr: last.into(), ..Target::of(&in_sync) };
            let next = change(&in_sync, target, most, &active).expect("changes");
            assert_eq!((next.leader, &*next.elr), (Some(BrokerId(most - 1)), first));
            let next = change(&moves, Target::of(&moves), 1, &active).expect("completes");
            assert_eq!((next.leader, &*next.replicas), (Some(BrokerId(most - 1)), last));
            let next = change(&none, Target::of(&none), most, &active).expect("is led");
            assert_eq!((next.leader, next.elr.len()), (Some(BrokerId(most - 1)), all.len() - 1));
        }
        assert!(begun.elapsed() < std::time::Duration::from_secs(60), "{:?}", begun.elapsed());
    }

    #[test]
    fn a_preferred_election_moves_the_leader_back() {
        let mut from = partition(&[1, 2, 3], &[]);
        from.leader = Some(BrokerId(3));
        let target = Target { election: Election::Preferred, ..Target::of(&from) };
        let next = changed(&from, target, 1, &[1, 2, 3]).expect("changes");
        assert_eq!(show(&next), "leader=1 isr=[1,2,3] elr=[] last=- epochs=1/1");
    }
}
