//! Changing who belongs to the group: what is asked, what is checked, and when it takes effect.
//!
//! **One change at a time.** raft-rs turns a second one into an empty entry without a word (trap
//! R09), so nothing is proposed while one is under way: uncommitted, not applied by the state
//! machine yet, or joint.
//!
//! **A change takes effect when its entry is handed out as committed**, in the loop and ahead of the
//! state machine. Nothing about it is made durable but the entry and the commit index of the
//! batches that follow. Why that is enough: to act on a membership is to campaign or to
//! acknowledge. A leader proposes no change that follows another before it has acted on that one, and
//! its appends say so; so whoever acknowledges the next change writes in the same batch that the last
//! is committed. (Of a command behind it that is not so.) At a restart the changes up to that commit
//! index take effect again before the first tick ([`Core::new`]). When those are let go whose vote was
//! taken is told in `departure.rs`.
//!
//! **Who is alive** is told by answers: a member is if one came within an election timeout.

use std::collections::BTreeSet;
use std::sync::Arc;

use mutation::Bug;
use quorate_engine::{LogId, NodeId};
use raft::eraftpb::{ConfChangeV2, Entry, EntryType, Message, MessageType};

use super::Core;
use super::departure::is_open;
use crate::change::{Change, Step};
use crate::members::{Member, MemberRole, Members, Promotion};
use crate::membership::{
    Join, MEMBERS_MAX, MemberChange, MembershipChanged, MembershipError, MembershipRequest,
};

/// Entries that a learner may be behind when it is given its vote: they are sent within one round
/// trip, and a busy group is never further ahead of a follower that keeps up.
const BEHIND_MAX: u64 = 1_000;

/// Members that one request may name.
const CHANGES_MAX: usize = 32;

/// A change that was proposed, and who waits for it.
#[derive(Debug)]
pub(super) struct Proposed<M> {
    pub(super) at: LogId,
    pub(super) deadline: u64,
    pub(super) caller: M,
}

impl<P, R, M> Core<P, R, M> {
    pub(super) fn change_membership(
        &mut self,
        request: &MembershipRequest,
        dry_run: bool,
        caller: M,
    ) {
        let change = match self.planned(request) {
            Ok(Some(change)) if !dry_run => change,
            // Nothing to do, or nothing to be done.
            Ok(_) => {
                let (index, members) = (self.members.index(), self.members.clone());
                let done = Ok(MembershipChanged { index, members });
                return self.effects.memberships.push((caller, done));
            }
            Err(error) => return self.effects.memberships.push((caller, Err(error))),
        };
        match self.propose_change(&change) {
            Ok(at) => {
                let deadline = self.deadline();
                self.changes.push(Proposed { at, deadline, caller });
            }
            Err(error) => self.effects.memberships.push((caller, Err(error))),
        }
    }

    /// The change that a request leads to, checked; `None` when it is done already.
    fn planned(&self, request: &MembershipRequest) -> Result<Option<Change>, MembershipError> {
        if !self.leads() {
            return Err(MembershipError::NotLeader { leader: self.leader() });
        }
        let change = match request {
            MembershipRequest::Join(join) => match self.joining(join)? {
                Some(change) => change,
                None => return Ok(None),
            },
            MembershipRequest::Address { node, addr } => {
                let member = self.members.of_node(*node).ok_or(MembershipError::NoMember(*node))?;
                if member.addr == *addr {
                    return Ok(None);
                }
                let member = Member { addr: addr.clone(), ..member.clone() };
                Change { steps: vec![Step::Update(member)] }
            }
            MembershipRequest::Change(changes) => self.changing(changes)?,
        };
        if self.is_changing() {
            return Err(MembershipError::Pending);
        }
        self.keeps_quorum(&change)?;
        Ok(Some(change))
    }

