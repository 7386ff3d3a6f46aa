//! [`Explanation`]: why a partition has the leader that it has, or none, and why a replica is not in sync.

use crate::history::PartitionChange;
use crate::ids::{BrokerId, PartitionKey, list};
use crate::image::MetadataImage;
use crate::partition::{Partition, Recovery};

/// Why a partition is as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Its leader.
    pub leader: Option<BrokerId>,
    /// Why that one leads, or why nobody does and what would help.
    pub why: String,
    /// The replicas that are not in the ISR, in order of preference.
    pub missing: Vec<MissingReplica>,
}

/// A replica that is not in the ISR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingReplica {
    /// The broker.
    pub replica: BrokerId,
    /// Why it is out, and what would bring it in.
    pub why: String,
    /// The command that took it out; `None` where the history does not reach so far, or where it was
    /// never in.
    pub index: Option<u64>,
}

/// Explains a partition; `None` where there is none. `history` are its latest changes, the oldest first.
#[must_use]
pub fn explain(
    image: &MetadataImage,
    key: PartitionKey,
    history: &[PartitionChange],
) -> Option<Explanation> {
    let partition = image.partition(key)?;
    let latest = |is_it: &dyn Fn(&PartitionChange) -> bool| history.iter().rfind(|it| is_it(it));
    let since = latest(&|change| change.moved_leader())
        .map(|change| format!(" since index {}: {}", change.index, change.reason()));
    let why = match partition.leader {
        Some(leader) => {
            let since = since.unwrap_or_default();
            format!("broker {leader} leads{since}{}{}", recovering(partition), ageing(partition))
        }
        None => {
            let since = since.unwrap_or_default();
            format!("nobody leads{since}; {}", remedy(image, partition))
        }
    };
    let missing = partition.replicas.iter().filter(|id| !partition.isr.contains(id));
    let missing = missing.map(|id| {
        let out = latest(&|change| change.took_from_isr(*id));
        let now = absence(image, partition, *id);
        let why = match out {
            Some(change) => format!("{}; {now}", change.reason()),
            None => now,
        };
        MissingReplica { replica: *id, why, index: out.map(|change| change.index) }
    });
    Some(Explanation { leader: partition.leader, why, missing: missing.collect() })
}

/// What is to be known of a leader that has not recovered.
fn recovering(partition: &Partition) -> &'static str {
    match partition.recovery {
        Recovery::Recovered => "",
        Recovery::Recovering => {
            "; it is recovering: it may lack records that were acknowledged before it led, and takes nobody \
             into the ISR until it says that it has recovered"
        }
    }
}

/// What is to be known of a leader with few successors.
fn ageing(partition: &Partition) -> &'static str {
    match partition.is_spent() {
        false => "",
        true => {
            "; the partition has used up its epochs, so that nobody is taken into the ISR any more, and the last \
             ones are for when brokers fail: move its records to a topic that is new before the very last \
             closes it"
        }
    }
}

/// What would give a partition a leader again, if anything.
fn remedy(image: &MetadataImage, partition: &Partition) -> String {
    if partition.is_closed() {
        return format!(
            "its epochs are used up and it is closed, so that nobody will lead it again: bring its records \
             from the disks of {} into a topic that is new, and delete this one",
            list(&partition.replicas)
        );
    }
    if !partition.elr.is_empty() {
        let elr = list(&partition.elr);
        let has = match partition.recovery {
            Recovery::Recovered => "each of them has all that was acknowledged",
            Recovery::Recovering => {
                "each has all that was acknowledged since an unclean election, and may lack what was before"
            }
        };
        return format!("start one of {elr}: {has}");
    }
    // Whoever comes with the id of a broker that was unregistered has no claim any more.
    let last = partition.last_known_leader.filter(|id| image.broker(*id).is_some());
    if let Some(last) = last {
        return format!(
            "start broker {last}, which led last: it may lack records, and nobody is known to lack none"
        );
    }
    if partition.is_spent() {
        return format!(
            "no replica is known to have all that was acknowledged, and an unclean election is refused, since \
             its epochs are used up: bring its records from the disks of {} into a topic that is new, and \
             delete this one",
            list(&partition.replicas)
        );
    }
    let is_active = |id: &&BrokerId| image.broker(**id).is_some_and(|broker| broker.is_active());
    match partition.replicas.iter().find(is_active) {
        Some(id) => format!(
            "no replica is known to have all that was acknowledged: bring back a disk that does, or \
             accept the loss with an unclean election, which would have broker {id} lead"
        ),
        None => format!(
            "no replica is known to have all that was acknowledged: start one of the brokers {} that does, \
             or any of them and accept the loss with an unclean election",
            list(&partition.replicas)
        ),
    }
}

