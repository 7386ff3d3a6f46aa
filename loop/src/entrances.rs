//! [`Entrances`]: the requests of this node to be let into groups.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_engine::GroupId;
use quorate_statemachine::StateMachine;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::inbox::{Event, Inbox};
use crate::joining::{Joining, NotLetIn, Rounds, Wish};
use crate::members::Member;
use crate::membership::{Join, MembershipError, MembershipRequest};

/// Requests that are on their way at a time, each on a connection of its own: a directory may have to
/// ask for thousands of groups.
const TURNS_MAX: usize = 16;

/// Asks for this node, one task for each request; what comes of it is an event. Dropping it ends
/// all of them.
pub(crate) struct Entrances<S: StateMachine> {
    joining: Joining,
    /// Where this node is reached, if it was told.
    advertise: Option<String>,
    inbox: Inbox<S>,
    runtime: Handle,
    /// At most one of each group.
    requests: Mutex<JoinSet<()>>,
    turns: Arc<Semaphore>,
    /// Groups that are asked to note another address, each once at a time.
    mending: Arc<Mutex<BTreeSet<GroupId>>>,
}

impl<S: StateMachine> Entrances<S> {
    /// Must be called on a tokio runtime.
    pub(crate) fn new(joining: Joining, advertise: Option<String>, inbox: Inbox<S>) -> Self {
        let (runtime, requests) = (Handle::current(), Mutex::default());
        let turns = Arc::new(Semaphore::new(TURNS_MAX));
        let mending = Arc::default();
        Entrances { joining, advertise, inbox, runtime, requests, turns, mending }
    }

    /// Asks for a group that begins with the answer, until that is final.
    pub(crate) fn ask(&self, group: GroupId, wish: Wish) {
        let (joining, inbox, turns) =
            (self.joining.clone(), self.inbox.clone(), self.turns.clone());
        self.spawn(async move {
            let result = joining.ask(group, &wish, &turns).await;
            inbox.send(Event::Entered(group, result));
        });
    }

    fn spawn(&self, asking: impl Future<Output = ()> + Send + 'static) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        while requests.try_join_next().is_some() {}
        requests.spawn_on(asking, &self.runtime);
    }

    /// Has the group know where this node, which is `member` in the eyes of its members, is reached now.
    /// Asked again with each later table, for an earlier one may be on its way to it. The group runs already, or has
    /// stopped for a reason of its own by the time of the answer: nothing begins with that.
    pub(crate) fn mend_address(&self, group: GroupId, member: Option<&Member>) {
        let (Some(member), Some(addr)) = (member, &self.advertise) else { return };
        if member.addr == *addr || !self.mending().insert(group) {
            return;
        }
        let join = Join { binding: member.binding, addr: addr.clone(), was: None };
        let (joining, inbox, turns) =
            (self.joining.clone(), self.inbox.clone(), self.turns.clone());
        let mending = self.mending.clone();
        self.spawn(async move {
            let (asked, mut rounds) = (MembershipRequest::Join(join.clone()), Rounds::default());
            loop {
                // Where this node leads there is nobody else to ask.
                let why = match inbox.change_membership(group, asked.clone(), false).await {
                    Ok(_) => break,
                    // The second where the group has stopped here, or was removed: the others tell.
                    Err(MembershipError::NotLeader { .. } | MembershipError::Unknown) => {
                        let turn = turns.acquire().await;
                        let answer = joining.ask_once(group, &join, false).await;
                        drop(turn);
                        match answer {
                            Ok(_) => break,
                            Err(NotLetIn::Yet(why)) => why,
                            Err(NotLetIn::Ever(why)) => break refused(group, &why),
                        }
                    }
                    Err(error) if error.is_retryable() => error.to_string(),
                    Err(error) => break refused(group, &error.to_string()),
                };
                rounds.pause(group, why).await;
            }
            mending.lock().unwrap_or_else(PoisonError::into_inner).remove(&group);
        });
    }

    fn mending(&self) -> MutexGuard<'_, BTreeSet<GroupId>> {
        // Nothing in the critical sections can panic half way.
        self.mending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refused(group: GroupId, why: &str) {
    tracing::warn!(%group, why, "the others do not take the new address of this node");
}