    fn joining(&self, join: &Join) -> Result<Option<Change>, MembershipError> {
        let node = join.binding.node_id;
        let said = (!join.addr.is_empty()).then(|| join.addr.clone());
        if let Some(member) = self.members.of_binding(join.binding) {
            let addr = said.unwrap_or_else(|| member.addr.clone());
            let member = Member { addr, ..member.clone() };
            return Ok((self.members.get(member.member_id) != Some(&member))
                .then(|| Change { steps: vec![Step::Update(member)] }));
        }
        let follows =
            |was| self.members.all_of_node(node).any(|old| old.binding.directory_id == was);
        if self.members.is_retired(join.binding) || join.was.is_some_and(|was| !follows(was)) {
            return Err(MembershipError::Retired(node));
        }
        if self.members.all_of_node(node).any(|old| !self.is_silent(old.member_id)) {
            return Err(MembershipError::StillActive(node));
        }
        let mut of_node = self.members.all_of_node(node);
        let old = of_node.next();
        if old.is_none() && self.members.len() >= MEMBERS_MAX {
            return Err(MembershipError::TooMany(MEMBERS_MAX));
        }
        // Another attempt of the same node may have left a learner behind, which never became
        // anything: the newcomer takes its place, and follows whom that one was to follow. So a node
        // that is formatted again and again has two members at most.
        let begun = of_node.filter(|begun| !self.members.is_voter(begun.member_id));
        let promotion = old.map_or(Promotion::Never, |old| Promotion::Replacing(old.member_id));
        let member_id = self.members.next_member_id();
        let addr = said.or_else(|| old.map(|old| old.addr.clone()));
        let addr = addr.ok_or(MembershipError::NoAddress(node))?;
        let newcomer = Member { member_id, binding: join.binding, addr, promotion };
        let gone = begun.map(|begun| Step::Remove(begun.member_id));
        Ok(Some(Change { steps: [Step::Add(newcomer)].into_iter().chain(gone).collect() }))
    }

    fn changing(&self, changes: &[MemberChange]) -> Result<Change, MembershipError> {
        let nodes: BTreeSet<NodeId> = changes.iter().map(MemberChange::node).collect();
        if changes.is_empty() || changes.len() > CHANGES_MAX || nodes.len() != changes.len() {
            return Err(MembershipError::Unsound);
        }
        let mut steps = Vec::new();
        for change in changes {
            let node = change.node();
            // While one is to take the place of another, the place and its role are the other's: the
            // newcomer gets what has become of them by then.
            let holder = self.members.all_of_node(node).next();
            let Some(member) = holder else {
                // It may have a say until its removal is sealed: asked again, it is not done yet.
                let departs = self.members.departed().iter().any(|gone| gone.node_id() == node);
                return Err(match departs {
                    true => MembershipError::Pending,
                    false => MembershipError::NoMember(node),
                });
            };
            let id = member.member_id;
            let is_voter = self.members.is_voter(id);
            match change {
                MemberChange::Add(_) | MemberChange::Promote(_) if is_voter => {
                    return Err(MembershipError::NoChange(node));
                }
                MemberChange::Add(_) if member.promotion != Promotion::Never => {
                    return Err(MembershipError::NoChange(node));
                }
                MemberChange::Add(_) => {
                    let promotion = Promotion::WhenCaughtUp;
                    steps.push(Step::Update(Member { promotion, ..member.clone() }));
                }
                MemberChange::Promote(_) => {
                    if !self.has_caught_up(id) {
                        let behind = self.behind(id);
                        return Err(MembershipError::NotCaughtUp { node, behind });
                    }
                    steps.push(Step::Promote(id));
                }
                MemberChange::Demote(_) | MemberChange::Remove(_) if id == self.own_id => {
                    return Err(MembershipError::Leads(node));
                }
                MemberChange::Demote(_) if !is_voter => {
                    return Err(MembershipError::NoChange(node));
                }
                MemberChange::Demote(_) => steps.push(Step::Demote(id)),
                // Whoever is to take its place goes too, or it would come back by itself.
                MemberChange::Remove(_) => {
                    let all = self.members.all_of_node(node);
                    steps.extend(all.map(|member| Step::Remove(member.member_id)));
                }
            }
        }
        Ok(Change { steps })
    }

    /// Whether a change is under way.
    pub(super) fn is_changing(&self) -> bool {
        self.is_under_way() || self.members.is_joint()
    }

    /// Whether a change was proposed that has not been applied. What an earlier term has left in the
    /// log counts for raft-rs until it is applied, or is not there any more.
    fn is_under_way(&self) -> bool {
        let LogId { index, term } = self.change_at;
        (term == self.raw.raft.term && index > self.handed) || self.raw.raft.has_pending_conf()
    }

    /// Refuses what would leave voters without a live majority, before the change or after it.
    fn keeps_quorum(&self, change: &Change) -> Result<(), MembershipError> {
        let before: BTreeSet<u64> = self.members.conf_state().voters.iter().copied().collect();
        let mut after = before.clone();
        for step in &change.steps {
            match step {
                Step::Promote(id) => drop(after.insert(*id)),
                Step::Demote(id) | Step::Remove(id) => drop(after.remove(id)),
                Step::Add(_) | Step::Update(_) => {}
            }
        }
        if after.is_empty() {
            return Err(MembershipError::LastVoter);
        }
        for voters in [before, after] {
            let live = voters.iter().filter(|id| self.is_live(**id)).count();
            let silent = voters.iter().filter(|id| self.is_silent(**id)).count();
            let (needed, voters) = (voters.len() / 2 + 1, voters.len());
            if live < needed && voters - silent >= needed {
                // Nobody knows yet: a new leader has still to hear of some.
                return Err(MembershipError::Pending);
            }
            if live < needed {
                return Err(MembershipError::WouldLoseQuorum { voters, live, needed });
            }
        }
        Ok(())
    }

