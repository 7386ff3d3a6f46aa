//! Members that come and go, die and are replaced, in any order and at any moment.

use std::collections::BTreeSet;
use std::path::PathBuf;

use quorate_engine::{DirectoryId, Founding, GroupLog, GroupWrite};
use raft::eraftpb::ConfState;

use super::super::net::group;
use super::*;
use crate::members::{Binding, MemberRole};
use crate::membership::{Join, MemberChange, MembershipRequest};

/// The nodes; those above 3 begin as no members.
const NODES: u64 = 5;

/// What happens next.
#[derive(Debug, Clone)]
enum Act {
    Tick(u64),
    TickAll,
    Sync(u64),
    Deliver(u64, u64),
    /// Everything arrives, and becomes durable.
    Settle,
    Drop(u64, u64),
    Propose(u64),
    Snapshot(u64),
    Transfer(u64),
    HandOver(u64, u64),
    Kill(u64),
    Start(u64),
    /// A node begins anew in an empty directory; the one that it had is kept.
    Wipe(u64),
    /// It goes on in the directory that it had before.
    Return(u64),
    /// A node whose directory waits to be let in asks for it.
    Ask(u64),
    Change(Vec<MemberChange>),
    Move(u64),
}

fn act() -> impl Strategy<Value = Act> {
    let n = || 1..=NODES;
    let change = || {
        (0..4u8, n()).prop_map(|(kind, n)| match kind {
            0 => MemberChange::Add(node(n)),
            1 => MemberChange::Promote(node(n)),
            2 => MemberChange::Demote(node(n)),
            _ => MemberChange::Remove(node(n)),
        })
    };
    prop_oneof![
        10 => n().prop_map(Act::Tick),
        10 => Just(Act::TickAll),
        16 => n().prop_map(Act::Sync),
        40 => (n(), n()).prop_map(|(a, b)| Act::Deliver(a, b)),
        10 => Just(Act::Settle),
        2 => (n(), n()).prop_map(|(a, b)| Act::Drop(a, b)),
        6 => n().prop_map(Act::Propose),
        4 => n().prop_map(Act::Snapshot),
        4 => n().prop_map(Act::Transfer),
        1 => (n(), n()).prop_map(|(a, b)| Act::HandOver(a, b)),
        2 => n().prop_map(Act::Kill),
        4 => n().prop_map(Act::Start),
        2 => n().prop_map(Act::Wipe),
        1 => n().prop_map(Act::Return),
        8 => n().prop_map(Act::Ask),
        8 => proptest::collection::vec(change(), 1..4).prop_map(Act::Change),
        1 => n().prop_map(Act::Move),
    ]
}

/// The group, and what stands behind its nodes.
struct Churn {
    net: Net,
    /// The directory of each node that it runs in, or would: by binding.
    current: BTreeMap<u64, Binding>,
    /// And the one that it had before.
    before: BTreeMap<u64, Binding>,
    /// Ids of those that were let in, for as long as they have nothing.
    let_in: BTreeMap<Binding, (u64, Arc<Members>)>,
    /// Who asked to be let in, by caller.
    asked: BTreeMap<u64, Binding>,
    /// On which node each request for another membership waits.
    changes: BTreeMap<u64, u64>,
    /// The latest members that anybody has acted on.
    newest: Arc<Members>,
    /// What anybody was told is applied.
    told: BTreeSet<u64>,
    next: u64,
    draws: u64,
}

impl Churn {
    fn new() -> Churn {
        let config = LoopConfig { tail_bytes: 0, ..config() };
        let net = Net::new(&[1, 2, 3], &[], config);
        let (current, newest) = (net.bindings.clone(), net.peers[&1].head.members.clone());
        Churn {
            net,
            current,
            before: BTreeMap::new(),
            let_in: BTreeMap::new(),
            asked: BTreeMap::new(),
            changes: BTreeMap::new(),
            newest,
            told: BTreeSet::new(),
            next: 0,
            draws: 0,
        }
    }

    fn runs(&self, n: u64) -> bool {
        self.net.peers.contains_key(&n)
    }

