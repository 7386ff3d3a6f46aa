//! [`Session`]: commands that may be proposed again, and are applied once.
//!
//! The replicated table of sessions (`quorate_statemachine::ClientSessions`) knows what was applied and
//! what came of it; this is the client's side of it. It numbers commands, tries each again while its
//! outcome is open, and tells the table with every try which is the lowest that somebody still waits for.
//!
//! A command is *finished* when its caller has been answered or has gone: nobody will propose it again.
//! So a caller that gives up lets go of its number, and a later command may take the mark beyond it. A
//! try of it that is still on its way is then not applied when it arrives late; one way or the other it is
//! applied at most once.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quorate_statemachine::{CommandId, SessionError, StateMachine, WINDOW};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::error::ProposeError;
use crate::group::Group;
use crate::inbox::Applied;
use crate::proposal::{Proposal, SessionStep};
use crate::replica::Done;

/// The first and the longest pause before a proposal is tried again. A new leader ends it at once.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// A client session of a group. Clones are handles to the same one, which may be used at the same time:
/// commands are not ordered among each other.
///
/// It outlives leaders and nodes. It ends with [`Session::close`], or when so many other sessions were
/// used since its last command that there is no room for it
/// ([`SESSIONS_MAX`](quorate_statemachine::SESSIONS_MAX) at least, unless their outcomes are large).
/// Silence does not end it.
pub struct Session<S: StateMachine>(Arc<Inner<S>>);

struct Inner<S: StateMachine> {
    group: Group<S>,
    id: u64,
    numbers: Mutex<Numbers>,
    finished: Notify,
}

/// The sequences of a session.
#[derive(Debug)]
struct Numbers {
    /// The lowest that is not finished; the next one, where all are.
    lowest: u64,
    /// Of that and each that was given since, whether it is finished.
    finished: VecDeque<bool>,
}

/// Why a command of a session has no outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionProposeError {
    /// There is no such session any more. The command was not applied and never will be.
    #[error(
        "the session has expired, and the command was not applied: open a new one, and try again"
    )]
    Expired,
    /// No try of the command came so far that it could be applied, and none will be.
    #[error("the command was not applied: {0}")]
    NotApplied(#[source] ProposeError),
    /// Whether the command was or will be applied, once, is unknown: time ran out, this node stopped, or
    /// the session expired between two tries.
    #[error("whether the command was applied is unknown: {0}")]
    Unknown(#[source] ProposeError),
    /// The command was applied, and its outcome is too long to be told twice; the first answer was lost.
    #[error("the command was applied, and its outcome was too long to be kept")]
    OutcomeNotKept,
}

impl SessionProposeError {
    /// Whether the command surely was not applied and never will be.
    #[must_use]
    pub fn never_applied(&self) -> bool {
        matches!(self, SessionProposeError::Expired | SessionProposeError::NotApplied(_))
    }
}

impl<S: StateMachine> Clone for Session<S> {
    fn clone(&self) -> Self {
        Session(self.0.clone())
    }
}

impl<S: StateMachine> std::fmt::Debug for Session<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("id", &self.0.id).finish_non_exhaustive()
    }
}

impl<S: StateMachine> Session<S> {
    pub(crate) async fn open(group: &Group<S>, within: Duration) -> Result<Self, ProposeError> {
        // Opened twice, it is two sessions, of which one is never used.
        let mut tries = Tries::new(group, within);
        loop {
            match tries.once(SessionStep::Open.into()).await {
                Ok(Done { index: id, .. }) => {
                    let (numbers, finished) = (Mutex::new(Numbers::new()), Notify::new());
                    return Ok(Session(Arc::new(Inner {
                        group: group.clone(),
                        id,
                        numbers,
                        finished,
                    })));
                }
                Err(error) => tries.again_after(error).await?,
            }
        }
    }

    /// Its id: the log index of the entry that opened it.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// Proposes a command, again and again until its outcome is known or `within` has passed, and waits
    /// until this node has applied it. However often it was proposed, it is applied once, and this is the
    /// outcome of that.
    ///
    /// While [`WINDOW`] commands of the session are under way, it waits for the first of them.
    ///
    /// If the future is dropped, the command is applied at most once, sooner or later or never.
    ///
    /// # Errors
    ///
    /// [`SessionProposeError`]; [`SessionProposeError::never_applied`] tells whether it may be proposed
    /// anew.
    pub async fn propose(
        &self,
        command: Bytes,
        within: Duration,
    ) -> Result<Applied<S::Outcome>, SessionProposeError> {
        let mut tries = Tries::new(&self.0.group, within);
        let number = match self.number_now() {
            Some(number) => number,
            None => timeout_at(tries.deadline, self.number())
                .await
                .map_err(|_| SessionProposeError::NotApplied(ProposeError::TimedOut))?,
        };
        let mut doubt = false;
        loop {
            let session = Some(SessionStep::Command(number.id()));
            let error = match tries.once(Proposal { command: command.clone(), session }).await {
                Ok(Done { index, outcome: Some(outcome) }) => {
                    return Ok(Applied { index, outcome });
                }
                // No command: the leader that named its position cannot know.
                Ok(Done { outcome: None, .. }) => ProposeError::Superseded,
                Err(error) => error,
            };
            doubt |= !error.never_applied();
            let given_up = match error {
                ProposeError::Session(SessionError::Expired) if !doubt => {
                    return Err(SessionProposeError::Expired);
                }
                ProposeError::Session(SessionError::OutcomeNotKept) => {
                    return Err(SessionProposeError::OutcomeNotKept);
                }
                error => tries.again_after(error).await,
            };
            given_up.map_err(|error| match doubt {
                true => SessionProposeError::Unknown(error),
                false => SessionProposeError::NotApplied(error),
            })?;
        }
    }

