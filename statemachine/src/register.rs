//! RegisterBroker: a broker starts, or amends what it said when it started.
//!
//! Whether another incarnation still has a live session, and whether the broker belongs to this
//! cluster, is known where sessions and connections live: on the quorum leader, before it proposes.

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
    let vouched = registered.is_some_and(|broker| register.vouched.contains(&broker.incarnation));
    leave(step, register.broker, vouched);
    let epoch = BrokerEpoch(step.index);
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
