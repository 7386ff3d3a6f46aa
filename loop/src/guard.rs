//! The ingress guard: what a peer may say to raft-rs.
//!
//! raft-rs trusts its peers. A message that no correct node would send makes it panic, poisons
//! its term, or, worst, makes a leader commit what no quorum holds: an append response beyond
//! the leader's log is counted as an acknowledgement. So every message passes [`admit`] before
//! `RawNode::step`. A voter that is authenticated and lies is out of scope, as everywhere in Raft:
//! what it claims to hold is counted, and whom it votes for is elected. But no lie makes a node
//! panic, and none does harm that outlasts it (`quorate-sim fuzz`).

use std::collections::BTreeSet;

use raft::eraftpb::{ConfState, Message, MessageType};

use crate::drops::DropCause;
use crate::meaning::Meaning;

/// How far ahead of ours a term may be: no honest cluster holds 2^32 elections between two
/// messages, and a term near the end of the range would leave no election after it.
pub(crate) const TERM_JUMP_MAX: u64 = 1 << 32;

/// A term that no cluster comes to, not even one that is made to jump with every tick.
const TERM_MAX: u64 = 1 << 63;

/// An index that no log comes to; beyond it, indexes could not be counted on.
pub(crate) const INDEX_MAX: u64 = 1 << 63;

/// What the guard must know of the node it guards.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    /// Our own member id.
    pub(crate) own_id: u64,
    /// The member id bound to the authenticated sender; `None` when it is no member.
    pub(crate) sender_id: Option<u64>,
    /// Whether the message names a member as its sender.
    pub(crate) from_is_member: bool,
    pub(crate) term: u64,
    /// The highest term that a message may bring now: [`TERM_JUMP_MAX`] beyond the term of the
    /// last tick.
    pub(crate) term_reach: u64,
    pub(crate) commit: u64,
    pub(crate) last_index: u64,
    /// Whether the whole log is persisted, as it is whenever a vote request has left.
    pub(crate) is_persisted: bool,
}

/// Checks one message and clears what must not be believed in it. `term_at` gives the term of an
/// index of this node's log, as far as it is known.
///
/// # Errors
///
/// Why the message must not reach raft-rs.
pub(crate) fn admit(
    message: &mut Message,
    view: View,
    term_at: impl Fn(u64) -> Option<u64>,
) -> Result<(), DropCause> {
    use MessageType::*;

    if message.to != view.own_id {
        return Err(DropCause::NotForUs);
    }
    if message.from == view.own_id || message.from == 0 {
        return Err(DropCause::ForgedSender);
    }
    match view.sender_id {
        Some(id) if id != message.from => return Err(DropCause::ForgedSender),
        // Who is no member speaks for no member either.
        None if view.from_is_member => return Err(DropCause::ForgedSender),
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
                return Err(DropCause::NotMember);
            }
        }
        MsgHup | MsgBeat | MsgPropose | MsgSnapStatus | MsgUnreachable | MsgCheckQuorum
        | MsgTransferLeader | MsgReadIndex | MsgReadIndexResp => return Err(DropCause::LocalType),
    }
    if message.term == 0 || message.term > TERM_MAX {
        return Err(DropCause::BadTerm);
    }
    if message.term > view.term_reach {
        return Err(DropCause::FarTerm);
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
        MsgAppend => entries_in_order(message).and_then(|()| agrees(message, view, term_at)),
        // Of whoever is a member here. A stranger may know later members than this node does, but
        // nobody stops it who is not known.
        MsgHeartbeat if message.commit > view.last_index => match view.sender_id {
            Some(_) => Err(DropCause::LostLog),
            None => Err(DropCause::Conflict),
        },
        MsgAppendResponse | MsgHeartbeatResponse => {
            // Of a rejection, `index` and the hint echo what we asked; of an acceptance, `index`
            // is the acknowledgement. `request_snapshot` is another index of the follower's log.
            let highest = message
                .index
                .max(message.reject_hint)
                .max(message.commit)
                .max(message.request_snapshot);
            if highest > view.last_index { Err(DropCause::BeyondLog) } else { Ok(()) }
        }
        // raft-rs asserts that whoever wins has persisted its log. Our request waits for that, so
        // that no answer to it can come sooner.
        MsgRequestVoteResponse if !view.is_persisted => Err(DropCause::NotAsked),
        MsgSnapshot => snapshot_fits(message, view, term_at),
        _ => Ok(()),
    }
}

