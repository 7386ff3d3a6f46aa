//! [`Group`]: what one can ask of one group of a node.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_engine::{GroupId, NodeId};
use quorate_statemachine::StateMachine;
use tokio::sync::{oneshot, watch};

use crate::core::Input;
use crate::error::{ProposeError, ReadError, Stopped};
use crate::inbox::{Applied, Closed, Event, Inbox};
use crate::membership::{MembershipChanged, MembershipError, MembershipRequest};
use crate::meters::Meters;
use crate::proposal::Proposal;
use crate::publish::{Published, Publisher, Updates};
use crate::replica::Done;
use crate::session::Session;
use crate::status::{GroupStatus, LastAnswer, Leadership};
use crate::wait::Wait;

/// One group on a node. Clones are handles to the same group; none of them keeps the node running.
///
/// After the node has stopped, or the group was removed from it, everything that waits ends with an
/// error; the image stays as it was last.
pub struct Group<S: StateMachine>(Arc<Inner<S>>);

impl<S: StateMachine> Clone for Group<S> {
    fn clone(&self) -> Self {
        Group(self.0.clone())
    }
}

impl<S: StateMachine> std::fmt::Debug for Group<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group").field("id", &self.0.id).finish_non_exhaustive()
    }
}

struct Inner<S: StateMachine> {
    id: GroupId,
    inbox: Inbox<S>,
    publisher: Arc<Publisher<S>>,
    status: watch::Receiver<GroupStatus>,
    leadership: watch::Receiver<Leadership>,
    meters: Arc<Meters>,
}

impl<S: StateMachine> Group<S> {
    pub(crate) fn new(
        id: GroupId,
        inbox: Inbox<S>,
        publisher: Arc<Publisher<S>>,
        status: watch::Receiver<GroupStatus>,
        leadership: watch::Receiver<Leadership>,
        meters: Arc<Meters>,
    ) -> Self {
        Group(Arc::new(Inner { id, inbox, publisher, status, leadership, meters }))
    }

    /// Which group it is.
    pub fn id(&self) -> GroupId {
        self.0.id
    }

    /// Proposes a command and waits until it is applied on this node.
    ///
    /// On a follower it is forwarded to the leader. When it returns `Ok`, the image of this node
    /// shows it.
    ///
    /// Not cancel safe: if the future is dropped, the command may still be applied. Where what is unknown
    /// has to be tried again, propose in a session: [`Group::open_session`].
    ///
    /// # Errors
    ///
    /// [`ProposeError`]; [`ProposeError::never_applied`] tells whether it may be tried again.
    pub async fn propose(&self, command: Bytes) -> Result<Applied<S::Outcome>, ProposeError> {
        let Done { index, outcome } = self.submit(command.into()).await?;
        // An entry without a command: the leader that named its position cannot know.
        let outcome = outcome.ok_or(ProposeError::Superseded)?;
        Ok(Applied { index, outcome })
    }

    /// Opens a client session, in which commands can be proposed again without being applied again.
    ///
    /// It is tried until it succeeds or `within` has passed. Cancel safe, but for a session that may
    /// have been opened and that nobody uses; it expires when others need its place.
    ///
    /// # Errors
    ///
    /// Why the last try failed.
    pub async fn open_session(&self, within: Duration) -> Result<Session<S>, ProposeError> {
        Session::open(self, within).await
    }

    /// Proposes whatever may be proposed, and waits until its entry is applied on this node.
    pub(crate) async fn submit(
        &self,
        proposal: Proposal,
    ) -> Result<Done<S::Outcome>, ProposeError> {
        let (caller, answer) = oneshot::channel();
        let begun = Instant::now();
        match self.0.inbox.request(self.0.id, Input::Propose { proposal, caller }) {
            Ok(()) => match answer.await {
                Ok(result) => {
                    if result.is_ok() {
                        self.0.meters.commit.record_time(begun.elapsed());
                    }
                    result
                }
                Err(_) => Err(self.ended().await),
            },
            Err(Closed::Full) => Err(ProposeError::Overloaded),
            Err(Closed::Ended) => Err(self.ended().await),
        }
    }

    /// A linearizable barrier: the image of this node shows everything that was committed, by
    /// anyone, before the call. Returns the index that was waited for.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// [`ReadError`]; trying again is always safe.
    pub async fn read_index(&self) -> Result<u64, ReadError> {
        let (caller, answer) = oneshot::channel();
        match self.0.inbox.request(self.0.id, Input::Read { caller }) {
            Ok(()) => answer.await.unwrap_or(Err(ReadError::ShutDown)),
            Err(Closed::Full) => Err(ReadError::Overloaded),
            Err(Closed::Ended) => Err(ReadError::ShutDown),
        }
    }

