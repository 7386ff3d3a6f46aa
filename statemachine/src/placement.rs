//! Which brokers keep a new topic: planned by the quorum leader, carried in the command.
//!
//! A pure function of the image, the wish and an offset. The leader draws the offset at random, so
//! that topics do not all begin at the same broker; apply never plans.
//!
//! Racks take turns: partition `p` begins at rack `(offset + p) mod racks` and goes around, so that
//! its replicas are in as many racks as there are, and each rack leads its share. Within a rack the
//! brokers take turns from `(offset + p) / racks`, so that each of them leads in its turn.

use std::collections::BTreeMap;

use crate::brokers::Brokers;
use crate::error::{ErrorCode, Rejection};
use crate::ids::BrokerId;
use crate::image::MetadataImage;

/// The most partitions that one command creates: its apply must not hold up the others.
pub const PARTITIONS_PER_COMMAND_MAX: usize = 10_000;

/// The shape of a topic to be placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicShape {
    /// How many partitions it has, from 1.
    pub partitions: u32,
    /// How many brokers keep each of them, from 1.
    pub replication_factor: u32,
}

/// Plans the replicas of each partition, in order of preference.
///
/// Brokers that are shutting down take no replicas. Fenced ones take them after the unfenced ones of
/// their rack (a rack that is down stays a rack to spread over), and never the first. No broker is
/// twice in a partition.
///
/// # Errors
///
/// INVALID_PARTITIONS and INVALID_REPLICATION_FACTOR, with the remedy.
pub fn plan(
    image: &MetadataImage,
    shape: TopicShape,
    offset: u64,
) -> Result<Vec<Brokers>, Rejection> {
    let partitions = usize::try_from(shape.partitions).unwrap_or(usize::MAX);
    check_partition_count(partitions)?;
    let racks = racks(image);
    let usable: usize = racks.iter().map(Rack::len).sum();
    let unfenced: usize = racks.iter().map(|rack| rack.unfenced.len()).sum();
    let factor = usize::try_from(shape.replication_factor).unwrap_or(usize::MAX);
    if factor == 0 {
        return Err(invalid_factor("replication factor 0 keeps no data: use at least 1".into()));
    }
    if factor > usable {
        let usable = count(usable, "broker that can", "brokers that can");
        return Err(invalid_factor(format!(
            "replication factor {factor} is above the {usable} take replicas: lower it or start \
             more brokers"
        )));
    }
    if unfenced == 0 {
        return Err(invalid_factor(
            "all brokers are fenced, none can lead: start a broker or wait until one is unfenced"
                .into(),
        ));
    }
    Ok((0..u64::from(shape.partitions))
        .map(|partition| place(&racks, factor, offset.wrapping_add(partition)))
        .collect())
}

/// Checks the number of partitions of one command.
///
/// # Errors
///
/// INVALID_PARTITIONS, with the remedy.
pub fn check_partition_count(partitions: usize) -> Result<(), Rejection> {
    let fault = match partitions {
        0 => "a topic needs at least 1 partition: give a number from 1".to_owned(),
        1..=PARTITIONS_PER_COMMAND_MAX => return Ok(()),
        _ => format!(
            "{partitions} partitions in one command are above the limit of \
             {PARTITIONS_PER_COMMAND_MAX}: create them in several commands"
        ),
    };
    Err(Rejection::new(ErrorCode::InvalidPartitions, fault))
}

fn invalid_factor(message: String) -> Rejection {
    Rejection::new(ErrorCode::InvalidReplicationFactor, message)
}

fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// The brokers of a rack that take replicas, in order of id.
#[derive(Default)]
struct Rack {
    unfenced: Vec<BrokerId>,
    fenced: Vec<BrokerId>,
}

impl Rack {
    fn len(&self) -> usize {
        self.unfenced.len() + self.fenced.len()
    }

    /// The `taken`-th broker of this rack for a partition whose turn within racks is `turn`:
    /// unfenced ones first.
    fn nth(&self, turn: u64, taken: usize) -> Option<BrokerId> {
        let from = |brokers: &[BrokerId], at: usize| {
            let start = turn % u64::try_from(brokers.len()).ok()?.max(1);
            let at = (usize::try_from(start).ok()? + at).checked_rem(brokers.len())?;
            brokers.get(at).copied()
        };
        if taken < self.unfenced.len() {
            from(&self.unfenced, taken)
        } else if taken < self.len() {
            from(&self.fenced, taken - self.unfenced.len())
        } else {
            None
        }
    }
}

/// The racks in order of name. Brokers that name none are together in one of their own.
fn racks(image: &MetadataImage) -> Vec<Rack> {
    let mut racks: BTreeMap<Option<&str>, Rack> = BTreeMap::new();
    for broker in image.brokers().filter(|broker| !broker.in_shutdown) {
        let rack = racks.entry(broker.rack.as_deref()).or_default();
        if broker.fenced { &mut rack.fenced } else { &mut rack.unfenced }.push(broker.id);
    }
    racks.into_values().collect()
}

