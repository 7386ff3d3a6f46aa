//! Fence, unfence, controlled shutdown, unregister: who may lead, and the elections that follow.
//!
//! A broker that leaves is first taken out of every ISR, with itself not electable, and only then
//! flagged: one command, so nobody ever sees a leader that may not lead.

use crate::broker::Broker;
use crate::change::Target;
use crate::command::BrokerSession;
use crate::error::{ErrorCode, Rejection};
use crate::ids::BrokerId;
use crate::machine::Step;
use crate::outcome::Reply;

pub(crate) fn fence(step: &mut Step<'_>, session: BrokerSession) -> Result<Reply, Rejection> {
    let fenced = Broker { fenced: true, ..step.session(session)?.clone() };
    let partitions_changed = leave_isrs(step, session.broker);
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

pub(crate) fn unregister(step: &mut Step<'_>, id: BrokerId) -> Result<Reply, Rejection> {
    if step.image.broker(id).is_none() {
        return Err(Rejection::new(
            ErrorCode::BrokerIdNotRegistered,
            format!("broker {id} is not registered: name a registered one, it may be gone already"),
        ));
    }
    // Whoever comes back with this id comes with disks that nobody knows: it leaves the ELR too.
    let partitions_changed = step.change_partitions_of(id, true, |partition| {
        let leaves = partition.isr.contains(&id) || partition.elr.contains(&id);
        leaves.then(|| Target { unclean: Some(id), ..Target::without_in_sync(partition, id) })
    });
    step.image.brokers.remove(&id);
    step.delta.brokers.insert(id);
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
