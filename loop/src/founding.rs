//! [`Founding`]: how the initial voters learn which data directories they are.
//!
//! At format time a voter knows the others' addresses, not their directories. If it voted before
//! it knew them, a voter whose disk was wiped and formatted again could vote twice under one
//! name. So nobody votes before all initial voters agree on one set of (node, directory):
//!
//! ```text
//!   Collecting ── heard from every voter ──► set durable ──► Confirming
//!   Confirming ── all confirmed the same set, or one says complete ──► durable ──► Complete
//! ```
//!
//! Why it is safe: a node makes `complete` durable only when every voter of the set has made that
//! set durable, so at that time no voter can have, or ever accept, another set; and votes are cast
//! only by nodes that hold `complete`. A directory that replaces one of the set is told so by the
//! others, whatever it was formatted with.
//!
//! Pure: what to send and what to make durable is returned, not done.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message as _;
use quorate_engine::{DirectoryId, NodeId};

use crate::frame::{BindingWire, FoundingNews, directory_of};

/// How far the founding has come; each step is durable before the next begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Collecting,
    Confirming,
    Complete,
}

/// One voter's part in the founding.
#[derive(Debug)]
pub(crate) struct Founding {
    own: NodeId,
    voters: BTreeSet<NodeId>,
    phase: Phase,
    /// While collecting: those heard of. After that: the durable set.
    bindings: BTreeMap<NodeId, DirectoryId>,
    confirmed: BTreeSet<NodeId>,
    heard_complete: bool,
}

/// Writes that a founding takes at most; the core numbers its own from there.
pub(crate) const FOUNDING_WRITES: u64 = 2;

/// Why a founding cannot go on; an operator has to act.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FoundingError {
    /// The cluster exists, and knows this node by another directory.
    #[error(
        "this cluster is founded already and knows node {node} by another data directory than \
         this one: a wiped disk cannot come back as the voter it was; join it as a new member \
         with `quorate format --join`"
    )]
    Replaced { node: NodeId },
    /// The cluster is founded with this very directory, which has no record of it: its log is gone.
    #[error(
        "this cluster was founded with this data directory, which has lost its log: what it voted \
         and acknowledged is gone, so it must not vote again; keep it for inspection, and join \
         node {node} as a new member with `quorate format --join` in another directory"
    )]
    LostLog { node: NodeId },
    /// Two voters hold different sets, and no election has taken place.
    #[error(
        "node {from} was founded with another set of data directories than this node, so one of \
         them was formatted again meanwhile: no voter has voted yet; format all voters anew"
    )]
    Conflict { from: NodeId },
    /// The durable record cannot be read.
    #[error("the founding record of this directory is damaged: format a new directory")]
    Record,
}

/// What is made durable of a founding.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct FoundingRecord {
    #[prost(message, repeated, tag = "1")]
    bindings: Vec<BindingWire>,
    #[prost(bool, tag = "2")]
    complete: bool,
}

impl FoundingRecord {
    pub(crate) fn encode(&self) -> Bytes {
        self.encode_to_vec().into()
    }
}

impl Founding {
    /// Begins, or goes on from what an earlier run made durable.
    ///
    /// # Errors
    ///
    /// When the record is not one of ours, or not one of this directory.
    pub(crate) fn recover(
        own: (NodeId, DirectoryId),
        voters: BTreeSet<NodeId>,
        record: Option<&[u8]>,
    ) -> Result<Founding, FoundingError> {
        let (own, directory) = own;
        let mut founding = Founding {
            own,
            voters,
            phase: Phase::Collecting,
            bindings: BTreeMap::from([(own, directory)]),
            confirmed: BTreeSet::from([own]),
            heard_complete: false,
        };
        if let Some(bytes) = record {
            let record = FoundingRecord::decode(bytes).map_err(|_| FoundingError::Record)?;
            let bindings = set_of(&record.bindings).ok_or(FoundingError::Record)?;
            if bindings.get(&own) != Some(&directory) {
                return Err(FoundingError::Record);
            }
            founding.bindings = bindings;
            founding.phase = if record.complete { Phase::Complete } else { Phase::Confirming };
        }
        Ok(founding)
    }

    /// This node's member id: every founder's is its node id.
    pub(crate) fn own_id(&self) -> u64 {
        self.own.get()
    }

    /// Whether this node may vote.
    pub(crate) fn is_complete(&self) -> bool {
        self.phase == Phase::Complete
    }

