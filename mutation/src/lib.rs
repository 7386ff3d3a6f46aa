//! Bugs that are made on purpose, one at a time, to see that the simulator finds them.
//!
//! Each [`Bug`] stands where somebody could make it: `if mutation::is(Bug::X)`, in one or two lines. Without
//! the feature `mutations`, which nothing but `quorate-sim` turns on, [`is`] is the constant `false`, and
//! the compiler leaves nothing of it. With it, a bug is there for the thread that runs inside `with`, and
//! nowhere else: the simulator runs a seed on one thread.
//!
//! How many seeds each takes is tested by `quorate-sim`; `docs/testing.md` has the table.

/// Declares the bugs, with what is wrong with each as its documentation and as a text.
macro_rules! bugs {
    ($($(#[doc = $what:literal])+ $bug:ident,)+) => {
        /// A bug that can be made.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Bug {
            $($(#[doc = $what])+ $bug,)+
        }

        impl Bug {
            /// All of them.
            pub const ALL: &'static [Bug] = &[$(Bug::$bug),+];

            /// What is wrong with it.
            #[must_use]
            pub fn what(self) -> &'static str {
                match self {
                    $(Bug::$bug => concat!($($what),+).trim_ascii(),)+
                }
            }
        }
    };
}

bugs! {
    /// engine: a batch is acknowledged without a sync
    SyncSkipped,
    /// engine: the record on disk has no vote
    VoteNotRecorded,
    /// engine: the record on disk has an old commit index
    CommitNotRecorded,
    /// engine: the old log stays when a snapshot replaces it
    OldLogKept,
    /// engine: the witness is written ahead of the batch
    WitnessAhead,
    /// engine: a log whose end is damaged is opened
    DamagedTailAccepted,
    /// engine: a snapshot file gets its name without a sync
    SnapshotNotSynced,
    /// engine: a received snapshot file gets its name without a sync
    ReceivedSnapshotNotSynced,
    /// engine: it tries again after a failed sync
    FailedSyncIgnored,
    /// loop: messages leave before what they speak of is durable
    MessagesNotHeld,
    /// loop: heartbeats and their answers leave before their term is durable
    TermNotHeld,
    /// loop: a vote leaves before it is durable
    VoteNotHeld,
    /// loop: an append is acknowledged before it is durable
    AcknowledgementNotHeld,
    /// loop: a leader counts itself before its own disk has the entry
    OwnCopyCountedEarly,
    /// loop: a term or vote without entries is not written
    BallotNotWritten,
    /// loop: a receipt releases what later writes hold
    ReceiptOfAllWrites,
    /// loop: messages that wait for the disk are dropped
    PersistedMessagesDropped,
    /// loop: committed entries that come together with new ones are dropped
    CommittedDropped,
    /// loop: a leader answers reads without asking a quorum
    ReadsUnconfirmed,
    /// loop: reads are answered before their index is applied
    ReadsBeforeApply,
    /// loop: Raft is not told what became of a snapshot's transfer
    SnapshotReportDropped,
    /// loop: a snapshot is acted on before the log begins with it
    InstallBeforeDurable,
    /// loop: the caller of a proposal that a new leader replaced hears nothing
    ReplacedCallerForgotten,
    /// loop: the caller of a proposal that a snapshot covers hears nothing
    OvertakenCallerForgotten,
    /// loop: a caller is told of whatever is committed at its index
    CallerByIndexOnly,
    /// loop: after a restart, entries are applied that the snapshot has
    ReplayedTwice,
    /// loop: an old snapshot goes before the record that names the new one is durable
    SnapshotRemovedEarly,
    /// loop: a learner is promoted before it has caught up
    PromotedBehind,
    /// replica: a change of the members is not applied
    MembersNotApplied,
    /// replica: snapshots lack the table of sessions
    SessionsNotInSnapshot,
    /// replica: a snapshot is restored as if it ended an entry earlier
    RestoredBehind,
    /// replica: a command that comes again is applied again
    RetryAppliedAgain,
    /// replica: restoring forgets the oldest session
    OldestSessionForgotten,
    /// state machine: a stale partition epoch is accepted
    PartitionEpochNotChecked,
    /// state machine: a broker of an earlier life is listened to
    BrokerEpochNotChecked,
    /// state machine: a registration that was overtaken by a later process's takes its place
    OvertakenRegistrationTaken,
    /// state machine: a partition changes within its epoch
    PartitionEpochKept,
    /// state machine: a new leader gets no new leader epoch
    LeaderEpochKept,
    /// state machine: a fenced broker stays in the ISR
    FencedStaysInSync,
    /// state machine: a broker's new incarnation keeps the epoch of the old one
    BrokerEpochKept,
    /// state machine: a fenced broker is elected
    FencedElected,
    /// state machine: an election depends on what else the process has done
    ElectionByChance,
    /// state machine: the hash of the state keeps a broker that has changed
    HashNotUpdated,
    /// driver: an entry is told to be applied when it is handed over
    AppliedToldEarly,
    /// driver: an empty disk acts as the member that its node was
    RejoinsAsBefore,
}

/// Whether `bug` is to be made on this thread.
#[cfg(not(feature = "mutations"))]
#[inline(always)]
#[must_use]
pub const fn is(_: Bug) -> bool {
    false
}

#[cfg(feature = "mutations")]
pub use made::{chance, is, with};

#[cfg(feature = "mutations")]
mod made {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static BUG: Cell<Option<Bug>> = const { Cell::new(None) };
        static CHANCES: Cell<u64> = const { Cell::new(0) };
    }

    /// Whether `bug` is to be made on this thread.
    #[must_use]
    pub fn is(bug: Bug) -> bool {
        BUG.get() == Some(bug)
    }

    /// What no replica can repeat, and a run of the simulator can: true every other time.
    #[must_use]
    pub fn chance() -> bool {
        CHANCES.replace(CHANCES.get() + 1) % 2 == 1
    }

    /// Makes `bug` on this thread while `f` runs.
    ///
    /// # Panics
    ///
    /// If `f` does; the bug ends with it.
    pub fn with<R>(bug: Bug, f: impl FnOnce() -> R) -> R {
        struct End;
        impl Drop for End {
            fn drop(&mut self) {
                BUG.set(None);
            }
        }
        let _end = End;
        BUG.set(Some(bug));
        CHANCES.set(0);
        f()
    }
}

/// What no replica can repeat; without bugs there is no such thing.
#[cfg(not(feature = "mutations"))]
#[inline(always)]
#[must_use]
pub const fn chance() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bug_is_said_in_other_words() {
        let mut all: Vec<_> = Bug::ALL.iter().map(|bug| bug.what()).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), Bug::ALL.len());
        assert!(all.iter().all(|what| what.contains(": ")), "{all:?}");
    }

    #[cfg(not(feature = "mutations"))]
    #[test]
    fn without_the_feature_there_is_no_bug() {
        const NONE: bool = is(Bug::SyncSkipped);
        assert!(!NONE && !Bug::ALL.iter().any(|bug| is(*bug)));
    }

    #[cfg(feature = "mutations")]
    #[test]
    fn a_bug_is_there_for_one_thread_and_until_the_end() {
        with(Bug::SyncSkipped, || {
            assert!(is(Bug::SyncSkipped) && !is(Bug::TermNotHeld));
            let other = std::thread::spawn(|| is(Bug::SyncSkipped)).join();
            assert!(!other.unwrap());
        });
        assert!(!is(Bug::SyncSkipped));
        let panicked = std::panic::catch_unwind(|| with(Bug::TermNotHeld, || panic!("on purpose")));
        assert!(panicked.is_err() && !is(Bug::TermNotHeld));
    }
}
