//! RegisterBroker: a broker starts, or amends what it said when it started.
//!
//! Whether another incarnation still has a live session, and whether the broker belongs to this
//! cluster, is known where sessions and connections live: on the quorum leader, before it proposes.

use mutation::Bug;

use crate::broker::Broker;
use crate::change::Target;
use crate::command::RegisterBroker;
use crate::error::{ErrorCode, Rejection};
use crate::ids::{BrokerEpoch, BrokerId, DirectoryId};
use crate::image::MetadataImage;
use crate::machine::Step;
use crate::outcome::Reply;
use crate::partition::{Partition, without};

/// The most listeners of a broker: more than any has, and a snapshot record has a limit.
pub const LISTENERS_MAX: usize = 64;
/// The most log directories of a broker: more than any has, and a snapshot record has a limit.
pub const DIRECTORIES_MAX: usize = 1_024;
/// The longest host, listener name or rack in bytes: that of a host name in DNS.
pub const BROKER_TEXT_BYTES_MAX: usize = 255;

pub(crate) fn apply(step: &mut Step<'_>, register: &RegisterBroker) -> Result<Reply, Rejection> {
    check_features(step.image, register)?;
    check_shape(register)?;
    check_directories(step.image, register)?;

    let registered = step.image.broker(register.broker);
    if let Some(broker) = registered
        && broker.incarnation == register.incarnation
    {
        let amended = broker_of(register, broker.epoch, broker.fenced, broker.in_shutdown);
        let epoch = amended.epoch;
        if *broker != amended {
            step.put_broker(amended);
        }
        return Ok(Reply::BrokerRegistered { epoch });
    }
    check_follows(registered, register)?;
    let vouched = registered.is_some_and(|broker| register.vouched.contains(&broker.incarnation));
    let kept = registered.filter(|_| mutation::is(Bug::BrokerEpochKept)).map(|broker| broker.epoch);
    leave(step, register.broker, vouched);
    let epoch = kept.unwrap_or(BrokerEpoch(step.index));
    // It has yet to catch up with the metadata: the leader unfences it when it has.
    step.put_broker(broker_of(register, epoch, true, false));
    Ok(Reply::BrokerRegistered { epoch })
}

/// The earlier incarnation leaves every ISR; without a vouch also every ELR, and nobody remembers it
/// as the last leader. A broker that was unregistered, too: its disks may be new.
fn leave(step: &mut Step<'_>, id: BrokerId, vouched: bool) {
    step.change_partitions_of(id, true, |partition| {
        let stays = vouched && !partition.isr.contains(&id);
        if stays || !is_trusted(partition, id) {
            return None;
        }
        let unclean = (!vouched).then_some(id);
        let isr = without(&partition.isr, &[id]);
        Some(Target { isr, unclean, forgotten: unclean, ..Target::of(partition) })
    });
}

/// Whether the partition counts on what the broker has on its disks.
fn is_trusted(partition: &Partition, id: BrokerId) -> bool {
    partition.isr.contains(&id)
        || partition.elr.contains(&id)
        || partition.last_known_leader == Some(id)
}

fn broker_of(
    register: &RegisterBroker,
    epoch: BrokerEpoch,
    fenced: bool,
    in_shutdown: bool,
) -> Broker {
    let mut listeners = register.listeners.clone();
    listeners.sort();
    let mut directories = register.directories.clone();
    directories.sort();
    Broker {
        id: register.broker,
        epoch,
        incarnation: register.incarnation,
        listeners: listeners.into(),
        rack: register.rack.clone(),
        features: register.features,
        directories: directories.into(),
        fenced,
        in_shutdown,
    }
}

/// A registration that was on its way for long may come behind that of a later process, which lives: it has
/// no part in the sessions that this was admitted by.
fn check_follows(registered: Option<&Broker>, register: &RegisterBroker) -> Result<(), Rejection> {
    let now = registered.map_or(BrokerEpoch(0), |broker| broker.epoch);
    let is_next = register.follows.is_none_or(|follows| follows == now);
    if is_next || mutation::is(Bug::OvertakenRegistrationTaken) {
        return Ok(());
    }
    Err(Rejection::new(
        ErrorCode::DuplicateBrokerRegistration,
        format!(
            "broker {} was registered or unregistered by somebody else meanwhile: register again, and stop the \
             other process if there is one",
            register.broker
        ),
    ))
}