fn entries_in_order(message: &Message) -> Result<(), DropCause> {
    let mut index = message.index;
    let mut term = message.log_term;
    // Only the beginning of all logs has term 0. raft-rs takes 0 for the term of any index that it
    // does not have, so that a hole in the log would match.
    if (index == 0) != (term == 0) {
        return Err(DropCause::BadEntries);
    }
    for entry in message.get_entries() {
        let next = index.checked_add(1);
        // Once it is committed, whoever cannot read what it says of members, sessions or groups must
        // stop.
        let known = Meaning::of(entry).is_ok();
        if Some(entry.index) != next || entry.term < term || entry.term == 0 || !known {
            return Err(DropCause::BadEntries);
        }
        index = entry.index;
        term = entry.term;
    }
    if term > message.term || index >= INDEX_MAX {
        return Err(DropCause::BadEntries);
    }
    Ok(())
}

/// What is committed never changes: an append that has another term there is no leader's.
fn agrees(
    append: &Message,
    view: View,
    term_at: impl Fn(u64) -> Option<u64>,
) -> Result<(), DropCause> {
    let entries = append.get_entries().iter().map(|entry| (entry.index, entry.term));
    let committed = std::iter::once((append.index, append.log_term))
        .chain(entries)
        .take_while(|(index, _)| *index <= view.commit);
    for (index, term) in committed {
        if term_at(index).is_some_and(|ours| ours != term) {
            return Err(DropCause::Conflict);
        }
    }
    Ok(())
}

fn snapshot_fits(
    message: &Message,
    view: View,
    term_at: impl Fn(u64) -> Option<u64>,
) -> Result<(), DropCause> {
    let meta = message.get_snapshot().get_metadata();
    let is_position =
        (1..INDEX_MAX).contains(&meta.index) && (1..=message.term).contains(&meta.term);
    if !is_position || !is_membership(meta.get_conf_state()) {
        return Err(DropCause::BadSnapshot);
    }
    // A snapshot beyond the commit index follows it, also in its term; one at the commit index is
    // the same entry. raft-rs ignores those before it.
    let fits = match term_at(view.commit) {
        Some(ours) if meta.index == view.commit => meta.term == ours,
        Some(ours) if meta.index > view.commit => meta.term >= ours,
        _ => true,
    };
    if fits { Ok(()) } else { Err(DropCause::Conflict) }
}

/// Whether raft-rs can restore this membership: it panics over one that it cannot.
fn is_membership(conf: &ConfState) -> bool {
    let set = |ids: &[u64]| {
        let set: BTreeSet<u64> = ids.iter().copied().collect();
        (set.len() == ids.len() && !set.contains(&0)).then_some(set)
    };
    let (Some(voters), Some(outgoing), Some(learners), Some(learners_next)) = (
        set(conf.get_voters()),
        set(conf.get_voters_outgoing()),
        set(conf.get_learners()),
        set(conf.get_learners_next()),
    ) else {
        return false;
    };
    let is_joint = !outgoing.is_empty();
    !voters.is_empty()
        && voters.is_disjoint(&learners)
        && outgoing.is_disjoint(&learners)
        // Voters of the old membership that become learners with the end of the change.
        && learners_next.is_subset(&outgoing)
        && learners_next.is_disjoint(&voters)
        && (is_joint || !conf.auto_leave)
}

#[cfg(test)]
#[allow(non_snake_case)]
mod tests {
    use raft::eraftpb::{ConfState, Entry, Snapshot};

    use super::*;

    const VIEW: View = View {
        own_id: 1,
        sender_id: Some(2),
        from_is_member: true,
        term: 5,
        term_reach: 5 + TERM_JUMP_MAX,
        commit: 6,
        last_index: 10,
        is_persisted: true,
    };

