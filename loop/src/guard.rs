//! The ingress guard: what a peer may say to raft-rs.
//!
//! raft-rs trusts its peers. A message that no correct node would send makes it panic, poisons
//! its term, or, worst, makes a leader commit what no quorum holds: an append response beyond
//! the leader's log is counted as an acknowledgement. So every message passes [`admit`] before
//! `RawNode::step`. A voter that is authenticated and lies is out of scope, as everywhere in Raft.

use raft::eraftpb::{EntryType, Message, MessageType};

/// How far ahead of ours a term may be: no honest cluster holds 2^32 elections between two
/// messages, and a term near the end of the range would leave no election after it.
const TERM_JUMP_MAX: u64 = 1 << 32;

/// What the guard must know of the node it guards.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    /// Our own member id.
    pub(crate) own_id: u64,
    /// The member id bound to the authenticated sender; `None` when it is no member.
    pub(crate) sender_id: Option<u64>,
    pub(crate) term: u64,
    pub(crate) last_index: u64,
}

/// Why a message was kept from raft-rs.
///
/// Dropping is harmless: Raft sends again whatever mattered. Only [`Dropped::LostLog`] says
/// something about this node itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub(crate) enum Dropped {
    #[error("it is addressed to another member")]
    NotForUs,
    #[error("its sender is not the peer that the connection belongs to")]
    ForgedSender,
    #[error("peers may not send this type")]
    LocalType,
    #[error("it comes from a node that is no member")]
    NotMember,
    #[error("its term is zero or absurdly far ahead")]
    BadTerm,
    #[error("its entries do not follow one another, or change the membership")]
    BadEntries,
    #[error("it acknowledges entries that this node never had")]
    BeyondLog,
    #[error("its snapshot names no position or no voters")]
    BadSnapshot,
    /// A leader knows that this node once held more than it holds now.
    #[error(
        "the leader counts on entries that this node no longer has: the log was lost or rolled back"
    )]
    LostLog,
}

/// Checks one message and clears what must not be believed in it.
///
/// # Errors
///
/// Why the message must not reach raft-rs.
pub(crate) fn admit(message: &mut Message, view: View) -> Result<(), Dropped> {
    use MessageType::*;

    if message.to != view.own_id {
        return Err(Dropped::NotForUs);
    }
    if message.from == view.own_id || message.from == 0 {
        return Err(Dropped::ForgedSender);
    }
    match view.sender_id {
        Some(id) if id != message.from => return Err(Dropped::ForgedSender),
        _ => {}
    }
    let kind = message.get_msg_type();
    match kind {
        MsgAppend | MsgHeartbeat | MsgSnapshot | MsgRequestVote | MsgRequestPreVote => {}
        MsgAppendResponse
        | MsgHeartbeatResponse
        | MsgRequestVoteResponse
        | MsgRequestPreVoteResponse
        | MsgTimeoutNow => {
            // A member that lags may not know the newest members, so requests are taken from
            // any peer of the cluster; an answer counts towards a quorum, and must not.
            if view.sender_id.is_none() {
                return Err(Dropped::NotMember);
            }
        }
        MsgHup | MsgBeat | MsgPropose | MsgSnapStatus | MsgUnreachable | MsgCheckQuorum
        | MsgTransferLeader | MsgReadIndex | MsgReadIndexResp => return Err(Dropped::LocalType),
    }
    if message.term == 0 || message.term > view.term.saturating_add(TERM_JUMP_MAX) {
        return Err(Dropped::BadTerm);
    }
    // raft-rs fast-forwards its commit index by what votes say; nobody acknowledged that to us.
    if matches!(
        kind,
        MsgRequestVote | MsgRequestPreVote | MsgRequestVoteResponse | MsgRequestPreVoteResponse
    ) {
        message.commit = 0;
        message.commit_term = 0;
    }
    if message.term < view.term {
        // Stale: raft-rs looks at nothing but the type and the sender.
        return Ok(());
    }
    match kind {
        MsgAppend => entries_in_order(message),
        MsgHeartbeat if message.commit > view.last_index => Err(Dropped::LostLog),
        MsgAppendResponse | MsgHeartbeatResponse => {
            // Of a rejection, `index` and the hint echo what we asked; of an acceptance, `index`
            // is the acknowledgement. `request_snapshot` is another index of the follower's log.
            let highest = message
                .index
                .max(message.reject_hint)
                .max(message.commit)
                .max(message.request_snapshot);
            if highest > view.last_index { Err(Dropped::BeyondLog) } else { Ok(()) }
        }
        MsgSnapshot => {
            let meta = message.get_snapshot().get_metadata();
            let conf = meta.get_conf_state();
            let sane = meta.index > 0
                && meta.term > 0
                && meta.term <= message.term
                && !conf.get_voters().is_empty()
                && !conf.get_voters().contains(&0)
                && !conf.get_voters().iter().any(|voter| conf.get_learners().contains(voter));
            if sane { Ok(()) } else { Err(Dropped::BadSnapshot) }
        }
        _ => Ok(()),
    }
}

