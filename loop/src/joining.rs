//! Joining: how a data directory that belongs to no member becomes one.
//!
//! ```text
//!   newcomer                      any node                     leader
//!   a blank group is durable,
//!   its batch is its incarnation
//!   Hello (joins) ──────────────► Welcome
//!   Join: binding, address ─────► not the leader: its address
//!   Hello, Join ────────────────────────────────────────────► a learner is proposed,
//!                                 Joined: id, members ◄────── committed, applied
//!   a core with that id,
//!   and a blank log         ◄──────────────────────────────── snapshot, appends
//! ```
//!
//! It may be asked again at any time, after a crash too: whoever is bound already is told its id.
//! Until its first snapshot a newcomer holds nothing, and votes for nobody.
//!
//! The same request from a member whose address has changed has the leader note the new one.

use std::sync::Arc;
use std::time::Duration;

use quorate_engine::{DirectoryId, GroupId, NodeId};
use tokio::sync::Semaphore;

use crate::join_wire::{JoinAnswerWire, JoinOutcome, JoinWire};
use crate::members::{Binding, Members, MembersError};
use crate::membership::Join;
use crate::transport::{SharedRoster, ask_to_join, jittered};

/// First and longest pause between two rounds of asking; doubled each time.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Leaders that are followed in one round: one names another while leadership moves.
const HINTS_MAX: usize = 3;

/// What a newcomer wants.
#[derive(Debug, Clone)]
pub(crate) enum Wish {
    /// What the request says.
    Join(Join),
    /// The place of the member on its node, whichever directory that is bound to; nothing, where
    /// the node is no member any more. So a directory comes back into a group that others know its
    /// node by, and stays out of one that it was removed from.
    Place { binding: Binding, addr: String },
}

/// A newcomer was let in.
#[derive(Debug)]
pub(crate) struct LetIn {
    /// Its name in the group; 0 if it has only asked what would be answered.
    pub(crate) member_id: u64,
    pub(crate) members: Arc<Members>,
}

/// Why a newcomer was not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotLetIn {
    /// It may be asked again.
    Yet(String),
    /// For good.
    Ever(String),
}

impl From<MembersError> for NotLetIn {
    fn from(error: MembersError) -> Self {
        NotLetIn::Ever(error.to_string())
    }
}

/// Asks to be let into groups.
#[derive(Debug, Clone)]
pub(crate) struct Joining {
    pub(crate) roster: SharedRoster,
    /// Where the cluster is reached, beside the peers of the roster.
    pub(crate) addresses: Vec<String>,
    /// Longest wait for one answer.
    pub(crate) silence: Duration,
}

impl Joining {
    /// Asks until an answer is final; each time, when `turns` lets it. Cancel safe: it may be asked
    /// again.
    ///
    /// # Errors
    ///
    /// Why the cluster will not have this directory.
    pub(crate) async fn ask(
        &self,
        group: GroupId,
        wish: &Wish,
        turns: &Semaphore,
    ) -> Result<LetIn, String> {
        let mut rounds = Rounds::default();
        loop {
            let turn = turns.acquire().await;
            let asked = match wish {
                Wish::Join(join) => self.ask_once(group, join, false).await,
                Wish::Place { binding, addr } => self.ask_for_place(group, *binding, addr).await,
            };
            drop(turn);
            match asked {
                Ok(let_in) => return Ok(let_in),
                Err(NotLetIn::Ever(why)) => return Err(why),
                Err(NotLetIn::Yet(why)) => rounds.pause(group, why).await,
            }
        }
    }

    /// Finds out who is on this node in the group's eyes, and asks to take that member's place.
    async fn ask_for_place(
        &self,
        group: GroupId,
        binding: Binding,
        addr: &str,
    ) -> Result<LetIn, NotLetIn> {
        let mut join = Join { binding, addr: addr.to_owned(), was: None };
        let members = self.ask_once(group, &join, true).await?.members;
        if members.of_binding(binding).is_none() {
            let old = members.all_of_node(binding.node_id).next();
            let old = old.ok_or_else(|| {
                NotLetIn::Ever(format!("node {} is no member of it any more", binding.node_id))
            })?;
            join.was = Some(old.binding.directory_id);
        }
        self.ask_once(group, &join, false).await
    }

    /// Whether there is no address to ask at.
    pub(crate) fn knows_nobody(&self) -> bool {
        self.addresses.is_empty() && self.roster.load().peers().next().is_none()
    }

    /// Asks everybody that is known, in turn, until one answers for the group.
    ///
    /// # Errors
    ///
    /// Why it was not let in; of several reasons, the one that tells most.
    pub(crate) async fn ask_once(
        &self,
        group: GroupId,
        join: &Join,
        dry_run: bool,
    ) -> Result<LetIn, NotLetIn> {
        let request = JoinWire::new(group, join, dry_run);
        let roster = self.roster.load_full();
        let known = roster.peers().filter_map(|peer| roster.addr(peer).map(str::to_owned));
        let mut addresses: Vec<String> = known.collect();
        addresses.extend(self.addresses.iter().cloned());
        addresses.sort_unstable();
        addresses.dedup();
        // Who was asked may still take this node for the leader that it was. It listens already, and
        // does not answer: to ask it is to wait in vain.
        let is_other = |leader: &str| !leader.is_empty() && leader != join.addr;
        let mut why = "nobody of this cluster can be reached".to_owned();
        for first in addresses {
            let mut addr = first;
            for _ in 0..HINTS_MAX {
                let answer = match ask_to_join(&self.roster, &addr, self.silence, &request).await {
                    Ok(answer) => answer,
                    Err(error) => {
                        tracing::debug!(addr, %error, "no answer to a request to join");
                        break;
                    }
                };
                match answer.outcome() {
                    JoinOutcome::LetIn => return let_in(&answer),
                    JoinOutcome::Refused => return Err(NotLetIn::Ever(answer.text)),
                    JoinOutcome::NotLeader if is_other(&answer.leader_addr) => {
                        addr = answer.leader_addr;
                    }
                    JoinOutcome::Later | JoinOutcome::NotLeader => {
                        why = answer.text;
                        break;
                    }
                }
            }
        }
        Err(NotLetIn::Yet(why))
    }
}

/// The pauses between the rounds of asking for one thing.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    done: u32,
    last: String,
}

impl Rounds {
    /// Waits before the next round, and tells why if that is news.
    pub(crate) async fn pause(&mut self, group: GroupId, why: String) {
        if why != self.last {
            tracing::info!(%group, why, "this node asks again");
            self.last = why;
        }
        let pause = PAUSE_MIN.saturating_mul(1 << self.done.min(16)).min(PAUSE_MAX);
        self.done = self.done.saturating_add(1);
        tokio::time::sleep(jittered(pause)).await;
    }
}

fn let_in(answer: &JoinAnswerWire) -> Result<LetIn, NotLetIn> {
    let members = Arc::new(answer.members()?);
    Ok(LetIn { member_id: answer.member_id, members })
}

/// What a newcomer that is to take the place of `was` would ask, before there is a directory that
/// it could ask for.
pub(crate) fn rehearsal(node_id: NodeId, addr: String, was: DirectoryId) -> Join {
    let directory_id = DirectoryId::random();
    let binding = Binding { node_id, directory_id, incarnation: 1 };
    Join { binding, addr, was: Some(was) }
}