    /// Closes the session, for all its handles. What is still proposed in it finds it expired.
    ///
    /// It is tried until it succeeds or `within` has passed. Cancel safe: a session that is not closed
    /// expires when others need its place.
    ///
    /// # Errors
    ///
    /// Why the last try failed.
    pub async fn close(&self, within: Duration) -> Result<(), ProposeError> {
        let mut tries = Tries::new(&self.0.group, within);
        loop {
            match tries.once(SessionStep::Close(self.0.id).into()).await {
                Ok(_) => return Ok(()),
                Err(error) => tries.again_after(error).await?,
            }
        }
    }

    /// The next number, as soon as it is within the window.
    async fn number(&self) -> Number<'_, S> {
        loop {
            // Before looking, so that no end of a command in between is missed.
            let finished = self.0.finished.notified();
            if let Some(number) = self.number_now() {
                return number;
            }
            finished.await;
        }
    }

    /// The next number, if it is within the window.
    fn number_now(&self) -> Option<Number<'_, S>> {
        let sequence = self.0.numbers().next()?;
        Some(Number { session: &self.0, sequence })
    }
}

impl<S: StateMachine> Inner<S> {
    /// Critical sections here move numbers; none can panic half way.
    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Numbers {
    fn new() -> Self {
        Numbers { lowest: 1, finished: VecDeque::new() }
    }

    fn next(&mut self) -> Option<u64> {
        let given = self.finished.len() as u64;
        if given >= WINDOW {
            return None;
        }
        self.finished.push_back(false);
        Some(self.lowest + given)
    }

    /// Nobody waits for a number any more that was given. Whether there is a place for another now.
    fn finish(&mut self, sequence: u64) -> bool {
        let at = usize::try_from(sequence - self.lowest).ok();
        if let Some(finished) = at.and_then(|at| self.finished.get_mut(at)) {
            *finished = true;
        }
        let before = self.lowest;
        while self.finished.pop_front_if(|finished| *finished).is_some() {
            self.lowest += 1;
        }
        self.lowest > before
    }
}

/// The number of a command that is under way, until it is dropped.
struct Number<'a, S: StateMachine> {
    session: &'a Inner<S>,
    sequence: u64,
}

impl<S: StateMachine> Number<'_, S> {
    fn id(&self) -> CommandId {
        let lowest_unfinished = self.session.numbers().lowest;
        CommandId { session: self.session.id, sequence: self.sequence, lowest_unfinished }
    }
}

impl<S: StateMachine> Drop for Number<'_, S> {
    fn drop(&mut self) {
        let has_place = self.session.numbers().finish(self.sequence);
        if has_place {
            self.session.finished.notify_waiters();
        }
    }
}

/// Repeats a proposal until a deadline.
struct Tries<'a, S: StateMachine> {
    group: &'a Group<S>,
    deadline: Instant,
    pause: Duration,
}

impl<'a, S: StateMachine> Tries<'a, S> {
    fn new(group: &'a Group<S>, within: Duration) -> Self {
        let now = Instant::now();
        // Too far away to be a time: a day is as good.
        let deadline = now.checked_add(within).unwrap_or(now + Duration::from_secs(86_400));
        Tries { group, deadline, pause: PAUSE_MIN }
    }

    /// One try. It also ends, with an unknown outcome, when there is another leader: what was proposed to
    /// the old one may wait for ever.
    async fn once(&self, proposal: Proposal) -> Result<Done<S::Outcome>, ProposeError> {
        let mut leadership = self.group.watch_leader();
        let term = leadership.borrow().term;
        let succeeded = async {
            let newer = leadership.wait_for(|now| now.term > term && now.leader.is_some());
            newer.await.is_ok()
        };
        tokio::select! {
            biased;
            done = timeout_at(self.deadline, self.group.submit(proposal)) => {
                done.unwrap_or(Err(ProposeError::TimedOut))
            }
            true = succeeded => Err(ProposeError::TimedOut),
        }
    }

    /// Waits until the next try, or returns the error of the last one if there is none.
    async fn again_after(&mut self, error: ProposeError) -> Result<(), ProposeError> {
        let is_final = match &error {
            ProposeError::Unsound | ProposeError::ShutDown | ProposeError::Fatal(_) => true,
            ProposeError::Session(SessionError::BeyondWindow | SessionError::Full) => false,
            ProposeError::Session(_) => true,
            _ => false,
        };
        let at = Instant::now() + self.pause;
        if is_final || at >= self.deadline {
            return Err(error);
        }
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        let mut leadership = self.group.watch_leader();
        let leader = leadership.borrow().leader;
        let changes = leadership.wait_for(|now| now.leader.is_some() && now.leader != leader);
        // Whichever comes first.
        let _ = timeout_at(at, changes).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_given_while_the_first_that_is_not_finished_is_in_the_window() {
        let mut numbers = Numbers::new();
        for sequence in 1..=WINDOW {
            assert_eq!(numbers.next(), Some(sequence));
        }
        assert_eq!(numbers.next(), None);
        // The first is still waited for.
        for sequence in [3, 2, WINDOW] {
            assert!(!numbers.finish(sequence));
            assert_eq!((numbers.next(), numbers.lowest), (None, 1));
        }
        assert!(numbers.finish(1));
        assert_eq!(numbers.lowest, 4);
        for sequence in 1..=3 {
            assert_eq!(numbers.next(), Some(WINDOW + sequence));
        }
        assert_eq!(numbers.next(), None);
        for sequence in 4..=WINDOW + 3 {
            if sequence != WINDOW {
                assert!(numbers.finish(sequence));
            }
        }
        assert_eq!((numbers.lowest, numbers.finished.len()), (WINDOW + 4, 0));
        assert_eq!(numbers.next(), Some(WINDOW + 4));
    }
}