fn entries_in_order(message: &Message) -> Result<(), Dropped> {
    let mut index = message.index;
    let mut term = message.log_term;
    for entry in message.get_entries() {
        let next = index.checked_add(1);
        // No version makes entries of the old kind.
        let known = entry.get_entry_type() != EntryType::EntryConfChange;
        if Some(entry.index) != next || entry.term < term || entry.term == 0 || !known {
            return Err(Dropped::BadEntries);
        }
        index = entry.index;
        term = entry.term;
    }
    if term > message.term || index == u64::MAX {
        return Err(Dropped::BadEntries);
    }
    Ok(())
}

#[cfg(test)]
#[allow(non_snake_case)]
mod tests {
    use raft::eraftpb::{ConfState, Entry, Snapshot};

    use super::*;

    const VIEW: View = View { own_id: 1, sender_id: Some(2), term: 5, last_index: 10 };

    fn message(kind: MessageType) -> Message {
        let mut message = Message::default();
        message.set_msg_type(kind);
        message.to = 1;
        message.from = 2;
        message.term = 5;
        message
    }

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, ..Entry::default() }
    }

    #[test]
    fn trap_R13_only_the_authenticated_peer_speaks_for_itself() {
        let mut m = message(MessageType::MsgHeartbeat);
        assert_eq!(admit(&mut m, VIEW), Ok(()));
        m.from = 3;
        assert_eq!(admit(&mut m, VIEW), Err(Dropped::ForgedSender));
        m.from = 1;
        assert_eq!(admit(&mut m, VIEW), Err(Dropped::ForgedSender));
        m.from = 2;
        m.to = 3;
        assert_eq!(admit(&mut m, VIEW), Err(Dropped::NotForUs));
    }

    #[test]
    fn trap_R13_local_types_are_never_taken_from_a_peer() {
        use MessageType::*;
        for kind in [
            MsgHup,
            MsgBeat,
            MsgCheckQuorum,
            MsgUnreachable,
            MsgSnapStatus,
            MsgPropose,
            MsgReadIndex,
            MsgReadIndexResp,
            MsgTransferLeader,
        ] {
            assert_eq!(admit(&mut message(kind), VIEW), Err(Dropped::LocalType), "{kind:?}");
        }
    }

    #[test]
    fn trap_R13_terms_are_neither_zero_nor_absurd() {
        for (term, expected) in [
            (0, Err(Dropped::BadTerm)),
            (5 + TERM_JUMP_MAX, Ok(())),
            (6 + TERM_JUMP_MAX, Err(Dropped::BadTerm)),
            (u64::MAX, Err(Dropped::BadTerm)),
        ] {
            let mut m = message(MessageType::MsgAppend);
            m.term = term;
            assert_eq!(admit(&mut m, VIEW), expected, "term {term}");
        }
    }

    #[test]
    fn trap_R13_an_acknowledgement_beyond_the_log_is_not_counted() {
        for kind in [MessageType::MsgAppendResponse, MessageType::MsgHeartbeatResponse] {
            let mut m = message(kind);
            m.index = 10;
            assert_eq!(admit(&mut m, VIEW), Ok(()));
            m.index = 11;
            assert_eq!(admit(&mut m, VIEW), Err(Dropped::BeyondLog));
            m.index = 4;
            m.reject_hint = 11;
            assert_eq!(admit(&mut m, VIEW), Err(Dropped::BeyondLog));
        }
        let stranger = View { sender_id: None, ..VIEW };
        let mut m = message(MessageType::MsgAppendResponse);
        assert_eq!(admit(&mut m, stranger), Err(Dropped::NotMember));
        let mut m = message(MessageType::MsgAppend);
        assert_eq!(admit(&mut m, stranger), Ok(()), "a lagging member takes appends");
    }

    #[test]
    fn trap_R13_entries_follow_one_another() {
        let good = [entry(8, 4), entry(9, 5)];
        for (entries, log_term, expected) in [
            (&good[..], 4, Ok(())),
            (&[entry(9, 5)][..], 4, Err(Dropped::BadEntries)),
            (&[entry(8, 3)][..], 4, Err(Dropped::BadEntries)),
            (&[entry(8, 5), entry(9, 4)][..], 4, Err(Dropped::BadEntries)),
            (&[entry(8, 6)][..], 4, Err(Dropped::BadEntries)),
            (&[entry(8, 4), entry(10, 4)][..], 4, Err(Dropped::BadEntries)),
        ] {
            let mut m = message(MessageType::MsgAppend);
            m.index = 7;
            m.log_term = log_term;
            m.entries = entries.to_vec().into();
            assert_eq!(admit(&mut m, VIEW), expected, "{entries:?}");
        }
        let mut m = message(MessageType::MsgAppend);
        m.index = u64::MAX;
        m.entries = vec![entry(0, 5)].into();
        assert_eq!(admit(&mut m, VIEW), Err(Dropped::BadEntries));
    }

    #[test]
    fn trap_R13_a_heartbeat_beyond_the_log_means_that_the_log_was_lost() {
        let mut m = message(MessageType::MsgHeartbeat);
        m.commit = 11;
        assert_eq!(admit(&mut m, VIEW), Err(Dropped::LostLog));
        m.term = 4;
        assert_eq!(admit(&mut m, VIEW), Ok(()), "a stale leader's is ignored by raft-rs");
    }

    #[test]
    fn trap_R13_votes_carry_no_commit() {
        let mut m = message(MessageType::MsgRequestVote);
        m.commit = 9;
        m.commit_term = 5;
        assert_eq!(admit(&mut m, VIEW), Ok(()));
        assert_eq!((m.commit, m.commit_term), (0, 0));
    }

    #[test]
    fn trap_R13_a_snapshot_names_a_position_and_voters() {
        let mut snapshot = Snapshot::default();
        snapshot.mut_metadata().index = 20;
        snapshot.mut_metadata().term = 5;
        snapshot.mut_metadata().set_conf_state(ConfState::from((vec![1, 2], vec![])));
        let mut m = message(MessageType::MsgSnapshot);
        m.set_snapshot(snapshot.clone());
        assert_eq!(admit(&mut m, VIEW), Ok(()));
        m.mut_snapshot().mut_metadata().term = 6;
        assert_eq!(admit(&mut m, VIEW), Err(Dropped::BadSnapshot));
        m.set_snapshot(snapshot);
        m.mut_snapshot().mut_metadata().clear_conf_state();
        assert_eq!(admit(&mut m, VIEW), Err(Dropped::BadSnapshot));
    }
}