fn check_features(image: &MetadataImage, register: &RegisterBroker) -> Result<(), Rejection> {
    let level = image.feature_level;
    let features = register.features;
    if features.contains(level) {
        return Ok(());
    }
    Err(Rejection::new(
        ErrorCode::UnsupportedVersion,
        format!(
            "broker {} supports feature levels {} to {}, and the cluster is at {level}: run a \
             version that supports {level}",
            register.broker, features.min, features.max
        ),
    ))
}

fn check_shape(register: &RegisterBroker) -> Result<(), Rejection> {
    let RegisterBroker { broker, listeners, rack, directories, .. } = register;
    if *broker > BrokerId::MAX {
        return Err(invalid(format!("broker id {broker} is too high: use 0 to {}", BrokerId::MAX)));
    }
    if register.incarnation.0.is_nil() {
        return Err(invalid(format!(
            "broker {broker} names no incarnation: draw a random id at every start"
        )));
    }
    if listeners.len() > LISTENERS_MAX || directories.len() > DIRECTORIES_MAX {
        return Err(invalid(format!(
            "broker {broker} has {} listeners and {} directories: use at most {LISTENERS_MAX} and \
             {DIRECTORIES_MAX}",
            listeners.len(),
            directories.len()
        )));
    }
    for (at, listener) in listeners.iter().enumerate() {
        if !is_text(&listener.name) || !is_text(&listener.host) || listener.port == 0 {
            return Err(invalid(format!(
                "listener {at} of broker {broker} has no name, host or port: give a name and a \
                 host of 1 to {BROKER_TEXT_BYTES_MAX} bytes and a port from 1"
            )));
        }
        if listeners[..at].iter().any(|other| other.name == listener.name) {
            return Err(invalid(format!(
                "listener `{}` of broker {broker} is given twice: use a name once",
                listener.name.escape_debug()
            )));
        }
    }
    if rack.as_deref().is_some_and(|rack| !is_text(rack)) {
        return Err(invalid(format!(
            "the rack of broker {broker} is empty or too long: use 1 to {BROKER_TEXT_BYTES_MAX} \
             bytes or leave it out"
        )));
    }
    Ok(())
}

fn is_text(text: &str) -> bool {
    (1..=BROKER_TEXT_BYTES_MAX).contains(&text.len())
}

fn check_directories(image: &MetadataImage, register: &RegisterBroker) -> Result<(), Rejection> {
    let id = register.broker;
    let mut sorted: Vec<DirectoryId> = register.directories.clone();
    sorted.sort();
    if sorted.is_empty() {
        return Err(invalid(format!(
            "broker {id} has no log directory: register at least one directory id"
        )));
    }
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(invalid(format!(
            "directory {} of broker {id} is given twice: was it copied? format one of the copies",
            pair[0]
        )));
    }
    for other in image.brokers().filter(|other| other.id != id) {
        let shared = sorted.iter().find(|dir| other.directories.binary_search(dir).is_ok());
        if let Some(directory) = shared {
            return Err(invalid(format!(
                "directory {directory} of broker {id} is registered by broker {}: mount the right \
                 disk, or unregister broker {} if it is gone",
                other.id, other.id
            )));
        }
    }
    Ok(())
}