/// The replicas of one partition. There are at least `factor` brokers, one of them unfenced.
fn place(racks: &[Rack], factor: usize, offset: u64) -> Brokers {
    let len = u64::try_from(racks.len()).unwrap_or(u64::MAX).max(1);
    let turn = offset / len;
    let first = usize::try_from(offset % len).unwrap_or_default();
    // The first replica leads, so the round begins at a rack with an unfenced broker.
    let begin = (0..racks.len())
        .map(|step| (first + step) % racks.len())
        .find(|at| !racks[*at].unfenced.is_empty())
        .unwrap_or(first);
    let mut taken = vec![0usize; racks.len()];
    let mut replicas = Vec::with_capacity(factor);
    for at in (0..racks.len()).cycle().skip(begin) {
        if let Some(broker) = racks[at].nth(turn, taken[at]) {
            taken[at] += 1;
            replicas.push(broker);
            if replicas.len() == factor {
                break;
            }
        }
    }
    replicas.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Cluster;

    fn planned(cluster: &Cluster, partitions: u32, factor: u32, offset: u64) -> Vec<Vec<u32>> {
        let shape = TopicShape { partitions, replication_factor: factor };
        let plan = plan(cluster.image(), shape, offset).expect("can be placed");
        plan.iter().map(|replicas| replicas.iter().map(|id| id.get()).collect()).collect()
    }

    fn refused(cluster: &Cluster, partitions: u32, factor: u32) -> (ErrorCode, String) {
        let shape = TopicShape { partitions, replication_factor: factor };
        let rejection = plan(cluster.image(), shape, 0).expect_err("cannot be placed");
        (rejection.code, rejection.message)
    }

    #[test]
    fn one_rack_moves_by_one() {
        let cluster = Cluster::of(&[1, 2, 3]);
        assert_eq!(planned(&cluster, 4, 3, 0), [[1, 2, 3], [2, 3, 1], [3, 1, 2], [1, 2, 3]]);
        assert_eq!(planned(&cluster, 2, 2, 2), [[3, 1], [1, 2]]);
    }

    #[test]
    fn racks_take_turns_and_so_do_their_brokers() {
        let mut cluster = Cluster::default();
        for (id, rack) in [(1, "a"), (2, "a"), (3, "b"), (4, "b"), (5, "c"), (6, "c")] {
            cluster.register_in_rack(id, rack);
            cluster.unfence(id);
        }
        assert_eq!(
            planned(&cluster, 6, 3, 0),
            [[1, 3, 5], [3, 5, 1], [5, 1, 3], [2, 4, 6], [4, 6, 2], [6, 2, 4]]
        );
        assert_eq!(planned(&cluster, 1, 4, 1), [[3, 5, 1, 4]]);
    }

    #[test]
    fn every_broker_leads_its_share_for_any_number_of_racks() {
        for racks in 1..=4u32 {
            let mut cluster = Cluster::default();
            for id in 0..racks * 3 {
                cluster.register_in_rack(id, &format!("rack{}", id % racks));
                cluster.unfence(id);
            }
            let mut leads = BTreeMap::<u32, u32>::new();
            for replicas in planned(&cluster, racks * 3 * 5, 2, 7) {
                *leads.entry(replicas[0]).or_default() += 1;
            }
            assert_eq!(leads.len(), racks as usize * 3);
            assert!(leads.values().all(|count| *count == 5), "{racks} racks: {leads:?}");
        }
    }

    #[test]
    fn fenced_brokers_come_last_and_never_lead_and_leaving_ones_take_nothing() {
        let mut cluster = Cluster::of(&[1, 2, 3, 4]);
        cluster.fence(2);
        cluster.shut_down(4);
        for replicas in planned(&cluster, 6, 3, 0) {
            assert_eq!(replicas[2], 2, "{replicas:?}");
            assert!(!replicas.contains(&4), "{replicas:?}");
        }
        assert!(planned(&cluster, 6, 2, 0).iter().all(|replicas| !replicas.contains(&2)));
        assert_eq!(
            refused(&cluster, 1, 4),
            (
                ErrorCode::InvalidReplicationFactor,
                "replication factor 4 is above the 3 brokers that can take replicas: lower it or \
                 start more brokers"
                    .into()
            )
        );
    }

    #[test]
    fn a_rack_of_fenced_brokers_is_passed_over_for_the_leader_only() {
        let mut cluster = Cluster::default();
        for (id, rack) in [(1, "a"), (2, "b"), (3, "c")] {
            cluster.register_in_rack(id, rack);
        }
        cluster.unfence(2);
        cluster.unfence(3);
        assert_eq!(planned(&cluster, 3, 3, 0), [[2, 3, 1], [2, 3, 1], [3, 1, 2]]);
    }

    #[test]
    fn what_cannot_be_placed_is_refused_with_the_remedy() {
        let mut cluster = Cluster::of(&[1, 2, 3]);
        for (partitions, factor, code) in [
            (0, 1, ErrorCode::InvalidPartitions),
            (10_001, 1, ErrorCode::InvalidPartitions),
            (1, 0, ErrorCode::InvalidReplicationFactor),
            (1, 4, ErrorCode::InvalidReplicationFactor),
        ] {
            let (refused_with, message) = refused(&cluster, partitions, factor);
            assert_eq!(refused_with, code, "{partitions} partitions, factor {factor}");
            assert!(message.contains(": "), "{message}");
        }
        for id in [1, 2, 3] {
            cluster.fence(id);
        }
        assert_eq!(refused(&cluster, 1, 1).0, ErrorCode::InvalidReplicationFactor);
        assert_eq!(refused(&Cluster::default(), 1, 1).0, ErrorCode::InvalidReplicationFactor);
    }
}
