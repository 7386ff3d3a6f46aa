//! [`SnapshotSends`]: snapshot files on their way to peers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use quorate_engine::{GroupId, LogId, SnapshotStore};
use quorate_statemachine::StateMachine;

use crate::core::Input;
use crate::inbox::{Event, Inbox};
use crate::message::{Envelope, PeerMessage};
use crate::transport::{SharedRoster, SnapshotTransfer, send_snapshot};

/// Files that are sent at a time. A node that was away may need one of every group at once; more
/// threads and connections would bring none of them there sooner.
const SENDS_MAX: usize = 4;

/// What every transfer needs.
pub(crate) struct SendContext<S: StateMachine> {
    pub(crate) inbox: Inbox<S>,
    pub(crate) snapshots: SnapshotStore,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) roster: SharedRoster,
    /// Longest silence of the peer.
    pub(crate) timeout: Duration,
}

/// The transfers that run, each on a thread of its own, and those that wait.
///
/// raft-rs sends one snapshot at a time to each member of a group, so no more wait than there are
/// members in all groups. However a transfer ends, the core is told, or the peer would wait for
/// ever (trap R11).
pub(crate) struct SnapshotSends<S: StateMachine> {
    context: Arc<SendContext<S>>,
    running: usize,
    waiting: VecDeque<(GroupId, Envelope)>,
}

impl<S: StateMachine> SnapshotSends<S> {
    pub(crate) fn new(context: SendContext<S>) -> Self {
        SnapshotSends { context: Arc::new(context), running: 0, waiting: VecDeque::new() }
    }

    /// Sends the file that the message names, when its turn comes.
    pub(crate) fn send(&mut self, group: GroupId, envelope: Envelope) {
        self.waiting.push_back((group, envelope));
        self.start_next();
    }

    /// A transfer has ended, and the core is told.
    pub(crate) fn ended(&mut self) {
        self.running -= 1;
        self.start_next();
    }

    fn start_next(&mut self) {
        while self.running < SENDS_MAX
            && let Some((group, envelope)) = self.waiting.pop_front()
        {
            self.running += 1;
            start(&self.context, group, envelope);
        }
    }
}

fn start<S: StateMachine>(context: &Arc<SendContext<S>>, group: GroupId, envelope: Envelope) {
    let Envelope { to, message } = envelope;
    let inbox = context.inbox.clone();
    let report = move |received: bool| {
        inbox.send(Event::SnapshotSent);
        inbox.send(Event::Input(group, Input::SnapshotSent { to, received }));
    };
    let PeerMessage::Raft(message) = message else { return report(false) };
    let meta = message.get_snapshot().get_metadata();
    let id = LogId { index: meta.index, term: meta.term };
    let failed = report.clone();
    let context = context.clone();
    let transfer = move || {
        let SendContext { snapshots, runtime, roster, timeout, .. } = &*context;
        let sent = snapshots.raw(group, id).map_err(Into::into).and_then(|file| {
            let transfer = SnapshotTransfer { to, group, message, file };
            send_snapshot(runtime, roster, *timeout, transfer)
        });
        match &sent {
            Ok(()) => tracing::info!(%to, %group, %id, "a snapshot was sent"),
            Err(error) => tracing::warn!(%to, %group, %id, %error, "a snapshot was not sent"),
        }
        report(sent.is_ok());
    };
    let thread = std::thread::Builder::new().name("quorate-snapshot-send".to_owned());
    if let Err(error) = thread.spawn(transfer) {
        tracing::warn!(%to, %group, %error, "a snapshot was not sent");
        failed(false);
    }
}
