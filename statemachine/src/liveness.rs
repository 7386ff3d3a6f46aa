//! Fence, unfence, controlled shutdown, unregister: who may lead, and the elections that follow.
//!
//! A broker that leaves is first taken out of every ISR, with itself not electable, and only then
//! flagged: one command, so nobody ever sees a leader that may not lead.

use mutation::Bug;

use crate::broker::Broker;
use crate::change::Target;
use crate::command::BrokerSession;
use crate::error::{ErrorCode, Rejection};
use crate::ids::{BrokerEpoch, BrokerId};
use crate::machine::Step;
use crate::outcome::Reply;

pub(crate) fn fence(step: &mut Step<'_>, session: BrokerSession) -> Result<Reply, Rejection> {
    let fenced = Broker { fenced: true, ..step.session(session)?.clone() };
    let partitions_changed = match mutation::is(Bug::FencedStaysInSync) {
        true => 0,
        false => leave_isrs(step, session.broker),
    };
    put_if_changed(step, fenced);
    Ok(Reply::BrokerFenced { partitions_changed })
}

pub(crate) fn shut_down(step: &mut Step<'_>, session: BrokerSession) -> Result<Reply, Rejection> {
    let leaving = Broker { in_shutdown: true, ..step.session(session)?.clone() };
    let partitions_changed = leave_isrs(step, session.broker);
    put_if_changed(step, leaving);
    Ok(Reply::BrokerShuttingDown { partitions_changed })
}

pub(crate) fn unfence(step: &mut Step<'_>, session: BrokerSession) -> Result<Reply, Rejection> {
    let unfenced = Broker { fenced: false, ..step.session(session)?.clone() };
    put_if_changed(step, unfenced);
    // Only this broker became electable, so only what it keeps can get a leader now.
    let partitions_changed = step.change_partitions_of(session.broker, false, |partition| {
        partition.leader.is_none().then(|| Target::of(partition))
    });
    Ok(Reply::BrokerUnfenced { partitions_changed })
}

pub(crate) fn unregister(
    step: &mut Step<'_>,
    id: BrokerId,
    epoch: Option<BrokerEpoch>,
) -> Result<Reply, Rejection> {
    let Some(broker) = step.image.broker(id) else {
        return Err(Rejection::new(
            ErrorCode::BrokerIdNotRegistered,
            format!("broker {id} is not registered: name a registered one, it may be gone already"),
        ));
    };
    if let Some(epoch) = epoch
        && epoch != broker.epoch
    {
        return Err(Rejection::new(
            ErrorCode::StaleBrokerEpoch,
            format!(
                "broker {id} is registered with epoch {}, and epoch {epoch} was to go: look whether \
                 it came back, and ask again if it is to go all the same",
                broker.epoch
            ),
        ));
    }
    // Whoever comes back with this id comes with disks that nobody knows: it leaves the ELR too.
    let partitions_changed = step.change_partitions_of(id, true, |partition| {
        let leaves = partition.isr.contains(&id) || partition.elr.contains(&id);
        leaves.then(|| Target { unclean: Some(id), ..Target::without_in_sync(partition, id) })
    });
    step.image.remove_broker(id);
    step.delta().brokers.insert(id);
    Ok(Reply::BrokerUnregistered { partitions_changed })
}

fn leave_isrs(step: &mut Step<'_>, id: BrokerId) -> u64 {
    step.change_partitions_of(id, true, |partition| {
        partition.isr.contains(&id).then(|| Target::without_in_sync(partition, id))
    })
}

fn put_if_changed(step: &mut Step<'_>, broker: Broker) {
    if step.image.broker(broker.id) != Some(&broker) {
        step.put_broker(broker);
    }
}

#[cfg(test)]
#[allow(non_snake_case, reason = "tests of a trap carry its number")]
mod tests {
    use super::*;
    use crate::command::{Command, ConfigChange, ConfigOperation, ConfigResource};
    use crate::testing::{Cluster, ids, key, new_topic, show, topic_id};

    #[test]
    fn every_request_of_another_epoch_is_stale() {
        let mut cluster = Cluster::of(&[1, 2]);
        let older = BrokerSession { epoch: BrokerEpoch(2), ..cluster.session(2) };
        let newer = BrokerSession { epoch: BrokerEpoch(4), ..cluster.session(2) };
        let unknown = cluster.session(9);
        for session in [older, newer, unknown] {
            for command in [
                Command::FenceBroker(session),
                Command::UnfenceBroker(session),
                Command::ShutdownBroker(session),
                Command::AllocateProducerIds(session),
            ] {
                assert_eq!(cluster.refuse(command), ErrorCode::StaleBrokerEpoch, "{session:?}");
            }
        }
    }