    fn path(&self, n: u64) -> PathBuf {
        self.net.dir.path().join(n.to_string())
    }

    fn leader(&self) -> Option<u64> {
        let leads = |(n, peer): (&u64, &super::super::net::Peer)| {
            let status = peer.core.status();
            (status.role == Role::Leader).then_some((status.term, *n))
        };
        self.net.peers.iter().filter_map(leads).max().map(|(_, n)| n)
    }

    fn kill(&mut self, n: u64) {
        self.net.kill(n);
        self.changes.retain(|_, on| *on != n);
    }

    fn start(&mut self, n: u64) {
        let Some(binding) = self.current.get(&n).copied().filter(|_| !self.runs(n)) else { return };
        self.net.bindings.insert(n, binding);
        match self.let_in.get(&binding).cloned() {
            Some(let_in) => drop(self.net.let_in.insert(n, let_in)),
            None => drop(self.net.let_in.remove(&n)),
        }
        let blank = self.net.engine(n).groups[&group()].snapshot.id.index == 0;
        if !blank || self.let_in.contains_key(&binding) {
            self.net.start(n);
        }
    }

    /// Whether the voters keep a majority of whole disks when these are the directories. Where they
    /// do not the group stands still for ever, as it must.
    fn is_whole(&self, current: &BTreeMap<u64, Binding>) -> bool {
        // Until a change is remembered, whom it took may be needed still.
        [&self.newest, &self.net.remembered].into_iter().all(|members| {
            let ConfState { voters, voters_outgoing, .. } = members.conf_state();
            [voters, voters_outgoing].into_iter().all(|voters| {
                let is_there = |id: &&u64| {
                    let binding = members.get(**id).map(|member| member.binding);
                    binding.is_some_and(|b| current.get(&b.node_id.get()) == Some(&b))
                };
                voters.is_empty() || voters.iter().filter(is_there).count() > voters.len() / 2
            })
        })
    }

    fn wipe(&mut self, n: u64) {
        let mut current = self.current.clone();
        current.remove(&n);
        if !self.is_whole(&current) {
            return;
        }
        self.kill(n);
        let (path, aside) = (self.path(n), self.path(n).with_extension("before"));
        if aside.exists() {
            std::fs::remove_dir_all(&aside).unwrap();
        }
        if let Some(binding) = self.current.remove(&n) {
            std::fs::rename(&path, &aside).unwrap();
            self.before.insert(n, binding);
        }
        let founding = Founding::Join(vec!["127.0.0.1:1".to_owned()]);
        quorate_engine::format(&path, self.net.cluster, node(n), founding).unwrap();
        let mut engine = self.net.engine(n);
        let write = GroupWrite {
            group: group(),
            number: 1,
            entries: Vec::new(),
            record: GroupLog::blank(group(), &engine.cache).record(),
            install: false,
            genesis: None,
        };
        let incarnation = engine.writer.write(vec![write]).unwrap().pop().unwrap().sequence();
        let directory_id: DirectoryId = engine.identity.directory_id;
        self.current.insert(n, Binding { node_id: node(n), directory_id, incarnation });
    }

    fn return_to(&mut self, n: u64) {
        let Some(before) = self.before.get(&n).copied() else { return };
        let mut current = self.current.clone();
        current.insert(n, before);
        if !self.is_whole(&current) {
            return;
        }
        self.kill(n);
        let (path, aside) = (self.path(n), self.path(n).with_extension("before"));
        let swapped = path.with_extension("swapped");
        std::fs::rename(&path, &swapped).unwrap();
        std::fs::rename(&aside, &path).unwrap();
        std::fs::rename(&swapped, &aside).unwrap();
        if let Some(now) = self.current.insert(n, before) {
            self.before.insert(n, now);
        }
        self.start(n);
    }

    fn request(&mut self, request: MembershipRequest) -> Option<u64> {
        let leader = self.leader()?;
        self.next += 1;
        let caller = self.next;
        self.changes.insert(caller, leader);
        self.net.step(leader, Input::Membership { request, dry_run: false, caller });
        Some(caller)
    }