    /// Waits until this node has applied `index`. Waits for ever where no quorum commits it: put
    /// a limit around it.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// [`Stopped`] when the group stops first.
    pub async fn wait_applied(&self, index: u64) -> Result<(), Stopped> {
        // So it is wherever the caller's node leads; and many may ask at the same time.
        if self.0.publisher.has_applied(index) {
            return Ok(());
        }
        let mut applied = self.0.publisher.applied();
        let mut status = self.0.status.clone();
        tokio::select! {
            reached = applied.wait_for(|applied| *applied >= index) => {
                reached.map(|_| ()).map_err(|_| Stopped)
            }
            _ = status.wait_for(|status| status.fatal.is_some()) => Err(Stopped),
        }
    }

    /// The newest image of this node, and the index it was applied up to. Lock-free; it may lag
    /// behind the leader: see [`Group::read_index`].
    pub fn image(&self) -> Arc<Published<S::Image>> {
        self.0.publisher.newest()
    }

    /// A gap-free watch on the state.
    pub fn updates(&self) -> Updates<S> {
        self.0.publisher.watch()
    }

    /// The group as this node sees it now.
    pub fn status(&self) -> GroupStatus {
        let log_disk_bytes = self.0.meters.log_disk_bytes();
        GroupStatus { log_disk_bytes, ..self.0.status.borrow().clone() }
    }

    /// The same, to wait on. Take what you need and let go: while a borrowed status is held, the
    /// loop cannot publish the next, and waits.
    ///
    /// It changes with the group. The log's files are those of all groups: how much room they take
    /// is as of the group's last change here, but for group 1, which is always told.
    pub fn watch_status(&self) -> watch::Receiver<GroupStatus> {
        self.0.status.clone()
    }

    /// Whom this node takes for the leader, to wait on: for whoever has something under way that another
    /// leader knows nothing of. It changes with elections only, where the status does with every commit.
    pub fn watch_leader(&self) -> watch::Receiver<Leadership> {
        self.0.leadership.clone()
    }

    /// Whether there is no room on the disk for what is to be written, as the status says too.
    pub fn is_storage_full(&self) -> bool {
        self.0.status.borrow().storage_full
    }

    /// Waits until something is so in the group, for at most `timeout`:
    /// `group.wait(timeout).leader().await`.
    pub fn wait(&self, timeout: Duration) -> Wait {
        Wait::new(self.0.status.clone(), timeout)
    }

    /// Hands leadership to the voter on the node `to`, or else to the most advanced other voter, if
    /// this node leads. Returns at once; the status tells what came of it.
    pub fn transfer_leadership(&self, to: Option<NodeId>) {
        self.0.inbox.send(Event::Input(self.0.id, Input::TransferLeader { to }));
    }

    /// Changes who belongs to the group, if this node leads it. Returns when the change is
    /// committed, and a majority is sure to remember it where it took somebody's vote or place: what such
    /// a member has on its disk is not needed any more. Of a `dry_run` it returns at once, with what would be refused.
    ///
    /// Not cancel safe: if the future is dropped, the change may still be made.
    ///
    /// # Errors
    ///
    /// [`MembershipError`]; only [`MembershipError::Unknown`] leaves the outcome open.
    pub async fn change_membership(
        &self,
        request: MembershipRequest,
        dry_run: bool,
    ) -> Result<MembershipChanged, MembershipError> {
        self.0.inbox.change_membership(self.0.id, request, dry_run).await
    }

    /// When each member answered this node last, if it leads the group; else, and after the end,
    /// nothing. Asked for when it is wanted, since it changes with every heartbeat.
    ///
    /// Cancel safe.
    pub async fn last_answers(&self) -> Vec<LastAnswer> {
        let (caller, answer) = oneshot::channel();
        match self.0.inbox.ask_last_answers(self.0.id, caller) {
            Ok(()) => answer.await.unwrap_or_default(),
            Err(Closed::Full | Closed::Ended) => Vec::new(),
        }
    }

    /// Whether it takes part in elections here.
    pub(crate) fn is_serving(&self) -> bool {
        let status = self.0.status.borrow();
        status.serving && status.fatal.is_none()
    }

    /// Why nobody answers any more: the group's status says so before its callers are let go.
    async fn ended(&self) -> ProposeError {
        let mut status = self.0.status.clone();
        let fatal = status.wait_for(|status| status.fatal.is_some()).await;
        match fatal.ok().and_then(|status| status.fatal.clone()) {
            Some(reason) => ProposeError::Fatal(reason),
            None => ProposeError::ShutDown,
        }
    }
}