    pub(super) fn propose_change(&mut self, change: &Change) -> Result<LogId, MembershipError> {
        if self.storage_full {
            return Err(MembershipError::Overloaded);
        }
        let entry = change.entry().map_err(|_| MembershipError::Unsound)?;
        self.append_change(entry)
    }

    fn append_change(&mut self, entry: Entry) -> Result<LogId, MembershipError> {
        let is_for_raft = entry.get_entry_type() == EntryType::EntryConfChangeV2;
        let at = self.append_entry(entry).ok_or(MembershipError::Overloaded)?;
        self.change_at = at;
        // raft-rs has made an empty entry of a change that it would not have; that it agreed with
        // our own check is seen here (trap R09).
        if is_for_raft && self.raw.raft.pending_conf_index != at.index {
            return Err(MembershipError::Pending);
        }
        Ok(at)
    }

    /// Appends an entry of our own on the leader. `None` where raft-rs refuses it: while leadership is
    /// handed over, or when too much is uncommitted.
    pub(super) fn append_entry(&mut self, entry: Entry) -> Option<LogId> {
        let index = self.raw.raft.raft_log.last_index() + 1;
        let mut propose = Message::default();
        propose.set_msg_type(MessageType::MsgPropose);
        propose.from = self.own_id;
        propose.entries = vec![entry].into();
        self.raw.raft.step(propose).ok()?;
        Some(LogId { index, term: self.raw.raft.term })
    }

    /// The entry at `at` is committed, and says this of the membership. Returns the members after it, if
    /// it changes them.
    pub(super) fn change_committed(
        &mut self,
        change: Option<(Option<Box<ConfChangeV2>>, Change)>,
        at: LogId,
    ) -> Option<Arc<Members>> {
        let changed =
            change.and_then(|(raft, change)| self.take_effect(raft.as_deref(), &change, at.index));
        let done: Vec<_> = self.changes.extract_if(.., |p| p.at.index <= at.index).collect();
        for Proposed { at: proposed, deadline, caller } in done {
            let answer = match &changed {
                Some(members) if proposed == at => {
                    let changed = MembershipChanged { index: at.index, members: members.clone() };
                    if is_open(members) {
                        self.departure.wait(deadline, caller, changed);
                        continue;
                    }
                    Ok(changed)
                }
                // Every node came to the same conclusion: it does not fit what was before it.
                None if proposed == at => Err(MembershipError::Pending),
                _ => Err(MembershipError::NotLeader { leader: self.leader() }),
            };
            self.effects.memberships.push((caller, answer));
        }
        changed
    }

    /// Raft and the table change together, or neither; the same on every node.
    fn take_effect(
        &mut self,
        raft: Option<&ConfChangeV2>,
        change: &Change,
        index: u64,
    ) -> Option<Arc<Members>> {
        if !self.members.admits(change) {
            tracing::warn!(group = %self.group, index, ?change, "a change of the membership is void");
            return None;
        }
        let conf_state = match raft.map(|raft| self.raw.apply_conf_change(raft)) {
            None => self.members.conf_state().clone(),
            Some(Ok(conf_state)) => conf_state,
            Some(Err(error)) => {
                tracing::warn!(group = %self.group, index, %error, "a change of the membership is void");
                return None;
            }
        };
        let members = Arc::new(self.members.changed(change, conf_state, index));
        tracing::info!(group = %self.group, index, voters = ?members.conf_state().voters, "the membership changed");
        self.set_members(members.clone());
        Some(members)
    }