    /// The directories of all voters, once they are durable here.
    pub(crate) fn bindings(&self) -> Option<&BTreeMap<NodeId, DirectoryId>> {
        (self.phase != Phase::Collecting).then_some(&self.bindings)
    }

    /// The directories as the next record has them.
    pub(crate) fn bindings_to_be(&self) -> &BTreeMap<NodeId, DirectoryId> {
        &self.bindings
    }

    /// What this node tells the others; it never speaks of what is not durable.
    pub(crate) fn news(&self, asks: bool) -> FoundingNews {
        let bindings = self.bindings().map(wire_of).unwrap_or_default();
        FoundingNews { bindings, complete: self.is_complete(), asks }
    }

    /// Takes in what the voter `from`, authenticated as `directory`, says.
    ///
    /// # Errors
    ///
    /// When the founding cannot go on; see [`FoundingError`].
    pub(crate) fn hear(
        &mut self,
        from: NodeId,
        directory: DirectoryId,
        news: &FoundingNews,
    ) -> Result<(), FoundingError> {
        if self.is_complete() || !self.voters.contains(&from) || from == self.own {
            return Ok(());
        }
        let theirs = if news.bindings.is_empty() {
            None
        } else {
            Some(set_of(&news.bindings).ok_or(FoundingError::Conflict { from })?)
        };
        if self.phase == Phase::Collecting {
            let own = self.bindings.get(&self.own);
            let (node, ours) = (self.own, theirs.as_ref().and_then(|set| set.get(&self.own)));
            match &theirs {
                // `complete` says that every voter, this one too, had made the set durable.
                Some(_) if news.complete && ours == own => {
                    return Err(FoundingError::LostLog { node });
                }
                Some(_) if news.complete => return Err(FoundingError::Replaced { node }),
                Some(_) if ours != own => return Err(FoundingError::Conflict { from }),
                _ => {}
            }
            self.bindings.insert(from, directory);
            return Ok(());
        }
        match theirs {
            None => Ok(()),
            Some(theirs) if theirs == self.bindings => {
                self.confirmed.insert(from);
                self.heard_complete |= news.complete;
                Ok(())
            }
            Some(_) if news.complete => Err(FoundingError::Replaced { node: self.own }),
            Some(_) => Err(FoundingError::Conflict { from }),
        }
    }

    /// What must be made durable now, if anything.
    pub(crate) fn next_record(&self) -> Option<FoundingRecord> {
        let complete = match self.phase {
            Phase::Collecting if self.bindings.keys().eq(self.voters.iter()) => false,
            Phase::Confirming if self.heard_complete || self.confirmed == self.voters => true,
            _ => return None,
        };
        Some(FoundingRecord { bindings: wire_of(&self.bindings), complete })
    }

    /// The record is durable: the next phase begins.
    pub(crate) fn persisted(&mut self, record: &FoundingRecord) {
        assert_eq!(self.next_record().as_ref(), Some(record), "only what was asked for is written");
        self.phase = if record.complete { Phase::Complete } else { Phase::Confirming };
    }
}

fn wire_of(bindings: &BTreeMap<NodeId, DirectoryId>) -> Vec<BindingWire> {
    let wire = |(node, directory): (&NodeId, &DirectoryId)| BindingWire {
        node_id: node.get(),
        directory_id: directory.as_bytes().to_vec(),
    };
    bindings.iter().map(wire).collect()
}

fn set_of(wire: &[BindingWire]) -> Option<BTreeMap<NodeId, DirectoryId>> {
    wire.iter().map(|b| Some((NodeId::new(b.node_id)?, directory_of(&b.directory_id)?))).collect()
}

#[cfg(test)]
#[allow(non_snake_case)]
mod tests {
    use super::*;

    fn node(n: u64) -> NodeId {
        NodeId::new(n).unwrap()
    }

    fn directory(n: u8) -> DirectoryId {
        DirectoryId::from_bytes([n; 16])
    }

    fn voter(n: u64, directory_id: u8) -> Founding {
        let voters = [1, 2, 3].map(node).into();
        Founding::recover((node(n), directory(directory_id)), voters, None).unwrap()
    }

    /// Makes durable whatever is asked for.
    fn persist(founding: &mut Founding) {
        while let Some(record) = founding.next_record() {
            founding.persisted(&record);
        }
    }