    /// A node that waits to be let in asks whoever leads; where it has been, it starts.
    fn ask(&mut self, n: u64) {
        let Some(binding) = self.current.get(&n).copied().filter(|_| !self.runs(n)) else { return };
        if !self.let_in.contains_key(&binding) && binding.incarnation > 0 {
            let join = Join { binding, addr: format!("127.0.0.1:{n}"), was: None };
            let caller = self.request(MembershipRequest::Join(join));
            self.asked.extend(caller.map(|caller| (caller, binding)));
        }
        self.start(n);
    }

    fn carry_out(&mut self, act: Act) {
        match act {
            Act::Tick(n) if self.runs(n) => self.net.step(n, Input::Tick),
            Act::TickAll => {
                for n in self.net.peers.keys().copied().collect::<Vec<_>>() {
                    self.net.step(n, Input::Tick);
                }
            }
            Act::Sync(n) if self.runs(n) => self.net.sync(n),
            Act::Deliver(a, b) => while self.net.deliver(a, b) {},
            Act::Settle => self.net.settle(),
            Act::Drop(a, b) => drop(self.net.links.remove(&(a, b))),
            Act::Propose(n) if self.runs(n) => {
                self.next += 1;
                self.net.propose(n, self.next);
            }
            Act::Snapshot(n) if self.runs(n) => self.snapshot(n),
            Act::Transfer(n) if self.runs(n) => self.net.transfer_snapshots(n),
            Act::HandOver(n, to) if self.runs(n) => {
                self.net.step(n, Input::TransferLeader { to: Some(node(to)) });
            }
            Act::Kill(n) => self.kill(n),
            Act::Start(n) => self.start(n),
            Act::Wipe(n) => self.wipe(n),
            Act::Return(n) => self.return_to(n),
            Act::Ask(n) => self.ask(n),
            Act::Change(changes) => {
                self.request(MembershipRequest::Change(changes));
            }
            Act::Move(n) => {
                let addr = format!("127.0.0.1:{}", 1_000 + self.next);
                self.request(MembershipRequest::Address { node: node(n), addr });
            }
            _ => {}
        }
        self.look();
    }

    fn snapshot(&mut self, n: u64) {
        if !self.net.peers[&n].applied.is_empty() {
            self.net.take_snapshot(n);
        }
    }

    /// What must be true after every step, and what a driver does with what came of it.
    fn look(&mut self) {
        let mut removed = Vec::new();
        for (&n, peer) in &mut self.net.peers {
            for (caller, answer) in peer.memberships.drain(..) {
                assert_eq!(self.changes.remove(&caller), Some(n), "request {caller} on node {n}");
                if let (Some(binding), Ok(changed)) = (self.asked.remove(&caller), answer) {
                    let id = changed.members.of_binding(binding).unwrap().member_id;
                    let known = self.let_in.entry(binding).or_insert((id, changed.members));
                    assert_eq!(known.0, id, "{binding:?} has one name");
                }
            }
            self.told.extend(peer.answers.drain(..).filter_map(|(_, answer)| answer.ok()));
            let status = peer.core.status();
            let raft = peer.core.raw.raft.prs().conf().to_conf_state();
            if status.snapshot_index > 0 {
                let table = sorted(status.members.conf_state());
                assert_eq!(sorted(&raft), table, "node {n}: Raft, and the table");
            }
            let mut nodes: BTreeMap<NodeId, usize> = BTreeMap::new();
            for member in status.members.iter() {
                *nodes.entry(member.node_id()).or_default() += 1;
            }
            assert!(nodes.values().all(|count| *count <= 2), "node {n}: {:?}", status.members);
            if status.members.index() > self.newest.index() {
                self.newest = status.members.clone();
            } else if status.members.index() == self.newest.index() {
                assert_eq!(status.members.encode(), self.newest.encode(), "node {n}");
                assert_eq!(
                    sorted(status.members.conf_state()),
                    sorted(self.newest.conf_state()),
                    "node {n}"
                );
            }
            if status.role == Role::Removed {
                removed.push(n);
            }
            self.draws = self.draws.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(n);
            peer.core.draw_election_timeout(self.draws >> 33);
        }
        // They go on voting until somebody refuses them.
        removed.retain(|n| self.net.refuses(self.current[n]));
        for n in removed {
            self.kill(n);
        }
    }

