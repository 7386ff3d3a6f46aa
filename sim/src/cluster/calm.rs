//! The end of a run: nothing goes wrong any more, and the cluster comes to rest.

use quorate_statemachine::StateMachine as _;

use super::node_id;
use super::world::{Happening, World};

impl World {
    /// All is healed: whoever is down starts, and clients finish what they are at and one thing more.
    pub(super) fn be_calm(&mut self) {
        self.is_calm = true;
        let now = self.queue.now();
        self.trace.note(now, || "calm".to_owned());
        self.network.heal();
        self.slow_disks.clear();
        self.slow_machines.clear();
        self.told_before_calm = self.clients.iter().map(|client| client.told).collect();
        let ids: Vec<u64> = self.hosts.keys().copied().collect();
        for id in ids {
            let Some(host) = self.hosts.get_mut(&id) else { continue };
            host.disk.heal();
            host.disk.set_capacity(None);
            match &mut host.process {
                Some(process) => process.stands_until = None,
                None => self.queue.after(0, Happening::Start(id)),
            }
        }
        self.calm_brokers();
        for number in 0..self.clients.len() {
            if self.clients[number].is_idle() {
                self.client_later(number, 0);
            }
        }
    }

    /// Whether everybody is a member that runs, has all that there is, and waits for nothing.
    pub(super) fn is_at_rest(&self) -> bool {
        self.why_no_rest().is_empty()
    }

    /// What is missing for that; nothing if it is at rest.
    pub(super) fn why_no_rest(&self) -> String {
        let Some(leader) = self.leader() else { return "nobody leads".to_owned() };
        let led = self.hosts.get(&leader).and_then(|host| host.process.as_ref());
        let Some(led) = led else { return "nobody leads".to_owned() };
        let members = led.replica.members();
        if members.is_joint() || members.index() != self.newest.index() {
            return format!("the members are changing: {members:?}");
        }
        let applied = led.replica.applied();
        if led.seen.last != applied.index || applied.index < self.safety.last_committed() {
            return format!("leader {leader} has applied {applied} of {}", led.seen.last);
        }
        for (id, host) in &self.hosts {
            let Some(process) = &host.process else { return format!("node {id} does not run") };
            if members.of_binding(host.binding).is_none() {
                return format!("node {id} is no member");
            }
            if members.all_of_node(node_id(*id)).count() != 1 {
                return format!("node {id} is several members");
            }
            if process.replica.applied() != applied {
                return format!("node {id} is at {}, not {applied}", process.replica.applied());
            }
        }
        let before = self.told_before_calm.iter();
        let mut clients = self.clients.iter().zip(before).enumerate();
        match clients.find(|(_, (client, before))| client.told <= **before) {
            Some((number, _)) => format!("client {number} is not served"),
            None => self.why_brokers_have_no_rest(&led.replica.state().image()).unwrap_or_default(),
        }
    }
}
