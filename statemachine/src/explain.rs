//! [`Explanation`]: why a partition has the leader that it has, or none, and why a replica is not in sync.

use crate::history::PartitionChange;
use crate::ids::{BrokerId, PartitionKey, list};
use crate::image::MetadataImage;
use crate::partition::Partition;

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
        Some(leader) => format!("broker {leader} leads{}", since.unwrap_or_default()),
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

/// What would give a partition a leader again.
fn remedy(image: &MetadataImage, partition: &Partition) -> String {
    if !partition.elr.is_empty() {
        let elr = list(&partition.elr);
        return format!("start one of {elr}: each of them has all that was acknowledged");
    }
    if let Some(last) = partition.last_known_leader {
        return format!(
            "start broker {last}, which led last: it may lack records, and nobody is known to lack none"
        );
    }
    let is_active = |id: &&BrokerId| image.broker(**id).is_some_and(|broker| broker.is_active());
    match partition.replicas.iter().find(is_active) {
        Some(id) => format!(
            "no replica is known to have all that was acknowledged: bring back a disk that does, or \
             accept the loss with an unclean election, which would have broker {id} lead"
        ),
        None => format!("start one of its brokers {}", list(&partition.replicas)),
    }
}

/// Why a replica is not in sync now.
fn absence(image: &MetadataImage, partition: &Partition, id: BrokerId) -> String {
    let Some(broker) = image.broker(id) else {
        return "it is not registered: start the broker, or reassign the partition".into();
    };
    let state = if broker.fenced {
        "its broker is fenced: start it, or look why it does not reach the quorum"
    } else if broker.in_shutdown {
        "its broker is shutting down: start it again"
    } else if partition.leader.is_none() {
        "its broker is active, and there is no leader to take it in"
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
    use crate::command::Command;
    use crate::testing::{Cluster, key};

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
    fn without_history_the_state_alone_speaks() {
        let mut cluster = Cluster::with_topic(&[1, 2], &[1, 2], &[]);
        cluster.fence(1);
        let told = explain(cluster.image(), key(1, 0), &[]).expect("there");
        assert_eq!(told.why, "broker 2 leads");
        assert_eq!(told.missing[0].index, None);
        assert_eq!(explain(cluster.image(), key(1, 1), &[]), None);
    }
}