    /// Everybody starts, and nothing goes wrong any more: the group comes to rest, with a leader and
    /// all its members alike.
    fn calm(&mut self) {
        // Members were removed whose majority hung on a disk that was lost a moment before.
        if !self.is_whole(&self.current) {
            return;
        }
        let election_ticks = self.net.config.election_ticks;
        // The end of all logs when no change can rest any more on a voter that has only just gone, and
        // the change by which the group lost its majority.
        let (mut checked, mut broken) = (0, None);
        for round in 0..400 {
            for n in 1..=NODES {
                self.ask(n);
            }
            if round <= election_ticks + 1 {
                let last_index = |peer: &super::super::net::Peer| peer.core.status().last_index;
                checked = self.net.peers.values().map(last_index).max().unwrap_or(0).max(checked);
            }
            self.net.tick_all(1);
            self.look();
            if broken.is_none() && !self.is_whole(&self.current) {
                broken = Some(self.newest.index());
            }
            for n in self.net.peers.keys().copied().collect::<Vec<_>>() {
                if std::mem::take(&mut self.net.peer(n).snapshot_wanted) {
                    self.snapshot(n);
                    self.net.settle();
                    self.look();
                }
            }
            let Some(leader) = self.leader() else { continue };
            if round % 10 == 0 {
                self.next += 1;
                self.net.propose(leader, self.next);
                self.net.settle();
            }
            if round > 100 && self.is_at_rest(leader) {
                return self.nobody_waits();
            }
        }
        // A change was under way that was checked while a voter had only just gone.
        if broken.is_some_and(|index| index <= checked) {
            return;
        }
        let statuses: Vec<_> = self.net.peers.iter().map(|(n, p)| (n, p.core.status())).collect();
        panic!("the group does not come to rest: {statuses:#?}");
    }

    /// Whoever asked for another membership, on a node that still runs, has been told.
    fn nobody_waits(&mut self) {
        for _ in 0..=self.net.config.request_ticks() {
            self.net.tick_all(1);
            self.look();
        }
        assert_eq!(self.changes, BTreeMap::new(), "requests that are never answered, by node");
    }

    fn is_at_rest(&self, leader: u64) -> bool {
        let led = &self.net.peers[&leader];
        let (status, all) = (led.core.status(), self.net.history.len());
        let is_member = |n: &u64| status.members.of_binding(self.current[n]).is_some();
        let alike = self.net.peers.iter().filter(|(n, _)| is_member(n)).all(|(_, peer)| {
            peer.applied == led.applied
                && peer.core.status().members.encode() == status.members.encode()
        });
        let wishes = status.members.iter().any(|member| {
            let stands = self.current.get(&member.node_id().get()) == Some(&member.binding);
            stands && status.members.role(member.member_id) == Some(MemberRole::Learner)
        });
        !status.members.is_joint() && led.applied.len() == all && alike && !wishes
    }
}

fn sorted(conf: &ConfState) -> ConfState {
    let mut conf = conf.clone();
    conf.voters.sort_unstable();
    conf.learners.sort_unstable();
    conf.voters_outgoing.sort_unstable();
    conf.learners_next.sort_unstable();
    conf
}

/// 24, or as many as `PROPTEST_CASES` says.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    /// Joins, promotions, removals, replacements, moves, kills and losses, in any order: one leader
    /// a term, one entry at an index, one table of members at an index and the same in Raft, one name
    /// for a directory, two members of a node at most, one answer to a request; and once nothing goes
    /// wrong any more, whoever is a member has all that was ever applied, and who was to vote votes.
    #[test]
    fn trap_R07_R09_R15_any_schedule_of_members_is_safe_and_ends_well(
        acts in proptest::collection::vec(act(), 1..500),
    ) {
        let mut churn = Churn::new();
        for act in acts {
            churn.carry_out(act);
        }
        churn.calm();
        let told = churn.told.last().copied().unwrap_or(0);
        prop_assert!(churn.net.history.contains_key(&told) || told == 0);
    }
}