    #[test]
    fn an_unknown_broker_cannot_be_unregistered() {
        let mut cluster = Cluster::of(&[1]);
        let unregister = Command::UnregisterBroker { broker: BrokerId(2), epoch: None };
        assert_eq!(cluster.refuse(unregister), ErrorCode::BrokerIdNotRegistered);
    }

    /// To see it fail: leave the look at the epoch out.
    #[test]
    fn another_registration_than_the_one_that_was_meant_is_left_alone() {
        let mut cluster = Cluster::with_topic(&[1, 2], &[1, 2], &[]);
        let meant = cluster.session(1).epoch;
        cluster.restart(1, 2, &[1]);
        let current = cluster.session(1).epoch;
        assert!(current > meant);
        let unregister =
            |epoch| Command::UnregisterBroker { broker: BrokerId(1), epoch: Some(epoch) };
        for epoch in [meant, BrokerEpoch(current.get() + 1), BrokerEpoch(0)] {
            assert_eq!(cluster.refuse(unregister(epoch)), ErrorCode::StaleBrokerEpoch, "{epoch}");
        }
        cluster.accept(unregister(current));
        assert_eq!(cluster.refuse(unregister(current)), ErrorCode::BrokerIdNotRegistered);
    }

    /// The elector of the incident's system picked the first of the ISR: the dead leader itself.
    #[test]
    fn trap_I21_the_dead_leader_is_never_elected() {
        for leave in [Cluster::fence, Cluster::shut_down] {
            let mut cluster = Cluster::with_topic(&[1, 2, 3], &[1, 2, 3], &[]);
            assert_eq!(cluster.shown(), "leader=1 isr=[1,2,3] elr=[] last=- epochs=0/0");
            leave(&mut cluster, 1);
            assert_eq!(cluster.shown(), "leader=2 isr=[2,3] elr=[] last=- epochs=1/1");
            leave(&mut cluster, 3);
            assert_eq!(cluster.shown(), "leader=2 isr=[2] elr=[] last=- epochs=1/2");
            leave(&mut cluster, 2);
            // Nobody is left: written as that, and not left to whoever is dead.
            assert_eq!(cluster.shown(), "leader=- isr=[] elr=[2] last=2 epochs=2/3");
        }
        let mut cluster = Cluster::with_topic(&[1, 2, 3], &[1, 2, 3], &[]);
        cluster.accept(Command::UnregisterBroker { broker: BrokerId(1), epoch: None });
        assert_eq!(cluster.shown(), "leader=2 isr=[2,3] elr=[] last=- epochs=1/1");
    }

    #[test]
    fn fencing_touches_only_what_the_broker_keeps_and_says_how_much() {
        let mut cluster = Cluster::of(&[1, 2, 3]);
        let topics = vec![new_topic(1, "a", &[&[1, 2], &[2, 1], &[2, 3]])];
        cluster.accept(Command::CreateTopics { topics });
        let applied = cluster.apply(Command::FenceBroker(cluster.session(1)));
        let fenced = Reply::BrokerFenced { partitions_changed: 2 };
        assert_eq!(applied.outcome.into_result(), Ok(fenced));
        assert_eq!(applied.changes.brokers.iter().copied().collect::<Vec<_>>(), *ids(&[1]));
        let partitions: Vec<_> = applied.changes.partitions.into_iter().collect();
        assert_eq!(partitions, [key(1, 0), key(1, 1)]);
        let topic = cluster.image().topic(topic_id(1)).expect("created");
        let shown: Vec<String> = topic.partitions().map(|(_, state)| show(state)).collect();
        assert_eq!(
            shown,
            [
                "leader=2 isr=[2] elr=[] last=- epochs=1/1",
                "leader=2 isr=[2] elr=[] last=- epochs=0/1",
                "leader=2 isr=[2,3] elr=[] last=- epochs=0/0",
            ]
        );
        // Again: accepted, and nothing happens.
        let applied = cluster.apply(Command::FenceBroker(cluster.session(1)));
        let fenced = Reply::BrokerFenced { partitions_changed: 0 };
        assert_eq!(applied.outcome.into_result(), Ok(fenced));
        assert_eq!(applied.changes, crate::Delta::default());
    }

    #[test]
    fn an_unfenced_broker_leads_what_it_has_a_claim_to() {
        let mut cluster =
            Cluster::with_topic(&[1, 2, 3], &[1, 2, 3], &[("min.insync.replicas", "2")]);
        for id in [3, 1, 2] {
            cluster.fence(id);
        }
        assert_eq!(cluster.shown(), "leader=- isr=[] elr=[1,2] last=2 epochs=2/3");
        // 3 left while two were in sync: it may lack what they acknowledged.
        assert_eq!(cluster.unfence(3), Reply::BrokerUnfenced { partitions_changed: 0 });
        assert_eq!(cluster.shown(), "leader=- isr=[] elr=[1,2] last=2 epochs=2/3");
        assert_eq!(cluster.unfence(1), Reply::BrokerUnfenced { partitions_changed: 1 });
        assert_eq!(cluster.shown(), "leader=1 isr=[1] elr=[2] last=- epochs=3/4");
        // There is a leader: the next one waits until the leader takes it into the ISR.
        assert_eq!(cluster.unfence(2), Reply::BrokerUnfenced { partitions_changed: 0 });
        assert_eq!(cluster.shown(), "leader=1 isr=[1] elr=[2] last=- epochs=3/4");
    }