    /// From now on these are the members, and this node may not be one of them.
    pub(super) fn set_members(&mut self, members: Arc<Members>) {
        let before = std::mem::replace(&mut self.members, members.clone());
        self.removed = members.get(self.own_id).is_none();
        self.answers.members_are(&members, self.now);
        self.strangers.known_below(members.next_member_id());
        if members.index() > before.index() {
            self.seal_last(&members);
        }
        self.effects.members = Some(members);
        if self.leads() && !self.members.is_voter(self.own_id) {
            self.give_way();
        }
        if self.removed {
            self.effects.removed = Some(self.members.index());
            // Who knows of this has no more to say to it, and whoever asks for its vote may need it at
            // once. (A leader that forgot it may be heard still, and is followed while it is.)
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, raft::INVALID_ID);
        }
    }

    /// Once a tick, on the leader: whoever has caught up gets its vote, and a joint configuration
    /// is left, should raft-rs have forgotten to (trap R09).
    pub(super) fn tick_membership(&mut self) {
        let overdue = |change: &mut Proposed<M>| change.deadline <= self.now;
        for late in self.changes.extract_if(.., overdue) {
            self.effects.memberships.push((late.caller, Err(MembershipError::Unknown)));
        }
        if !self.leads() || self.raw.raft.lead_transferee.is_some() || self.cannot_write() {
            return;
        }
        if self.members.is_joint() && !self.is_under_way() {
            return self.leave_joint();
        }
        if self.is_changing() {
            return;
        }
        let learners = self.members.iter().filter(|member| {
            member.promotion != Promotion::Never
                && !self.members.is_voter(member.member_id)
                && self.has_caught_up(member.member_id)
        });
        let promoted = learners.filter_map(|member| self.promoting(member)).next();
        if let Some(change) = promoted
            && let Err(error) = self.propose_change(&change)
        {
            tracing::debug!(group = %self.group, %error, "a learner was not promoted");
        }
    }

    /// Whether a tick may lead to a change of the membership, or to the end of a wait for one.
    pub(super) fn has_members_to_change(&self) -> bool {
        let wishes = |member: &Member| {
            member.promotion != Promotion::Never && !self.members.is_voter(member.member_id)
        };
        let leads_change = is_open(&self.members) || self.members.iter().any(wishes);
        let waits = !self.changes.is_empty() || self.departure.is_awaited();
        waits || (self.leads() && leads_change)
    }

    /// What makes of a learner what it is to be, if that can be now.
    fn promoting(&self, member: &Member) -> Option<Change> {
        let id = member.member_id;
        let steps = match member.promotion {
            Promotion::Never => return None,
            Promotion::WhenCaughtUp => vec![Step::Promote(id)],
            Promotion::Replacing(old) if !self.is_silent(old) => return None,
            Promotion::Replacing(old) => {
                // A non-voter is replaced in its own role.
                let first = match (self.members.role(old), self.members.get(old)) {
                    (Some(MemberRole::Voter), _) => Step::Promote(id),
                    (_, old) => {
                        let promotion = old.map_or(Promotion::Never, |old| old.promotion);
                        Step::Update(Member { promotion, ..member.clone() })
                    }
                };
                // And with it goes whatever else was begun in its place and came to nothing.
                let others = self.members.all_of_node(member.node_id());
                let others = others.map(|other| other.member_id).filter(|other| *other != id);
                [first].into_iter().chain(others.map(Step::Remove)).collect()
            }
        };
        let change = Change { steps };
        self.keeps_quorum(&change).is_ok().then_some(change)
    }

    fn leave_joint(&mut self) {
        let mut entry = Entry::default();
        entry.set_entry_type(EntryType::EntryConfChangeV2);
        if let Err(error) = self.append_change(entry) {
            tracing::debug!(group = %self.group, %error, "the joint configuration was not left yet");
        }
    }

    /// Whether a learner has all but the last entries and takes them as they come, or lacks nothing. One that
    /// waits for its first snapshot has nothing, however short the log is.
    fn has_caught_up(&self, member: u64) -> bool {
        if mutation::is(Bug::PromotedBehind) {
            return true;
        }
        let progress = self.raw.raft.prs().get(member);
        let last = self.raw.raft.raft_log.last_index();
        // raft-rs leaves `Probe` only when a member has acknowledged more than before. One that lacks nothing, behind
        // a snapshot whose acknowledgement overtook the report of its transfer, or a connection that broke, has no more
        // to acknowledge until something is proposed.
        let follows = progress.is_some_and(|p| match p.state {
            raft::ProgressState::Replicate => p.matched > 0,
            raft::ProgressState::Probe => p.matched == last,
            raft::ProgressState::Snapshot => false,
        });
        follows && self.is_live(member) && self.behind(member) <= BEHIND_MAX
    }

    /// Entries that a member lacks, as far as the leader knows.
    fn behind(&self, member: u64) -> u64 {
        let last = self.raw.raft.raft_log.last_index();
        let matched = self.raw.raft.prs().get(member).map_or(0, |progress| progress.matched);
        last.saturating_sub(matched)
    }

    /// Callers whose change stood at an index that a snapshot has replaced, or that wait at the end.
    pub(super) fn abandon_changes(&mut self, up_to: u64) {
        for change in self.changes.extract_if(.., |change| change.at.index <= up_to) {
            self.effects.memberships.push((change.caller, Err(MembershipError::Unknown)));
        }
    }
}