fn invalid(message: String) -> Rejection {
    Rejection::new(ErrorCode::InvalidRegistration, message)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::broker::{FeatureRange, Listener};
    use crate::command::Command;
    use crate::ids::{FeatureLevel, Incarnation};
    use crate::testing::{Cluster, registration};

    fn listener(name: &str, host: &str, port: u16) -> Listener {
        Listener { name: name.into(), host: host.into(), port }
    }

    fn refused(change: impl FnOnce(&mut RegisterBroker)) -> ErrorCode {
        let mut cluster = Cluster::of(&[1]);
        let mut register = registration(2);
        change(&mut register);
        cluster.refuse(Command::RegisterBroker(register))
    }

    #[test]
    fn a_range_without_the_finalized_level_is_unsupported() {
        for (min, max) in [(2, 3), (0, 0), (3, 1)] {
            let code = refused(|register| {
                register.features = FeatureRange { min: FeatureLevel(min), max: FeatureLevel(max) };
            });
            assert_eq!(code, ErrorCode::UnsupportedVersion, "{min} to {max}");
        }
    }

    /// A process died while its registration was on its way; the next one registered and lives.
    #[test]
    fn a_registration_that_is_overtaken_by_that_of_another_incarnation_is_refused() {
        let mut cluster = Cluster::of(&[]);
        let at = |start: u128, follows: u64| {
            let incarnation = Incarnation(Uuid::from_u128(start));
            let follows = Some(BrokerEpoch(follows));
            Command::RegisterBroker(RegisterBroker { incarnation, follows, ..registration(1) })
        };
        let epoch = |reply| match reply {
            Reply::BrokerRegistered { epoch } => epoch.get(),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            cluster.refuse(at(7, 1)),
            ErrorCode::DuplicateBrokerRegistration,
            "none is there"
        );
        let first = epoch(cluster.accept(at(7, 0)));
        let second = epoch(cluster.accept(at(8, first)));
        let registered = cluster.image().broker(BrokerId(1)).cloned();
        for (start, follows) in [(9, first), (9, 0), (7, 0)] {
            let code = cluster.refuse(at(start, follows));
            assert_eq!(code, ErrorCode::DuplicateBrokerRegistration, "{start} after {follows}");
        }
        assert_eq!(cluster.image().broker(BrokerId(1)).cloned(), registered);
        // The registered one asks again, as its answer was lost: it has its epoch.
        assert_eq!(epoch(cluster.accept(at(8, first))), second);
        cluster.accept(Command::UnregisterBroker { broker: BrokerId(1), epoch: None });
        assert_eq!(cluster.refuse(at(9, second)), ErrorCode::DuplicateBrokerRegistration);
        assert!(epoch(cluster.accept(at(9, 0))) > second);
    }

    #[test]
    fn directories_empty_doubled_or_of_another_broker_are_invalid() {
        let others = registration(1).directories;
        let own = registration(2).directories;
        for directories in [vec![], vec![own[0], own[0]], vec![own[0], others[0]]] {
            let code = refused(|register| register.directories = directories.clone());
            assert_eq!(code, ErrorCode::InvalidRegistration, "{directories:?}");
        }
        let too_many = (0..=DIRECTORIES_MAX).map(|n| DirectoryId(Uuid::from_u128(n as u128 + 99)));
        let code = refused(|register| register.directories = too_many.collect());
        assert_eq!(code, ErrorCode::InvalidRegistration);
    }

    #[test]
    fn what_cannot_be_reached_or_told_apart_is_invalid() {
        let long = "x".repeat(BROKER_TEXT_BYTES_MAX + 1);
        let many = || (0..=LISTENERS_MAX).map(|n| listener(&format!("L{n}"), "h", 1)).collect();
        type Fault<'a> = Box<dyn Fn(&mut RegisterBroker) + 'a>;
        let faults: Vec<Fault<'_>> = vec![
            Box::new(|register| register.broker = BrokerId(1 << 31)),
            Box::new(|register| register.incarnation = Incarnation(Uuid::nil())),
            Box::new(|register| register.listeners = vec![listener("", "h", 1)]),
            Box::new(|register| register.listeners = vec![listener("A", "", 1)]),
            Box::new(|register| register.listeners = vec![listener("A", "h", 0)]),
            Box::new(|register| register.listeners = vec![listener("A", &long, 1)]),
            Box::new(|register| {
                register.listeners = vec![listener("A", "h", 1), listener("A", "i", 2)];
            }),
            Box::new(|register| register.listeners = many()),
            Box::new(|register| register.rack = Some(String::new())),
            Box::new(|register| register.rack = Some(long.clone())),
        ];
        for (at, fault) in faults.iter().enumerate() {
            assert_eq!(refused(fault), ErrorCode::InvalidRegistration, "fault {at}");
        }
    }

    #[test]
    fn a_new_broker_is_fenced_and_its_epoch_is_the_index() {
        let mut cluster = Cluster::default();
        cluster.index = 41;
        let register = RegisterBroker {
            listeners: vec![listener("TLS", "b", 2), listener("PLAINTEXT", "a", 1)],
            rack: Some("r1".into()),
            ..registration(7)
        };
        let reply = cluster.accept(Command::RegisterBroker(register));
        assert_eq!(reply, Reply::BrokerRegistered { epoch: BrokerEpoch(42) });
        let broker = cluster.image().broker(BrokerId(7)).expect("registered");
        assert!(broker.fenced && !broker.in_shutdown && !broker.is_active());
        assert_eq!(broker.listeners[0].name, "PLAINTEXT", "in order of name");
        assert_eq!(broker.rack.as_deref(), Some("r1"));
    }

    #[test]
    fn the_same_incarnation_amends_and_keeps_epoch_flags_and_partitions() {
        let mut cluster = Cluster::with_topic(&[1, 2], &[1, 2], &[("min.insync.replicas", "2")]);
        cluster.fence(2);
        let before = cluster.shown();
        assert_eq!(before, "leader=1 isr=[1] elr=[2] last=- epochs=0/1");
        for id in [1, 2] {
            let epoch = cluster.session(id).epoch;
            // Without a vouch: a retry never touches the ELR.
            let amended = RegisterBroker { rack: Some("r".into()), ..registration(id) };
            let applied = cluster.apply(Command::RegisterBroker(amended.clone()));
            assert_eq!(applied.outcome.into_result(), Ok(Reply::BrokerRegistered { epoch }));
            assert!(applied.changes.partitions.is_empty());
            let broker = cluster.image().broker(BrokerId(id)).expect("registered");
            assert_eq!((broker.fenced, broker.rack.as_deref()), (id == 2, Some("r")));
            // And again: nothing changes at all.
            let again = cluster.apply(Command::RegisterBroker(amended));
            assert_eq!(again.changes, crate::Delta::default());
        }
        assert_eq!(cluster.shown(), before);
    }

    #[test]
    fn a_new_incarnation_leaves_the_isr_and_a_vouched_one_enters_the_elr() {
        for (vouched, becomes) in [
            (&[1][..], "leader=2 isr=[2] elr=[1] last=- epochs=1/1"),
            (&[7, 1], "leader=2 isr=[2] elr=[1] last=- epochs=1/1"),
            (&[7], "leader=2 isr=[2] elr=[] last=- epochs=1/1"),
            (&[], "leader=2 isr=[2] elr=[] last=- epochs=1/1"),
        ] {
            let mut cluster =
                Cluster::with_topic(&[1, 2], &[1, 2], &[("min.insync.replicas", "2")]);
            let epoch = BrokerEpoch(cluster.index + 1);
            assert_eq!(cluster.restart(1, 2, vouched), Reply::BrokerRegistered { epoch });
            assert_eq!(cluster.shown(), becomes, "vouched for {vouched:?}");
            assert!(cluster.image().broker(BrokerId(1)).is_some_and(|broker| broker.fenced));
        }
    }

    #[test]
    fn a_fenced_broker_stays_in_the_elr_only_if_it_vouches() {
        for (vouched, becomes) in [
            (&[1][..], "leader=2 isr=[2] elr=[1] last=- epochs=1/1"),
            (&[], "leader=2 isr=[2] elr=[] last=- epochs=1/2"),
        ] {
            let mut cluster =
                Cluster::with_topic(&[1, 2], &[1, 2], &[("min.insync.replicas", "2")]);
            cluster.fence(1);
            cluster.restart(1, 2, vouched);
            assert_eq!(cluster.shown(), becomes, "vouched for {vouched:?}");
        }
    }

    #[test]
    fn the_sole_replica_comes_back_after_kill_9_if_its_disks_are_whole() {
        let mut cluster = Cluster::with_topic(&[1], &[1], &[]);
        cluster.restart(1, 2, &[1]);
        assert_eq!(cluster.shown(), "leader=- isr=[] elr=[1] last=1 epochs=1/1");
        cluster.unfence(1);
        assert_eq!(cluster.shown(), "leader=1 isr=[1] elr=[] last=- epochs=2/2");

        let mut cluster = Cluster::with_topic(&[1], &[1], &[]);
        cluster.restart(1, 2, &[]);
        assert_eq!(cluster.shown(), "leader=- isr=[] elr=[] last=- epochs=1/1");
        cluster.unfence(1);
        assert_eq!(cluster.shown(), "leader=- isr=[] elr=[] last=- epochs=1/1", "not by itself");
    }

    #[test]
    fn a_zombie_that_registers_again_does_not_vouch_for_its_successor() {
        let mut cluster = Cluster::with_topic(&[1], &[1], &[]);
        cluster.restart(1, 2, &[1]);
        // The first process, with what it knows: not the second incarnation.
        cluster.restart(1, 1, &[1]);
        assert_eq!(cluster.shown(), "leader=- isr=[] elr=[] last=- epochs=1/2");
    }

    #[test]
    fn an_index_that_went_back_is_fatal() {
        let mut cluster = Cluster::of(&[1]);
        let register = RegisterBroker { incarnation: Incarnation(Uuid::max()), ..registration(1) };
        let command = Command::RegisterBroker(register);
        let error = cluster.machine.apply_command(1, &command).expect_err("an index twice");
        assert!(matches!(error, crate::ApplyError::OutOfOrder { index: 1, applied: 1 }));
    }
}