    fn tell(from: &Founding, directory_id: u8, to: &mut Founding) -> Result<(), FoundingError> {
        let result = to.hear(from.own, directory(directory_id), &from.news(true));
        persist(to);
        result
    }

    /// Two of three voters whose founding is complete.
    fn founded() -> (Founding, Founding) {
        let (mut a, mut b, mut c) = (voter(1, 1), voter(2, 2), voter(3, 3));
        for _ in 0..3 {
            tell(&b, 2, &mut a).unwrap();
            tell(&c, 3, &mut a).unwrap();
            tell(&a, 1, &mut b).unwrap();
            tell(&c, 3, &mut b).unwrap();
            tell(&a, 1, &mut c).unwrap();
            tell(&b, 2, &mut c).unwrap();
        }
        assert!(a.is_complete() && b.is_complete() && c.is_complete());
        (a, b)
    }

    #[test]
    fn three_voters_agree_and_only_then_may_vote() {
        let (mut a, mut b, mut c) = (voter(1, 1), voter(2, 2), voter(3, 3));
        tell(&b, 2, &mut a).unwrap();
        assert_eq!(a.bindings(), None);
        tell(&c, 3, &mut a).unwrap();
        assert_eq!(a.bindings().unwrap().len(), 3);
        assert!(!a.is_complete(), "the others have not confirmed");

        tell(&a, 1, &mut b).unwrap();
        tell(&c, 3, &mut b).unwrap();
        tell(&b, 2, &mut a).unwrap();
        assert!(!a.is_complete(), "one has not confirmed");

        tell(&a, 1, &mut c).unwrap();
        tell(&b, 2, &mut c).unwrap();
        tell(&c, 3, &mut a).unwrap();
        assert!(a.is_complete());
        tell(&a, 1, &mut b).unwrap();
        assert!(b.is_complete(), "one that is complete speaks for all");
    }

    #[test]
    fn a_single_voter_needs_nobody() {
        let own = (node(7), directory(7));
        let mut founding = Founding::recover(own, [node(7)].into(), None).unwrap();
        persist(&mut founding);
        assert!(founding.is_complete());
    }

    #[test]
    fn a_wiped_voter_is_told_how_to_come_back() {
        let (a, _) = founded();
        let mut wiped = voter(3, 9);
        assert_eq!(tell(&a, 1, &mut wiped), Err(FoundingError::Replaced { node: node(3) }));
        assert!(!wiped.is_complete());
    }

    #[test]
    fn a_voter_that_lost_its_log_does_not_found_itself_again() {
        let (a, b) = founded();
        // The same directory, and nothing in it.
        let mut lost = voter(3, 3);
        assert_eq!(tell(&a, 1, &mut lost), Err(FoundingError::LostLog { node: node(3) }));
        assert_eq!(tell(&b, 2, &mut lost), Err(FoundingError::LostLog { node: node(3) }));
        assert!(lost.bindings().is_none());
    }

    #[test]
    fn a_directory_that_changed_before_the_end_means_all_anew() {
        let (mut a, b, c) = (voter(1, 1), voter(2, 2), voter(3, 3));
        tell(&b, 2, &mut a).unwrap();
        tell(&c, 3, &mut a).unwrap();
        let mut again = voter(3, 9);
        assert_eq!(tell(&a, 1, &mut again), Err(FoundingError::Conflict { from: node(1) }));
        tell(&b, 2, &mut again).unwrap();
        let mut a_anew = voter(1, 1);
        tell(&b, 2, &mut a_anew).unwrap();
        tell(&again, 9, &mut a_anew).unwrap();
        assert_eq!(tell(&a, 1, &mut a_anew), Ok(()), "its own old news is not heard");
    }

    #[test]
    fn what_is_durable_is_gone_on_from() {
        let voters: BTreeSet<NodeId> = [1, 2, 3].map(node).into();
        let own = (node(1), directory(1));
        let mut a = voter(1, 1);
        tell(&voter(2, 2), 2, &mut a).unwrap();
        a.hear(node(3), directory(3), &voter(3, 3).news(true)).unwrap();
        let record = a.next_record().unwrap().encode();
        let again = Founding::recover(own, voters.clone(), Some(&record)).unwrap();
        assert_eq!(again.phase, Phase::Confirming);
        assert_eq!(again.bindings[&node(3)], directory(3));
        let other = (node(1), directory(8));
        let refused = Founding::recover(other, voters, Some(&record));
        assert_eq!(refused.unwrap_err(), FoundingError::Record);
    }
}
