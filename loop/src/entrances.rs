//! [`Entrances`]: the requests of this node to be let into groups.

use std::sync::{Mutex, PoisonError};

use quorate_engine::GroupId;
use quorate_statemachine::StateMachine;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::inbox::{Event, Inbox};
use crate::joining::Joining;
use crate::members::Member;
use crate::membership::Join;

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
}

impl<S: StateMachine> Entrances<S> {
    /// Must be called on a tokio runtime.
    pub(crate) fn new(joining: Joining, advertise: Option<String>, inbox: Inbox<S>) -> Self {
        let (runtime, requests) = (Handle::current(), Mutex::default());
        Entrances { joining, advertise, inbox, runtime, requests }
    }

    /// Asks for a group that begins with the answer, until that is final.
    pub(crate) fn ask(&self, group: GroupId, join: Join) {
        let (joining, inbox) = (self.joining.clone(), self.inbox.clone());
        self.spawn(async move {
            let result = joining.ask(group, &join).await;
            inbox.send(Event::Entered(group, result));
        });
    }

    fn spawn(&self, asking: impl Future<Output = ()> + Send + 'static) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        while requests.try_join_next().is_some() {}
        requests.spawn_on(asking, &self.runtime);
    }

    /// Has the others know where this node, which is `member`, is reached now. The group runs already,
    /// or has stopped for a reason of its own by the time of the answer: nothing begins with that.
    pub(crate) fn mend_address(&self, group: GroupId, member: Option<&Member>) {
        let (Some(member), Some(addr)) = (member, &self.advertise) else { return };
        if member.addr == *addr {
            return;
        }
        let join = Join { binding: member.binding, addr: addr.clone(), was: None };
        let joining = self.joining.clone();
        self.spawn(async move {
            if let Err(why) = joining.ask(group, &join).await {
                tracing::warn!(%group, why, "the others do not take the new address of this node");
            }
        });
    }
}