    #[test]
    fn a_broker_that_shuts_down_leads_nothing_until_it_registers_anew() {
        let mut cluster = Cluster::with_topic(&[1, 2], &[1, 2], &[]);
        assert_eq!(cluster.shut_down(1), Reply::BrokerShuttingDown { partitions_changed: 1 });
        let broker = cluster.image().broker(BrokerId(1)).expect("registered").clone();
        assert!(broker.in_shutdown && !broker.fenced && !broker.is_active());
        cluster.fence(2);
        cluster.fence(1);
        assert_eq!(cluster.unfence(1), Reply::BrokerUnfenced { partitions_changed: 0 });
        assert_eq!(cluster.shown(), "leader=- isr=[] elr=[2] last=2 epochs=2/2");
        cluster.restart(1, 2, &[1]);
        let broker = cluster.image().broker(BrokerId(1)).expect("registered");
        assert!(!broker.in_shutdown && broker.fenced);
    }

    #[test]
    fn an_unregistered_broker_leaves_isr_and_elr() {
        let mut cluster = Cluster::with_topic(&[1, 2], &[1, 2], &[("min.insync.replicas", "2")]);
        cluster.fence(1);
        assert_eq!(cluster.shown(), "leader=2 isr=[2] elr=[1] last=- epochs=1/1");
        let gone = cluster.accept(Command::UnregisterBroker { broker: BrokerId(1), epoch: None });
        assert_eq!(gone, Reply::BrokerUnregistered { partitions_changed: 1 });
        assert_eq!(cluster.shown(), "leader=2 isr=[2] elr=[] last=- epochs=1/2");
        let gone = cluster.accept(Command::UnregisterBroker { broker: BrokerId(2), epoch: None });
        assert_eq!(gone, Reply::BrokerUnregistered { partitions_changed: 1 });
        assert_eq!(cluster.shown(), "leader=- isr=[] elr=[] last=2 epochs=2/3");
        assert_eq!(cluster.image().broker_count(), 0);
        // Whoever comes with this id now has no claim, not even to be the last known leader.
        cluster.restart(2, 2, &[1]);
        cluster.unfence(2);
        assert_eq!(cluster.shown(), "leader=- isr=[] elr=[] last=- epochs=2/4");
    }

    #[test]
    fn what_was_set_for_a_broker_goes_with_it() {
        let mut cluster = Cluster::of(&[1, 2]);
        for id in [1, 2] {
            let operation = ConfigOperation::Set("100".into());
            let changes = vec![ConfigChange { key: "segment.bytes".into(), operation }];
            let resource = ConfigResource::Broker(BrokerId(id));
            cluster.accept(Command::AlterConfigs { resource, changes });
        }
        cluster.accept(Command::UnregisterBroker { broker: BrokerId(1), epoch: None });
        assert_eq!(cluster.image().broker_configs(BrokerId(1)), None);
        assert!(cluster.image().broker_configs(BrokerId(2)).is_some());
        cluster.restart(1, 2, &[1]);
        assert_eq!(cluster.image().broker_configs(BrokerId(1)), None, "another one of its name");
    }

    /// ISR only in memory, all replicas required, or none known: the incident's three ways to be
    /// wrong about a dead follower.
    #[test]
    fn trap_I22_a_dead_follower_leaves_the_isr_and_the_rest_goes_on() {
        let mut cluster =
            Cluster::with_topic(&[1, 2, 3], &[1, 2, 3], &[("min.insync.replicas", "2")]);
        cluster.fence(3);
        assert_eq!(cluster.shown(), "leader=1 isr=[1,2] elr=[] last=- epochs=0/1");
        let partition = cluster.partition();
        assert!(partition.isr.len() >= partition.min_insync_effective(2), "acks=all goes on");
        // An image that was written and read again knows the same.
        let mut bytes = Vec::new();
        crate::Image::write_snapshot(cluster.image(), &mut bytes).expect("written");
        let restored = <crate::Metadata as crate::StateMachine>::restore(&mut &bytes[..]);
        let image = crate::StateMachine::image(&restored.expect("restored"));
        assert_eq!(image.partition(key(1, 0)), Some(cluster.partition()));
    }
}
