//! Hosts that become members, are members no longer, or come back on an empty disk.

use mutation::Bug;
use quorate_loop::{
    Input, Join, MemberChange, Members, MembershipChanged, MembershipError, MembershipRequest,
};

use super::coverage::{Event, Path};
use super::host::{End, Host};
use super::world::{Happening, World};
use super::{SimError, node_id};

/// Between two tries to be let in.
const PAUSE: u64 = 700_000;

impl World {
    /// A host whose directory waits asks whoever leads to be let in.
    pub(super) fn ask_in(&mut self, id: u64) {
        let Some(host) = self.hosts.get_mut(&id) else { return };
        if host.process.is_some() {
            return;
        }
        if let Some(member) = self.newest.of_node(node_id(id))
            && mutation::is(Bug::RejoinsAsBefore)
        {
            host.let_in = Some((member.member_id, self.newest.clone()));
        }
        if host.let_in.is_some() {
            return self.queue.after(0, Happening::Start(id));
        }
        let join = Join { binding: host.binding, addr: format!("127.0.0.1:{id}"), was: None };
        if let Some(leader) = self.leader() {
            self.request(leader, MembershipRequest::Join(join), Some(id));
        }
        self.queue.after(PAUSE, Happening::AskIn(id));
    }

    /// Asks a node for another membership; for a host that would be a member, if it is for one.
    fn request(&mut self, node: u64, request: MembershipRequest, asking: Option<u64>) {
        self.next_caller += 1;
        let caller = self.next_caller;
        self.safety.asked(node, caller, None);
        // The answer may come at once.
        self.asking.extend(asking.map(|host| (caller, host)));
        self.step(node, Input::Membership { request, dry_run: false, caller });
    }

    /// Somebody is told what became of such a request.
    pub(super) fn membership_for(
        &mut self,
        caller: u64,
        answer: Result<MembershipChanged, MembershipError>,
    ) {
        self.safety.answered(caller);
        let now = self.queue.now();
        self.trace.note(now, || match &answer {
            Ok(changed) => {
                format!("members at {}: {:?}", changed.index, changed.members.conf_state())
            }
            Err(error) => format!("members: {error}"),
        });
        let Some(id) = self.asking.remove(&caller) else { return };
        let Some(host) = self.hosts.get_mut(&id) else { return };
        if let Ok(changed) = answer
            && let Some(member) = changed.members.of_binding(host.binding)
            && host.let_in.is_none()
        {
            host.let_in = Some((member.member_id, changed.members.clone()));
            self.queue.after(0, Happening::Start(id));
        }
    }

    /// The members change in one way or another, if whoever leads agrees.
    pub(super) fn change_members(&mut self) {
        // A leader may think that a lost disk answers still, and take another vote away: that no Raft can
        // bear.
        if !self.replacing.is_empty() {
            return;
        }
        let Some(leader) = self.leader() else { return };
        let ids: Vec<u64> = self.hosts.keys().copied().collect();
        let mut changes = Vec::new();
        for _ in 0..1 + self.random.below(2) {
            let node = node_id(ids[self.random.below(ids.len() as u64) as usize]);
            changes.push(match self.random.below(4) {
                0 | 1 => MemberChange::Add(node),
                2 => MemberChange::Demote(node),
                _ => MemberChange::Promote(node),
            });
        }
        self.happened(Event::Members, 1_000_000, || format!("{changes:?}"));
        self.request(leader, MembershipRequest::Change(changes), None);
    }

    /// Nobody is given a vote while there is nothing on its disk: it would be counted, and could not vote.
    pub(super) fn has_voters_with_a_log(&mut self, members: &Members) {
        let is_new = |id: &&u64| !self.newest.is_voter(**id);
        let new = members.conf_state().voters.iter().filter(is_new);
        for member in new.filter_map(|id| members.get(*id)) {
            let host = self.hosts.get(&member.node_id().get());
            if host.is_some_and(|it| it.binding == member.binding && it.durable.last.index == 0) {
                let node = member.node_id();
                self.safety.violated(format!("node {node} is given a vote, and has no log yet"));
            }
        }
    }

    /// Whether a voter's disk may be lost: a majority has whole ones still, and runs, and knows who
    /// everybody is. What no Raft can bear is not asked of this one.
    pub(super) fn can_lose_the_disk_of(&self, id: u64) -> bool {
        let newest = &self.newest;
        let is_voter = |host: &Host| {
            newest.of_binding(host.binding).is_some_and(|member| newest.is_voter(member.member_id))
        };
        let is_sound = |host: &Host| {
            host.id != id
                && !host.is_rotten
                && is_voter(host)
                && host.process.as_ref().is_some_and(|process| {
                    process.core.status().members.index() == newest.index()
                        && process.replica.members().index() == newest.index()
                })
        };
        let sound = self.hosts.values().filter(|host| is_sound(host)).count();
        let voters = newest.conf_state().voters.len();
        self.hosts.get(&id).is_some_and(is_voter) && !newest.is_joint() && sound > voters / 2
    }

    /// A node's disk is replaced by an empty one.
    pub(super) fn wipe(&mut self, id: u64) -> Result<(), SimError> {
        self.end(id, End::Kill, None)?;
        self.lives += 1;
        let (life, config) = (self.lives, self.plan.engine_config.clone());
        if let Some(host) = self.hosts.get_mut(&id) {
            host.wipe(&config, life)?;
        }
        self.asking.retain(|_, host| *host != id);
        self.queue.after(PAUSE, Happening::AskIn(id));
        Ok(())
    }

    /// A node finds at its start that its group is damaged: another member takes its place.
    pub(super) fn found_damaged(&mut self, id: u64, what: &str) -> Result<(), SimError> {
        let now = self.queue.now();
        self.trace.note(now, || format!("node {id} is damaged: {what}"));
        if self.hosts.get(&id).is_some_and(|host| !host.is_rotten) {
            self.safety.violated(format!("node {id} is damaged, and nothing did that: {what}"));
        }
        self.coverage.went(Path::FoundDamage);
        self.wipe(id)
    }

    /// A node finds that it is no member: it comes back as another.
    pub(super) fn departed(&mut self, id: u64) -> Result<(), SimError> {
        self.wipe(id)
    }

    /// Whether whoever lost a disk has a place again.
    pub(super) fn look_for_replacements(&mut self) {
        let newest = &self.newest;
        let is_replaced = |id: &u64| {
            let Some(host) = self.hosts.get(id) else { return false };
            let own = newest.of_binding(host.binding);
            let votes = own.is_some_and(|member| newest.is_voter(member.member_id));
            !host.is_rotten && votes && newest.all_of_node(node_id(*id)).count() == 1
        };
        if !newest.is_joint() {
            let replaced = self.replacing.extract_if(.., |id| is_replaced(id)).count();
            (0..replaced).for_each(|_| self.coverage.went(Path::Replaced));
        }
    }
}