    /// As the core asks, of a log whose entries up to 7 are of term 4, and the others of term 5.
    fn admit(message: &mut Message, view: View) -> Result<(), DropCause> {
        super::admit(message, view, |index| match index {
            3..=7 => Some(4),
            8..=10 => Some(5),
            _ => None,
        })
    }

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
        assert_eq!(admit(&mut m, VIEW), Err(DropCause::ForgedSender));
        m.from = 1;
        assert_eq!(admit(&mut m, VIEW), Err(DropCause::ForgedSender));
        m.from = 2;
        m.to = 3;
        assert_eq!(admit(&mut m, VIEW), Err(DropCause::NotForUs));
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
            assert_eq!(admit(&mut message(kind), VIEW), Err(DropCause::LocalType), "{kind:?}");
        }
    }

    #[test]
    fn trap_R13_terms_are_neither_zero_nor_absurd() {
        for (term, expected) in [
            (0, Err(DropCause::BadTerm)),
            (5 + TERM_JUMP_MAX, Ok(())),
            (6 + TERM_JUMP_MAX, Err(DropCause::FarTerm)),
            (1 << 63, Err(DropCause::FarTerm)),
            ((1 << 63) + 1, Err(DropCause::BadTerm)),
            (u64::MAX, Err(DropCause::BadTerm)),
        ] {
            let mut m = message(MessageType::MsgHeartbeat);
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
            assert_eq!(admit(&mut m, VIEW), Err(DropCause::BeyondLog));
            m.index = 4;
            m.reject_hint = 11;
            assert_eq!(admit(&mut m, VIEW), Err(DropCause::BeyondLog));
        }
    }

    #[test]
    fn trap_R13_who_is_no_member_acknowledges_nothing_and_speaks_for_no_member() {
        let stranger = View { sender_id: None, from_is_member: false, ..VIEW };
        let mut m = message(MessageType::MsgAppendResponse);
        assert_eq!(admit(&mut m, stranger), Err(DropCause::NotMember));
        let mut m = message(MessageType::MsgHeartbeat);
        assert_eq!(admit(&mut m, stranger), Ok(()), "a lagging member takes them");
        let pretender = View { sender_id: None, ..VIEW };
        assert_eq!(admit(&mut m, pretender), Err(DropCause::ForgedSender));
    }

    #[test]
    fn trap_R13_entries_follow_one_another() {
        let good = [entry(8, 4), entry(9, 5)];
        for (entries, log_term, expected) in [
            (&good[..], 4, Ok(())),
            (&[entry(9, 5)][..], 4, Err(DropCause::BadEntries)),
            (&[entry(8, 3)][..], 4, Err(DropCause::BadEntries)),
            (&[entry(8, 5), entry(9, 4)][..], 4, Err(DropCause::BadEntries)),
            (&[entry(8, 6)][..], 4, Err(DropCause::BadEntries)),
            (&[entry(8, 4), entry(10, 4)][..], 4, Err(DropCause::BadEntries)),
        ] {
            let mut m = message(MessageType::MsgAppend);
            m.index = 7;
            m.log_term = log_term;
            m.entries = entries.to_vec().into();
            assert_eq!(admit(&mut m, VIEW), expected, "{entries:?}");
        }
        for index in [INDEX_MAX - 1, u64::MAX] {
            let mut m = message(MessageType::MsgAppend);
            (m.index, m.log_term) = (index, 4);
            m.entries = vec![entry(index.wrapping_add(1), 5)].into();
            assert_eq!(admit(&mut m, VIEW), Err(DropCause::BadEntries));
        }
    }

    /// It would stop the group wherever it is committed, and again whenever that is opened.
    #[test]
    fn trap_R13_what_nobody_could_read_is_not_taken() {
        for (context, expected) in [
            (&[0x42, 5, 26, 3, 2, 3, 4][..], Ok(())), // three groups are removed
            (&[0x42, 0], Err(DropCause::BadEntries)), // no change of the groups
            (&[0x42, 4, 26, 2, 3, 2], Err(DropCause::BadEntries)), // they do not ascend
            (&[0x42, 9, 26], Err(DropCause::BadEntries)), // cut short
            (&[0x12, 2, 8, 4], Err(DropCause::BadEntries)), // an unknown step in a session
            (&[0x4a, 0], Err(DropCause::BadEntries)), // of an unknown kind
        ] {
            let mut m = message(MessageType::MsgAppend);
            (m.index, m.log_term) = (7, 4);
            m.entries = vec![Entry { context: context.into(), ..entry(8, 5) }].into();
            assert_eq!(admit(&mut m, VIEW), expected, "{context:?}");
        }
    }

    #[test]
    fn trap_R13_what_is_not_there_matches_nothing() {
        // raft-rs finds term 0 at an index that it does not have.
        let mut m = message(MessageType::MsgAppend);
        (m.index, m.log_term, m.commit) = (40, 0, 40);
        assert_eq!(admit(&mut m, VIEW), Err(DropCause::BadEntries));
        (m.index, m.log_term) = (0, 3);
        assert_eq!(admit(&mut m, VIEW), Err(DropCause::BadEntries));
        (m.index, m.log_term, m.commit) = (0, 0, 0);
        assert_eq!(admit(&mut m, VIEW), Ok(()), "the beginning of every log");
    }

    #[test]
    fn trap_R13_an_append_does_not_contradict_what_is_committed() {
        let append = |index, log_term, entries: &[Entry]| {
            let mut m = message(MessageType::MsgAppend);
            (m.index, m.log_term, m.entries) = (index, log_term, entries.to_vec().into());
            admit(&mut m, VIEW)
        };
        assert_eq!(append(5, 4, &[entry(6, 4), entry(7, 5)]), Ok(()), "7 is not committed");
        assert_eq!(append(5, 4, &[entry(6, 5), entry(7, 5)]), Err(DropCause::Conflict));
        assert_eq!(append(6, 3, &[entry(7, 4)]), Err(DropCause::Conflict));
        assert_eq!(append(1, 1, &[entry(2, 2)]), Ok(()), "compacted: nothing is known of it");
    }

    #[test]
    fn trap_R13_nobody_votes_before_it_was_asked() {
        let in_flight = View { is_persisted: false, ..VIEW };
        let mut m = message(MessageType::MsgRequestVoteResponse);
        assert_eq!(admit(&mut m, in_flight), Err(DropCause::NotAsked));
        assert_eq!(admit(&mut m, VIEW), Ok(()));
    }

    #[test]
    fn trap_R13_a_heartbeat_beyond_the_log_means_that_the_log_was_lost() {
        let mut m = message(MessageType::MsgHeartbeat);
        m.commit = 11;
        assert_eq!(admit(&mut m, VIEW), Err(DropCause::LostLog));
        let stranger = View { sender_id: None, from_is_member: false, ..VIEW };
        assert_eq!(
            admit(&mut m, stranger),
            Err(DropCause::Conflict),
            "nobody whom it knows says so"
        );
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
        for (index, term, expected) in [
            (20, 6, Err(DropCause::BadSnapshot)),
            (INDEX_MAX, 5, Err(DropCause::BadSnapshot)),
            (20, 3, Err(DropCause::Conflict)),
            (6, 5, Err(DropCause::Conflict)),
            (6, 4, Ok(())),
            (5, 5, Ok(())),
        ] {
            let mut m = m.clone();
            m.mut_snapshot().mut_metadata().index = index;
            m.mut_snapshot().mut_metadata().term = term;
            assert_eq!(admit(&mut m, VIEW), expected, "({index}, {term})");
        }
    }

    #[test]
    fn trap_R13_a_snapshot_names_a_membership_that_raft_can_restore() {
        let conf = |voters: &[u64], outgoing: &[u64], learners: &[u64], next: &[u64]| {
            let mut conf = ConfState::from((voters.to_vec(), learners.to_vec()));
            (conf.voters_outgoing, conf.learners_next) = (outgoing.to_vec(), next.to_vec());
            conf
        };
        assert!(is_membership(&conf(&[1, 2], &[], &[3], &[])));
        assert!(is_membership(&conf(&[1, 2, 3], &[1, 2, 4, 6], &[5], &[4])));
        for (voters, outgoing, learners, next) in [
            (&[][..], &[][..], &[][..], &[][..]),
            (&[0, 1], &[], &[], &[]),
            (&[1, 1], &[], &[], &[]),
            (&[1, 2], &[], &[2], &[]),
            (&[1, 2], &[], &[3, 3], &[]),
            (&[1, 2], &[], &[0], &[]),
            (&[1, 2], &[], &[], &[3]),
            (&[1, 2], &[1, 3], &[3], &[]),
            (&[1, 2], &[1, 0], &[], &[]),
            (&[1, 2], &[1, 2], &[], &[2]),
            (&[1, 2], &[1, 3], &[], &[4]),
        ] {
            let conf = conf(voters, outgoing, learners, next);
            assert!(!is_membership(&conf), "{conf:?}");
        }
        let auto_leave = ConfState { auto_leave: true, ..conf(&[1, 2], &[], &[], &[]) };
        assert!(!is_membership(&auto_leave));
    }
}