/// Why a replica is not in sync now.
fn absence(image: &MetadataImage, partition: &Partition, id: BrokerId) -> String {
    if partition.is_closed() {
        return "the partition is closed, and nobody is taken in any more".into();
    }
    let broker = image.broker(id);
    // Without a leader, who has a claim to it comes in by an election.
    let has_claim = partition.elr.contains(&id) || partition.last_known_leader == Some(id);
    let may_lead = partition.leader.is_none() && broker.is_some() && has_claim;
    if partition.is_spent() && !may_lead {
        return "the partition has used up its epochs, and nobody is taken in any more: move its records to a \
                topic that is new"
            .into();
    }
    let Some(broker) = broker else {
        return "it is not registered: start the broker, or reassign the partition".into();
    };
    let state = if broker.fenced {
        "its broker is fenced: start it, or look why it does not reach the quorum"
    } else if broker.in_shutdown {
        "its broker is shutting down: start it again"
    } else if partition.leader.is_none() {
        "its broker is active, and there is no leader to take it in"
    } else if partition.recovery == Recovery::Recovering {
        "its broker is active, and the leader has to recover before it takes anybody in"
    } else if partition.adding.contains(&id) {
        "it is new, and has yet to copy what the leader has"
    } else {
        "its broker is active, and has yet to catch up with the leader"
    };
    state.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, ElectLeaders, ElectionType};
    use crate::partition::EPOCH_MAX;
    use crate::testing::{Cluster, ids, key};

    #[test]
    fn who_is_missing_is_told_with_the_command_that_took_it_out() {
        let configs = [("min.insync.replicas", "2")];
        let mut cluster = Cluster::with_topic(&[1, 2, 3], &[1, 2, 3], &configs);
        let mut history = Vec::new();
        let mut run = |cluster: &mut Cluster, command: Command| {
            let before = cluster.image().partition(key(1, 0)).cloned();
            cluster.accept(command.clone());
            let after = cluster.image().partition(key(1, 0));
            history.extend(PartitionChange::of(
                cluster.index,
                key(1, 0),
                &command,
                before.as_ref(),
                after,
            ));
            explain(cluster.image(), key(1, 0), &history).expect("there")
        };
        let command = Command::FenceBroker(cluster.session(1));
        let told = run(&mut cluster, command);
        assert_eq!(told.leader, Some(BrokerId(2)));
        let fenced = "broker 1 was fenced: 1 left the ISR, 2 leads";
        assert_eq!(told.why, format!("broker 2 leads since index 8: {fenced}"));
        let missing = MissingReplica {
            replica: BrokerId(1),
            why: format!(
                "{fenced}; its broker is fenced: start it, or look why it does not reach the quorum"
            ),
            index: Some(8),
        };
        assert_eq!(told.missing, [missing]);
        let command = Command::UnfenceBroker(cluster.session(1));
        run(&mut cluster, command);
        let command = Command::FenceBroker(cluster.session(2));
        run(&mut cluster, command);
        let command = Command::FenceBroker(cluster.session(3));
        let told = run(&mut cluster, command);
        assert_eq!(told.leader, None);
        assert!(
            told.why.ends_with("start one of [2, 3]: each of them has all that was acknowledged"),
            "{}",
            told.why
        );
        let out: Vec<_> = told.missing.iter().map(|it| (it.replica.get(), it.index)).collect();
        assert_eq!(out, [(1, Some(8)), (2, Some(10)), (3, Some(11))]);
        assert!(told.missing[0].why.ends_with("there is no leader to take it in"));
    }

    #[test]
    fn a_leader_that_may_lack_records_is_told_as_such() {
        let mut cluster = Cluster::with_topic(&[1, 2, 3], &[1, 2], &[("min.insync.replicas", "2")]);
        let told = |cluster: &Cluster| explain(cluster.image(), key(1, 0), &[]).expect("there");
        cluster.fence(2);
        cluster.restart(2, 2, &[]);
        cluster.fence(1);
        cluster.unfence(2);
        let elect = ElectLeaders { election: ElectionType::Unclean, partitions: vec![key(1, 0)] };
        cluster.accept(Command::ElectLeaders(elect));
        cluster.unfence(1);
        let led = told(&cluster);
        assert!(
            led.why.starts_with("broker 2 leads; it is recovering: it may lack"),
            "{}",
            led.why
        );
        assert_eq!(
            led.missing[0].why,
            "its broker is active, and the leader has to recover before it takes anybody in"
        );
        cluster.fence(2);
        let why = told(&cluster).why;
        assert!(why.contains("start one of [2]: each has all"), "{why}");
        assert!(why.ends_with("may lack what was before"), "{why}");
    }

    /// Whoever comes back with its id comes with disks that nobody knows.
    #[test]
    fn a_last_leader_that_is_not_registered_is_nobody_to_start() {
        let mut cluster = Cluster::with_topic(&[1, 2], &[1, 2], &[]);
        cluster.set_isr(&[1]);
        cluster.accept(Command::UnregisterBroker { broker: BrokerId(1), epoch: None });
        assert_eq!(cluster.shown(), "leader=- isr=[] elr=[] last=1 epochs=1/2");
        let why = explain(cluster.image(), key(1, 0), &[]).expect("there").why;
        assert!(why.ends_with("an unclean election, which would have broker 2 lead"), "{why}");
        cluster.fence(2);
        let why = explain(cluster.image(), key(1, 0), &[]).expect("there").why;
        assert!(why.contains("start one of the brokers [1, 2] that does"), "{why}");
    }

    /// Nothing is advised that would be refused. To see it fail: leave out `ageing`, or what `remedy` and
    /// `absence` say of such a partition.
    #[test]
    fn a_partition_without_epochs_says_what_is_left_to_do() {
        let aged = |left: u32, last_known: bool| {
            let mut cluster = Cluster::with_topic(&[1, 2, 3], &[1, 2], &[]);
            let mut partition = cluster.partition().clone();
            partition.partition_epoch.0 = EPOCH_MAX - left - 1;
            if !last_known {
                (partition.leader, partition.isr) = (None, ids(&[]));
            }
            cluster.replace_partition(partition);
            cluster
        };
        let told = |cluster: &Cluster| explain(cluster.image(), key(1, 0), &[]).expect("there");

        let mut cluster = aged(2, true);
        let led = told(&cluster).why;
        assert!(led.starts_with("broker 1 leads; the partition has used up its epochs"), "{led}");
        assert!(led.contains("move its records to a topic that is new"), "{led}");
        cluster.fence(2);
        let taken_in = "the partition has used up its epochs, and nobody is taken in any more: move its records \
                        to a topic that is new";
        assert_eq!(told(&cluster).missing[0].why, taken_in);
        cluster.fence(1);
        assert_eq!(cluster.partition().partition_epoch.0, EPOCH_MAX);
        let closed = told(&cluster);
        assert_eq!(
            (closed.leader, closed.why.as_str()),
            (
                None,
                "nobody leads; its epochs are used up and it is closed, so that nobody will lead it \
                 again: bring its records from the disks of [1, 2] into a topic that is new, and delete \
                 this one"
            )
        );
        for missing in closed.missing {
            assert_eq!(missing.why, "the partition is closed, and nobody is taken in any more");
        }

        // Who has a claim to it is to be started, and leads.
        let mut cluster = aged(100, true);
        cluster.fence(2);
        cluster.fence(1);
        let left = told(&cluster);
        assert!(left.why.contains("start one of [1]"), "{}", left.why);
        assert!(left.missing[0].why.starts_with("its broker is fenced: start it"));
        assert_eq!(left.missing[1].why, taken_in);
        cluster.unfence(1);
        assert_eq!(cluster.partition().leader, Some(BrokerId(1)));

        // Nobody has: some epochs are left, and whoever starts does not lead.
        let mut cluster = aged(100, false);
        cluster.accept(Command::UnregisterBroker { broker: BrokerId(2), epoch: None });
        let lost = told(&cluster);
        let why = "nobody leads; no replica is known to have all that was acknowledged, and an unclean election \
                   is refused, since its epochs are used up: bring its records from the disks of [1, 2] into a \
                   topic that is new, and delete this one";
        assert_eq!(lost.why, why);
        assert_eq!(lost.missing[1].why, taken_in);
        for id in [1, 2] {
            cluster.restart(id, 2, &[]);
            cluster.unfence(id);
        }
        let elect = ElectLeaders { election: ElectionType::Unclean, partitions: vec![key(1, 0)] };
        cluster.accept(Command::ElectLeaders(elect));
        assert_eq!(cluster.partition().leader, None);
        assert_eq!(told(&cluster).why, why);
    }

    #[test]
    fn without_history_the_state_alone_speaks() {
        let mut cluster = Cluster::with_topic(&[1, 2], &[1, 2], &[]);
        cluster.fence(1);
        let told = explain(cluster.image(), key(1, 0), &[]).expect("there");
        assert_eq!(told.why, "broker 2 leads");
        assert_eq!(told.missing[0].index, None);
        assert_eq!(explain(cluster.image(), key(1, 1), &[]), None);
    }
}
