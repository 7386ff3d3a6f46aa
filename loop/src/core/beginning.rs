//! How a core begins: it hands out what it knows to be committed, before anything else happens to it.
//!
//! Changes of the membership are among that, and a node must neither campaign nor acknowledge as what it was
//! before them. So nothing is stepped until all of it was handed out. A log may hold a million such
//! entries, and the state machine takes longer for them than the core: they come in parts, each with a call
//! of [`Core::effects`], for it to apply while the next are taken. Nobody is told of the members and groups
//! in between, which are those of some time ago.

use super::{Core, Effects};

/// Entries handed out in one go.
pub(super) const HANDED_MAX: usize = 8_192;

impl<P, R, M> Core<P, R, M> {
    /// Whether there is more that was known to be committed at the start.
    pub(crate) fn is_beginning(&self) -> bool {
        self.beginning
    }

    /// Hands out a part of what was known to be committed, of about so many entries, and tells whether that
    /// was the last.
    pub(super) fn begin(&mut self, entries_max: usize) -> bool {
        while self.beginning {
            if self.effects.fatal.is_some() || !self.raw.has_ready() {
                self.beginning = false;
                self.show_catalogue();
                self.begin_alone();
            } else if self.effects.handed() < entries_max {
                self.take_ready();
            } else {
                return false;
            }
        }
        true
    }

    /// What the state machine can go on with; the rest waits for the end of the beginning.
    pub(super) fn part_of_beginning(&mut self) -> Effects<P, R, M> {
        Effects { apply: std::mem::take(&mut self.effects.apply), ..Effects::default() }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use quorate_engine::{
        CacheBudget, DirectoryId, GroupId, GroupLog, LogId, NodeId, SnapshotMeta,
    };
    use raft::eraftpb::{ConfState, Entry};

    use super::*;
    use crate::catalogue::Catalogue;
    use crate::change::{Change, Step};
    use crate::config::LoopConfig;
    use crate::core::{Apply, Input};
    use crate::members::{Member, Members};

    /// The last entry that is known to be committed, and one that gives node 1 another address.
    pub(crate) const LAST: u64 = 20_000;
    pub(crate) const MOVED: u64 = 100;

    /// Node 1 of these voters, which finds all of that in its log.
    pub(crate) fn restarted<P, R, M>(voters: &[u8]) -> Core<P, R, M> {
        let group = GroupId::new(1).unwrap();
        let members = Members::founding(voters.iter().map(|&n| {
            let node_id = NodeId::new(n.into()).unwrap();
            (node_id, DirectoryId::from_bytes([n; 16]), format!("localhost:{n}"))
        }));
        let ids: Vec<u64> = voters.iter().map(|&n| n.into()).collect();
        let (id, conf_state) = (LogId { index: 1, term: 1 }, ConfState::from((ids, vec![])));
        let meta = SnapshotMeta { group, id, conf_state, members: members.encode() };
        let mut log = GroupLog::founded(group, &meta, &CacheBudget::new(1 << 20));
        let moved = Member { addr: "localhost:9".to_owned(), ..members.get(1).unwrap().clone() };
        let entries = (2..=LAST).map(|index| {
            let entry = match index {
                MOVED => Change { steps: vec![Step::Update(moved.clone())] }.entry().unwrap(),
                _ => Entry { data: "a command".into(), ..Entry::default() },
            };
            Entry { index, term: 1, ..entry }
        });
        log.append(&entries.collect::<Vec<_>>());
        let mut hard_state = log.hard_state().clone();
        hard_state.commit = LAST;
        log.set_hard_state(hard_state);
        log.persisted_to(LogId { index: LAST, term: 1 });
        let config = LoopConfig { apply_bytes_max: 16 << 10, ..LoopConfig::default() };
        Core::new(group, 1, (Arc::new(members), Catalogue::default()), log, config, 1).unwrap()
    }

    fn handed(effects: &Effects<u64, u64>) -> Vec<u64> {
        let indexes = |work: &Apply<u64>| match work {
            Apply::Entries(entries) => entries.iter().map(|entry| entry.at.index).collect(),
            Apply::Restore(_) => Vec::new(),
        };
        effects.apply.iter().flat_map(indexes).collect()
    }

    /// To see it fail: hand all of it out at once, tell of the members with each part, or let the only
    /// voter campaign at once.
    #[test]
    fn what_was_committed_is_handed_out_in_parts_and_then_the_only_voter_leads() {
        let mut core: Core<u64, u64> = restarted(&[1]);
        let mut all = Vec::new();
        let last = loop {
            let effects = core.effects();
            let part = handed(&effects);
            assert!((1..2 * HANDED_MAX).contains(&part.len()), "{}", part.len());
            all.extend(part);
            if !core.is_beginning() {
                break effects;
            }
            assert!(core.has_more());
            assert!(effects.members.is_none() && effects.catalogue.is_none());
        };
        assert_eq!(all, (2..=LAST).collect::<Vec<_>>());
        let moved = last.members.unwrap();
        assert_eq!((moved.index(), &*moved.get(1).unwrap().addr), (MOVED, "localhost:9"));
        assert!(last.catalogue.is_some());
        assert_eq!(last.campaign_after, None);
        core.step(Input::Applied(LAST - 1));
        assert_eq!(core.effects().campaign_after, None);
        core.step(Input::Applied(LAST));
        assert_eq!(core.effects().campaign_after, Some(Duration::ZERO));
    }

    /// To see it fail: leave `begin` out of `step`.
    #[test]
    fn nothing_is_stepped_before_all_was_handed_out() {
        let mut core: Core<u64, u64> = restarted(&[1, 2, 3]);
        core.effects();
        assert!(core.is_beginning());
        core.step(Input::Tick);
        assert!(!core.is_beginning());
        assert_eq!(core.status().members.index(), MOVED);
        let effects = core.effects();
        assert_eq!(handed(&effects).last(), Some(&LAST));
        assert_eq!(effects.campaign_after, None, "it is not alone");
    }
}
